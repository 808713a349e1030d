# SPDX-License-Identifier: Apache-2.0
"""The cache directory: one maker at a time, private copies, old things thrown away."""

import contextlib
import fcntl
import os
import shutil

from . import config

FICLONE = 0x40049409
KEPT = {"base-": 2, "saved-": 6, "payload-": 4}  # how many of each kind survive


@contextlib.contextmanager
def lock():
    """Held by whoever makes something that others would make too."""
    os.makedirs(config.CACHE, exist_ok=True)
    fd = os.open(os.path.join(config.CACHE, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            config.say("waiting for another run that prepares something")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def touch(path):
    """Marks a thing as used; someone else's cache may be read-only, which is fine."""
    with contextlib.suppress(OSError):
        os.utime(path)


def hand_over(path):
    """What root has made belongs to the tree's owner, so that later runs need no root."""
    owner = os.stat(config.TREE)
    if os.geteuid() == 0 and owner.st_uid != 0:
        for directory, _, files in os.walk(path):
            for name in [directory] + [os.path.join(directory, file) for file in files]:
                os.chown(name, owner.st_uid, owner.st_gid, follow_symlinks=False)


def prune():
    """Keeps the last used of each kind, and clears what killed makers left (call with the lock held).

    A machine that still uses a removed file has it open, so this hurts nobody; only a base that
    went away between two steps of a starting run would show, hence the generous numbers.
    """
    names = os.listdir(config.CACHE)
    for prefix, kept in KEPT.items():
        found = [os.path.join(config.CACHE, name) for name in names if name.startswith(prefix)]
        found.sort(key=os.path.getmtime, reverse=True)
        for path in found[kept:]:
            remove(path)
    for name in names:
        if name.startswith("new-"):
            remove(os.path.join(config.CACHE, name))


def anonymous(directory):
    """A file without a name."""
    return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)


def private_copy(path):
    """Returns a descriptor of an unlinked copy of path: a reflink where the file system can."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    target = -1
    try:
        target = anonymous(os.path.dirname(path))
        try:
            fcntl.ioctl(target, FICLONE, source)
        except OSError:
            left = os.fstat(source).st_size
            while left > 0:
                done = os.copy_file_range(source, target, left)
                if done == 0:
                    raise config.Trouble("%s shrank while it was copied" % path) from None
                left -= done
        result, target = target, -1
        return result
    finally:
        os.close(source)
        if target >= 0:
            os.close(target)
