# SPDX-License-Identifier: Apache-2.0
"""Reliability gates: machines are saved at any moment while the guest check program is busy on all their processors, and
every clone must be whole, each time. How often is in percent in GATES (checked.py).
"""
import pytest
from checked import check_disk, lab, rounds, shelf  # noqa: F401: fixtures
from conftest import SOAK

pytestmark = pytest.mark.kvm

# How a machine is saved: stopped, running on, copied while it runs, as a diff.
WAYS = ({"stop": True}, {}, {"live": True}, {"diff": True}, {"live": True, "diff": True})


@pytest.mark.parametrize("vcpus, full, first", [(1, 300, 0), (2, 100, 2), (4, 50, 4)])
def test_bake_and_restore(lab, shelf, vcpus, full, first):
    """A round: a machine that has itself been restored is saved while it is busy, and its clone verified; the machine
    that runs on, too. Short repetitions begin with another way of saving for each number of processors."""
    booted = shelf.new()
    parent = lab.boot(vcpus=vcpus, mib=8 if SOAK else 2)
    parent.worker.save(booted, stop=True)
    parent.stop()
    for n in range(max(2 if vcpus < 4 else 1, rounds(full))):
        way = WAYS[(first + n) % len(WAYS)]
        where = f"round {n}, saved with {way}"
        saved = shelf.new()
        parent = lab.restore(booted, vcpus=vcpus)
        if n % 2:
            parent.verify()  # so far into its life; else it is saved right after its restore
        parent.worker.save(saved, **way)
        clone = lab.restore(saved, vcpus=vcpus, base=booted if way.get("diff") else None)
        assert clone.verify().startswith("ok"), where
        clone.stop()
        if not way.get("stop"):
            assert parent.verify().startswith("ok"), where
        parent.stop()
        shelf.drop(saved)


def test_restores_of_one_snapshot(lab, shelf):
    saved = shelf.new()
    parent = lab.boot(mib=2)
    parent.worker.save(saved, stop=True)
    parent.stop()
    for n in range(rounds(1000)):
        clone = lab.restore(saved)
        assert clone.verify().startswith("ok"), f"restore {n}"
        clone.stop()


def test_a_restore_of_a_restore(lab, shelf):
    """Twenty deep: each generation is saved and is the next one's parent."""
    vcpus = 2
    machine = lab.boot(vcpus=vcpus)
    saved = None
    for depth in range(max(3, rounds(20))):
        last, saved = saved, shelf.new()
        machine.worker.save(saved, stop=True)
        machine.stop()
        if last:
            shelf.drop(last)
        machine = lab.restore(saved, vcpus=vcpus)
        assert machine.verify().startswith("ok"), f"at depth {depth}"


def test_a_kernel_that_has_warned_is_at_fault(lab):
    """The check program's own check."""
    machine = lab.boot()
    machine.verify()
    assert machine.run("/bin/sh", "-c", "echo 16384 >/proc/sys/kernel/tainted")[0] == 0
    status, out = machine.run("/bin/check", "verify", "60")
    assert status == 1 and "the kernel has warned: tainted 0x4" in out, out


MARKS = ("/proc/sys/kernel/tainted", "/sys/kernel/warn_count")
HOTPLUG = """i=0; cd /sys/devices/system/cpu && while :; do
    for n in 1 2 3; do echo 0 >cpu$n/online; done; for n in 1 2 3; do echo 1 >cpu$n/online; done
    i=$((i + 1)); echo $i >/turns.new; mv /turns.new /turns; done"""
TURN = "until [ -f /turns ]; do :; done; read a </turns; b=$a; until [ $b != $a ]; do read b </turns; done"


def test_processors_that_come_and_go(lab, shelf):
    """Saved while the guest takes processors offline and back: its clones answer, their processors come and go on, and no
    kernel warns."""
    parent = lab.boot(vcpus=4, mib=0)
    assert parent.run("/bin/sh", "-c", f"({HOTPLUG}) </dev/null >/dev/null 2>&1 &")[0] == 0
    marks = parent.run("/bin/cat", *MARKS)[1]
    for n in range(max(3, rounds(30))):
        saved = shelf.new()
        way = WAYS[n % 3]
        parent.worker.save(saved, **way)
        clone = lab.restore(saved, vcpus=4)
        assert clone.run("/bin/sh", "-c", TURN) == (0, ""), f"round {n}, saved with {way}"
        assert clone.run("/bin/cat", *MARKS) == (0, marks), f"round {n}, saved with {way}"
        shelf.drop(saved)
        if way.get("stop"):
            parent.stop()
            parent = clone
        else:
            clone.stop()
