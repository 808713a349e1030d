# SPDX-License-Identifier: Apache-2.0
"""The images written entry by entry: busybox, and torture with everything a layer can hold."""

import hashlib
import shutil
import struct
import subprocess

import oci

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
alice:x:1000:1000:Alice:/home/alice:/bin/sh
bob:x:1001:1001:Bob:/home/bob:/bin/sh
nobody:x:65534:65534:nobody:/home:/bin/false
"""
GROUP = """root:x:0:
daemon:x:1:
bin:x:2:
tty:x:5:
www-data:x:33:
staff:x:50:alice,bob
alice:x:1000:
bob:x:1001:
wheel:x:2000:alice
nogroup:x:65534:
"""


def busybox_tree(tar):
    """A root directory in which a shell and the usual commands run."""
    program = shutil.which("busybox")
    if not program:
        raise SystemExit("busybox is missing: run scripts/setup")
    with open(program, "rb") as file:
        data = file.read()
    applets = subprocess.run([program, "--list"], check=True, text=True, stdout=subprocess.PIPE).stdout.split()
    for name in ("bin", "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "usr/sbin", "var", "var/www"):
        tar.directory(name)
    tar.directory("root", 0o700)
    tar.directory("tmp", 0o1777)
    tar.directory("home/alice", 0o750, uid=1000, gid=1000)
    tar.directory("home/bob", 0o750, uid=1001, gid=1001)
    tar.add("bin/busybox", data=data, mode=0o755)
    for applet in applets:
        if applet != "busybox":
            tar.symlink("bin/" + applet, "busybox")
    tar.symlink("usr/bin/env", "../../bin/busybox")
    tar.add("etc/passwd", data=PASSWD.encode())
    tar.add("etc/group", data=GROUP.encode())
    tar.add("etc/shadow", data=b"root:*:::::::\n", mode=0o640)
    tar.add("etc/not-executable", data=b"#!/bin/sh\necho no\n", mode=0o644)


def busybox(path, epoch):
    tar = oci.Tar(epoch)
    busybox_tree(tar)
    layout = oci.Layout(path)
    layout.image("latest", [tar.done()], {"Cmd": ["sh"], "Env": [PATH]}, epoch, "+gzip")
    layout.done()


def noise(size, seed):
    """Bytes that do not compress, always the same."""
    return hashlib.shake_256(seed.encode()).digest(size)


def capability(bits):
    """security.capability, revision 2, effective (capabilities(7))."""
    return struct.pack("<IIIII", 0x02000001, bits & 0xFFFFFFFF, 0, bits >> 32, 0)


def acl(*entries):
    """system.posix_acl_access/default: version 2, then tag, permissions, id (linux/posix_acl_xattr.h)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, perm, who) for tag, perm, who in entries)


USER_OBJ, USER, GROUP_OBJ, ACL_GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
ANY = 0xFFFFFFFF
ACCESS = acl((USER_OBJ, 6, ANY), (USER, 4, 1000), (GROUP_OBJ, 4, ANY), (ACL_GROUP, 6, 2000), (MASK, 6, ANY),
             (OTHER, 0, ANY))
DEFAULT = acl((USER_OBJ, 7, ANY), (USER, 5, 1001), (GROUP_OBJ, 5, ANY), (MASK, 5, ANY), (OTHER, 5, ANY))


