# SPDX-License-Identifier: Apache-2.0
"""The peer: QEMU's `microvm` machine with our kernel, our initramfs and our root disk, driven over vhost-vsock.

It does what `supermachine run IMAGE CMD` does, by the same protocol (docs/guest-protocol.md), so that what differs is
the monitor. The agent has no lifecycle device there and can't say when it listens, so the client connects again until
it does; the agent's last word on the console before that says when to begin.
"""
import os
import socket
import struct
import subprocess
import time

from common import INITRAMFS, KERNEL

AGENT_PORT, MAGIC, VERSION = 1024, 0x41474D53, 1
HELLO, CREDIT, SETUP, EXEC, OK, ERROR = 1, 2, 16, 32, 64, 65
STARTED, STDOUT, STDERR, EXITED, START_ERROR = 66, 67, 68, 69, 70
BOOT_TIMEOUT, RETRY = 60, 0.001
CMDLINE = "console=ttyS0 quiet panic=-1 reboot=t nomodule swiotlb=noforce tsc=nowatchdog dummy.numdummies=0"


def text(s):
    raw = s.encode()
    return struct.pack("<I", len(raw)) + raw


def strings(items):
    return struct.pack("<I", len(items)) + b"".join(text(s) for s in items)


def frame(kind, payload=b""):
    return struct.pack("<IHH", len(payload), kind, 0) + payload


def read_exactly(sock, length):
    data = b""
    while len(data) < length:
        piece = sock.recv(length - len(data))
        if not piece:
            raise SystemExit("the peer's agent closed its connection")
        data += piece
    return data


def connect(cid, deadline):
    while True:
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            sock.connect((cid, AGENT_PORT))
            return sock
        except OSError:
            sock.close()
            if time.monotonic() > deadline:
                raise SystemExit("the peer's agent did not come up")
            time.sleep(RETRY)


def run(disk, argv, memory_mib=256, vcpus=1, cid=77, measure=None):
    """Boot, run argv, stop. Returns (wall seconds, standard output, measure(QEMU's pid) as the command starts)."""
    start = time.monotonic()
    deadline = start + BOOT_TIMEOUT
    qemu = subprocess.Popen(
        ["qemu-system-x86_64", "-M", "microvm,pic=on,pit=off,rtc=off,isa-serial=on,acpi=off", "-accel", "kvm", "-cpu",
         "host", "-m", str(memory_mib), "-smp", str(vcpus), "-nodefaults", "-no-user-config", "-display", "none",
         "-no-reboot", "-kernel", KERNEL, "-initrd", INITRAMFS, "-append", CMDLINE, "-serial", "stdio",
         "-drive", f"id=root,file={disk},format=raw,if=none,readonly=on", "-device", "virtio-blk-device,drive=root",
         "-device", f"vhost-vsock-device,guest-cid={cid}", "-object", "rng-random,id=r,filename=/dev/urandom",
         "-device", "virtio-rng-device,rng=r"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        console = b""
        while b"no lifecycle device" not in console:
            piece = os.read(qemu.stdout.fileno(), 4096)
            if not piece:
                raise SystemExit(f"the peer ended early: {console.decode(errors='replace')[-2000:]}")
            console += piece
        with connect(cid, deadline) as sock:
            setup = text("peer") + text("/dev/vda") + text("erofs") + struct.pack("<QI", 0, 0) + text("") + text("")
            command = (struct.pack("<IQHH", 4, 0, 0, 0) + strings(argv) + strings([]) + text("/") + text("") +
                       struct.pack("<I", 0))
            sock.sendall(frame(HELLO, struct.pack("<II", MAGIC, VERSION)) + frame(SETUP, setup) + frame(EXEC, command))
            output = b""
            measured = None
            while True:
                length, kind, _ = struct.unpack("<IHH", read_exactly(sock, 8))
                payload = read_exactly(sock, length)
                if kind == STDOUT:
                    output += payload
                elif kind == STARTED and measure:
                    measured = measure(qemu.pid)
                elif kind in (ERROR, START_ERROR):
                    raise SystemExit(f"the peer's agent refused: {payload!r}")
                elif kind == EXITED:
                    break
        qemu.terminate()
        qemu.wait(10)
        return time.monotonic() - start, output, measured
    finally:
        qemu.kill()
        qemu.wait()
        qemu.stdout.close()

