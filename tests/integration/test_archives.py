# SPDX-License-Identifier: Apache-2.0
"""Archives, against the programs that others use: what skopeo and buildah write is loaded, what is saved here skopeo and
umoci read, with the same digests; Docker's forms by hand, since no Docker is at hand."""
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile

import pytest

from conftest import CLI, environment, image

TIMEOUT = 120
LAYER = "application/vnd.oci.image.layer.v1.tar"


def command(store, *args, stdin=b"", check=True):
    """The command line with a store of its own; `stdin`: bytes, or a file."""
    how = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    done = subprocess.run([CLI, *map(str, args)], capture_output=True, timeout=TIMEOUT, env=environment(store), **how)
    if check:
        assert done.returncode == 0, done.stderr.decode()
    return done


def sentence(done):
    """What a refused command says: one line, nothing on standard output."""
    assert done.returncode not in (0, -signal.SIGSEGV, -signal.SIGABRT)
    assert done.stdout == b""
    text = done.stderr.decode()
    assert text.count("\n") == 1, text
    return text


def loaded(store, *args, **kwargs):
    """Load, and give what came: name -> id."""
    done = command(store, "load", "--quiet", "--json", *args, **kwargs)
    return {record.get("name"): record["id"] for record in json.loads(done.stdout)}


