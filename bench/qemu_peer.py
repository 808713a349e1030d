# SPDX-License-Identifier: Apache-2.0
"""The peer: QEMU's `microvm` machine with our kernel, our initramfs and our root disk, driven over vhost-vsock.

It does what `supermachine run IMAGE CMD` does, by the same protocol (docs/guest-protocol.md), so that what differs is
the monitor. The agent has no lifecycle device there and can't say when it listens, so the client connects again until
it does; the agent's last word on the console before that says when to begin.

save() and restored() are the same machine by way of a migration file: set up, written, and started from it.
"""
import functools
import json
import os
import pathlib
import re
import socket
import struct
import subprocess
import time

from common import INITRAMFS, KERNEL, ROOT

BOOT_TIMEOUT, RETRY = 60, 0.001
CMDLINE = "console=ttyS0 quiet panic=-1 reboot=t nomodule swiotlb=noforce tsc=nowatchdog dummy.numdummies=0"
HEADER = (ROOT / "guest/proto.h").read_text()


@functools.cache
def number(name):
    """A number by its name in guest/proto.h."""
    return int(re.search(rf"\b{name}(?:\s*=)?\s+(0x\w+?|\d+)u?\b", HEADER)[1], 0)


def text(s):
    raw = s.encode()
    return struct.pack("<I", len(raw)) + raw


def strings(items):
    return struct.pack("<I", len(items)) + b"".join(text(s) for s in items)


def frame(name, payload=b""):
    return struct.pack("<IHH", len(payload), number(name), 0) + payload


def hello():
    return frame("AGENT_HELLO", struct.pack("<II", number("AGENT_MAGIC"), number("AGENT_VERSION")))


def setup():
    return frame("AGENT_SETUP", text("peer") + text("/dev/vda") + text("erofs") + struct.pack("<QI", 0, 0) + text("") + text(""))


def command(argv):
    return frame("AGENT_EXEC", struct.pack("<IQHH", 4, 0, 0, 0) + strings(argv) + strings([]) + text("/") + text("") +
                 struct.pack("<I", 0))


def read_exactly(sock, length):
    data = b""
    while len(data) < length:
        piece = sock.recv(length - len(data))
        if not piece:
            raise EOFError("the peer's agent closed its connection")
        data += piece
    return data


def read_frame(sock):
    length, kind, _ = struct.unpack("<IHH", read_exactly(sock, 8))
    payload = read_exactly(sock, length)
    if kind in (number("AGENT_ERROR"), number("AGENT_START_ERROR")):
        raise SystemExit(f"the peer's agent refused: {payload!r}")
    return kind, payload


def connect(cid, deadline):
    while True:
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            sock.connect((cid, number("AGENT_PORT")))
            return sock
        except OSError:
            sock.close()
            if time.monotonic() > deadline:
                raise SystemExit("the peer's agent did not come up")
            time.sleep(RETRY)


class Peer:
    """One QEMU; gone at the end of the block."""

    def __init__(self, disk, memory_mib=256, vcpus=1, cid=77, incoming=None, monitor=None):
        self.cid = cid
        self.start = time.monotonic()
        self.deadline = self.start + BOOT_TIMEOUT
        self.monitor = monitor
        arguments = ["-incoming", f"exec:cat {incoming}"] if incoming else []
        if monitor:
            arguments += ["-qmp", f"unix:{monitor},server=on,wait=off"]
        self.qemu = subprocess.Popen(
            ["qemu-system-x86_64", "-M", "microvm,pic=on,pit=off,rtc=off,isa-serial=on,acpi=off", "-accel", "kvm", "-cpu",
             "host", "-m", str(memory_mib), "-smp", str(vcpus), "-nodefaults", "-no-user-config", "-display", "none",
             "-no-reboot", "-kernel", KERNEL, "-initrd", INITRAMFS, "-append", CMDLINE, "-serial", "stdio",
             "-drive", f"id=root,file={disk},format=raw,if=none,readonly=on", "-device", "virtio-blk-device,drive=root",
             "-device", f"vhost-vsock-device,guest-cid={cid}", "-object", "rng-random,id=r,filename=/dev/urandom",
             "-device", "virtio-rng-device,rng=r", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.qemu.kill()
        self.qemu.wait()
        self.qemu.stdout.close()

    def booted(self):
        console = b""
        while b"no lifecycle device" not in console:
            piece = os.read(self.qemu.stdout.fileno(), 4096)
            if not piece:
                raise SystemExit(f"the peer ended early: {console.decode(errors='replace')[-2000:]}")
            console += piece

    def agent(self):
        return connect(self.cid, self.deadline)

    def command(self, sock, argv, measure=None):
        """Run it on a new connection whose HELLO was sent: (standard output, measure(QEMU's pid) as it starts)."""
        sock.sendall(command(argv))
        output, measured = b"", None
        while True:
            kind, payload = read_frame(sock)
            if kind == number("AGENT_STDOUT"):
                output += payload
            elif kind == number("AGENT_STARTED") and measure:
                measured = measure(self.qemu.pid)
            elif kind == number("AGENT_EXITED"):
                return output, measured

    def end(self):
        """Wall seconds from its start to here."""
        self.qemu.terminate()
        self.qemu.wait(10)
        return time.monotonic() - self.start

    def migrate(self, path):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.monitor)
            with sock.makefile("rw") as file:
                file.readline()

                def ask(what, **arguments):
                    json.dump({"execute": what, "arguments": arguments}, file)
                    file.flush()
                    while "event" in (reply := json.loads(file.readline())):
                        pass
                    if "error" in reply:
                        raise SystemExit(f"the peer's monitor: {reply['error']}")
                    return reply["return"]

                ask("qmp_capabilities")
                ask("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
                ask("migrate", uri=f"exec:cat >{path}")
                while (status := ask("query-migrate").get("status")) != "completed":
                    if status == "failed" or time.monotonic() > self.deadline:
                        raise SystemExit(f"the peer can't be saved: {status}")
                    time.sleep(0.01)


def run(disk, argv, memory_mib=256, vcpus=1, cid=77, measure=None):
    """Boot, run argv, stop. Returns (wall seconds, standard output, measure(QEMU's pid) as the command starts)."""
    with Peer(disk, memory_mib, vcpus, cid) as peer:
        peer.booted()
        with peer.agent() as sock:
            sock.sendall(hello() + setup())
            output, measured = peer.command(sock, argv, measure)
        return peer.end(), output, measured


def save(disk, path, memory_mib=256, vcpus=1, cid=77):
    """Boot, set up, and write the machine to a migration file."""
    with Peer(disk, memory_mib, vcpus, cid, monitor=str(pathlib.Path(path).with_suffix(".qmp"))) as peer:
        peer.booted()
        with peer.agent() as sock:
            sock.sendall(hello() + setup())
            while read_frame(sock)[0] != number("AGENT_OK"):
                pass
        peer.migrate(path)
        peer.end()


def restored(disk, path, argv, memory_mib=256, vcpus=1, cid=77):
    """Start from a migration file, run argv: seconds from QEMU's start to its result, and to its own end.

    The guest's driver resets all connections once it has heard of the migration, also one that has come before that.
    """
    with Peer(disk, memory_mib, vcpus, cid, incoming=path) as peer:
        while True:
            try:
                with peer.agent() as sock:
                    sock.sendall(hello())
                    peer.command(sock, argv)
                    return time.monotonic() - peer.start, peer.end()
            except (EOFError, ConnectionError):
                if time.monotonic() > peer.deadline:
                    raise
