# SPDX-License-Identifier: Apache-2.0
"""Images to disks, without a machine: what the converter makes of good, hostile and damaged images.

`convert` (tests/tools) opens an image as a run would and writes the root disk to a file. umoci is the oracle for what
must be in it, fsck.erofs and this host's kernel for whether it is an EROFS. Mounting needs root and an EROFS driver;
where that is not so, those tests are skipped and say so.
"""
import gzip
import hashlib
import io
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import pytest

from conftest import IMAGES, OUT, ROOT, SOAK, image

sys.path.insert(0, str(ROOT / "tests/images"))
import oci  # noqa: E402

CONVERT = OUT / "tests/tools/convert"
WALK = OUT / "tests/tools/walk"
EPOCH = 1700000000
PLATFORM = "linux/amd64"  # what oci.Layout writes
LIMIT = 300  # seconds for one conversion

pytestmark = pytest.mark.skipif(not CONVERT.exists(), reason=f"{CONVERT} is not built")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners, devices, mounts")


def convert(reference, store, disk="-", prefix=(), platform=PLATFORM, **kwargs):
    return subprocess.run([*prefix, CONVERT, str(reference), str(disk), platform], capture_output=True, text=True,
                          env={**os.environ, "SUPERMACHINE_HOME": str(store)}, timeout=LIMIT, **kwargs)


def sentence(done):
    """The one sentence of a refusal."""
    assert done.returncode == 125, done
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def leftovers(store):
    return sorted(p.name for p in (store / "tmp").iterdir()) if (store / "tmp").exists() else []


def tar(*entries):
    """Entries: a name for a file holding "x", or a tuple of Tar.add's arguments."""
    t = oci.Tar(EPOCH)
    for entry in entries:
        if isinstance(entry, str):
            t.add(entry, data=b"x")
        else:
            name, kind, *more = entry
            t.add(name, kind, **(more[0] if more else {}))
    return t.done()


def layout(path, *layers, compression="+gzip", config=None):
    made = oci.Layout(str(path))
    made.image("latest", list(layers), config or {}, EPOCH, compression)
    made.done()
    return f"oci:{path}"


def blob(path, digest):
    return pathlib.Path(path) / "blobs/sha256" / digest.removeprefix("sha256:")


def documents(path):
    """Digests of manifest, config and first layer."""
    index = json.loads((pathlib.Path(path) / "index.json").read_text())
    manifest = index["manifests"][0]["digest"]
    content = json.loads(blob(path, manifest).read_text())
    return manifest, content["config"]["digest"], content["layers"][0]["digest"]


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


class Mounted:
    def __init__(self, disk, point):
        self.disk, self.point = disk, point

    def __enter__(self):
        self.point.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", self.disk, self.point], capture_output=True,
                              text=True)
        if done.returncode:
            filesystems = pathlib.Path("/proc/filesystems").read_text()
            if "erofs" not in filesystems:
                pytest.skip("this host's kernel has no EROFS")
            pytest.fail(done.stderr)
        return self.point

    def __exit__(self, *_):
        subprocess.run(["umount", self.point], check=True)


