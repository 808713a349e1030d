# SPDX-License-Identifier: Apache-2.0
"""Saved machines: booted once, saved as they wait for work.

A saved machine is a directory build/testbed/saved-KEY with `initrd` and `state.qcow2`: an overlay
over the base's root.img which holds the writes of the boot and, as an internal snapshot, memory and
devices. A run resumes a copy of it. KEY covers everything that the saved state depends on: the base
with its package versions, the initrd, QEMU's version and the machine's command line.
"""

import hashlib
import os
import subprocess
import tempfile
import time

from . import base, cache, config, initrd, machine, payload, session

TAG = "ready"


def boot_arguments(base_directory, initrd_path):
    return ["-kernel", os.path.join(base_directory, "vmlinuz"), "-initrd", initrd_path, "-append", machine.APPEND]


def key(shape):
    digest = hashlib.sha256()
    base_directory = base.directory()
    for path in ("versions", "vmlinuz"):
        path = os.path.join(base_directory, path)
        digest.update(str(os.stat(path).st_mtime_ns).encode())
    for path in ("inside/init", "inside/agent.py", "tb/frames.py", "tb/initrd.py", "tb/saved.py"):
        with open(os.path.join(config.HERE, path), "rb") as file:
            digest.update(hashlib.sha256(file.read()).digest())
    what = [base.key(), machine.version(), machine.APPEND, config.PAYLOAD_SIZE, shape.arguments()]
    digest.update(repr(what).encode())
    return digest.hexdigest()[:16]


def directory(shape):
    return os.path.join(config.CACHE, "saved-" + key(shape))


def find(shape):
    """Returns the directory of the saved machine of this shape, or None if it must be made."""
    if not os.path.exists(os.path.join(base.directory(), "versions")):
        return None
    found = directory(shape)
    return found if os.path.exists(os.path.join(found, "state.qcow2")) else None


def ensure(shape, refresh=False):
    """Returns the saved machine's directory; makes base and saved machine if they are not there."""
    found = None if refresh else find(shape)
    if found is None:
        with cache.lock():
            found = None if refresh else find(shape)
            if found is None:
                found = make(shape, refresh)
                cache.prune()
                cache.hand_over(config.CACHE)
    cache.touch(base.directory())
    cache.touch(found)
    return found


def make(shape, refresh):
    base_directory = base.directory()
    if refresh or not os.path.exists(os.path.join(base_directory, "versions")):
        base.make(base_directory)
    config.say("booting the machine once, to save it (%s)" % shape)
    started = time.monotonic()
    final = directory(shape)
    with tempfile.TemporaryDirectory(prefix="new-saved-", dir=config.CACHE) as work:
        os.chmod(work, 0o755)
        (version,) = os.listdir(os.path.join(base_directory, "modules/lib/modules"))
        initrd_path = os.path.join(work, "initrd")
        with open(initrd_path, "wb") as file:
            file.write(initrd.build(version, os.path.join(base_directory, "modules")))
        state = os.path.join(work, "state.qcow2")
        create = ["qemu-img", "create", "-q", "-f", "qcow2", state, str(config.ROOT_SIZE)]
        subprocess.run(create, check=True, stdin=subprocess.DEVNULL)
        boot_and_save(shape, base_directory, initrd_path, state)
        final_work = os.path.join(config.CACHE, "new-final-%d" % os.getpid())
        os.rename(work, final_work)
        os.mkdir(work)  # for TemporaryDirectory to remove
        cache.remove(final)
        os.rename(final_work, final)
    size = os.stat(os.path.join(final, "state.qcow2")).st_blocks * 512 // config.MIB
    config.say("saved in %.1f s, %d MiB" % (time.monotonic() - started, size))
    return final


def boot_and_save(shape, base_directory, initrd_path, state):
    state_fd = os.open(state, os.O_RDWR | os.O_CLOEXEC)
    payload_fd = payload.empty()
    booted = None
    try:
        booted = machine.Machine(shape, base_directory, state_fd, payload_fd,
                                 boot_arguments(base_directory, initrd_path))
        session.wait_ready(booted, config.BOOT_TIMEOUT)
        booted.qmp("stop")
        answer = booted.qmp("human-monitor-command", **{"command-line": "savevm " + TAG})
        if answer.strip():
            raise config.Trouble("QEMU cannot save the machine: %s" % answer.strip())
        booted.qmp("quit")
        booted.process.wait(timeout=60)
    finally:
        if booted is not None:
            booted.kill()
        os.close(state_fd)
        os.close(payload_fd)


def resume(shape, saved_directory, payload_fd):
    """Returns a running private copy of the saved machine."""
    base_directory = base.directory()
    state_fd = cache.private_copy(os.path.join(saved_directory, "state.qcow2"))
    try:
        extra = boot_arguments(base_directory, os.path.join(saved_directory, "initrd")) + ["-loadvm", TAG]
        return machine.Machine(shape, base_directory, state_fd, payload_fd, extra)
    finally:
        os.close(state_fd)
