# SPDX-License-Identifier: Apache-2.0
"""Machines of the image `check`, in which the guest check program (tests/guest/check.c) is busy on all processors, saved
and restored through the worker.

GATES is how much of a long repetition is done, in percent: 10 by default, 100 with SOAK=1.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import agentclient
import pytest
import snapstate
import worker as w
from conftest import OUT, SOAK, environment, image
from test_worker import BOOT, INITRAMFS, KERNEL, VMM

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "images"))
from guestcheck import PORT  # noqa: E402, F401: for the tests

CONVERT = OUT / "tests/tools/convert"
GATES = int(os.environ.get("GATES", "100" if SOAK else "10"))
ROUND_TIMEOUT = 120  # seconds for what takes about one


THREADS = """head -n 99 /proc/interrupts /proc/stat; for t in /proc/$(pidof check | tr ' ' '\n' | head -n 1)/task/*; do
cat $t/stat $t/wchan $t/syscall; echo; done; sleep 1; cat /proc/$(pidof check)/task/*/stat"""


def rounds(full):
    return max(1, full * GATES // 100)


def convert(home, name, path):
    """A test image's root disk, as one file."""
    subprocess.run([CONVERT, image(name), path], check=True, env=environment(home), stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    return path


class Machine:
    """A machine that runs, and one connection to its agent at a time."""

    def __init__(self, worker):
        self.worker = worker

    def run(self, *argv):
        """Exit status and output of a program in it."""
        agent = agentclient.Agent(self.worker, ROUND_TIMEOUT)
        try:
            status, out = agent.run(*argv)
            return status, out.decode()
        finally:
            agent.close()

    def check(self, *argv):
        try:
            status, out = self.run("/bin/check", *argv)
        except (OSError, EOFError) as gone:
            raise AssertionError(f"check {' '.join(argv)}: {gone!r}{self.evidence()}") from gone
        assert status == 0, f"check {' '.join(argv)}: {status}: {out}{self.evidence()}"
        return out.strip()

    def identity(self):
        return dict(line.split("=", 1) for line in self.check("identity").split("\n"))

    def verify(self):
        return self.check("verify", str(ROUND_TIMEOUT // 2))

    def echo(self):
        """A connection from the host to the echo service, which answers."""
        sock = self.worker.vsock(PORT)
        sock.settimeout(ROUND_TIMEOUT)
        sock.sendall(b"hello")
        assert sock.recv(16) == b"hello"
        return sock

    def evidence(self):
        """What there is to be known of a machine that fails: its console, what its threads are at, its exits."""
        found = [f"events: {self.worker.events}"]
        for what in (lambda: self.run("/bin/sh", "-c", THREADS)[1], self.worker.console, self.worker.stats, self.where):
            try:
                found.append(str(what()))
            except (OSError, EOFError, w.WorkerError, agentclient.AgentError) as gone:
                found.append(f"not to be had: {gone!r}")
        if (status := self.worker.ended()) is not None:
            found.append(f"the worker ended with {status}; events since: {self.worker.events}")
        return "\n" + "\n".join(found)

    def where(self):
        """Where its processors are."""
        with tempfile.TemporaryDirectory() as top:
            self.worker.save(top)
            return snapstate.where((pathlib.Path(top) / "state").read_bytes())

    def stop(self):
        self.worker.close()


class Lab:
    def __init__(self, disk):
        self.disk = disk
        self.machines = []

    def worker(self):
        machine = Machine(w.Worker(VMM))
        self.machines.append(machine)
        return machine

    def configured(self, memory, vcpus, disk=None, **config):
        machine = self.worker()
        machine.worker.config(memory=memory, vcpus=vcpus, flags=w.F_PROFILE, **config)
        fd = os.open(disk or self.disk, os.O_RDONLY)
        try:
            machine.worker.disk([(0, 0, os.fstat(fd).st_size)], [fd], serial="root")
        finally:
            os.close(fd)
        return machine

    def boot(self, memory=128, vcpus=1, mib=8):
        """Booted, set up, the checks under way."""
        machine = self.configured(memory, vcpus, kernel=str(KERNEL), initramfs=str(INITRAMFS))
        machine.worker.start()
        machine.worker.event("lifecycle", BOOT)
        agent = agentclient.Agent(machine.worker, ROUND_TIMEOUT)
        agent.setup()
        agent.close()
        if mib:
            assert machine.check("start", str(mib)) == "started"
        return machine

    def restore(self, snapshot, memory=128, vcpus=1, base=None, generation=None, disk=None):
        machine = self.configured(memory, vcpus, disk)
        machine.worker.restore(snapshot, generation, base)
        return machine

    def close(self):
        for machine in self.machines:
            machine.stop()


@pytest.fixture(scope="session")
def check_disk(home, tmp_path_factory):
    return convert(home, "check", tmp_path_factory.mktemp("check") / "disk")


@pytest.fixture
def lab(check_disk):
    """Machines, gone at the end of the test."""
    made = Lab(check_disk)
    yield made
    made.close()


class Shelf:
    """A place for snapshots, each in a directory of its own; what is not needed any more makes room."""

    def __init__(self, top):
        self.top, self.count = top, 0

    def new(self):
        self.count += 1
        path = self.top / str(self.count)
        path.mkdir()
        return path

    def drop(self, *paths):
        for path in paths:
            shutil.rmtree(path)


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path)
