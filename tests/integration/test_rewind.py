# SPDX-License-Identifier: Apache-2.0
"""A baked Linux machine with two vCPUs: where pre-exec leaves it, clones that go back in place again and again, clones
of prepared workers, and how quiet an idle one is."""
import os
import re
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
SETUP_HEARTBEAT = 1 << 1  # guest/proto.h
IDLE_SECONDS = 4
IDLE_EXITS = 50  # a second of one vCPU, at most, by KVM's own count; a tenth of them come to the worker


def add_root(worker, disk):
    fd = os.open(disk, os.O_RDONLY)
    try:
        worker.disk([(0, 0, os.fstat(fd).st_size)], [fd], serial="root")
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def baked(disk, tmp_path_factory):
    """(directory, profile) of a bake that fired at pre-exec, and what its parent did in it. It has come to rest and gone on
    before, with its timers masked meanwhile."""
    directory = tmp_path_factory.mktemp("baked")
    worker = w.Worker(VMM)
    try:
        worker.config(str(KERNEL), str(INITRAMFS), memory=MEMORY, vcpus=VCPUS, flags=w.F_PROFILE)
        add_root(worker, disk)
        worker.start()
        worker.event("lifecycle", BOOT)
        agent = agentclient.Agent(worker)
        agent.setup(flags=SETUP_HEARTBEAT)
        worker.bake(heartbeat=3, quiesce_ms=200)
        _, exit, trigger, code, text, _ = worker.event("baked", 60)
        assert (exit, trigger, code) == ("bake_ready", "heartbeat", 0), text
        worker.bake(directory, flags=w.BAKE_PRE_EXEC, after_ms=60000)
        agent.pre_exec()
        _, exit, trigger, code, text, _ = worker.event("baked", 60)
        assert (exit, trigger, code) == ("snapshot_saved", "pre-exec", 0), text
        assert said(agent, "echo on") == "on"  # the parent goes on, with the connection that it has
        yield directory, worker.stats()["profile"]
    finally:
        worker.close()


@pytest.fixture
def clone(baked, disk):
    """clone(): a worker with a running clone, and that one's generation."""
    made = []

    def run(flags=0):
        generation = os.urandom(16)
        made.append(w.Worker(VMM))
        made[-1].config(memory=MEMORY, vcpus=VCPUS, flags=flags)
        add_root(made[-1], disk)
        made[-1].restore(baked[0], generation)
        return made[-1], generation

    yield run
    for worker in made:
        worker.close()


def test_the_guest_was_asked_to_park(baked):
    assert re.search(r"mmio-write lifecycle\+0x80: [1-9]", baked[1]), baked[1]


def test_back_in_place_again_and_again(clone):
    worker, _ = clone()
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
    plain, prepared = clone()[0], clone(flags=w.F_PREPARE)[0]
    for worker in (plain, prepared):
        assert said(agentclient.Agent(worker), "nproc; cat /proc/uptime >/dev/null && echo well") == f"{VCPUS}\nwell"
    times = [worker.stats()["setup_ns"] // 1000 for worker in (plain, prepared)]
    print(f"RESTORE to first entry: {times[0]} us, prepared {times[1]} us")


def cpu_seconds(path):
    with open(path) as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def kvm_exits(stats):
    """All exits by KVM's own count, those included that it handles by itself."""
    counts = re.findall(r"in KVM: exits (\d+)", stats["profile"])
    return sum(map(int, counts))


def test_an_idle_clone_is_quiet(clone):
    worker, generation = clone(flags=w.F_PROFILE)
    agentclient.Agent(worker).renew(generation)  # which ends the agent's heartbeats
    time.sleep(1)  # what a restored kernel has to catch up with
    process = f"/proc/{worker.proc.pid}"
    paths = (f"{process}/stat", f"{process}/task/{worker.proc.pid}/stat")  # all its threads, the loop's
    before, cpu = worker.stats(), list(map(cpu_seconds, paths))
    time.sleep(IDLE_SECONDS)
    after, used = worker.stats(), [cpu_seconds(path) - was for path, was in zip(paths, cpu)]
    exits = {kind: after["exits"][kind] - before["exits"][kind] for kind in after["exits"]}
    all_exits = kvm_exits(after) - kvm_exits(before)
    print(f"in {IDLE_SECONDS} s: {sum(exits.values())} exits to the worker, {all_exits} in all, {used[0]:.2f} s of processor "
          f"time, {used[1]:.2f} of them the loop's\n{exits}\n{after['profile']}")
    assert sum(exits.values()) < IDLE_EXITS * IDLE_SECONDS / 10, exits
    assert all_exits < IDLE_EXITS * IDLE_SECONDS * VCPUS
    # An emulated processor is slow, and slower when its host is busy: so time is bounded loosely. Being asked for
    # statistics takes the loop a few ticks of 10 ms, too.
    assert used[1] <= 0.01 * IDLE_SECONDS + 0.02 and used[0] <= 0.25 * IDLE_SECONDS
