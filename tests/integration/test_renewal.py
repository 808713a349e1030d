# SPDX-License-Identifier: Apache-2.0
"""The guest's part of a bake and of a restored machine, driven through the worker: a disk that grows, events that
triggers wait for, a machine that is told that it is another one, a workload that is found again."""
import gzip
import json
import os
import signal
import subprocess

import agentclient
import pytest
import worker as w
from conftest import image, environment
from registry import EPOCH, oci
from test_snapshot import CONVERT, disk, make, said  # noqa: F401: fixtures
from test_worker import BOOT, INITRAMFS, KERNEL, ends

pytestmark = pytest.mark.kvm

HEARTBEAT, PRE_EXEC, PARKED, LISTENER = 2, 3, 4, 5  # events of the lifecycle device
FIRST, SECOND, THIRD = bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 48))
MEMORY = 128
SIZE = 4096  # bytes of a disk that is not there yet


@pytest.fixture(scope="module")
def fresh_disk(home, tmp_path_factory):
    """busybox's root disk with a machine id that is left to the first boot."""
    top = tmp_path_factory.mktemp("fresh")
    source = image("busybox").removeprefix("oci:")
    manifest = json.loads(blob(source, json.loads(open(f"{source}/index.json").read())["manifests"][0]["digest"]))
    base = gzip.decompress(blob(source, manifest["layers"][0]["digest"]))
    ours = oci.Tar(EPOCH)
    ours.add("etc/machine-id", data=b"uninitialized\n", mode=0o444)
    layout = oci.Layout(str(top / "image"))
    layout.image("latest", [base, ours.done()], {}, EPOCH)
    layout.done()
    subprocess.run([CONVERT, f"oci:{top}/image", top / "disk"], check=True, env=environment(home),
                   stdout=subprocess.DEVNULL)
    return top / "disk"


def blob(layout, digest):
    with open(f"{layout}/blobs/{digest.replace(':', '/')}", "rb") as f:
        return f.read()


def attach_disk(worker, path):
    fd = os.open(path, os.O_RDONLY)
    try:
        worker.disk([(0, 0, os.fstat(fd).st_size)], [fd], serial="root")
    finally:
        os.close(fd)


def boot(make, path):
    worker = make()
    worker.config(str(KERNEL), str(INITRAMFS), memory=MEMORY)
    attach_disk(worker, path)
    worker.start()
    worker.event("lifecycle", BOOT)
    return worker


def clone(make, path, snapshot, generation):
    worker = make()
    worker.config(memory=MEMORY)
    attach_disk(worker, path)
    worker.restore(snapshot, generation)
    return worker


def heard(worker, kind):
    """The argument of the next event of this kind."""
    while True:
        _, got, arg = worker.event("lifecycle")
        if got == kind:
            return arg
        assert got == HEARTBEAT, got


def saved(worker, directory):
    directory.mkdir()
    worker.save(directory, stop=True)
    worker.request(w.STOP)
    ends(worker, "stopped")


def test_from_a_base_to_clones(make, fresh_disk, tmp_path):
    """The life of an image's snapshot: base, disk, set-up, files, pre-exec, clones. The root is read-only for programs,
    and what the agent writes comes there all the same."""
    empty = tmp_path / "empty"
    empty.write_bytes(bytes(SIZE))
    base = boot(make, empty)
    (tmp_path / "base").mkdir()
    base.save(tmp_path / "base")
    with pytest.raises(agentclient.AgentError, match="/dev/vda is still empty after 5000 ms"):
        agentclient.Agent(base).setup()
    base.request(w.STOP)

    bake = clone(make, fresh_disk, tmp_path / "base", FIRST)
    agent = agentclient.Agent(bake)
    agent.renew(FIRST)
    agent.setup(hostname="bake", flags=agentclient.bit("AGENT_SETUP_READ_ONLY"))  # waits for the disk to grow
    agent.put("/etc/extra/file", b"extra\n" * 20000, mode=0o640)
    agent.pre_exec()
    assert heard(bake, PRE_EXEC) == 0
    what = "cat /run/supermachine/generation /etc/machine-id /proc/sys/kernel/random/boot_id"
    generation, machine_id, boot_id = said(agentclient.Agent(bake), what).split("\n")
    assert generation == FIRST.hex()
    assert len(machine_id) == 32
    saved(bake, tmp_path / "bake")

    ids, boots = {machine_id}, {boot_id}
    what += "; hostname; cat /etc/hostname; sed -n 's/127.0.1.1.//p' /etc/hosts; wc -c </etc/extra/file; touch /file 2>&1 || :"
    for generation, hostname in ((SECOND, ""), (THIRD, "clone")):
        worker = clone(make, fresh_disk, tmp_path / "bake", generation)
        if hostname:
            agent = agentclient.Agent(worker)
            agent.renew(generation, hostname)
            agent.renew(generation, hostname)  # the second time is nothing
        lines = said(agentclient.Agent(worker), what).split("\n")
        assert lines[0] == generation.hex()  # without a RENEW too: the driver has told
        assert lines[3:] == [hostname or "bake"] * 3 + ["120000", "touch: /file: Read-only file system"]
        ids.add(lines[1])
        boots.add(lines[2])
    assert len(ids) == 3, "clones share a machine id"
    assert len(boots) == 3, "clones share a boot id"


def test_events_and_a_workload_that_is_found_again(make, disk, tmp_path):
    worker = boot(make, disk)
    agent = agentclient.Agent(worker)
    agent.setup(flags=agentclient.bit("AGENT_SETUP_HEARTBEAT") | agentclient.bit("AGENT_SETUP_LISTENERS"))
    assert [heard(worker, HEARTBEAT) for _ in range(3)] == [1, 2, 3]
    script = ("trap 'echo renewed; cat /run/supermachine/generation; exit 9' USR1; nc -l -p 8080 & "
              "echo up; sleep 1000 & wait")
    flags = agentclient.bit("AGENT_EXEC_WORKLOAD") | agentclient.bit("AGENT_EXEC_DETACHED")
    pid = agent.exec("/bin/sh", "-c", script, flags=flags)
    assert heard(worker, LISTENER) == 8080
    assert agent.output(3) == b"up\n"
    saved(worker, tmp_path / "listening")

    worker = clone(make, disk, tmp_path / "listening", SECOND)
    agent = agentclient.Agent(worker)
    agent.renew(SECOND, signal=signal.SIGUSR1)
    assert agent.attach() == pid
    assert agent.finish() == (9, f"renewed\n{SECOND.hex()}\n".encode())
    assert heard(worker, PARKED) == 9 << 8
    assert not [e for e in worker.events if e[:2] == ("lifecycle", HEARTBEAT)][2:], "heartbeats go on after a renewal"