def first_layer(epoch):
    """A system that runs, and one of each kind of thing."""
    tar = oci.Tar(epoch)
    busybox_tree(tar)
    tar.directory("t")
    for size in (0, 1, 511, 512, 513, 4095, 4096, 4097, 65536, (1 << 20) + 1):
        tar.add("t/size/%d" % size, data=noise(size, "size"))  # t/size itself has no entry
    tar.add("t/zeroes", data=bytes(300000))
    tar.add("t/zeroes-inside", data=noise(5000, "a") + bytes(100000) + noise(5000, "b"))
    tar.sparse("t/sparse", 8 << 20, [(0, noise(4096, "s0")), (3 << 20, noise(10000, "s1")),
                                     ((8 << 20) - 512, noise(512, "s2"))])
    tar.sparse("t/sparse-empty", 5 << 20, [(5 << 20, b"")])

    tar.directory("t/mode")
    for mode in (0, 0o111, 0o400, 0o644, 0o755, 0o1777, 0o2755, 0o4755, 0o6711, 0o7777):
        tar.add("t/mode/file-%04o" % mode, data=b"x", mode=mode)
        tar.directory("t/mode/dir-%04o" % mode, mode)
    tar.directory("t/owner")
    for uid, gid in ((0, 33), (1000, 1000), (65534, 65534), (65535, 65536), (70000, 1 << 21), (1 << 31, (1 << 32) - 2)):
        tar.add("t/owner/%d-%d" % (uid, gid), uid=uid, gid=gid)
    tar.symlink("t/owner/link", "nowhere", uid=1000, gid=1001)
    tar.directory("t/time")
    for mtime in (0, 1, 1 << 31, 1 << 32, (1 << 33) + 5, -1, -86400, "0.000000001", "-1.5", "1700000000.123456789",
                  "-1000000000.25", "1700000000.5"):
        tar.add("t/time/%s" % mtime, mtime=mtime)
    tar.directory("t/time/directory", mtime="1600000000.987654321")
    tar.symlink("t/time/link", "0", mtime="1500000000.111222333")

    tar.directory("t/kind")
    tar.add("t/kind/null", oci.CHAR, mode=0o666, major=1, minor=3)
    tar.add("t/kind/char", oci.CHAR, mode=0o600, major=4095, minor=1048575, uid=1000)
    tar.add("t/kind/loop", oci.BLOCK, mode=0o660, major=7, minor=300, gid=6)
    tar.add("t/kind/fifo", oci.FIFO, mode=0o640, uid=33, gid=33)
    tar.directory("t/kind/empty")
    tar.symlink("t/kind/absolute", "/etc/passwd")
    tar.symlink("t/kind/up", "../../../../../../etc/passwd")
    tar.symlink("t/kind/loop-a", "loop-b")
    tar.symlink("t/kind/loop-b", "loop-a")
    tar.symlink("t/kind/long", "x/" * 1500 + "end")

    tar.directory("t/name")
    for name in (b"a" * 255, "ü".encode() * 127, b"not-utf8-\xff\xfe\x80", b"new\nline", b" ", b"-rf", b"back\\slash",
                 b"...", b".whale", b"tab\there", b"quote'\"", b"\x01\x7f", "\u202e".encode()):
        tar.add(b"t/name/" + name, data=name)
    tar.directory("t/long")
    tar.add("t/long/" + "/".join("d%03d" % i * 10 for i in range(20)) + "/end", data=b"here")  # no entries on the way
    tar.add("t/deep/" + "d/" * 120 + "bottom", data=b"120 down")
    tar.directory("./t/dot")
    tar.add("./t/dot/./file", data=b"dotted")
    tar.directory("t/many")
    for number in range(1500):
        tar.add("t/many/%04d" % number, data=b"%d" % number)

    tar.directory("t/xattr", xattrs={"user.on": b"directory"})
    tar.add("t/xattr/one", data=b"x", xattrs={"user.one": b"1"})
    tar.add("t/xattr/same", data=b"x", xattrs={"user.one": b"1"})
    tar.add("t/xattr/empty", xattrs={"user.empty": b""})
    tar.add("t/xattr/binary", xattrs={"user.binary": bytes(range(256))})
    tar.add("t/xattr/large", xattrs={"user.large": noise(2000, "xattr")})
    tar.add("t/xattr/several", xattrs={"user.%02d" % i: b"v%d" % i for i in range(20)})
    tar.add("t/xattr/long-name", xattrs={"user." + "n" * 250: b"x"})
    tar.add("t/xattr/cap", data=b"#!/bin/sh\n", mode=0o755, xattrs={"security.capability": capability(1 << 10)})
    tar.add("t/xattr/cap-high", mode=0o755, xattrs={"security.capability": capability(1 << 38 | 1 << 7)})
    tar.add("t/xattr/trusted", xattrs={"trusted.note": b"kept"})
    tar.add("t/acl-file", mode=0o660, xattrs={"system.posix_acl_access": ACCESS})
    tar.directory("t/acl-dir", 0o755, xattrs={"system.posix_acl_default": DEFAULT})

    tar.directory("t/link")
    tar.add("t/link/a", data=b"linked", uid=1000, xattrs={"user.on": b"inode"})
    tar.link("t/link/b", "t/link/a")
    tar.link("t/link/c", "t/link/b")
    tar.add("t/link/far", data=b"linked from the next layer")
    tar.add("t/link/split", data=b"old")
    tar.link("t/link/split-other", "t/link/split")
    tar.symlink("t/link/symlink", "a")
    tar.link("t/link/symlink-again", "t/link/symlink")
    tar.add("t/link/fifo", oci.FIFO)
    tar.link("t/link/fifo-again", "t/link/fifo")

    tar.directory("t/twice")
    tar.add("t/twice/file", data=b"first")
    tar.add("t/twice/file", data=b"second, which counts", mode=0o600)
    tar.directory("t/twice/dir", 0o700)
    tar.add("t/twice/dir/child", data=b"stays")
    tar.directory("t/twice/dir", 0o751, uid=33)
    tar.add("t/twice/kind", data=b"file first")
    tar.symlink("t/twice/kind", "link-then")

    for place in ("white", "opaque", "opaque-late", "opaque-nested/in", "change", "swap"):
        tar.directory("t/" + place)
    for name in ("file", "gone-and-back", "stays"):
        tar.add("t/white/" + name, data=name.encode())
    tar.symlink("t/white/link", "stays")
    tar.add("t/white/tree/with/many/things", data=b"x")
    tar.add("t/white/tree2/file", data=b"x")
    for place in ("opaque", "opaque-late", "opaque-nested/in"):
        tar.add("t/%s/old" % place, data=b"old")
        tar.add("t/%s/both" % place, data=b"old")
        tar.add("t/%s/sub/old" % place, data=b"old")
    tar.directory("t/change/dir", 0o755)
    tar.add("t/change/dir/child", data=b"child")
    tar.add("t/change/file", data=b"before", xattrs={"user.before": b"1"})
    tar.add("t/swap/file-to-dir", data=b"x")
    tar.directory("t/swap/dir-to-file")
    tar.add("t/swap/dir-to-file/child", data=b"x")
    tar.symlink("t/swap/link-to-dir", "../white")
    tar.directory("t/swap/dir-to-link")
    tar.add("t/swap/dir-to-link/child", data=b"x")
    tar.add("t/swap/fifo", data=b"x")
    return tar.done()