def skopeo(*args):
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed")
    done = subprocess.run(["skopeo", *map(str, args)], capture_output=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def copy(source, target):
    skopeo("copy", "--quiet", "--insecure-policy", source, target)


def manifest_digest(reference):
    return "sha256:" + hashlib.sha256(skopeo("inspect", "--raw", reference)).hexdigest()


def umoci(*args):
    if not shutil.which("umoci"):
        pytest.skip("umoci is not installed")
    done = subprocess.run(["umoci", *map(str, args)], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def nothing_in(store):
    """No name, no blob, nothing half done."""
    return not any(any((store / sub).iterdir()) for sub in ("names", "blobs", "tmp") if (store / sub).exists())


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


# What others write

@pytest.mark.parametrize("name", ["busybox", "torture", "buildah"])
@pytest.mark.parametrize("compress", ["", "gzip", "zstd"])
def test_oci_archive_of_skopeo(name, compress, tmp_path, store):
    reference = image(name) + ":latest"
    copy(reference, f"oci-archive:{tmp_path}/image.tar:host.io/{name}:1.0")
    archive = tmp_path / "image.tar"
    if compress:
        if not shutil.which(compress):
            pytest.skip(f"{compress} is not installed")
        archive = tmp_path / "image.tar.z"
        archive.write_bytes(subprocess.run([compress, "-qc", tmp_path / "image.tar"], stdout=subprocess.PIPE,
                                           check=True).stdout)
    assert loaded(store, "-i", archive) == {f"host.io/{name}:1.0": manifest_digest(reference)}


def test_tag_alone(tmp_path, store, busybox):
    copy(busybox, f"oci-archive:{tmp_path}/My App.tar:1.0")
    assert list(loaded(store, "-i", tmp_path / "My App.tar")) == ["localhost/my-app:1.0"]
    data = (tmp_path / "My App.tar").read_bytes()
    assert list(loaded(store, stdin=data)) == ["localhost/my-app:1.0"]  # without a name, but it has one already
    assert list(loaded(tmp_path / "other", stdin=data)) == [None]
    assert list(loaded(store, "-i", tmp_path / "My App.tar", "--name", "given")) == ["given:latest"]


@pytest.mark.parametrize("name", ["busybox", "torture", "buildah"])
def test_docker_archive_of_skopeo(name, tmp_path, store):
    reference = image(name) + ":latest"
    copy(reference, f"docker-archive:{tmp_path}/image.tar:host.io/{name}:2.0")
    ids = loaded(store, "-i", tmp_path / "image.tar")
    assert list(ids) == [f"host.io/{name}:2.0"]
    other = tmp_path / "other"
    assert loaded(other, "-i", tmp_path / "image.tar") == ids  # the same manifest is made each time
    # the configuration is Docker's own, byte for byte
    with tarfile.open(tmp_path / "image.tar") as tar:
        config = json.load(tar.extractfile("manifest.json"))[0]["Config"]
        digest = hashlib.sha256(tar.extractfile(config).read()).hexdigest()
    assert (store / "blobs" / digest).exists()


def test_several_images(tmp_path, store, busybox):
    copy(busybox, f"oci:{tmp_path}/both:host.io/one:1")
    copy(image("torture") + ":latest", f"oci:{tmp_path}/both:host.io/two:2")
    with tarfile.open(tmp_path / "both.tar", "w") as tar:
        tar.add(tmp_path / "both", arcname=".")
    ids = loaded(store, "-i", tmp_path / "both.tar")
    assert ids == {"host.io/one:1": manifest_digest(busybox), "host.io/two:2": manifest_digest(image("torture") + ":latest")}
    text = sentence(command(store, "load", "-i", tmp_path / "both.tar", "--name", "x", check=False))
    assert "host.io/one:1, host.io/two:2" in text


# Docker's forms, by hand: old, without digests; and since 25, with both documents

def layer(**files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def sha(data):
    return hashlib.sha256(data).hexdigest()


def config(*layers):
    return json.dumps({"architecture": "amd64" if os.uname().machine == "x86_64" else "arm64", "os": "linux",
                       "config": {"Cmd": ["/bin/sh"]}, "rootfs": {"type": "layers",
                                                                  "diff_ids": ["sha256:" + sha(x) for x in layers]},
                       "history": [{"created_by": "by hand"}] * len(layers)}).encode()


class Archive:
    """A tar whose entries come as they are added."""

    def __init__(self):
        self.out = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.out, mode="w", format=tarfile.PAX_FORMAT)

    def file(self, name, data):
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self.tar.addfile(info, io.BytesIO(data))
        return self

    def link(self, name, target, kind=tarfile.SYMTYPE):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        self.tar.addfile(info)
        return self

    def done(self):
        self.tar.close()
        return self.out.getvalue()


BASE, TOP = layer(base=b"b" * 5000), layer(top=b"t" * 5000)


def old_docker(manifest=None, zipped=False):
    """Two images, the second of which shares its first layer by a symbolic link."""
    one, two = config(BASE), config(BASE, TOP)
    manifest = manifest or [
        {"Config": sha(one) + ".json", "RepoTags": ["one:1"], "Layers": ["aaaa/layer.tar"]},
        {"Config": sha(two) + ".json", "RepoTags": ["two:1", "host.io/two:latest"],
         "Layers": ["bbbb/layer.tar", "cccc/layer.tar"]}]
    return (Archive().link("aaaa/", "", tarfile.DIRTYPE).file("aaaa/VERSION", b"1.0").file("aaaa/json", b"{}")
            .file("aaaa/layer.tar", BASE).link("bbbb/layer.tar", "../aaaa/layer.tar")
            .file("cccc/layer.tar", gzip.compress(TOP) if zipped else TOP)
            .file(sha(one) + ".json", one).file(sha(two) + ".json", two)
            .file("manifest.json", json.dumps(manifest).encode())
            .file("repositories", b"{}").done())


@pytest.mark.parametrize("zipped", [False, True])
def test_old_docker_save(zipped, tmp_path, store):
    ids = loaded(store, stdin=old_docker(zipped=zipped))
    assert set(ids) == {"one:1", "two:1", "host.io/two:latest"}
    assert ids["two:1"] == ids["host.io/two:latest"] != ids["one:1"]
    command(store, "save", "-o", tmp_path / "saved.tar", "two:1")
    listed = json.loads(skopeo("inspect", "--raw", f"oci-archive:{tmp_path}/saved.tar"))
    assert [d["mediaType"] for d in listed["layers"]] == [LAYER, LAYER + "+gzip" if zipped else LAYER]
    copy(f"oci-archive:{tmp_path}/saved.tar", f"dir:{tmp_path}/checked")  # skopeo checks every digest


def test_modern_docker_save(store):
    """As Docker since 25 writes it: blobs by digest, index.json beside manifest.json."""
    docs = {"config": config(BASE, TOP), "base": BASE, "top": TOP}
    descriptor = {k: {"mediaType": LAYER, "digest": "sha256:" + sha(v), "size": len(v)} for k, v in docs.items()}
    descriptor["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json"
    docs["manifest"] = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                                   "config": descriptor["config"],
                                   "layers": [descriptor["base"], descriptor["top"]]}).encode()
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:" + sha(docs["manifest"]),
         "size": len(docs["manifest"]), "annotations": {
             "io.containerd.image.name": "docker.io/library/app:1.0", "org.opencontainers.image.ref.name": "1.0"}}]}
    blob = {k: "blobs/sha256/" + sha(v) for k, v in docs.items()}
    archive = Archive()
    for name, data in docs.items():
        archive.file(blob[name], data)
    archive.file("index.json", json.dumps(index).encode())
    archive.file("manifest.json", json.dumps([{"Config": blob["config"], "RepoTags": ["app:1.0"],
                                               "Layers": [blob["base"], blob["top"]]}]).encode())
    archive.file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}').file("repositories", b"{}")
    assert loaded(store, stdin=archive.done()) == {"app:1.0": "sha256:" + sha(docs["manifest"])}


