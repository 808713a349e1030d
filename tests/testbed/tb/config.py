# SPDX-License-Identifier: Apache-2.0
"""Where things are, how large they may be, and what the driver's exit codes mean."""

import os
import sys

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TREE = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.abspath(os.environ.get("SUPERMACHINE_BUILD", os.path.join(TREE, "build")))
CACHE = os.path.join(BUILD, "testbed")

QEMU = "qemu-system-x86_64"
SUITE = "bookworm"
KERNEL_PACKAGE = "linux-image-cloud-amd64"

# What the tree is called inside the machine, and what of it travels there. The build's
# intermediate files stay behind, and so does every directory that holds a file named NO_PAYLOAD.
TREE_INSIDE = "/supermachine"
TREE_PARTS = ("build", "tests", "bench", "scripts", "include", "guest", "src", "docs", "Makefile", "meson.build")
TREE_PRUNED = ("build/testbed", "build/arm64", "build/asan", "build/fuzz", "build/check", ".git", "__pycache__",
               "meson-private", "meson-logs", "meson-info")
TREE_PRUNED_SUFFIXES = (".p", ".o", ".a")
NO_PAYLOAD = ".no-payload"

MIB = 1 << 20
ROOT_SIZE = 16 << 30  # virtual; sparse on the outside
PAYLOAD_SIZE = 8 << 30  # virtual; fixed, because the saved machine remembers its disks' sizes
DEFAULT_MEMORY = 4096  # MiB
MIN_MEMORY = 512
MAX_MEMORY = 65536
DEFAULT_CPUS = 1  # see "Limits" in README.md before you ask for more
MAX_CPUS = 8
ICOUNT_SHIFT = 0  # one virtual nanosecond per instruction

DEFAULT_TIMEOUT = 1800.0  # seconds for a command
BOOT_TIMEOUT = 300.0  # prepare: from start to READY
WAKE_TIMEOUT = 120.0  # run: from start to the first sign of life
STOP_TIMEOUT = 20.0  # after a timeout: to send evidence and results
TICK = 1.0  # seconds between the interrupts that keep the machine alive: tb/session.py
KERNEL_TAIL = 200  # kernel log lines kept as evidence

# A command that exits with one of these is not told from the testbed's own: each comes with a
# sentence on stderr that starts with "testbed".
EXIT_FAULT = 122  # the machine itself failed (lockup, panic): says nothing about the command
EXIT_TIMEOUT = 124  # as timeout(1)
EXIT_TROUBLE = 125  # wrong use, or the machine could not be prepared or started


class Trouble(Exception):
    """The testbed cannot do what it was asked; the text is one sentence for the person."""


def say(text):
    sys.stderr.write("testbed: %s\n" % text)
    sys.stderr.flush()


def icount():
    return os.environ.get("ICOUNT", "0") not in ("", "0")
