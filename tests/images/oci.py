# SPDX-License-Identifier: Apache-2.0
"""Writes OCI image layouts and tar archives, byte by byte reproducible.

The tar writer is ours because the torture image needs entries that tarfile will not write: raw
extended attributes, names that are not UTF-8, GNU sparse maps, the same name twice. Every entry is a
ustar header; what does not fit goes into a PAX header before it (POSIX.1-2001).
"""

import gzip
import hashlib
import json
import os
import shutil
import subprocess

FILE, LINK, SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"


def octal(value, width):
    return b"%0*o\0" % (width - 1, value)


def pax_record(name, value):
    body = b" " + name + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def header(name, kind, mode, uid, gid, size, mtime, target, major, minor):
    fields = b"".join((
        name.ljust(100, b"\0"), octal(mode, 8), octal(uid, 8), octal(gid, 8), octal(size, 12), octal(mtime, 12),
        b" " * 8, kind, target.ljust(100, b"\0"), b"ustar\0" + b"00", bytes(64), octal(major, 8), octal(minor, 8)))
    block = fields.ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


class Tar:
    """Collects entries; done() returns the archive. Names and targets are bytes or str."""

    def __init__(self, mtime):
        self.parts = []
        self.mtime = mtime

    def add(self, name, kind=FILE, data=b"", mode=0o644, uid=0, gid=0, mtime=None, target=b"", major=0, minor=0,
            xattrs=None, records=None):
        """mtime: seconds as int, or the decimal text of a PAX record."""
        name = name.encode() if isinstance(name, str) else name
        target = target.encode() if isinstance(target, str) else target
        mtime = self.mtime if mtime is None else mtime
        pax = dict(records or {})
        if isinstance(mtime, str) or not 0 <= mtime < 8**11:
            pax[b"mtime"] = str(mtime).encode()
            mtime = 0
        if len(name) > 100:
            pax[b"path"] = name
        if len(target) > 100:
            pax[b"linkpath"] = target
        if uid >= 8**7:
            pax[b"uid"] = b"%d" % uid
        if gid >= 8**7:
            pax[b"gid"] = b"%d" % gid
        for xattr, value in (xattrs or {}).items():
            pax[b"SCHILY.xattr." + xattr.encode()] = value
        if pax:
            body = b"".join(pax_record(key, pax[key]) for key in sorted(pax))
            self.parts += [header(b"pax", b"x", 0o644, 0, 0, len(body), 0, b"", 0, 0), body, bytes(-len(body) % 512)]
        self.parts += [header(name[:100], kind, mode, min(uid, 8**7 - 1), min(gid, 8**7 - 1), len(data), mtime,
                              target[:100], major, minor), data, bytes(-len(data) % 512)]

    def directory(self, name, mode=0o755, **more):
        self.add(name.rstrip("/") + "/" if isinstance(name, str) else name, DIRECTORY, mode=mode, **more)

    def symlink(self, name, target, **more):
        self.add(name, SYMLINK, target=target, mode=0o777, **more)

    def link(self, name, target, **more):
        self.add(name, LINK, target=target, **more)

    def sparse(self, name, size, extents, **more):
        """A file in GNU's sparse format 1.0: extents are (offset, data); the rest is holes."""
        table = [len(extents)]
        for offset, data in extents:
            table += [offset, len(data)]
        head = b"".join(b"%d\n" % number for number in table)
        body = head + bytes(-len(head) % 512) + b"".join(data for _, data in extents)
        name = name.encode()
        records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": name,
                   b"GNU.sparse.realsize": b"%d" % size}
        directory, _, base = name.rpartition(b"/")
        self.add(directory + b"/GNUSparseFile.0/" + base, data=body, records=records, **more)

    def done(self):
        return b"".join(self.parts) + bytes(1024)


class Layout:
    """An OCI layout directory under construction."""

    def __init__(self, path):
        self.path = path
        self.manifests = []
        os.makedirs(os.path.join(path, "blobs/sha256"))
        with open(os.path.join(path, "oci-layout"), "w") as file:
            file.write('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(self.path, "blobs/sha256", digest), "wb") as file:
            file.write(data)
        return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}

    def image(self, tag, layers, config, epoch, compression=""):
        """Adds an image: layers are uncompressed tar archives, lowest first."""
        descriptors = [self.blob(compress(layer, compression), LAYER + compression) for layer in layers]
        created = rfc3339(epoch)
        diff_ids = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
        text = {
            "created": created, "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created": created, "created_by": "tests/images/make"} for _ in layers],
        }
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": self.blob(as_json(text), CONFIG),
                    "layers": descriptors}
        descriptor = self.blob(as_json(manifest), MANIFEST)
        descriptor["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self.manifests.append(descriptor)

    def done(self):
        with open(os.path.join(self.path, "index.json"), "wb") as file:
            file.write(as_json({"schemaVersion": 2, "manifests": self.manifests}))


def rfc3339(epoch):
    return subprocess.run(["date", "-u", "-d", "@%d" % epoch, "+%Y-%m-%dT%H:%M:%SZ"], check=True, text=True,
                          stdout=subprocess.PIPE).stdout.strip()


def as_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def compress(data, compression):
    if compression == "+gzip":
        return gzip.compress(data, compresslevel=6, mtime=0)
    if compression == "+zstd":
        if not shutil.which("zstd"):
            raise SystemExit("zstd is missing: run scripts/setup")
        return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data