# What is saved here

@pytest.mark.parametrize("name", ["busybox", "torture", "buildah"])
def test_save_keeps_digests(name, tmp_path, store):
    reference = image(name) + ":latest"
    saved = tmp_path / "saved.tar"
    copy(reference, f"oci-archive:{tmp_path}/image.tar:host.io/{name}:1.0")
    loaded(store, "-i", tmp_path / "image.tar")
    command(store, "save", "-o", saved, f"host.io/{name}:1.0")
    assert command(store, "save", f"host.io/{name}:1.0").stdout == saved.read_bytes()  # to a pipe: the same
    for tag in ("", ":1.0"):
        assert manifest_digest(f"oci-archive:{saved}{tag}") == manifest_digest(reference)
    copy(f"oci-archive:{saved}:1.0", f"oci:{tmp_path}/again:x")
    assert manifest_digest(f"oci:{tmp_path}/again:x") == manifest_digest(reference)
    if name == "busybox":  # what an older Docker reads, as skopeo reads it
        inspected = json.loads(skopeo("inspect", f"docker-archive:{saved}:host.io/{name}:1.0"))
        assert inspected["Layers"]


@pytest.mark.skipif(os.geteuid() != 0, reason="umoci unpacks as root")
def test_umoci_reads_what_was_saved(tmp_path, store, busybox):
    copy(busybox, f"oci-archive:{tmp_path}/image.tar:host.io/bb:1.0")
    loaded(store, "-i", tmp_path / "image.tar")
    command(store, "save", "-o", tmp_path / "saved.tar", "host.io/bb:1.0")
    with tarfile.open(tmp_path / "saved.tar") as tar:
        tar.extractall(tmp_path / "layout")
    assert umoci("ls", "--layout", tmp_path / "layout").split() == ["1.0"]
    umoci("unpack", "--image", f"{tmp_path}/layout:1.0", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/bin/busybox").exists()
    listed = json.loads(umoci("stat", "--json", "--image", f"{tmp_path}/layout:1.0"))
    assert listed["history"]


def test_save_several(tmp_path, store, busybox):
    loaded(store, stdin=old_docker())
    command(store, "save", "-o", tmp_path / "saved.tar", "two:1", "one:1", "host.io/two:latest")
    with tarfile.open(tmp_path / "saved.tar") as tar:
        names = tar.getnames()
        index = json.load(tar.extractfile("index.json"))
        docker = json.load(tar.extractfile("manifest.json"))
        assert {(m.mtime, m.uid, m.gid) for m in tar} == {(0, 0, 0)}
    assert names == sorted(names) and len(set(names)) == len(names)
    assert sum(n.startswith("blobs/sha256/") and len(n) > 13 for n in names) == 6  # the base is there once
    assert [d["annotations"]["io.containerd.image.name"] for d in index["manifests"]] == [
        "docker.io/library/one:1", "docker.io/library/two:1", "host.io/two:latest"]
    assert sorted(tag for item in docker for tag in item["RepoTags"]) == ["host.io/two:latest", "one:1", "two:1"]
    assert loaded(tmp_path / "other", "-i", tmp_path / "saved.tar") == loaded(store, stdin=old_docker())


def test_save_of_nothing(tmp_path, store):
    text = sentence(command(store, "save", "-o", tmp_path / "saved.tar", "none:1", check=False))
    assert "none:1" in text
    assert list(tmp_path.glob("saved*")) == []


# What is refused: by the command, in one sentence, and nothing stays

def bad(manifest):
    return old_docker(manifest=manifest)


ONE = sha(config(BASE)) + ".json"
REFUSED = {
    "text": (b"hello\n" * 100, "looks like text"),
    "empty": (b"", "looks like an empty file"),
    "json": (b'{"schemaVersion": 2}', "looks like JSON"),
    "root-file-system": (layer(**{"etc/passwd": b"root"}), "docker export"),
    "no-document": (Archive().file("x", b"").done(), "neither an index.json"),
    "before-1.10": (Archive().file("repositories", b"{}").done(), "before 1.10"),
    "cut": (old_docker()[:9000], "Truncated"),
    "cut-gzip": (gzip.compress(old_docker())[:300], ""),
    "config-missing": (bad([{"Config": "none.json", "Layers": []}]), '"none.json"'),
    "layer-missing": (bad([{"Config": ONE, "Layers": ["zzzz/layer.tar"]}]), '"zzzz/layer.tar"'),
    "layer-of-host": (bad([{"Config": ONE, "Layers": ["/etc/passwd"]}]), '"/etc/passwd"'),
    "config-of-host": (bad([{"Config": "../../../etc/passwd", "Layers": []}]), "etc/passwd"),
    "wrong-layer": (bad([{"Config": ONE, "Layers": ["cccc/layer.tar"]}]), "the image's config says"),
    "too-few-layers": (bad([{"Config": ONE, "Layers": []}]), "do not belong together"),
    "many-layers": (bad([{"Config": ONE, "Layers": ["aaaa/layer.tar"] * 200}]), "the limit is 127"),
    "deep-json": (Archive().file("manifest.json", b"[" * 5000).done(), "not valid JSON"),
    "two-documents": (Archive().file("manifest.json", b"[][]").done(), "not valid JSON"),
    "name": (bad([{"Config": ONE, "RepoTags": ["UPPER:1"], "Layers": ["aaaa/layer.tar"]}]), "name"),
    "link-out": (Archive().link("manifest.json", "/etc/passwd").done(), "leads out"),
    "link-loop": (Archive().link("manifest.json", "x").link("x", "manifest.json").done(), "neither an index.json"),
    "dotdot": (Archive().file("../evil", b"x").done(), "leads out"),
    "twice": (Archive().file("manifest.json", b"[]").file("manifest.json", b"{}").done(), "twice"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path, store):
    data, word = REFUSED[name]
    for how in ({"stdin": data}, None):
        if how is None:
            (tmp_path / "bad.tar").write_bytes(data)
        done = command(store, "load", "--quiet", *([] if how else ["-i", tmp_path / "bad.tar"]), check=False, **(how or {}))
        assert word in sentence(done)
        assert nothing_in(store)
    assert not list(tmp_path.parent.glob("**/evil"))


def test_bomb(tmp_path, store):
    """Zeros, a thousand times smaller: one small piece of gzip over and over."""
    info = tarfile.TarInfo("zeros")
    info.size = 3 << 30
    piece = gzip.compress(bytes(8 << 20))
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(info.tobuf()) + piece * (3 << 7))
    text = sentence(command(store, "load", "--quiet", "-i", tmp_path / "bomb.tar.gz", check=False))
    assert "bomb" in text
    assert nothing_in(store)


def test_not_a_file(tmp_path, store):
    (tmp_path / "dir").mkdir()
    assert "is a directory" in sentence(command(store, "load", "--quiet", "-i", tmp_path / "dir", check=False))
    assert "none.tar" in sentence(command(store, "load", "--quiet", "-i", tmp_path / "none.tar", check=False))


def test_memory_of_a_large_layer(tmp_path, store):
    """A layer's size costs disk, not memory: the reader and its process together stay below 64 MiB."""
    big = layer(big=os.urandom(1 << 20) * 150)
    archive = (Archive().file("c.json", config(big)).file("big/layer.tar", big)
               .file("manifest.json", json.dumps([{"Config": "c.json", "RepoTags": ["big:1"],
                                                   "Layers": ["big/layer.tar"]}]).encode()).done())
    (tmp_path / "big.tar").write_bytes(archive)
    script = ("import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
              "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)")
    done = subprocess.run(["/usr/bin/python3", "-c", script, CLI, "load", "--quiet", "-i", tmp_path / "big.tar"],
                          capture_output=True, text=True, timeout=TIMEOUT, env=environment(store))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 64 << 10


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("size, word", [("500k", "cannot keep the archive's file"), ("2500k", "cannot write the layer")])
def test_disk_full(size, word, tmp_path, busybox):
    copy(busybox, f"docker-archive:{tmp_path}/image.tar:host.io/bb:1.0")
    (tmp_path / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", tmp_path / "small"], check=True)
    try:
        text = sentence(command(tmp_path / "small/store", "load", "--quiet", "-i", tmp_path / "image.tar", check=False))
        assert word in text and "No space left on device" in text and "supermachine prune" in text
        assert nothing_in(tmp_path / "small/store")
        assert not any((tmp_path / "small/store/layers").iterdir())
    finally:
        subprocess.run(["umount", "-l", tmp_path / "small"], check=True)
