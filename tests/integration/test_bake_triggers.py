# SPDX-License-Identifier: Apache-2.0
"""Bakes at the worker: every trigger fires when and only when it should, at rest where it should, and says so; machines
that go back in place; machines prepared before their snapshot. Most guests are a few instructions long."""
import os
import re
import struct
import time

import agentclient
import pytest
import tinyguest as tiny
import worker as w
from test_snapshot import disk, machine, make, said  # fixtures, and what goes with them
from test_worker import ends

pytestmark = pytest.mark.kvm

HEARTBEAT, PRE_EXEC, PARKED, LISTENER = 2, 3, 4, 5  # guest/lifecycle_regs.h
COUNTER, SCRATCH = 0x9000, 0x9010
LOOP_STEPS = 20_000  # of a delay


def ring(kind, arg=0):
    """Ring with an argument, by way of MMX: 64-bit stores are not to be had in 32-bit code."""
    return tiny.write32(SCRATCH, arg) + tiny.write32(SCRATCH + 4, 0) + ring_from(kind, SCRATCH)


def ring_from(kind, addr):
    return (b"\x0f\x6f\x05" + struct.pack("<I", addr) +  # movq mm0, [addr]
            b"\x0f\x7f\x05" + struct.pack("<I", tiny.LIFECYCLE + tiny.LC_EVENT_ARG) + tiny.event(kind))


def delay(steps=LOOP_STEPS):
    return b"\xb9" + struct.pack("<I", steps) + b"\xe2\xfe"  # mov ecx, steps; loop to itself


COUNT = b"\xff\x05" + struct.pack("<I", COUNTER)  # inc dword [COUNTER]
BEATS = tiny.write32(COUNTER, 0) + tiny.write32(COUNTER + 4, 0) + tiny.forever(
    COUNT + ring_from(HEARTBEAT, COUNTER) + ring_from(LISTENER, COUNTER) + delay())


def beats(n):
    """So many heartbeats: some time, at any speed."""
    code = COUNT + ring_from(HEARTBEAT, COUNTER)
    compare = b"\x81\x3d" + struct.pack("<II", COUNTER, n)  # cmp dword [COUNTER], n; jb to the beginning
    return (tiny.write32(COUNTER, 0) + tiny.write32(COUNTER + 4, 0) + code + compare +
            b"\x0f\x82" + struct.pack("<i", -(len(code) + len(compare) + 6)))


@pytest.fixture
def guest(make, tmp_path):
    """guest(code): a worker that runs it. guest(snapshot=directory): one that is restored. With prepare=True its machine is
    built before."""
    def run(code=None, snapshot=None, prepare=False, base=None, disk=True, flags=0):
        worker = make()
        if code is not None:
            path = tmp_path / "kernel"
            path.write_bytes(tiny.kernel(code))
            worker.config(str(path), memory=32, flags=flags)
            add_disk(worker, tmp_path)
            worker.start()
        else:
            worker.config(memory=32, flags=w.F_PREPARE if prepare else 0)
            if disk:
                add_disk(worker, tmp_path)
            worker.restore(snapshot, base=base)
        return worker

    return run


def add_disk(worker, tmp_path):
    with open(tmp_path / "root", "wb+") as f:
        f.truncate(1 << 20)
        worker.disk([(0, 0, 1 << 20)], [f.fileno()])


def said_by(worker, kind, at_least=0, timeout=30):
    """The argument of the next event of a kind."""
    deadline = time.monotonic() + timeout
    while True:
        _, got, arg = worker.event("lifecycle", max(0.1, deadline - time.monotonic()))
        if got == kind and arg >= at_least:
            return arg


def halted(worker, timeout=30):
    """Wait until its only vCPU has executed HLT."""
    end = time.monotonic() + timeout
    while "halt_exits 1" not in worker.stats()["profile"]:
        assert time.monotonic() < end


def soon(worker):
    """A count that the guest's heart has not come to yet, and will in a moment, whatever the speed."""
    first = last = said_by(worker, HEARTBEAT)
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        last = said_by(worker, HEARTBEAT)
    return last + 3 * (last - first) + 20


def baked(worker, timeout=60):
    _, exit, trigger, code, text, saved = worker.event("baked", timeout)
    return exit, trigger, code, text, saved


