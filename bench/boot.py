# SPDX-License-Identifier: Apache-2.0
"""A cold run of /bin/true, whole process: ours against QEMU `microvm` with the same kernel, initramfs and root disk.

    wall        from starting the program to its end
    guest-boot  from the kernel's start to the agent's being ready, by the guest's own clock (its kernel log)

Bars: 0.6 of QEMU's wall time, 1.05 of its guest boot.
"""
import os
import re
import subprocess
import tempfile

from common import CLI, converted, emit, note, paired, timed
import qemu_peer

ROUNDS = int(os.environ.get("ROUNDS", "10"))
READY = re.compile(r"\[\s*(\d+\.\d+)\] supermachine agent: ready")


def ready_seconds(kernel_log):
    found = READY.search(kernel_log)
    if not found:
        raise SystemExit(f"the guest's kernel log does not tell when the agent was ready: {kernel_log[-1000:]}")
    return float(found.group(1))


def main():
    with tempfile.TemporaryDirectory() as tmp:
        image, disk = converted("busybox", tmp)
        note("boot: busybox image, 256 MiB, 1 processor, /bin/true; " + os.uname().release)

        a, b = paired(ROUNDS, lambda: timed([CLI, "run", image, "/bin/true"]),
                      lambda: qemu_peer.run(disk, ["/bin/true"])[0])
        emit("boot", "wall", "s", a, "qemu microvm", b, bar=0.6)

        def our_log():
            return subprocess.run([CLI, "run", image, "dmesg"], check=True, capture_output=True, text=True).stdout

        a, b = paired(ROUNDS, lambda: ready_seconds(our_log()),
                      lambda: ready_seconds(qemu_peer.run(disk, ["/bin/dmesg"])[1].decode()))
        emit("boot", "guest-boot", "s", a, "qemu microvm", b, bar=1.05)


main()
