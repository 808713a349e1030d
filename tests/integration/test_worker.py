# SPDX-License-Identifier: Apache-2.0
"""The worker by itself, driven over its control protocol: every way a machine can end, its sandbox, bad requests.

Most guests here are a few instructions long (tinyguest.py); the last tests boot the real kernel.
"""
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import time

import pytest
import tinyguest as tiny
import worker as w
from conftest import BUILD, OUT, eventually

pytestmark = pytest.mark.kvm

VMM = OUT / "src/vmm/supermachine-vmm"
KERNEL = BUILD / "guest/vmlinux-x86_64"
INITRAMFS = BUILD / "guest/initramfs.cpio"
BOOT = 100  # seconds for a kernel to boot in an emulated host


@pytest.fixture
def make():
    """make(): a fresh worker, gone at the end of the test."""
    made = []

    def one(env=None):
        made.append(w.Worker(VMM, env))
        return made[-1]

    yield one
    for worker in made:
        worker.close()


@pytest.fixture
def tiny_machine(make, tmp_path):
    """tiny_machine(code): a worker that runs it."""

    def run(code, **config):
        path = tmp_path / "kernel"
        path.write_bytes(tiny.kernel(code))
        worker = make()
        worker.config(str(path), **{"memory": 32, **config})
        worker.start()
        return worker

    return run


def ends(worker, reason, words="", timeout=30):
    _, got, text, console = worker.event("exited", timeout)
    assert got == reason, (got, text, console)
    assert re.search(words, text), text
    assert worker.recv(10) is None, "EXITED is the last frame"
    assert worker.proc.wait(10) == 0
    return console.decode(errors="replace")


@pytest.mark.parametrize(
    "code, reason",
    [
        (tiny.power(1), "power-off"),
        (tiny.power(2), "reset"),
        (tiny.out(0x64, 0xFE), "reset"),
        (tiny.out(0xCF9, 0x06), "reset"),
        (tiny.TRIPLE_FAULT, "triple-fault"),
        (tiny.panic(b"Kernel panic - not syncing: test\x1b[0m"), "panic"),
    ],
    ids=["power-off", "reset", "keyboard-reset", "reset-control", "triple-fault", "panic"],
)
@pytest.mark.parametrize("vcpus", [1, 3])
def test_every_end_is_told_apart(tiny_machine, code, reason, vcpus):
    worker = tiny_machine(tiny.say("last words") + code + tiny.HALT, vcpus=vcpus)
    words = r"not syncing: test\?\[0m$" if reason == "panic" else ""
    assert ends(worker, reason, words) == "last words"


@pytest.mark.parametrize("code", [tiny.SPIN, tiny.HALT, tiny.forever(tiny.out(0x80, 1))], ids=["spin", "halt", "exits"])
@pytest.mark.parametrize("vcpus", [1, 16])
def test_stop_of_a_running_guest(tiny_machine, code, vcpus):
    worker = tiny_machine(code, vcpus=vcpus)
    worker.request(w.STOP)
    ends(worker, "stopped")


def test_closing_the_socket_stops_it(tiny_machine):
    worker = tiny_machine(tiny.SPIN)
    worker.sock.close()
    assert worker.proc.wait(10) == 0


def test_a_kill_is_seen(tiny_machine):
    worker = tiny_machine(tiny.SPIN)
    worker.proc.send_signal(signal.SIGKILL)
    assert worker.recv(10) is None
    assert worker.proc.wait(10) == -signal.SIGKILL


def test_the_owner_dies_with_its_socket_held_open(tmp_path):
    """The owner has forked a child that keeps the socket: the worker ends all the same."""
    (tmp_path / "kernel").write_bytes(tiny.kernel(tiny.SPIN))
    program = f"""
import os, sys, time
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
import worker as w
x = w.Worker({str(VMM)!r})
x.config({str(tmp_path / 'kernel')!r}, memory=32)
x.start()
child = os.fork()
if child == 0:
    os.close(1)
    time.sleep(60)
print(x.proc.pid, child, flush=True)
os._exit(0)
"""
    out = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=60, check=True).stdout
    pid, child = map(int, out.split())
    try:
        eventually(lambda: not is_alive(pid), "the worker ended")
    finally:
        os.kill(child, signal.SIGKILL)


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_flood_of_events_and_console(tiny_machine):
    """A guest that rings and writes without end: the owner stays able to ask, and gets the latest only."""
    worker = tiny_machine(tiny.forever(tiny.say("x" * 10) + tiny.event(tiny.EV_HEARTBEAT)))
    time.sleep(1)  # the owner does not read meanwhile
    assert "xxxxxxxxxx" in worker.console()
    assert worker.stats()["exits"]["mmio-write"] > 0
    worker.request(w.STOP)
    worker.events = [e for e in worker.events if e[0] == "exited"] or worker.events
    console = ends(worker, "stopped")
    assert len(console) <= 64 * 1024