def fsck(disk):
    if not shutil.which("fsck.erofs"):
        pytest.skip("fsck.erofs is not installed")
    done = subprocess.run(["fsck.erofs", disk], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def walk(root):
    """Path -> description."""
    done = subprocess.run([WALK, root], capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


# Good images

def directory_times(layers):
    """Directory -> mtime in seconds, as the last layer that names it says; 0 for those that no layer names."""
    times = {}
    for layer in layers:
        with tarfile.open(fileobj=io.BytesIO(layer)) as t:
            for member in t:
                name = os.path.normpath(member.name)
                if member.isdir():
                    times[name] = int(member.mtime)
                while name := os.path.dirname(name):
                    times.setdefault(name, 0)
    return times


def layer_blobs(path):
    manifest = json.loads(blob(path, documents(path)[0]).read_text())
    for layer in manifest["layers"]:
        data = blob(path, layer["digest"]).read_bytes()
        yield gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def compare(reference, tmp_path, store, times=True):
    path = reference.removeprefix("oci:")
    disk = tmp_path / "disk"
    done = convert(reference, store, disk)
    assert done.returncode == 0, done.stderr
    fsck(disk)
    subprocess.run(["umoci", "unpack", "--image", f"{path}:latest", tmp_path / "bundle"], check=True,
                   capture_output=True)
    expected = walk(tmp_path / "bundle/rootfs")
    with Mounted(disk, tmp_path / "mnt") as root:
        found = walk(root)
    shutil.rmtree(tmp_path / "bundle")
    disk.unlink()
    take_directory_times(found, expected, directory_times(layer_blobs(path)) if times else {})
    return found, expected


def take_directory_times(found, expected, times):
    """umoci leaves the time of unpacking on directories that no layer names and, when it makes one of those, on the one
    above it: so ours are compared with the layers, and then left out."""
    for name, line in found.items():
        fields = line.split(" ")
        if fields[0].startswith("4"):
            if name in times and name in expected:
                assert int(float(fields[5])) == times[name], name
            for tree in (found, expected):
                if name in tree:
                    tree[name] = " ".join([*tree[name].split(" ")[:5], "-", *tree[name].split(" ")[6:]])


def assert_same(found, expected):
    assert sorted(found.keys() ^ expected.keys()) == []
    different = [f"{p}\n  disk:  {found[p]}\n  umoci: {expected[p]}" for p in found if found[p] != expected[p]]
    assert not different, "\n".join(different[:20])


@as_root
@pytest.mark.parametrize("name", ["busybox", "buildah", "debian", "python", "nginx", "redis", "node"])
def test_disk_equals_umoci(name, tmp_path, store):
    found, expected = compare(image(name), tmp_path, store)
    assert_same(found, expected)
    assert len(found) > 100


@as_root
def test_torture_equals_umoci(tmp_path, store):
    reference = image("torture")
    found, expected = compare(reference, tmp_path, store)
    assert_same(found, expected)
    for tag in ("tar", "zstd"):
        disk = tmp_path / tag
        done = convert(f"{reference}:{tag}", store, disk)
        assert done.returncode == 0, done.stderr
        fsck(disk)
    assert len(list((store / "images").iterdir())) == 1  # the same layers, so the same disk


@as_root
def test_everything_survives(tmp_path, store):
    """A layer of our own, so that this is checked without the test images."""
    t = oci.Tar(EPOCH)
    t.directory("d", mode=0o1777)
    t.add("d/file", data=b"content", mode=0o4755, uid=70000, gid=4294967294, mtime="1700000000.123456789")
    t.add("d/large", data=os.urandom(100001), xattrs={"user.k": b"v\0", "user.empty": b""})
    t.add("d/capable", data=b"x" * 5000, mode=0o755,
          xattrs={"security.capability": bytes.fromhex("0100000200200000000000000000000000000000")})
    t.add("d/acl", data=b"a", xattrs={"system.posix_acl_access": bytes.fromhex(
        "0200000001000600ffffffff020004002a00000004000400ffffffff10000400ffffffff20000400ffffffff")}, mode=0o644)
    t.add("empty")
    t.directory("hollow")
    t.symlink("s", "x" * 3000)
    t.link("hard", "d/file")
    t.add("char", oci.CHAR, major=300, minor=70000)
    t.add("block", oci.BLOCK, major=8, minor=1)
    t.add("fifo", oci.FIFO)
    t.add("n" * 255)
    t.add(b"\xff\xfe raw")
    t.add("e\u0301")
    t.add("\u00e9")
    t.sparse("d/sparse", 1 << 30, [(1 << 20, b"a" * 4096), ((1 << 30) - 1, b"z")])
    for i in range(700):
        t.add(f"many/{i}", data=b"%d" % i)
    reference = layout(tmp_path / "image", t.done())
    found, expected = compare(reference, tmp_path, store)
    assert_same(found, expected)
    assert found["d/large"].split()[2] == "100001"
    assert sum(p.stat().st_blocks * 512 for p in store.rglob("data")) < 1 << 20  # holes stay holes


@as_root
def test_layers_merge_as_umoci_does(tmp_path, store):
    """Random layers over a few names: replaced, whited out, linked, below symbolic links."""
    rounds = 60 if SOAK else 12
    for seed in range(rounds):
        rng = random.Random(seed)
        layers = [random_layer(rng) for _ in range(4)]
        work = tmp_path / str(seed)
        work.mkdir()
        reference = layout(work / "image", *layers, compression=rng.choice(["", "+gzip"]))
        umoci = subprocess.run(["umoci", "unpack", "--image", f"{work}/image:latest", work / "bundle"],
                               capture_output=True, text=True)
        shutil.rmtree(work / "bundle", ignore_errors=True)
        if umoci.returncode:
            done = convert(reference, work / "store")
            assert done.returncode == 125, f"seed {seed}: umoci refuses: {umoci.stderr}"
            continue
        found, expected = compare(reference, work, work / "store", times=False)
        assert found == expected, f"seed {seed}"
        shutil.rmtree(work)


def random_layer(rng):
    t = oci.Tar(EPOCH)
    names = ["a", "b", "c", "d"]
    present = []
    for _ in range(rng.randrange(1, 12)):
        name = "/".join(rng.choice(names) for _ in range(rng.randrange(1, 4)))
        parent, _, base = name.rpartition("/")
        kind = rng.randrange(10)
        if kind < 4:
            t.directory(name, mode=rng.choice([0o755, 0o700]))
        elif kind < 6:
            t.add(name, data=os.urandom(rng.choice([1, 1024, 1025, 5000])))
            present.append(name)
        elif kind == 6:
            t.symlink(name, rng.choice(["a", "b/c", "../d", "/c", "."]))
        elif kind == 7 and present:
            t.link(name, rng.choice(present))
        elif kind == 8:
            t.add(f"{parent}/.wh.{base}".lstrip("/"))
        else:
            t.add(f"{parent}/.wh..wh..opq".lstrip("/"))
    return t.done()


def test_reproducible(tmp_path):
    reference = layout(tmp_path / "image", tar("a", "b/c"), tar("d", "b/.wh.c"))
    disks = []
    for n in range(2):
        done = convert(reference, tmp_path / f"store{n}", tmp_path / f"disk{n}")
        assert done.returncode == 0, done.stderr
        disks.append((tmp_path / f"disk{n}").read_bytes())
    assert disks[0] == disks[1]
    fsck(tmp_path / "disk0")


def test_layers_are_shared_and_converted_once(tmp_path, store):
    base = tar(("big", oci.FILE, {"data": os.urandom(1 << 20)}))
    first = layout(tmp_path / "one", base, tar("a"))
    second = layout(tmp_path / "two", base, tar("b"), base)
    assert convert(first, store).returncode == 0
    data = next(p for p in store.rglob("data") if p.stat().st_size >= 1 << 20)
    inode = data.stat().st_ino
    assert convert(second, store).returncode == 0
    assert data.stat().st_ino == inode
    assert len(list((store / "layers").iterdir())) == 3
    # everything there: not even the layers' blobs are needed again
    for path in ("one", "two"):
        manifest = json.loads(blob(tmp_path / path, documents(tmp_path / path)[0]).read_text())
        for layer in manifest["layers"]:
            blob(tmp_path / path, layer["digest"]).unlink(missing_ok=True)
    assert convert(first, store).returncode == 0
    assert convert(second, store).returncode == 0


def test_config(tmp_path, store):
    reference = layout(tmp_path / "image", tar("a"), config={
        "User": "u:g", "Env": ["A=b"], "Entrypoint": ["/e"], "Cmd": ["c"], "WorkingDir": "/w", "StopSignal": "INT",
        "ExposedPorts": {"80/tcp": {}}})
    shown = json.loads(convert(reference, store).stdout)
    assert shown["digest"] == documents(tmp_path / "image")[0]
    assert (shown["user"], shown["env"], shown["entrypoint"], shown["cmd"], shown["working_dir"],
            shown["stop_signal"], shown["exposed_ports"]) == ("u:g", ["A=b"], ["/e"], ["c"], "/w", "INT", ["80/tcp"])
    assert all(offset % 4096 == 0 and length % 4096 == 0 and length for offset, length in shown["extents"])


def test_memory(store):
    """64 MiB at the peak, all processes of it, for a real image."""
    reference = image("python")
    convert_process = subprocess.Popen([CONVERT, reference, "-", PLATFORM], stdout=subprocess.DEVNULL,
                                       env={**os.environ, "SUPERMACHINE_HOME": str(store)})
    peak = 0
    while convert_process.poll() is None:
        pids = [convert_process.pid, *children(convert_process.pid)]
        peak = max(peak, sum(private_kib(pid) for pid in pids))
        time.sleep(0.01)
    assert convert_process.returncode == 0
    assert 0 < peak < 64 * 1024


def children(pid):
    try:
        return [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def private_kib(pid):
    try:
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


# Hostile layers

DIRECTORY, FILE, SYMLINK, LINK, CHAR = oci.DIRECTORY, oci.FILE, oci.SYMLINK, oci.LINK, oci.CHAR

REFUSED = {
    "dotdot": ([tar("../evil")], '".."'),
    "dotdot-inside": ([tar("a/../../evil")], '".."'),
    "dotdot-directory": ([tar(("..", DIRECTORY))], '".."'),
    "absolute": ([tar("/etc/evil")], "absolute"),
    "hard-link-outside": ([tar(("a", LINK, {"target": "../../etc/passwd"}))], '".."'),
    "hard-link-to-nothing": ([tar(("a", LINK, {"target": "etc/shadow"}))], "does not exist"),
    "hard-link-to-directory": ([tar(("d", DIRECTORY), ("a", LINK, {"target": "d"}))], "is a directory"),
    "hard-link-through-link": ([tar(("l", SYMLINK, {"target": "/"}), ("a", LINK, {"target": "l/none"}))],
                               "does not exist"),
    "link-loop": ([tar(("a", SYMLINK, {"target": "b"}), ("b", SYMLINK, {"target": "a"}), "a/x")], "loop"),
    "link-loop-across-layers": ([tar(("a", SYMLINK, {"target": "a"})), tar("a/x")], "loop"),
    "root-as-file": ([tar(".")], "root must stay"),
    "root-as-link": ([tar(("./", SYMLINK, {"target": "/etc"}))], "root must stay"),
    "long-name": ([tar("n" * 256)], "255 bytes"),
    "long-path": ([tar("/".join(["n" * 200] * 21))], "4095 bytes"),
    "deep": ([tar("/".join(["d"] * 300))], "256 directories deep"),
    "whiteout-of-nothing": ([tar("a"), tar(".wh.")], "whiteout"),
    "whiteout-of-dot": ([tar("a"), tar("d/.wh..")], "whiteout"),
    "whiteout-of-dotdot": ([tar("a"), tar("d/.wh...")], "whiteout"),
    "whiteout-outside": ([tar("../.wh.etc")], '".."'),
    "whiteout-as-parent": ([tar(".wh.a/b")], "below a whiteout"),
    "device-number": ([tar(("c", CHAR, {"major": 5000}))], "device"),
    "owner": ([tar(("a", FILE, {"uid": 1 << 32}))], "owner"),
    "cut-tar": ([tar(("a", FILE, {"data": b"x" * 10000}))[:5000]], "corrupt"),
    "not-a-tar": ([b"this is not a tar archive" * 100], "tar"),
    "many-xattrs": ([tar(("a", FILE, {"xattrs": {f"user.{i}": b"v" for i in range(300)}}))], "attributes"),
    "large-xattr": ([tar(("a", FILE, {"xattrs": {"user.a": b"v" * 70000}}))], "attribute"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("compression", ["", "+gzip"])
def test_hostile_layer_is_refused(name, compression, tmp_path, store):
    layers, word = REFUSED[name]
    text = sentence(convert(layout(tmp_path / "image", *layers, compression=compression), store))
    assert word in text
    assert "sha256:" in text
    assert leftovers(store) == []
    assert list((store / "images").iterdir()) == []
    assert not list(tmp_path.parent.glob("**/evil"))


CONTAINED = {
    "write-through-link": ([tar(("l", SYMLINK, {"target": "/etc"}), "l/evil")], {"etc/evil", "l"}),
    "write-through-dotdot-link": ([tar(("l", SYMLINK, {"target": "../../../../tmp"}), "l/evil")], {"tmp/evil", "l"}),
    "whiteout-through-link": ([tar("t/x", "t/y"), tar(("l", SYMLINK, {"target": "/t"}), "l/.wh.x")], {"t/y", "l"}),
    "opaque-through-link": ([tar("t/x", ("l", SYMLINK, {"target": "t"})), tar("l/.wh..wh..opq")], {"l"}),
    "whiteout-as-hard-link": ([tar("a", "b"), tar((".wh.a", LINK, {"target": "b"}))], {"b"}),
    "whiteout-as-device": ([tar("a", "b"), tar((".wh.a", CHAR))], {"b"}),
    "below-file": ([tar("a"), tar("a/x")], {"a/x"}),
    "twice": ([tar(("a", DIRECTORY), "a/b", "a", "a")], {"a"}),
    "absolute-hard-link": ([tar("a", ("b", LINK, {"target": "/a"}))], {"a", "b"}),
}


@as_root
@pytest.mark.parametrize("name", CONTAINED)
def test_hostile_layer_is_contained(name, tmp_path, store):
    layers, expected = CONTAINED[name]
    done = convert(layout(tmp_path / "image", *layers), store, tmp_path / "disk")
    assert done.returncode == 0, done.stderr
    fsck(tmp_path / "disk")
    with Mounted(tmp_path / "disk", tmp_path / "mnt") as root:
        found = {p for p, d in walk(root).items() if not d.startswith("4")}
    assert found == expected
    assert not pathlib.Path("/etc/evil").exists() and not pathlib.Path("/tmp/evil").exists()


def bomb_layout(path, data, media, diff_id):
    made = oci.Layout(str(path))
    config = {"os": "linux", "architecture": "amd64", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    manifest = {"schemaVersion": 2, "config": made.blob(oci.as_json(config), oci.CONFIG),
                "layers": [made.blob(data, media)]}
    made.manifests.append(made.blob(oci.as_json(manifest), oci.MANIFEST))
    made.done()
    return f"oci:{path}"


@pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not installed")
def test_bomb(tmp_path, store):
    head = oci.header(b"zeros", oci.FILE, 0o644, 0, 0, 3 << 30, 0, b"", 0, 0)
    with subprocess.Popen(["zstd", "-q", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as zstd:
        feeder = os.fork()
        if feeder == 0:
            zstd.stdin.write(head)
            for _ in range(3 << 10):
                zstd.stdin.write(bytes(1 << 20))
            zstd.stdin.close()
            os._exit(0)
        zstd.stdin.close()
        bomb = zstd.stdout.read()
        os.waitpid(feeder, 0)
    assert len(bomb) < 1 << 20
    text = sentence(convert(bomb_layout(tmp_path / "image", bomb, oci.LAYER + "+zstd", "sha256:" + "0" * 64), store))
    assert "bomb" in text
    assert leftovers(store) == []
    assert sum(p.stat().st_blocks for p in store.rglob("*")) * 512 < 1 << 20


# Damaged and missing things

@pytest.mark.parametrize("which", ["manifest", "config", "layer"])
@pytest.mark.parametrize("how", ["flip", "cut", "grow", "gone", "empty"])
def test_damaged_blob(which, how, tmp_path, store):
    reference = layout(tmp_path / "image", tar(("a", FILE, {"data": os.urandom(100000)})))
    digest = documents(tmp_path / "image")[["manifest", "config", "layer"].index(which)]
    path = blob(tmp_path / "image", digest)
    data = path.read_bytes()
    changed = {"flip": data[:50] + bytes([data[50] ^ 1]) + data[51:], "cut": data[:-1], "grow": data + b" ", "gone": None,
               "empty": b""}[how]
    path.unlink()
    if changed is not None:
        path.write_bytes(changed)
    text = sentence(convert(reference, store))
    assert digest in text
    if how == "flip":
        assert "sha256:" + hashlib.sha256(changed).hexdigest() in text and "tampered" in text
    elif how == "gone":
        assert "missing" in text
    else:
        assert str(len(data)) in text and str(len(changed)) in text
    assert leftovers(store) == []
    assert list((store / "layers").iterdir()) == []
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    assert convert(reference, store).returncode == 0


def test_wrong_diff_id(tmp_path, store):
    data = gzip.compress(tar("a"))
    text = sentence(convert(bomb_layout(tmp_path / "image", data, oci.LAYER + "+gzip", "sha256:" + "1" * 64), store))
    assert "sha256:" + "1" * 64 in text and "sha256:" + hashlib.sha256(tar("a")).hexdigest() in text
    assert list((store / "layers").iterdir()) == []


def test_names_of_what_is_there(tmp_path, store):
    made = oci.Layout(str(tmp_path / "image"))
    made.image("one", [tar("a")], {}, EPOCH)
    made.image("two", [tar("b")], {}, EPOCH)
    made.done()
    reference = f"oci:{tmp_path}/image"
    assert "one, two" in sentence(convert(reference, store))
    text = sentence(convert(reference + ":three", store))
    assert "three" in text and "one, two" in text
    assert convert(reference + ":two", store).returncode == 0
    text = sentence(convert(reference + ":one", store, platform="linux/riscv64"))
    assert "linux/riscv64" in text and "linux/amd64" in text
    assert "none" in sentence(convert(f"oci:{tmp_path}/none", store))
    assert "not an OCI image layout" in sentence(convert(f"oci:{tmp_path}", store))
    assert "oci:DIRECTORY" in sentence(convert("oci:", store))
    assert "platform" in sentence(convert(reference + ":one", store, platform="nonsense"))


def test_unknown_media_type(tmp_path, store):
    text = sentence(convert(bomb_layout(tmp_path / "image", b"x", "application/x-what", "sha256:" + "0" * 64), store))
    assert "application/x-what" in text


@as_root
@pytest.mark.parametrize("size", ["64k", "1m", "4m"])
def test_disk_full(size, tmp_path):
    reference = layout(tmp_path / "image", tar(*[(f"f{i}", FILE, {"data": os.urandom(1 << 20)}) for i in range(8)]),
                       tar(("g", FILE, {"data": os.urandom(1 << 20)})))
    store = tmp_path / "store"
    store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", store], check=True)
    try:
        text = sentence(convert(reference, store))
        assert re.search("No space left on device|disk is full", text) and "supermachine prune" in text
        assert leftovers(store) == []
        assert list((store / "images").iterdir()) == []
    finally:
        subprocess.run(["umount", store], check=True)


def test_unwritable_store(tmp_path):
    reference = layout(tmp_path / "image", tar("a"))
    (tmp_path / "file").write_text("x")
    assert str(tmp_path / "file") in sentence(convert(reference, tmp_path / "file/store"))


@pytest.mark.parametrize("file", ["data", "index", "meta.erofs"])
def test_damaged_store_is_made_anew(file, tmp_path, store):
    reference = layout(tmp_path / "image", tar(("a", FILE, {"data": b"x" * 10000})))
    assert convert(reference, store, tmp_path / "disk").returncode == 0
    good = (tmp_path / "disk").read_bytes()
    path = next(store.rglob(file))
    os.truncate(path, 4096 if file == "data" else 50)
    assert convert(reference, store, tmp_path / "disk").returncode == 0
    assert (tmp_path / "disk").read_bytes() == good
    shutil.rmtree(path.parent)
    assert convert(reference, store, tmp_path / "disk").returncode == 0
    assert (tmp_path / "disk").read_bytes() == good


def test_index_damaged_inside(tmp_path, store):
    reference = layout(tmp_path / "image", tar("a"))
    assert convert(reference, store).returncode == 0
    shutil.rmtree(next((store / "images").iterdir()))
    index = next(store.rglob("index"))
    data = bytearray(index.read_bytes())
    data[-1] ^= 1
    index.write_bytes(data)
    text = sentence(convert(reference, store))
    assert "damaged" in text and index.parent.name in text


# Several at once, and killed

def large_image(path):
    rng = random.Random(1)
    layers = []
    for n in range(3):
        t = oci.Tar(EPOCH)
        for i in range(30):
            t.add(f"l{n}/f{i}", data=rng.randbytes(200000))
        layers.append(t.done())
    return layout(path, *layers)


def start(reference, store):
    return subprocess.Popen([CONVERT, reference, "-", PLATFORM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "SUPERMACHINE_HOME": str(store), "SHOW_PROGRESS": "1"})


def test_concurrent(tmp_path, store):
    reference = large_image(tmp_path / "image")
    processes = [start(reference, store) for _ in range(6)]
    results = [p.communicate(timeout=LIMIT) for p in processes]
    assert [p.returncode for p in processes] == [0] * 6, [r[1] for r in results]
    assert len({r[0] for r in results}) == 1
    # each layer was converted once, by whoever came first; to the others it was there, or came while they waited
    lines = [line.split() for r in results for line in r[1].splitlines()]
    made = [line[2] for line in lines if line[:2] == ["progress", "done"] and line[2] != "-" and int(line[3]) > 0]
    assert len(made) == len(set(made)) == 3
    assert leftovers(store) == []
    assert len(list((store / "layers").iterdir())) == 3


def test_kill_anywhere(tmp_path, store):
    reference = large_image(tmp_path / "image")
    clean = start(reference, tmp_path / "other")
    begin = time.monotonic()
    expected = clean.communicate(timeout=LIMIT)[0]
    whole = time.monotonic() - begin
    rng = random.Random(2)
    wanted, killed, tries, fresh = 100 if SOAK else 20, 0, 0, True
    while killed < wanted:
        tries += 1
        assert tries < 20 * wanted, f"only {killed} of {tries} runs were still there to be killed"
        begin = time.monotonic()
        process = start(reference, store)
        try:
            process.wait(rng.random() * whole)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
            again = rng.randrange(4) == 0
        else:
            if fresh:  # so fast it is now
                whole = time.monotonic() - begin
            again = True
        process.communicate()
        fresh = again
        if again:
            shutil.rmtree(store / "layers", ignore_errors=True)
            shutil.rmtree(store / "images", ignore_errors=True)
    process = start(reference, store)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    assert out == expected
    assert leftovers(store) == []


def test_children_die_with_their_parent(tmp_path, store):
    reference = large_image(tmp_path / "image")
    for _ in range(5):
        process = start(reference, store)
        process.stderr.readline()  # progress: conversion has begun
        pids = children(process.pid)
        process.kill()
        process.communicate()
        deadline = time.monotonic() + 10
        while any(pathlib.Path(f"/proc/{pid}").exists() and "Z" not in state(pid) for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        shutil.rmtree(store)


def state(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@as_root
def test_without_privileges(tmp_path):
    """As nobody: the same bytes as root's, owners and devices and all."""
    reference = image("torture")
    store = tmp_path / "store"
    store.mkdir()
    os.chown(store, 65534, 65534)
    for parent in (store, *store.parents):
        if not parent.stat().st_mode & 1:
            os.chmod(parent, parent.stat().st_mode | 0o111)
    done = convert(reference, store, store / "disk", prefix=["setpriv", "--reuid=65534", "--regid=65534",
                                                            "--clear-groups", "--bounding-set=-all", "--"])
    if "Permission denied" in done.stderr and str(IMAGES) in done.stderr:
        pytest.skip(f"{IMAGES} is not readable for others")
    assert done.returncode == 0, done.stderr
    other = convert(reference, tmp_path / "root", tmp_path / "disk")
    assert other.returncode == 0
    assert subprocess.run(["cmp", store / "disk", tmp_path / "disk"]).returncode == 0
