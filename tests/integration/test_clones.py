# SPDX-License-Identifier: Apache-2.0
"""Clones are correct machines of their own: what must differ between them does, their clocks are right whatever the
host's has done meanwhile, and no connection of before hangs.

Tests that move the host's clock do so in the testbed only.
"""
import contextlib
import hashlib
import os
import time

import pytest
import snapstate
from checked import check_disk, lab, rounds, shelf  # noqa: F401: fixtures

pytestmark = pytest.mark.kvm

CLOCK_SLACK = 0.5  # seconds a clone's wall clock may be off
DAY = 86400


@pytest.fixture
def parent(lab):
    return lab.boot(mib=2)


@pytest.fixture
def saved(parent, shelf):
    """A snapshot of a machine that is no more."""
    path = shelf.new()
    parent.worker.save(path, stop=True)
    parent.stop()
    return path


@contextlib.contextmanager
def host_clock_moved(seconds):
    """The host's wall clock, by so much in the future or in the past, and right again in the end."""
    if not os.environ.get("SUPERMACHINE_TESTBED") or os.geteuid() != 0:
        pytest.skip("moves the host's clock: in the testbed only")
    offset = time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)
    try:
        yield
    finally:
        time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_MONOTONIC) + offset)


def right_clock(machine):
    """The wall clock in a machine is this host's. What it says of itself."""
    before = time.time()
    identity = machine.identity()
    after = time.time()
    assert before - CLOCK_SLACK <= float(identity["realtime"]) <= after + CLOCK_SLACK, \
        f"its wall clock is off by {float(identity['realtime']) - before:.3f} s at least"
    return identity


def test_clones_have_identities_of_their_own(lab, saved):
    count = max(5, rounds(200))
    seen = {name: set() for name in ("random", "boot", "generation", "machine")}
    for _ in range(count):
        generation = os.urandom(16)
        clone = lab.restore(saved, generation=generation)
        identity = right_clock(clone)
        assert identity["generation"] == generation.hex()
        for name, values in seen.items():
            values.add(identity[name])
        clone.stop()
    for name, values in seen.items():
        assert "" not in values, f"a clone has no {name}"
        assert len(values) == count, f"{count} clones have {len(values)} {name} values"


def test_clones_at_once_share_nothing(lab, saved):
    """Side by side, each writes its own memory; the snapshot stays what it was."""
    sums = {name: hashlib.sha256((saved / name).read_bytes()).digest() for name in os.listdir(saved)}
    clones = [lab.restore(saved) for _ in range(max(4, rounds(32)))]
    for clone in clones:
        assert clone.verify().startswith("ok")
    assert len({clone.identity()["random"] for clone in clones}) == len(clones)
    assert sums == {name: hashlib.sha256((saved / name).read_bytes()).digest() for name in os.listdir(saved)}


@pytest.mark.parametrize("vcpus", [1, 2])
@pytest.mark.parametrize("seconds", [DAY, -3600], ids=["a-day-later", "an-hour-back"])
def test_clocks_of_a_clone(lab, shelf, vcpus, seconds):
    """The wall clock is the host's of now; the monotonic one goes on from where it was."""
    parent = lab.boot(vcpus=vcpus, mib=2)
    then = float(parent.identity()["monotonic"])
    path = shelf.new()
    parent.worker.save(path)
    with host_clock_moved(seconds):
        restored = time.monotonic()
        clone = lab.restore(path, vcpus=vcpus)
        now = float(right_clock(clone)["monotonic"])
        gone = time.monotonic() - restored
        assert clone.verify().startswith("ok")
    assert then <= now, f"the monotonic clock jumped back by {then - now:.3f} s"
    # Between `then` and the save the parent ran on; after the restore the clone did for `gone`. Nothing else counts.
    assert now <= then + gone + 30, f"the monotonic clock jumped ahead by {now - then - gone:.3f} s"
    parent.verify()


def ended(sock):
    try:
        return sock.recv(16) == b""
    except ConnectionResetError:
        return True


def test_a_wish_of_its_parents_is_not_its_own(lab, shelf):
    """The machine was saved with a wish to park that its kernel had not read. No one would ever take it back."""
    path, vcpus, park = shelf.new(), 2, 2
    parent = lab.boot(vcpus=vcpus, mib=2)
    parent.worker.save(path, stop=True)
    parent.stop()
    state = snapstate.State((path / "state").read_bytes())
    state.section("LIFE").put(8, "I", park)
    (path / "state").write_bytes(state.bytes())
    clone = lab.restore(path, vcpus=vcpus)
    assert clone.verify().startswith("ok")


def test_connections_of_before_end(lab, parent, shelf):
    """The clone's end of a connection sees at once that it is over; the parent's connections go on."""
    held = parent.echo()
    assert parent.check("peers") == "accepted 1 open 1 ended 0 reset 0"
    path = shelf.new()
    parent.worker.save(path)
    clone = lab.restore(path)
    counts = dict(zip(*[iter(clone.check("peers").split())] * 2))
    assert counts["open"] == "0" and counts["reset"] == "1", counts
    held.sendall(b"still here")
    assert held.recv(16) == b"still here"
    held.close()


def test_the_listener_answers(lab, saved):
    """What listened before listens in every clone, from inside and from outside."""
    clone = lab.restore(saved)
    with clone.echo():
        assert clone.check("echo") == "answered"
        assert clone.check("peers") == "accepted 1 open 1 ended 0 reset 0"


@pytest.mark.parametrize("vcpus", [1, 2])
def test_a_machine_put_back_in_place(lab, shelf, vcpus):
    """Cycle restore: the same worker, its machine as it was saved, again and again; and it is another clone each time."""
    path = shelf.new()
    parent = lab.boot(vcpus=vcpus)
    parent.worker.save(path, stop=True)
    parent.stop()
    clone = lab.restore(path, vcpus=vcpus)
    seen = {clone.identity()["random"]}
    for n in range(max(3, rounds(100))):
        print(f"before rewinding for the {n + 1}. time: {clone.verify()}")
        clone.run("/bin/sh", "-c", "echo used >/root/used")
        with clone.echo() as held:
            clone.worker.rewind()
            assert ended(held), "the host's end of a connection of before goes on"
        status, _ = clone.run("/bin/test", "-e", "/root/used")
        assert status == 1, "a file of before is still there"
        seen.add(right_clock(clone)["random"])
    assert clone.verify().startswith("ok")
    assert len(seen) == max(3, rounds(100)) + 1