def test_sandbox(tiny_machine):
    worker = tiny_machine(tiny.SPIN, vcpus=2)
    pid = worker.proc.pid
    bits = worker.stats()["sandbox"]
    always = 0b1110000001111  # descriptors, limits, no dump, owner, capabilities, no_new_privs, seccomp
    assert bits & always == always, bin(bits)
    tasks = list(pathlib.Path(f"/proc/{pid}/task").iterdir())
    assert len(tasks) == 3
    for task in tasks:
        status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
        assert status["Seccomp"] == "2"
        assert status["NoNewPrivs"] == "1"
        for which in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            if which != "CapBnd" or os.geteuid() == 0:
                assert int(status[which], 16) == 0, which
    if os.geteuid() == 0:  # a process that is not dumpable shows these to root only
        if bits & 1 << 5:
            assert os.readlink(f"/proc/{pid}/root") == "/"
            assert os.listdir(f"/proc/{pid}/root") == []
        for ns, bit in (("net", 6), ("ipc", 7), ("uts", 8)):
            same = os.readlink(f"/proc/{pid}/ns/{ns}") == os.readlink(f"/proc/self/ns/{ns}")
            assert same != bool(bits & 1 << bit)
        kinds = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        assert not [k for k in kinds if k == "/dev/kvm" or k.endswith("/kernel")]


def test_memory_beside_guest_ram(tiny_machine):
    worker = tiny_machine(tiny.SPIN, memory=32)
    if os.geteuid() != 0:
        pytest.skip("needs root to read the worker's memory map")
    own = 0
    private = 0
    for line in pathlib.Path(f"/proc/{worker.proc.pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            start, end = (int(x, 16) for x in line.split()[0].split("-"))
            own = end - start < 32 * 1024 * 1024  # the mapping of guest RAM is larger
        elif line.startswith("Private_") and own:
            private += int(line.split()[1])
    assert private <= 3 * 1024, f"{private} KiB"


def test_requests_at_the_wrong_time(make, tmp_path):
    worker = make()
    for kind in (w.START, w.DISK):
        body = struct.pack("<BI", 0, 0) + struct.pack("<IIQQ", 1, 0, 0, 512) if kind == w.DISK else b""
        fds = [os.open(KERNEL if KERNEL.exists() else __file__, os.O_RDONLY)] if kind == w.DISK else []
        with pytest.raises(w.WorkerError, match="wrong time"):
            worker.request(kind, body, fds)
        for fd in fds:
            os.close(fd)
    with pytest.raises(w.WorkerError, match="wrong time"):
        worker.vsock(1)
    assert worker.console() == ""
    assert worker.stats()["memory"] == 0
    worker.request(w.STOP)
    ends(worker, "stopped")


def test_bad_frames_end_the_worker_with_an_error(make):
    frames = [
        struct.pack("<HHI", 99, 0, 7),
        struct.pack("<HHI", w.START, 0, 7) + b"x",
        struct.pack("<HHI", w.CONFIG, 0, 7),
        struct.pack("<HHI", w.START, 1, 7),
    ]
    for frame in frames:
        worker = make()
        worker.send(0, raw=frame)
        kind, ident, body = worker.recv()
        assert (kind, ident) == (w.ERROR, 7)
        assert worker.recv() is None
        assert worker.proc.wait(10) == 0
    worker = make()
    worker.send(0, raw=b"abc")
    assert worker.recv() is None
    # A frame over the limit.
    worker = make()
    worker.send(0, raw=bytes(w.MAX_FRAME + 1))
    assert worker.recv() is None


def test_version_and_limits(make, tmp_path):
    path = tmp_path / "kernel"
    path.write_bytes(tiny.kernel(tiny.SPIN))
    for config, words in (({"version": w.VERSION + 1}, "protocol"), ({"memory": 1}, "memory"), ({"vcpus": 17}, "vCPU"),
                          ({"cid": 2}, "cid"), ({"cmdline": "a\n"}, "printable")):
        with pytest.raises(w.WorkerError, match=words):
            make().config(str(path), **config)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "too short"),
        (b"#!/bin/sh\n" * 50, "not an ELF"),
        (tiny.kernel(tiny.SPIN, machine=183), "arm64"),
        (tiny.kernel(tiny.SPIN)[:190], "notes|segment|cut short|outside"),
        (tiny.kernel(tiny.SPIN).replace(b"Xen", b"Yen"), "CONFIG_PVH"),
    ],
    ids=["empty", "script", "arm64", "cut", "no-note"],
)
def test_bad_kernels(make, tmp_path, content, words):
    path = tmp_path / "kernel"
    path.write_bytes(content)
    worker = make()
    worker.config(str(path))
    with pytest.raises(w.WorkerError, match=words) as failed:
        worker.start()
    assert "\n" not in failed.value.text
    with pytest.raises(w.WorkerError, match="wrong time"):
        worker.start()
    worker.request(w.STOP)
    ends(worker, "stopped")


