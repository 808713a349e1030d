# SPDX-License-Identifier: Apache-2.0
"""Memory of saved machines, byte for byte: diffs, saves while the guest writes, files that are cut short or full.

The guest is a loop that counts in every page of a stretch of memory and rings when it begins again, so any KVM will do.
What a machine that stands still has in memory is read from outside (/proc/PID/mem) and compared to the files.
"""
import os
import re
import struct
import subprocess

import pytest
import tinyguest as tiny
import worker as w
from conftest import needs_root
from test_worker import VMM

pytestmark = pytest.mark.kvm

MIB = 1 << 20
PAGE = 4096
LOW = 2 * MIB  # where the guest begins to write
TESTBED = bool(os.environ.get("SUPERMACHINE_TESTBED"))  # its kernel tracks writes (soft-dirty); others may not


def writer(end):
    """A guest that counts in each page from LOW to `end`, rings, and begins again."""
    count = b"\xff\x03" + b"\x81\xc3" + struct.pack("<I", PAGE)  # inc dword [ebx]; add ebx, PAGE
    count += b"\x81\xfb" + struct.pack("<I", end)  # cmp ebx, end
    count += b"\x72" + struct.pack("<b", -(len(count) + 2))  # jb count
    return tiny.kernel(tiny.forever(b"\xbb" + struct.pack("<I", LOW) + count + tiny.event(tiny.EV_HEARTBEAT)))


@pytest.fixture
def make():
    made = []

    def one():
        made.append(w.Worker(VMM))
        return made[-1]

    yield one
    for worker in made:
        worker.close()


@pytest.fixture
def machine(make, tmp_path):
    """machine(memory, mib): boots a guest that writes the first `mib`; machine(memory, snapshot=, base=): a clone."""

    def run(memory=32, mib=8, snapshot=None, base=None):
        worker = make()
        if snapshot:
            worker.config(memory=memory)
            worker.restore(snapshot, base=base)
        else:
            (tmp_path / "kernel").write_bytes(writer(mib * MIB))
            worker.config(str(tmp_path / "kernel"), memory=memory)
            worker.start()
        worker.event("lifecycle", 30)
        return worker

    return run


@pytest.fixture
def shelf(tmp_path):
    def new(name):
        (tmp_path / name).mkdir()
        return tmp_path / name

    return new


def memory_of(worker, size):
    """All memory of a machine that stands still. Of a clone it is a row of mappings of files called memory; else the
    one mapping of that size."""
    needs_root()
    files, others = [], []
    with open(f"/proc/{worker.proc.pid}/maps", encoding="utf-8") as maps:
        for line in maps:
            where, access, *_, path = line.split()
            first, last = (int(x, 16) for x in where.split("-"))
            if path.endswith("/memory"):
                files.append((first, last))
            elif access == "rw-p" and last - first == size and first % (2 * MIB) == 0:
                others.append((first, last))
    first, last = (files[0][0], files[-1][1]) if files else others[0]
    assert last - first == size, files or others
    with open(f"/proc/{worker.proc.pid}/mem", "rb", buffering=0) as mem:
        mem.seek(first)
        data = b""
        while len(data) < size:
            data += mem.read(size - len(data))
    return data


WRITTEN = 1 << 31  # in the count of a run


def runs(path):
    data = path.read_bytes()
    (n,) = struct.unpack_from("<I", data, 20)
    pairs = [struct.unpack_from("<II", data, 32 + 8 * i) for i in range(n)]
    return [(first, count & ~WRITTEN) for first, count in pairs]


def merged(base, diff):
    """base + diff, as docs/snapshot-format.md has it."""
    out = bytearray((base / "memory").read_bytes())
    changed = (diff / "memory").read_bytes()
    assert len(changed) == len(out)
    for first, count in runs(diff / "diff"):
        out[first * PAGE:(first + count) * PAGE] = changed[first * PAGE:(first + count) * PAGE]
    return bytes(out)


