# SPDX-License-Identifier: Apache-2.0
"""The payload disk: build output and test tree, read-only in the machine.

An ext4 image with one numbered directory per thing to carry; the agent bind-mounts each where it
belongs. The files are hard-linked into a staging directory (copied where that cannot be) and
`mke2fs -d` makes the image of it. Images are cached by a hash over name, size and time of every
file, so runs after each other without a build in between use the same one.

The disk's size is fixed: the saved machine knows it. The image is sparse.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile

from . import cache, config


def pruned(relative, entry):
    return (relative in config.TREE_PRUNED or entry.name in config.TREE_PRUNED
            or entry.name.endswith(config.TREE_PRUNED_SUFFIXES))


def walk(top, relative, prune):
    """Yields (relative name, DirEntry) of everything below top/relative, parents first, in order."""
    try:
        with os.scandir(os.path.join(top, relative)) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:  # somebody builds while we look: what goes away does not travel
        return
    if prune and any(entry.name == config.NO_PAYLOAD for entry in entries):
        return
    for entry in entries:
        name = os.path.join(relative, entry.name) if relative else entry.name
        if prune and pruned(name, entry):
            continue
        yield name, entry
        if entry.is_dir(follow_symlinks=False):
            yield from walk(top, name, prune)


def tree_parts():
    """Yields like walk() what of our own tree travels."""
    with os.scandir(config.TREE) as found:
        top = {entry.name: entry for entry in found}
    for name in config.TREE_PARTS:
        if name == "build" and config.BUILD != os.path.join(config.TREE, "build"):
            continue
        if name in top:
            yield name, top[name]
            if top[name].is_dir(follow_symlinks=False):
                yield from walk(config.TREE, name, True)


class Payload:
    """What to carry: add() things, then image() gives a descriptor of the disk."""

    def __init__(self):
        self.parts = []  # (directory on the host, destination inside, list of (name, DirEntry))

    def add_tree(self):
        self.parts.append((config.TREE, config.TREE_INSIDE, list(tree_parts())))
        if config.BUILD != os.path.join(config.TREE, "build"):
            found = [item for item in walk(config.BUILD, "", True) if item[0].split("/")[0] != "testbed"]
            self.parts.append((config.BUILD, config.TREE_INSIDE + "-build", found))

    def add(self, directory, destination):
        if not os.path.isdir(directory):
            raise config.Trouble("payload %s is not a directory" % directory)
        if not destination.startswith("/"):
            raise config.Trouble("payload destination %s must be an absolute path" % destination)
        self.parts.append((os.path.abspath(directory), destination, list(walk(directory, "", False))))

    def binds(self):
        return [(str(number), part[1]) for number, part in enumerate(self.parts)]

    def key(self):
        digest = hashlib.sha256()
        size = 0
        for _top, _destination, entries in self.parts:
            digest.update(b"part\0")
            for name, entry in entries:
                try:
                    info = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                size += info.st_blocks * 512
                digest.update(("%s\0%o %d %d %d\0" % (name, info.st_mode, info.st_size, info.st_mtime_ns,
                                                      info.st_ino)).encode(errors="surrogateescape"))
        if size > config.PAYLOAD_SIZE * 3 // 4:
            raise config.Trouble("the payload holds %d MiB, more than fit (put a file named %s into what may stay)"
                                 % (size // config.MIB, config.NO_PAYLOAD))
        return digest.hexdigest()[:16]

    def image(self):
        """Returns a descriptor of the disk image (the caller closes it)."""
        if not self.parts:
            return empty()
        path = os.path.join(config.CACHE, "payload-" + self.key())
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            with cache.lock():
                if not os.path.exists(path):
                    self.make(path)
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                cache.prune()
        cache.touch(path)
        return fd

    def make(self, path):
        with tempfile.TemporaryDirectory(prefix="new-payload-", dir=config.CACHE) as work:
            stage = os.path.join(work, "stage")
            for number, (top, _destination, entries) in enumerate(self.parts):
                target_top = os.path.join(stage, str(number))
                os.makedirs(target_top)
                for name, entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        place(os.path.join(top, name), os.path.join(target_top, name), entry)
            image = os.path.join(work, "image")
            command = ["/sbin/mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0",
                       "-E", "lazy_itable_init=1,root_owner=0:0", "-d", stage, image,
                       "%dM" % (config.PAYLOAD_SIZE // config.MIB)]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if done.returncode:
                raise config.Trouble("mke2fs cannot make the payload disk: %s" % done.stdout.decode().strip())
            os.chmod(image, 0o444)
            os.rename(image, path)


def place(source, target, entry):
    if entry.is_dir(follow_symlinks=False):
        os.makedirs(target, exist_ok=True)
    elif entry.is_symlink():
        os.symlink(os.readlink(source), target)
    elif entry.is_file(follow_symlinks=False):
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)


def empty():
    """A disk of the right size with nothing on it."""
    fd = cache.anonymous(config.CACHE)
    os.ftruncate(fd, config.PAYLOAD_SIZE)
    return fd
