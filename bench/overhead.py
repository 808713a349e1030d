# SPDX-License-Identifier: Apache-2.0
"""What a machine costs beside its guest's memory: private resident memory of the worker, and sizes of the programs.

Guest memory is one private mapping of the guest's size; everything else private is overhead. The peer's, QEMU's, is
measured the same way in the same run. Bar: 3 MiB.
"""
import os
import pathlib
import re
import struct
import subprocess
import tempfile

from common import BUILD, CLI, VMM, converted, emit, note
import qemu_peer

ROUNDS = int(os.environ.get("ROUNDS", "5"))
MEMORY_MIB = 256


def overhead_kib(pid):
    """Private resident KiB outside of the largest mapping, which is the guest's memory."""
    maps = []
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            maps.append([int(head[2], 16) - int(head[1], 16), 0])
        elif line.startswith(("Private_Clean:", "Private_Dirty:")):
            maps[-1][1] += int(line.split()[1])
    guest = max(maps)
    assert guest[0] >= MEMORY_MIB << 20, "guest memory is not one mapping"
    return sum(private for _, private in maps) - guest[1]


def loadable_kib(path):
    """Size of a program without symbols and debug information: where its last loadable segment ends in the file
    (ELF-64: program headers at e_phoff, PT_LOAD is 1)."""
    elf = pathlib.Path(path).read_bytes()
    offset, size, count = *struct.unpack_from("<Q", elf, 32), *struct.unpack_from("<HH", elf, 54)
    headers = (struct.unpack_from("<IIQQQQ", elf, offset + i * size) for i in range(count))
    return max(start + length for kind, _, start, _, _, length in headers if kind == 1) / 1024


def ours(image):
    """Start a machine whose command says that it runs and then waits for its stdin to end."""
    run = subprocess.Popen([CLI, "run", "-i", "-m", str(MEMORY_MIB), image, "sh", "-c", "echo up; cat"],
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert run.stdout.readline() == b"up\n"
    children = pathlib.Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    workers = [pid for pid in children if pathlib.Path(f"/proc/{pid}/comm").read_text().startswith("supermachine-vm")]
    assert len(workers) == 1, f"expected one worker, found {workers}"
    value = overhead_kib(workers[0])
    run.communicate()
    return value / 1024


def main():
    with tempfile.TemporaryDirectory() as tmp:
        image, disk = converted("busybox", tmp)
        note(f"overhead: busybox image, {MEMORY_MIB} MiB, 1 processor; " + os.uname().release)
        peers = [qemu_peer.run(disk, ["/bin/true"], MEMORY_MIB, measure=overhead_kib)[2] / 1024
                 for _ in range(ROUNDS)]
        emit("overhead", "worker-private", "MiB", [ours(image) for _ in range(ROUNDS)], "qemu microvm", peers, bar=3)
        for name, path in (("worker", VMM), ("command", CLI), ("library", BUILD / "out/src/lib/libsupermachine.so")):
            emit("overhead", f"{name}-size", "KiB", [loadable_kib(path)])


main()