def same(a, b):
    if a == b:
        return
    differ = [n for n in range(len(a) // PAGE) if a[n * PAGE:(n + 1) * PAGE] != b[n * PAGE:(n + 1) * PAGE]]
    pytest.fail(f"{len(a)} and {len(b)} bytes; {len(differ)} pages differ, at first {differ[:5]}")


def blocks(path):
    return os.stat(path).st_blocks * 512


def test_a_full_snapshot_is_the_machine(machine, shelf):
    worker = machine()
    base = shelf("base")
    said = worker.save(base, stop=True)
    same((base / "memory").read_bytes(), memory_of(worker, 32 * MIB))
    assert said["data_pages"] * PAGE <= blocks(base / "memory") + PAGE and said["devices"] == 2
    # A full snapshot of a clone, too, whose untouched pages are only in the file it came from.
    clone = machine(snapshot=base)
    again = shelf("again")
    clone.save(again, stop=True)
    same((again / "memory").read_bytes(), memory_of(clone, 32 * MIB))


def test_full_is_base_and_diff(machine, shelf):
    base, first, second = shelf("base"), shelf("first"), shelf("second")
    machine().save(base)
    clone = machine(snapshot=base)
    clone.save(first, diff=True)
    child = machine(snapshot=first, base=base)
    said = child.save(second, diff=True, stop=True)
    same(merged(base, second), memory_of(child, 32 * MIB))
    assert said["data_pages"] + said["zero_pages"] == sum(count for _, count in runs(second / "diff"))


def test_a_diff_holds_what_was_written(machine, shelf):
    """A guest that writes 4 of 512 MiB: its diff is that and no more."""
    base, diff = shelf("base"), shelf("diff")
    machine(memory=512, mib=6).save(base, stop=True)
    clone = machine(memory=512, snapshot=base)
    clone.event("lifecycle", 30)  # a whole round at least
    clone.save(diff, diff=True, stop=True)
    assert 4 * MIB <= blocks(diff / "memory") < 5 * MIB
    assert len(runs(diff / "diff")) < 10


@pytest.mark.parametrize("of_clone", [False, True], ids=["booted", "clone"])
def test_a_live_save_is_exact(machine, shelf, of_clone):
    base, saved = shelf("base"), shelf("saved")
    worker = machine(mib=12)
    if of_clone:
        worker.save(base, stop=True)
        worker = machine(snapshot=base)
        worker.event("lifecycle", 30)  # a whole round at least
    said = worker.save(saved, live=True, stop=True, diff=of_clone)
    same(merged(base, saved) if of_clone else (saved / "memory").read_bytes(), memory_of(worker, 32 * MIB))
    assert 0 < said["pause_ns"] <= said["total_ns"]
    if TESTBED:
        assert said["live_pages"] > 1000
    machine(snapshot=saved, base=base if of_clone else None)


def test_the_worker_answers_during_a_live_save(machine, shelf):
    worker = machine(memory=64, mib=32)
    fds = w.snapshot_files(shelf("saved"), False)
    save = worker.send(w.SAVE, struct.pack("<I", w.SAVE_LIVE), fds)
    stats = worker.send(w.STATS)
    again = worker.send(w.SAVE, struct.pack("<I", 0), fds)
    replies = {}
    while len(replies) < 3:
        kind, ident, body = worker.recv(120)
        if ident:
            replies[ident] = kind, body
    w.close_all(fds)
    assert replies[save][0] == w.SAVED and replies[stats][0] == w.STATS_REPLY
    assert replies[again][0] == w.ERROR
    if TESTBED:
        assert list(replies) == [stats, again, save]
        assert b"being saved already" in replies[again][1].data


def test_the_end_of_the_machine_ends_a_live_save(machine, shelf):
    worker = machine(memory=64, mib=32)
    fds = w.snapshot_files(shelf("saved"), False)
    save = worker.send(w.SAVE, struct.pack("<I", w.SAVE_LIVE), fds)
    worker.send(w.STOP)
    w.close_all(fds)
    seen = []
    while frame := worker.recv(60):
        seen.append((frame[0], frame[1]))
    seen = [f for f in seen if f[0] != w.LIFECYCLE]
    assert seen[-1] == (w.EXITED, 0)
    assert ((w.ERROR, save) if TESTBED else (w.SAVED, save)) in seen
    assert worker.proc.wait(10) == 0


def test_a_diff_needs_a_base(machine, shelf):
    worker = machine()
    with pytest.raises(w.WorkerError, match="saving the machine: a machine that was booted has no base"):
        worker.save(shelf("diff"), diff=True)
    worker.save(shelf("full"))  # it runs on


def test_touched_pages_are_listed(machine, shelf, tmp_path):
    base = shelf("base")
    machine(memory=256, mib=6).save(base, stop=True)
    clone = machine(memory=256, snapshot=base)
    clone.event("lifecycle", 30)
    clone.touched(tmp_path / "list")
    listed = {n for first, count in runs(tmp_path / "list") for n in range(first, first + count)}
    assert set(range(LOW // PAGE, 6 * MIB // PAGE)) <= listed
    assert tiny.LOAD // PAGE in listed
    assert len(listed) < 256 * MIB // PAGE / 8
    assert (tmp_path / "list").read_bytes()[:8] == b"SMpref \n"
    os.rename(tmp_path / "list", base / "prefetch")
    machine(memory=256, snapshot=base).event("lifecycle", 30)


@pytest.mark.parametrize("live", [False, True], ids=["plain", "live"])
def test_a_full_disk_is_told_and_the_machine_runs_on(machine, tmp_path, live):
    needs_root()
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], check=True)
    try:
        worker = machine()
        with pytest.raises(w.WorkerError, match="saving the machine: cannot write .*: No space left on device"):
            worker.save(small, live=live)
        worker.events.clear()
        assert worker.event("lifecycle", 30)
    finally:
        subprocess.run(["umount", "-l", small], check=True)


@pytest.mark.parametrize("length", [0, 6 * MIB])
def test_memory_that_is_cut_short_ends_the_machine(machine, shelf, length):
    base = shelf("base")
    machine(mib=24).save(base, stop=True)
    clone = machine(snapshot=base)
    os.truncate(base / "memory", length)
    _, reason, text, _ = clone.event("exited", 30)
    assert reason == "vcpu-error" and re.search("memory file has been cut short", text), text
    assert clone.recv(10) is None and clone.proc.wait(10) == 0


def test_what_was_cut_short_is_not_saved(make, shelf, tmp_path):
    """Of a guest that rests, and so touches nothing: what it had written is gone with the file's pages."""
    base = shelf("base")
    code = tiny.write32(LOW, 7) + tiny.event(tiny.EV_HEARTBEAT) + tiny.HALT
    (tmp_path / "kernel").write_bytes(tiny.kernel(code))
    worker = make()
    worker.config(str(tmp_path / "kernel"), memory=32)
    worker.start()
    worker.event("lifecycle", 30)
    worker.save(base, stop=True)
    for name, how in (("diff", {"diff": True}), ("full", {}), ("live", {"diff": True, "live": True})):
        clone = make()
        clone.config(memory=32)
        os.truncate(base / "memory", 32 * MIB)
        clone.restore(base)
        os.truncate(base / "memory", LOW)
        with pytest.raises(w.WorkerError, match="saving the machine: .*(cut short|truncated)"):
            clone.save(shelf(name), **how)
