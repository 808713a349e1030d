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
