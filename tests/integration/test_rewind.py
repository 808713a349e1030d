# SPDX-License-Identifier: Apache-2.0
"""A baked Linux machine with two vCPUs: where pre-exec leaves it, clones that go back in place again and again, clones
of prepared workers, and how quiet an idle one is."""
import os
import time

import agentclient
import pytest
import worker as w
from conftest import SOAK
from test_snapshot import disk, said  # disk: a fixture
from test_worker import BOOT, INITRAMFS, KERNEL, VMM

pytestmark = pytest.mark.kvm

VCPUS = 2
LIVES = 100 if SOAK else 8
MEMORY = 128  # MiB
IDLE_SECONDS = 4
IDLE_EXITS = 50  # a second, at most


def add_root(worker, disk):
    fd = os.open(disk, os.O_RDONLY)
    try:
        worker.disk([(0, 0, os.fstat(fd).st_size)], [fd], serial="root")
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def baked(disk, tmp_path_factory):
    """(directory, line) of a bake that fired at pre-exec."""
    directory = tmp_path_factory.mktemp("baked")
    worker = w.Worker(VMM)
    try:
        worker.config(str(KERNEL), str(INITRAMFS), memory=MEMORY, vcpus=VCPUS)
        add_root(worker, disk)
        worker.start()
        worker.event("lifecycle", BOOT)
        agent = agentclient.Agent(worker)
        agent.setup()
        worker.bake(directory, flags=w.BAKE_PRE_EXEC, after_ms=60000)
        agent.pre_exec()
        _, exit, trigger, code, text, _ = worker.event("baked", 60)
        assert (exit, trigger, code) == ("snapshot_saved", "pre-exec", 0), text
        assert said(agent, "echo on") == "on"  # the parent goes on, with the connection that it has
        yield directory, text
    finally:
        worker.close()


@pytest.fixture
def clone(baked, disk):
    """clone(): a worker with a running clone."""
    made = []

    def run(flags=0):
        made.append(w.Worker(VMM))
        made[-1].config(memory=MEMORY, vcpus=VCPUS, flags=flags)
        add_root(made[-1], disk)
        made[-1].restore(baked[0])
        return made[-1]

    yield run
    for worker in made:
        worker.close()


def test_back_in_place_again_and_again(clone):
    worker = clone()
    seen = set()
    for life in range(LIVES):
        agent = agentclient.Agent(worker)  # it answers
        if life % 4 == 0:
            random, left = said(agent, "head -c 16 /dev/urandom | hexdump -e '16/1 \"%02x\"'; echo; "
                                "ls /tmp/before 2>/dev/null || echo nothing; echo x >/tmp/before").split("\n")
            assert left == "nothing", "a file of the life before is there"
            assert random not in seen, "two lives share their random numbers"
            seen.add(random)
            agent = agentclient.Agent(worker)
            agent.exec("/bin/sh", "-c", "for i in 1 2 3 4; do while :; do :; done & done; wait")  # all vCPUs are busy
        worker.rewind()
        with pytest.raises((EOFError, ConnectionResetError)):
            agent.frame()
        agent.close()
    assert said(agentclient.Agent(worker), "nproc") == str(VCPUS)


def test_a_prepared_worker_becomes_a_clone(clone):
    plain, prepared = clone(), clone(flags=w.F_PREPARE)
    for worker in (plain, prepared):
        assert said(agentclient.Agent(worker), "nproc; cat /proc/uptime >/dev/null && echo well") == f"{VCPUS}\nwell"
    times = [worker.stats()["setup_ns"] // 1000 for worker in (plain, prepared)]
    print(f"RESTORE to first entry: {times[0]} us, prepared {times[1]} us")


def cpu_seconds(path):
    with open(path) as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_an_idle_clone_is_quiet(clone):
    worker = clone(flags=w.F_PROFILE)
    agentclient.Agent(worker).ping()
    time.sleep(1)  # what a restored kernel has to catch up with
    process = f"/proc/{worker.proc.pid}"
    paths = (f"{process}/stat", f"{process}/task/{worker.proc.pid}/stat")  # all its threads, the loop's
    before, cpu = worker.stats(), list(map(cpu_seconds, paths))
    time.sleep(IDLE_SECONDS)
    after, used = worker.stats(), [cpu_seconds(path) - was for path, was in zip(paths, cpu)]
    exits = {kind: after["exits"][kind] - before["exits"][kind] for kind in after["exits"]}
    print(f"in {IDLE_SECONDS} s: {sum(exits.values())} exits, {used[0]:.2f} s of processor time, {used[1]:.2f} of them "
          f"the loop's\n{exits}\n{after['profile']}")
    assert sum(exits.values()) < IDLE_EXITS * IDLE_SECONDS, exits
    # An emulated processor is slow, and slower when its host is busy: so the guest's own share is bounded loosely.
    assert used[1] <= 0.02 and used[0] <= 0.25 * IDLE_SECONDS
