# SPDX-License-Identifier: Apache-2.0
"""Writes the machine's initrd: a cpio archive ("newc") of busybox, modules, init and the agent.

Written by hand because it is short and then depends on nothing but its inputs: same bytes in, same
bytes out, so the saved machine can be found again by a hash of it.
"""

import os
import shutil
import subprocess

from . import config

# Loaded in the initrd, with what they depend on; the rest waits for modprobe in the root.
MODULES = ("virtio_pci", "virtio_blk", "virtio_rng", "virtio_console", "ext4")


def entry(number, name, mode, data=b"", rdev=(0, 0)):
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, rdev[0], rdev[1], len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def module_files(version, modules_root):
    """Paths below modules_root of MODULES and their dependencies, in loading order."""
    ordered = []
    for module in MODULES:
        out = subprocess.run(
            ["modprobe", "-S", version, "-d", modules_root, "--show-depends", module],
            stdout=subprocess.PIPE, check=True, text=True, env=dict(os.environ, PATH="/usr/sbin:/sbin:/usr/bin:/bin"),
        ).stdout
        for line in out.splitlines():
            words = line.split()
            if words and words[0] == "insmod" and words[1] not in ordered:
                ordered.append(words[1])
    return ordered


def build(version, modules_root):
    """Returns the initrd's bytes."""
    busybox = shutil.which("busybox")
    if not busybox:
        raise config.Trouble("no busybox on this host: install busybox-static (scripts/setup does)")
    files = [("bin/busybox", busybox, 0o755), ("init", os.path.join(config.HERE, "inside/init"), 0o755),
             ("agent.py", os.path.join(config.HERE, "inside/agent.py"), 0o644),
             ("frames.py", os.path.join(config.HERE, "tb/frames.py"), 0o644)]
    order = module_files(version, modules_root)
    files += [("modules/" + os.path.basename(path), path, 0o644) for path in order]

    parts = []
    for directory in ("bin", "dev", "modules", "proc", "root", "sys"):
        parts.append(entry(len(parts) + 1, directory, 0o040755))
    parts.append(entry(len(parts) + 1, "dev/console", 0o020600, rdev=(5, 1)))
    parts.append(entry(len(parts) + 1, "modules/order", 0o100644,
                       "".join(os.path.basename(path) + "\n" for path in order).encode()))
    for name, path, mode in files:
        with open(path, "rb") as file:
            parts.append(entry(len(parts) + 1, name, 0o100000 | mode, file.read()))
    parts.append(entry(0, "TRAILER!!!", 0))
    return b"".join(parts)