def fires(worker, directory, timeout=60, **bake):
    """Arm a bake, wait for its end: (trigger, line, seconds it took)."""
    directory.mkdir()
    start = time.monotonic()
    worker.bake(directory, **bake)
    exit, trigger, code, text, saved = baked(worker, timeout)
    took = time.monotonic() - start
    assert (exit, code) == ("snapshot_saved", 0), text
    assert re.fullmatch(
        r"trigger [a-z-]+ fired after \d+ ms(; no listener appeared)?: saved in \d+ us, 32 MiB of RAM "
        rf"\(\d+ KiB data, \d+ KiB zero\), 3 devices, {saved['listeners']} listeners", text), text
    assert 0 < saved["pause_ns"] <= saved["total_ns"]
    return trigger, text, took


# --- when it fires ---


def test_a_heartbeat_is_caught_where_it_is(guest, tmp_path):
    parent = guest(BEATS)
    target = soon(parent)
    trigger, _, _ = fires(parent, tmp_path / "s", heartbeat=target)
    assert trigger == "heartbeat"
    said_by(parent, HEARTBEAT, target + 1)  # it runs on
    # What follows the heartbeat in the guest had not happened: the port of that count is rung by the clone.
    clone = guest(snapshot=tmp_path / "s")
    assert said_by(clone, LISTENER) == target


def test_pre_exec_fires_at_once_and_before_listener(guest, tmp_path):
    worker = guest(ring(LISTENER, 80) + ring(PRE_EXEC) + tiny.SPIN)
    said_by(worker, PRE_EXEC)
    trigger, text, took = fires(worker, tmp_path / "s", flags=w.BAKE_PRE_EXEC | w.BAKE_LISTENER, after_ms=60000,
                                quiesce_ms=60000)
    assert trigger == "pre-exec" and "no listener" not in text
    assert took < 30


def test_a_listener_is_given_time_to_rest(guest, tmp_path):
    worker = guest(ring(LISTENER, 80) + tiny.SPIN)
    said_by(worker, LISTENER)
    trigger, _, took = fires(worker, tmp_path / "s", flags=w.BAKE_LISTENER, quiesce_ms=300, after_ms=60000)
    assert trigger == "listener" and took >= 0.3


def test_who_rests_already_is_not_waited_for(guest, tmp_path):
    worker = guest(ring(LISTENER, 80) + tiny.HALT, flags=w.F_PROFILE)
    halted(worker)
    trigger, _, took = fires(worker, tmp_path / "s", flags=w.BAKE_LISTENER, quiesce_ms=60000)
    assert trigger == "listener" and took < 30


def test_a_workload_that_ended_is_not_waited_out(guest, tmp_path):
    worker = guest(ring(PARKED) + tiny.HALT)
    trigger, text, took = fires(worker, tmp_path / "s", flags=w.BAKE_LISTENER, quiesce_ms=60000, after_ms=60000)
    assert trigger == "parked" and "; no listener appeared" in text
    assert took < 30


def test_the_clock_fires_with_what_there_is(guest, tmp_path):
    worker = guest(tiny.SPIN)
    trigger, text, took = fires(worker, tmp_path / "s", flags=w.BAKE_LISTENER | w.BAKE_STOP, after_ms=300)
    assert trigger == "after" and "; no listener appeared" in text
    assert 0.3 <= took
    with pytest.raises(w.WorkerError, match="SAVE came at the wrong time"):  # it stays as it was saved
        worker.save(tmp_path)


def test_a_demanded_listener_that_never_came(guest, tmp_path):
    worker = guest(ring(PARKED) + BEATS.replace(ring_from(LISTENER, COUNTER), b""))
    worker.bake(tmp_path, flags=w.BAKE_LISTENER | w.BAKE_REQUIRE_LISTENER, after_ms=200)
    _, trigger, code, text, _ = baked(worker)
    assert trigger == "none" and code != 0
    assert text == "vCPU 0: listener readiness timeout after 200 ms; refusing zero-listener snapshot"
    said_by(worker, HEARTBEAT)  # it runs on


# --- what firing does ---


