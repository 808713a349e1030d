# SPDX-License-Identifier: Apache-2.0
"""Machines driven through their worker, for benches that want to know when each step is done.

The worker is started by posix_spawn: Python's subprocess takes longer for its part than a worker needs for a restore.
"""
import os
import pathlib
import socket
import sys
import time

from common import INITRAMFS, KERNEL, ROOT, VMM

sys.path.insert(0, str(ROOT / "tests/integration"))
import agentclient  # noqa: E402
import tinyguest  # noqa: E402, F401: for benches
import worker as w  # noqa: E402

BOOT_TIMEOUT = 100


class Machine(w.Worker):
    """A worker, and when what happened: {"spawn": 0.0, ...} in seconds since it was started."""

    def __init__(self):
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.events, self.next_id, self.times = [], 1, {}
        self.start_time = time.monotonic()
        self.pid = os.posix_spawn(VMM, [str(VMM)], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)])
        theirs.close()
        self.reached("spawned")

    def reached(self, what):
        self.times[what] = time.monotonic() - self.start_time

    def root(self, disk):
        fd = os.open(disk, os.O_RDONLY)
        try:
            self.disk([(0, 0, os.fstat(fd).st_size)], [fd], serial="root")
        finally:
            os.close(fd)

    def boot(self, disk, memory=256, vcpus=1):
        """To where a command can be run."""
        self.config(str(KERNEL), str(INITRAMFS), memory=memory, vcpus=vcpus)
        self.root(disk)
        self.start()
        self.event("lifecycle", BOOT_TIMEOUT)
        agent = agentclient.Agent(self)
        agent.setup()
        agent.close()
        return self

    def restored(self, snapshot, disk, memory=256, vcpus=1, base=None):
        self.config(memory=memory, vcpus=vcpus)
        self.reached("configured")
        self.root(disk)
        self.restore(snapshot, base=base)
        self.reached("restored")
        return self

    def command(self, *argv):
        agent = agentclient.Agent(self)
        self.reached("agent")
        status, output = agent.run(*argv)
        self.reached("result")
        agent.close()
        if status != 0:
            raise SystemExit(f"{argv} ended with {status}")
        return output

    def private_kib(self):
        """Memory that this machine alone takes."""
        lines = pathlib.Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))

    def close(self):
        self.sock.close()
        os.waitpid(self.pid, 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