def test_not_kvm(make, tmp_path):
    path = tmp_path / "kernel"
    path.write_bytes(tiny.kernel(tiny.SPIN))
    worker = make()
    worker.config(str(path), kvm="/dev/null")
    with pytest.raises(w.WorkerError, match="/dev/kvm"):
        worker.start()


def test_by_hand():
    for args in ([], ["--bogus"]):
        done = subprocess.run([VMM, *args], capture_output=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 2
        assert b"not by hand" in done.stderr and done.stdout == b""


def test_self_test_accepts_this_kvm(make, tmp_path):
    done = subprocess.run([VMM, "--self-test"], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert b'"usable":true' in done.stdout and done.stdout.count(b"\n") == 1
    path = tmp_path / "kernel"
    path.write_bytes(tiny.kernel(tiny.power(1)))
    worker = make()
    worker.config(str(path), memory=32, flags=w.F_SELF_TEST)
    worker.start()
    ends(worker, "power-off")


def test_trace_and_profile(make, tmp_path):
    path = tmp_path / "kernel"
    path.write_bytes(tiny.kernel(tiny.out(0x80, 7) + tiny.say("hi") + tiny.event(tiny.EV_AGENT_READY) + tiny.HALT))
    worker = make()
    worker.config(str(path), memory=32, flags=w.F_PROFILE | w.F_TRACE)
    worker.start()
    assert worker.event("lifecycle", 30) == ("lifecycle", tiny.EV_AGENT_READY, 0)
    profile = worker.stats()["profile"]
    assert re.search(r"^vcpu 0: pio-write serial: 2 exits, \d+ us$", profile, re.M), profile
    worker.request(w.STOP)
    ends(worker, "stopped")


def test_console_copy(tiny_machine):
    reader, writer = os.pipe()
    worker = tiny_machine(tiny.say("to the pipe") + tiny.power(1) + tiny.HALT, console=writer)
    os.close(writer)
    assert ends(worker, "power-off") == "to the pipe"
    with os.fdopen(reader, "rb") as f:
        assert f.read() == b"to the pipe"


# --- the real kernel ---


@pytest.fixture
def linux(make):
    """linux(...): a worker with the guest kernel running."""

    def run(initramfs=INITRAMFS, **config):
        for path in (KERNEL, INITRAMFS):
            if not path.exists():
                pytest.skip(f"{path} is not built: run 'make kernel'")
        worker = make()
        worker.config(str(KERNEL), initramfs and str(initramfs), **config)
        worker.start()
        return worker

    return run


@pytest.mark.parametrize("memory, vcpus", [(64, 1), (128, 1), (256, 2), (1024, 4), (8192, 2)])
def test_boots_to_the_agent(linux, memory, vcpus):
    worker = linux(memory=memory, vcpus=vcpus)
    assert worker.event("lifecycle", BOOT)[1] == tiny.EV_AGENT_READY
    stats = worker.stats()
    assert stats["memory"] == memory * 1024 * 1024
    exits = sum(stats["exits"].values())
    assert exits < 1000 * vcpus, "something in the guest probes hardware that is not there"
    assert worker.console() == "", "a quiet boot says nothing"
    worker.request(w.STOP)
    ends(worker, "stopped")


def test_vsock_reaches_the_agent(linux):
    worker = linux()
    with pytest.raises(w.WorkerError, match="(?i)not"):
        worker.vsock(1024)
    worker.event("lifecycle", BOOT)
    header = (pathlib.Path(__file__).resolve().parents[2] / "guest/proto.h").read_text()
    port = int(re.search(r"#define\s+AGENT_PORT\s+(\w+?)u?\b", header)[1], 0)
    with worker.vsock(port) as s:
        s.settimeout(30)
        s.sendall(b"\xff" * 64)  # no frame: the agent refuses, and that is an answer
        assert s.recv(4096) is not None
    with worker.vsock(port + 7) as s:  # nobody listens there
        s.settimeout(30)
        assert s.recv(1) == b""
    worker.request(w.STOP)
    ends(worker, "stopped")


def test_kernel_panic_has_its_text(linux):
    """Without an initramfs and without a disk the kernel finds no root."""
    worker = linux(initramfs=None)
    console = ends(worker, "panic", "(?s)panicked: .*root", BOOT)
    assert "Kernel panic" in console


def test_unlinked_files_are_enough(make, tmp_path):
    """Nothing is opened by name: kernel and disk are gone from the file system when the machine runs."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    kernel = tmp_path / "kernel"
    kernel.write_bytes(tiny.kernel(tiny.event(tiny.EV_AGENT_READY) + tiny.HALT))
    worker = make()
    worker.config(str(kernel), memory=32)
    fd = os.open(disk, os.O_RDONLY)
    worker.disk([(0, 4096, 512), (0, 0, 8192)], [fd], serial="root")
    os.close(fd)
    kernel.unlink()
    disk.unlink()
    worker.start()
    worker.event("lifecycle", 30)
    worker.request(w.STOP)
    ends(worker, "stopped")
