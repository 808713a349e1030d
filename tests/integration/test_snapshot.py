# SPDX-License-Identifier: Apache-2.0
"""Machines that are saved and restored, driven through the worker: a clone goes on where its parent was, as a machine
of its own."""
import os
import re
import struct
import subprocess
import time

import agentclient
import pytest
import worker as w
from conftest import OUT, image, environment
from test_worker import BOOT, INITRAMFS, KERNEL, VMM, ends

pytestmark = pytest.mark.kvm

CONVERT = OUT / "tests/tools/convert"
CLOCK_SLACK = 0.5  # seconds a clone's wall clock may be off


@pytest.fixture
def make():
    """make(): a fresh worker, gone at the end of the test."""
    made = []

    def one():
        made.append(w.Worker(VMM))
        return made[-1]

    yield one
    for worker in made:
        worker.close()


@pytest.fixture(scope="module")
def disk(home, tmp_path_factory):
    """busybox's root disk, as one file."""
    path = tmp_path_factory.mktemp("disk") / "disk"
    subprocess.run([CONVERT, image("busybox"), path], check=True, env=environment(home), stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    return path


@pytest.fixture
def machine(make, disk):
    """machine(memory, vcpus): boots it with busybox as its root, which is set up; (worker, agent).
    machine(..., snapshot=directory): a clone."""
    def run(memory=128, vcpus=1, snapshot=None, generation=None):
        worker = make()
        if snapshot:
            worker.config(memory=memory, vcpus=vcpus)
        else:
            worker.config(str(KERNEL), str(INITRAMFS), memory=memory, vcpus=vcpus)
        fd = os.open(disk, os.O_RDONLY)
        try:
            worker.disk([(0, 0, os.fstat(fd).st_size)], [fd], serial="root")
        finally:
            os.close(fd)
        if snapshot:
            worker.restore(snapshot, generation)
            return worker, agentclient.Agent(worker)
        worker.start()
        worker.event("lifecycle", BOOT)
        agent = agentclient.Agent(worker)
        agent.setup()
        return worker, agent

    return run


def said(agent, script):
    status, out = agent.run("/bin/sh", "-c", script)
    assert status == 0, out
    return out.decode().strip()


@pytest.mark.parametrize("vcpus", [1, 2])
def test_a_clone_goes_on(machine, tmp_path, vcpus):
    worker, agent = machine(vcpus=vcpus)
    assert said(agent, "echo kept >/tmp/file; sleep 1000 & echo started") == "started"
    agent.close()
    saved = worker.save(tmp_path)
    assert 0 < saved["data_pages"] < 128 * 256

    again = agentclient.Agent(worker)  # the parent has gone on
    assert said(again, "cat /tmp/file") == "kept"

    _, clone = machine(vcpus=vcpus, snapshot=tmp_path)
    assert said(clone, "cat /tmp/file; pidof sleep >/dev/null && echo alive; nproc") == f"kept\nalive\n{vcpus}"


def test_a_connection_of_before_ends_at_both_ends(machine, tmp_path):
    worker, agent = machine()
    agent.send("AGENT_EXEC", struct.pack("<IQHH", 0, 0, 0, 0) + agentclient.strings(["/bin/sleep", "1000"]) +
               agentclient.strings([]) + agentclient.string("") * 2 + struct.pack("<I", 0))
    kind, _ = agent.frame()
    assert kind == agentclient.number("AGENT_STARTED")
    worker.save(tmp_path)
    clone, _ = machine(snapshot=tmp_path)
    # The clone's agent has lost the host of that exec, and so it has ended it.
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if said(agentclient.Agent(clone), "pidof sleep || echo none") == "none":
            break
    else:
        pytest.fail("the exec of a connection that is gone still runs")


def test_clones_are_machines_of_their_own(machine, tmp_path):
    worker, agent = machine()
    agent.close()
    worker.save(tmp_path, stop=True)
    worker.request(w.STOP)
    ends(worker, "stopped")
    seen = set()
    for _ in range(5):
        _, clone = machine(snapshot=tmp_path)
        before = time.time()
        now, random = said(clone, "adjtimex | sed -n 's/.*time.tv_sec: *//p'; head -c 16 /dev/urandom | hexdump -e '16/1 \"%02x\"'").split("\n")
        assert before - CLOCK_SLACK - 1 <= int(now) <= time.time() + CLOCK_SLACK, "the clone's wall clock is wrong"
        assert random not in seen, "two clones share their random numbers"
        seen.add(random)


@pytest.mark.parametrize("size", [0, 10, 4096])
def test_a_truncated_state_is_refused(machine, tmp_path, size):
    worker, agent = machine()
    worker.save(tmp_path, stop=True)
    os.truncate(tmp_path / "state", size)
    with pytest.raises(w.WorkerError, match="restoring the machine: .*state"):
        machine(snapshot=tmp_path)


def test_another_shape_is_refused(machine, tmp_path):
    worker, agent = machine()
    worker.save(tmp_path, stop=True)
    with pytest.raises(w.WorkerError, match="memory"):
        machine(memory=256, snapshot=tmp_path)
    with pytest.raises(w.WorkerError, match="it has 1, this machine 2"):
        machine(vcpus=2, snapshot=tmp_path)
