# SPDX-License-Identifier: Apache-2.0
"""Bad input: one sentence with what, on what, what to do; exit code 125; nothing left behind."""
import hashlib
import io
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import stat
import struct
import subprocess
import tarfile
import zlib

import pytest

from conftest import (BUILD, CLI, GONE_TIMEOUT, RUN_TIMEOUT, children_of, environment, eventually, needs_program,
                      needs_root, refused, workers)
from test_run import read_until

MEDIA = "application/vnd.oci.image."


# ---- Images made by hand ----

class Layout:
    """An OCI layout that a test can spoil: `layers` are lists of (TarInfo, bytes) or ready blobs."""

    def __init__(self, directory, layers=None, config=None, media=MEDIA + "layer.v1.tar", platform=None):
        self.dir = pathlib.Path(directory)
        (self.dir / "blobs/sha256").mkdir(parents=True)
        (self.dir / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        blobs = [layer if isinstance(layer, bytes) else tar(layer) for layer in (layers or [[file("hello", b"x")]])]
        self.layers = [self.blob(blob, media) for blob in blobs]
        diff_ids = ["sha256:" + hashlib.sha256(blob).hexdigest() for blob in blobs]
        self.config = self.blob(json.dumps(config or {
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode(), MEDIA + "config.v1+json")
        self.manifest = self.blob(json.dumps({"schemaVersion": 2, "config": self.config,
                                              "layers": self.layers}).encode(), MEDIA + "manifest.v1+json")
        self.index({**self.manifest, **({"platform": platform} if platform else {}),
                    "annotations": {"org.opencontainers.image.ref.name": "latest"}})

    def index(self, *manifests):
        (self.dir / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))

    def blob(self, data, media):
        digest = hashlib.sha256(data).hexdigest()
        (self.dir / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": media, "digest": "sha256:" + digest, "size": len(data)}

    def path(self, descriptor):
        return self.dir / "blobs/sha256" / descriptor["digest"].removeprefix("sha256:")

    @property
    def ref(self):
        return f"oci:{self.dir}"


def file(name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o755
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def link(name, target, kind):
    return file(name, type=kind, linkname=target)


def tar(entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def store(tmp_path):
    """An image store of the test's own; what a refusal may leave in it is checked at the end."""
    path = tmp_path / "store"
    yield path
    # A layer that is good by itself stays converted: it may serve another image.
    leftover = [p for part in ("tmp", "images") for p in (path / part).glob("*")]
    assert leftover == [], "a refused image left something in the store"


def spoil(path, at=-1):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# ---- Images that are not there, or not right ----

def test_no_such_layout(sm, store):
    refused(sm("run", "oci:/no/such/dir", store=store), "/no/such/dir", "No such file|no such|not there")


def test_reference_of_no_kind(sm, store):
    refused(sm("run", "no-such-kind:x", "true", store=store), "no-such-kind:x")


def test_directory_that_is_no_layout(sm, store, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(sm("run", f"oci:{tmp_path}/empty", store=store), "empty", "layout")


def test_no_such_tag(sm, store, tmp_path):
    layout = Layout(tmp_path / "image")
    refused(sm("run", layout.ref + ":other", store=store), "other", "latest")


def test_no_matching_platform_lists_what_there_is(sm, store, tmp_path):
    layout = Layout(tmp_path / "image")
    layout.index({**layout.manifest, "platform": {"os": "linux", "architecture": "s390x"}},
                 {**layout.manifest, "platform": {"os": "windows", "architecture": "amd64"}})
    refused(sm("run", layout.ref, store=store), "linux/s390x", "windows/amd64")
    refused(sm("run", "--platform", "nonsense", layout.ref, store=store), "nonsense")


@pytest.mark.parametrize("which", ["config", "manifest", "layers"])
@pytest.mark.parametrize("how", ["tampered", "truncated", "missing"])
def test_wrong_blob_is_named(sm, store, tmp_path, which, how):
    layout = Layout(tmp_path / "image")
    descriptor = layout.layers[0] if which == "layers" else getattr(layout, which)
    path = layout.path(descriptor)
    if how == "tampered":
        spoil(path)
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        path.unlink()
    text = refused(sm("run", layout.ref, store=store), descriptor["digest"])
    if how == "tampered":
        assert hashlib.sha256(path.read_bytes()).hexdigest() in text, "what was got is not told"


def test_wrong_diff_id(sm, store, tmp_path):
    wrong = "sha256:" + "0" * 64
    layout = Layout(tmp_path / "image", config={"architecture": "amd64", "os": "linux", "config": {},
                                                "rootfs": {"type": "layers", "diff_ids": [wrong]}})
    refused(sm("run", layout.ref, store=store), "diff", wrong[7:])


@pytest.mark.parametrize("media", ["application/vnd.example.layer", MEDIA + "layer.v1.tar+xz"])
def test_unknown_media_type(sm, store, tmp_path, media):
    layout = Layout(tmp_path / "image", media=media)
    refused(sm("run", layout.ref, store=store), media.replace("+", r"\+"))


@pytest.mark.parametrize("document", [b"", b"{", b"[]", b'{"schemaVersion":2}', b"\xff\xfe", b'{"manifests":7}'])
def test_index_that_is_none(sm, store, tmp_path, document):
    layout = Layout(tmp_path / "image")
    (layout.dir / "index.json").write_bytes(document)
    refused(sm("run", layout.ref, store=store), "index.json")


# ---- Layers that mean harm ----

HARMFUL = {
    "dotdot": [file("../escape", b"x")],
    "dotdot inside": [file("a/../../escape", b"x")],
    "through a link": [link("a", "/etc", tarfile.SYMTYPE), file("a/escape", b"x")],
    "hard link outside": [link("a", "../../etc/passwd", tarfile.LNKTYPE)],
    "hard link to nothing": [link("a", "nothing", tarfile.LNKTYPE)],
    "hard link to itself": [link("a", "a", tarfile.LNKTYPE)],
    "name too long": [file("n" * 256, b"x")],
    "path too long": [file("/".join(["d" * 200] * 30), b"x")],
}


@pytest.mark.parametrize("what", HARMFUL)
def test_harmful_layer(sm, store, tmp_path, what):
    layout = Layout(tmp_path / "image", [HARMFUL[what]])
    if what == "through a link":
        # Nothing is written through: the entry lies below a link that is then no directory. Either refusing it or
        # putting a directory in the link's place is right; that nothing leaves the image is what counts.
        sm("run", layout.ref, store=store)
        for part in ("layers", "images"):
            shutil.rmtree(store / part, ignore_errors=True)
        assert not pathlib.Path("/etc/escape").exists()
        return
    refused(sm("run", layout.ref, store=store), "layer|sha256")
    assert not (tmp_path / "escape").exists()


def test_junk_instead_of_a_layer(sm, store, tmp_path):
    layout = Layout(tmp_path / "image", [b"this is no tar archive" * 1000])
    refused(sm("run", layout.ref, store=store), "sha256")


def test_cut_layer(sm, store, tmp_path):
    whole = tar([file("a", b"x" * 5000), file("b", b"y" * 5000)])
    layout = Layout(tmp_path / "image", [whole[:6000]])
    refused(sm("run", layout.ref, store=store), "sha256")


def test_bomb(sm, store, tmp_path):
    """A gibibyte of zeros in a mebibyte: more than any honest layer expands."""
    info = tarfile.TarInfo("zeros")
    info.size = 1100 << 20
    head = info.tobuf(tarfile.USTAR_FORMAT)
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = deflate.compress(head) + deflate.flush(zlib.Z_FULL_FLUSH)
    # After a full flush a block stands for itself, so that one can be repeated. The end never comes to be read.
    block = deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    packed += block * 1100
    layout = Layout(tmp_path / "image", [packed], media=MEDIA + "layer.v1.tar+gzip")
    refused(sm("run", layout.ref, store=store), "times|ratio|expand|larger")
    assert not list((store / "layers").iterdir())


def test_disk_full(sm, tmp_path, busybox):
    needs_root()
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(small)], check=True)
    try:
        refused(sm("run", busybox, "true", store=small), "No space left|full")
        assert not list((small / "tmp").iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_store_that_cannot_be_written(sm, tmp_path):
    (tmp_path / "file").write_text("")
    refused(sm("run", "oci:/nowhere", store=tmp_path / "file/store"), "store")


# ---- The host's KVM ----

def without_kvm(how):
    """A prefix for a command that sees another /dev/kvm."""
    needs_root()
    needs_program("unshare")
    if how == "missing":
        script = ("mount -t tmpfs tmpfs /mnt && cp -a /dev/null /dev/urandom /mnt && mount --move /mnt /dev && exec "
                  "\"$@\"")
    else:
        script = "mount --bind /dev/null /dev/kvm && exec \"$@\""
    return ["unshare", "-m", "sh", "-c", script, "sh"]


def test_no_dev_kvm(sm, busybox):
    refused(sm("run", busybox, "true", prefix=without_kvm("missing")), "no usable /dev/kvm", "modprobe")


def test_device_that_is_not_kvm(sm, busybox):
    if not os.path.exists("/dev/kvm"):
        pytest.skip("needs a /dev/kvm to put something else in its place")
    refused(sm("run", busybox, "true", prefix=without_kvm("wrong")), "/dev/kvm is not KVM's device")


def test_no_permission_for_kvm(sm, busybox, tmp_path):
    needs_root()
    if not os.path.exists("/dev/kvm") or stat.S_IMODE(os.stat("/dev/kvm").st_mode) & 0o006:
        pytest.skip("needs a /dev/kvm that not everybody may use")
    copy = pathlib.Path("/tmp") / f"supermachine-test-{os.getpid()}"
    try:  # the build may lie where only root looks
        copy.mkdir(mode=0o755)
        shutil.copytree(busybox.removeprefix("oci:"), copy / "image")
        (copy / "bin").mkdir()
        shutil.copy(CLI, copy / "bin")
        shutil.copy(CLI.parents[1] / "vmm/supermachine-vmm", copy / "vmm")
        (copy / "home").mkdir()
        os.chown(copy / "home", 65534, 65534)
        for path in copy.rglob("*"):
            path.chmod(path.stat().st_mode | 0o055 if path.is_dir() else path.stat().st_mode | 0o044)
        result = subprocess.run([copy / "bin/supermachine", "run", f"oci:{copy}/image", "true"], capture_output=True,
                                user=65534, group=65534, extra_groups=[], stdin=subprocess.DEVNULL, cwd="/",
                                env=environment(copy / "home", {"SUPERMACHINE_VMM": f"{copy}/vmm"}))
        refused(result, "no permission to use /dev/kvm", "usermod -aG kvm")
    finally:
        shutil.rmtree(copy)


def test_kvm_that_cannot_run_linux(sm, busybox):
    checks = {c["name"]: c for c in json.loads(sm("doctor", "--json").stdout)["checks"]}
    if checks["kvm"]["status"] == "failed":
        pytest.skip("this host has no KVM: " + checks["kvm"]["text"])
    if checks["self-test"]["status"] == "ok":
        pytest.skip("this host's KVM passes the self-test")
    text = refused(sm("run", busybox, "true"), "KVM")
    # It measures, so the figures in it differ.
    assert re.sub(r"\d+", "N", checks["self-test"]["text"]) in re.sub(r"\d+", "N", text)


# ---- The guest's parts ----

def kernel():
    return pathlib.Path(os.environ.get("SUPERMACHINE_KERNEL") or BUILD / f"guest/vmlinux-{os.uname().machine}")


@pytest.mark.kvm
class TestKernel:
    def test_missing(self, sm, busybox):
        refused(sm("run", "--kernel", "/no/vmlinux", busybox, "true"), "'/no/vmlinux'", "No such file")
        refused(sm("run", busybox, "true", env={"SUPERMACHINE_KERNEL": "/no/vmlinux"}), r"\$SUPERMACHINE_KERNEL")

    def test_directory(self, sm, busybox):
        refused(sm("run", "--kernel", "/etc", busybox, "true"), "'/etc' is not a file")

    @pytest.mark.parametrize("what", ["empty", "short", "text", "zeros"])
    def test_corrupt(self, sm, busybox, tmp_path, what):
        contents = {"empty": b"", "short": b"\x7fELF", "text": b"not a kernel" * 1000, "zeros": bytes(1 << 20)}
        (tmp_path / "vmlinux").write_bytes(contents[what])
        refused(sm("run", "--kernel", tmp_path / "vmlinux", busybox, "true"), "kernel")

    def test_cut(self, sm, busybox, tmp_path):
        (tmp_path / "vmlinux").write_bytes(kernel().read_bytes()[:1 << 20])
        refused(sm("run", "--kernel", tmp_path / "vmlinux", busybox, "true"), "kernel")

    def test_of_another_architecture(self, sm, busybox, tmp_path):
        data = bytearray(kernel().read_bytes()[:1 << 20])
        struct.pack_into("<H", data, 18, 183)  # e_machine: EM_AARCH64
        (tmp_path / "vmlinux").write_bytes(data)
        refused(sm("run", "--kernel", tmp_path / "vmlinux", busybox, "true"), "arm64|aarch64|architecture|183")

    def test_panic_is_told_with_the_console(self, sm, busybox, tmp_path):
        (tmp_path / "empty.cpio").write_bytes(cpio([]))  # no init: the kernel finds no root
        result = sm("run", busybox, "true", env={"SUPERMACHINE_INITRAMFS": str(tmp_path / "empty.cpio")})
        refused(result, "panic", "console said last")

    def test_hang_at_boot_is_ended(self, sm, busybox, tmp_path):
        shell = needs_program("busybox")
        script = b"#!/busybox sh\n/busybox mount -t devtmpfs dev /dev\necho stuck here >/dev/console\nwhile :; do /busybox sleep 100; done\n"
        archive = cpio([("dev", 0o40755, b""), ("busybox", 0o100755, pathlib.Path(shell).read_bytes()),
                        ("init", 0o100755, script)])
        (tmp_path / "stuck.cpio").write_bytes(archive)
        result = sm("run", "--start-timeout", "30s", busybox, "true",
                    env={"SUPERMACHINE_INITRAMFS": str(tmp_path / "stuck.cpio")})
        refused(result, "did not answer within 30000 ms", "stuck here")


def cpio(entries):
    """A newc archive (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    out = b""
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08x" % field for field in fields)
        for part in (name.encode() + b"\0", data):
            out += part
            out += bytes(-len(out) % 4)
    return out


# ---- Sizes, and machines that die ----

@pytest.mark.parametrize("size, words", [("16", "16 MiB of memory is out of range"), ("65g", "out of range")])
def test_memory_out_of_range(sm, busybox, size, words):
    refused(sm("run", "-m", size, busybox, "true"), words)


def test_processors_out_of_range(sm, busybox):
    refused(sm("run", "--cpus", "17", busybox, "true"), "17 processors are out of range")


@pytest.mark.kvm
def test_memory_larger_than_the_host_allows(sm, busybox):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    refused(sm("run", "-m", "4g", busybox, "true", preexec_fn=limit), "4096 MiB|memory")


@pytest.mark.kvm
@pytest.mark.parametrize("signo, word", [(signal.SIGKILL, "SIGKILL"), (signal.SIGSYS, "seccomp"),
                                         (signal.SIGSEGV, "signal 11")])
def test_worker_killed_mid_run(start, busybox, signo, word):
    process = start("run", busybox, "sh", "-c", "echo ready; sleep 300")
    read_until(process.stdout, b"ready\n")
    (worker,) = eventually(lambda: children_of(process.pid), "a worker")
    os.kill(worker, signo)
    assert process.wait(RUN_TIMEOUT) == 125
    text = process.stderr.read().decode()
    assert word in text and text.count("\n") == 1


@pytest.mark.kvm
def test_guest_that_ends_itself_is_told(sm, busybox):
    for command, word in (("poweroff -f", "powered itself off"), ("reboot -f", "reset itself")):
        result = sm("run", busybox, "sh", "-c", command + "; sleep 300")
        assert result.returncode == 125
        assert word in result.stderr.decode()


@pytest.mark.kvm
def test_worker_that_is_none(sm, busybox, tmp_path):
    refused(sm("run", busybox, "true", env={"SUPERMACHINE_VMM": "/no/vmm"}), "/no/vmm")
    refused(sm("run", busybox, "true", env={"SUPERMACHINE_VMM": "/bin/false"}), "exited unexpectedly with status 1")
    (tmp_path / "text").write_text("x")
    refused(sm("run", busybox, "true", env={"SUPERMACHINE_VMM": str(tmp_path / "text")}), "text", "Permission denied")
    eventually(lambda: not workers(), "no worker is left", GONE_TIMEOUT)