def test_a_pool_takes_over_once(guest):
    worker = guest(BEATS)
    target = soon(worker)
    worker.bake(heartbeat=target)
    exit, trigger, code, text, _ = baked(worker)
    assert (exit, trigger, code) == ("bake_ready", "heartbeat", 0), text
    said_by(worker, HEARTBEAT, target + 1)
    assert not [e for e in worker.events if e[0] == "baked"]


def test_what_cannot_be_saved_runs_on(guest, tmp_path):
    worker = guest(BEATS)
    for name in ("state", "memory"):
        (tmp_path / name).write_bytes(b"not empty")
    fds = [os.open(tmp_path / name, os.O_RDWR) for name in ("state", "memory")]
    target = soon(worker)
    worker.request(w.BAKE, struct.pack("<IQII", 0, target, 0, 0), fds)
    w.close_all(fds)
    _, trigger, code, text, _ = baked(worker)
    assert trigger == "heartbeat" and code != 0
    assert text.startswith("snapshot capture at trigger heartbeat: saving the machine: ")
    said_by(worker, HEARTBEAT, target + 1)
    assert fires(worker, tmp_path / "again", heartbeat=1)[0] == "heartbeat"  # and can be baked once more


def test_a_guest_that_powers_off_at_rest(guest, tmp_path):
    worker = guest(beats(3000) + ring(LISTENER, 80) + tiny.power(1))
    worker.bake(tmp_path, flags=w.BAKE_LISTENER, quiesce_ms=60000)
    exit, _, code, _, _ = baked(worker)
    assert (exit, code) == ("system_off", 0)
    ends(worker, "power-off")


def test_a_stopped_machine_says_so_first(guest, tmp_path):
    worker = guest(tiny.SPIN)
    worker.bake(tmp_path, flags=w.BAKE_PRE_EXEC)
    with pytest.raises(w.WorkerError, match="being baked already"):
        worker.bake(flags=w.BAKE_PRE_EXEC)
    worker.request(w.STOP)
    assert baked(worker)[0] == "stopped"
    ends(worker, "stopped")


def test_a_bake_needs_a_running_machine(make, tmp_path):
    with pytest.raises(w.WorkerError, match="BAKE came at the wrong time"):
        make().bake(tmp_path, flags=w.BAKE_PRE_EXEC)


# --- back in place ---


def test_back_in_place(guest, tmp_path):
    parent = guest(BEATS)
    target = soon(parent)
    fires(parent, tmp_path / "s", heartbeat=target, flags=w.BAKE_STOP)
    worker = guest(snapshot=tmp_path / "s")
    for _ in range(20):
        assert said_by(worker, LISTENER) == target
        said_by(worker, HEARTBEAT)
        worker.rewind()
        worker.events.clear()  # of the life before
    with pytest.raises(w.WorkerError, match="has no snapshot to go back to"):
        guest(tiny.SPIN).rewind()


# --- prepared ---


def test_a_prepared_machine_takes_any_snapshot(guest, tmp_path):
    parent = guest(BEATS)
    target = soon(parent)
    fires(parent, tmp_path / "s", heartbeat=target, flags=w.BAKE_STOP)
    times = {}
    for prepare in (False, True):
        for with_disk in (True, False) if prepare else (True,):
            worker = guest(snapshot=tmp_path / "s", prepare=prepare, disk=with_disk)
            assert said_by(worker, LISTENER) == target
            stats = worker.stats()
            times[prepare] = min(times.get(prepare, 1 << 60), stats["setup_ns"])
            assert stats["sandbox"] & 1 << 12, "no system call filter"
            with pytest.raises(w.WorkerError, match="DISK came at the wrong time"):
                add_disk(worker, tmp_path)
    print(f"RESTORE to first entry: {times[False] // 1000} us, prepared {times[True] // 1000} us")
    assert times[True] < times[False]


def test_a_prepared_machine_has_one_disk(make, tmp_path):
    worker = make()
    worker.config(memory=32, flags=w.F_PREPARE)
    add_disk(worker, tmp_path)
    with pytest.raises(w.WorkerError, match="at most 1 disks"):
        add_disk(worker, tmp_path)
    with pytest.raises(w.WorkerError, match="START came at the wrong time"):
        worker.start()
