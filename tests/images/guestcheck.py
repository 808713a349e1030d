# SPDX-License-Identifier: Apache-2.0
"""The image `check`: busybox, the guest check program (tests/guest/), and the files that it reads again and again."""

import os
import struct
import subprocess
import tempfile

import handmade
import oci

HERE = os.path.dirname(os.path.realpath(__file__))
SOURCES = ("../guest/check.c", "../guest/checks.c", "../guest/check.h")  # as make names what decides an image's content
MASK = (1 << 64) - 1
# As the guest agent is compiled; optimized for speed, since it is to keep processors busy.
COMPILER = ("musl-gcc -idirafter /usr/include -idirafter /usr/include/x86_64-linux-gnu -std=gnu17 -O2 -D_GNU_SOURCE -static -s "
            "-Wl,--build-id=none -Wall -Wextra -Wno-unused-parameter -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla "
            "-Wformat=2 -Wundef -Wpointer-arith -Wcast-qual -Wswitch-enum -Werror")
FILES, FILE_SIZE, PORT = 3, 256 << 10, 8080  # tests/guest/check.h


def words(what, count):
    """What check_word() of tests/guest/check.h says."""
    out = []
    for i in range(count):
        x = (what << 32 ^ i) * 0x9E3779B97F4A7C15 & MASK
        out.append(x ^ x >> 29)
    return struct.pack("<%dQ" % count, *out)


def program():
    """The program's bytes."""
    sources = [os.path.join(HERE, name) for name in SOURCES if name.endswith(".c")]
    with tempfile.TemporaryDirectory() as work:
        target = os.path.join(work, "check")
        done = subprocess.run([*COMPILER.split(), *sources, "-o", target], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True)
        if done.returncode:
            raise SystemExit("images: the guest check program can't be compiled:\n" + done.stdout[-3000:])
        with open(target, "rb") as file:
            return file.read()


def check(path, epoch):
    tar = oci.Tar(epoch)
    handmade.busybox_tree(tar)
    tar.add("bin/check", data=program(), mode=0o755)
    tar.add("etc/machine-id")  # empty: each machine's own
    tar.directory("data")
    for what in range(FILES):
        tar.add("data/%d" % what, data=words(what, FILE_SIZE // 8))
    layout = oci.Layout(path)
    layout.image("latest", [tar.done()], {"Entrypoint": ["/bin/check"], "Cmd": ["serve"], "Env": [handmade.PATH],
                                          "ExposedPorts": {"%d/tcp" % PORT: {}}}, epoch, "+gzip")
    layout.done()