def second_layer(epoch):
    """Takes away, replaces, links across."""
    tar = oci.Tar(epoch + 1)
    for name in ("t/white/.wh.file", "t/white/.wh.link", "t/white/.wh.tree", "t/white/tree2/.wh.file",
                 "t/white/.wh.gone-and-back", "t/white/.wh.never-was", "t/mode/.wh.dir-0000"):
        tar.add(name, mode=0)
    tar.directory("t/opaque", 0o711)
    tar.add("t/opaque/.wh..wh..opq", mode=0)
    tar.add("t/opaque/both", data=b"new")
    tar.add("t/opaque/new", data=b"new")
    tar.add("t/opaque-late/both", data=b"new")
    tar.add("t/opaque-late/sub/new", data=b"new")
    tar.add("t/opaque-late/.wh..wh..opq", mode=0)
    tar.add("t/opaque-nested/.wh..wh..opq", mode=0)
    tar.directory("t/opaque-nested/in")
    tar.add("t/opaque-nested/in/new", data=b"new")
    tar.directory("t/opaque-fresh")
    tar.add("t/opaque-fresh/.wh..wh..opq", mode=0)
    tar.add("t/opaque-fresh/file", data=b"fresh")

    tar.link("t/link/far-too", "t/link/far")
    tar.add("t/link/split", data=b"new, on its own")
    tar.add("t/link/.wh.c", mode=0)
    tar.link("t/etc-passwd", "etc/passwd")

    tar.directory("t/change/dir", 0o2770, uid=1000, gid=50, mtime="1234567890.5", xattrs={"user.after": b"1"})
    tar.add("t/change/file", data=b"after, longer than before", mode=0o600, uid=1001, xattrs={"user.after": b"2"})
    tar.directory("t/swap/file-to-dir")
    tar.add("t/swap/file-to-dir/child", data=b"now a directory")
    tar.add("t/swap/dir-to-file", data=b"now a file")
    tar.directory("t/swap/link-to-dir")
    tar.add("t/swap/link-to-dir/child", data=b"now a directory")
    tar.symlink("t/swap/dir-to-link", "link-to-dir")
    tar.add("t/swap/fifo", oci.FIFO)
    return tar.done()


def third_layer(epoch):
    """Brings back what was taken, and adds to what is below."""
    tar = oci.Tar(epoch + 2)
    tar.add("t/white/gone-and-back", data=b"back")
    tar.add("t/white/tree/new", data=b"another tree")
    tar.add("t/opaque/third", data=b"third")
    tar.link("t/link/far-third", "t/link/far-too")
    tar.add("t/many/.wh.0007", mode=0)
    tar.add("t/many/0008", data=b"eight")
    tar.add("t/third/.wh.file", mode=0)
    tar.directory("t/third")
    tar.add("t/third/file", data=b"not hidden by a whiteout of its own layer")
    return tar.done()


def torture(path, epoch):
    config = {"Entrypoint": ["/bin/sh"], "Cmd": ["-c", "echo torture"], "Env": [PATH, "TORTURE=1"],
              "User": "alice:staff", "WorkingDir": "/t", "StopSignal": "SIGUSR1", "Labels": {"empty": ""}}
    layers = [first_layer(epoch), second_layer(epoch), third_layer(epoch)]
    layout = oci.Layout(path)
    for tag, compression in (("latest", "+gzip"), ("tar", ""), ("zstd", "+zstd")):
        layout.image(tag, layers, config, epoch, compression)
    layout.done()
