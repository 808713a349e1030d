# SPDX-License-Identifier: Apache-2.0
"""The verbs of the image store, without a registry: images come from archives and go back to them."""
import fcntl
import gzip
import hashlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
import tarfile
import termios

import pytest

from conftest import CLI, ROOT, environment, eventually, needs_program, refused

sys.path.insert(0, str(ROOT / "tests/images"))
import oci  # noqa: E402

EPOCH = 1709209800  # 2024-02-29T12:30:00Z
DIGEST = r"sha256:[0-9a-f]{64}"


def tar_of(name, size):
    made = oci.Tar(EPOCH)
    made.add(name, data=hashlib.shake_256(name.encode()).digest(size))
    return made.done()


BASE = tar_of("base", 300_000)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def cli(sm, store):
    """cli("images"): on a store of the test's own. ok() gives its output, json() that as a document."""

    def run(*args, **kwargs):
        return sm(*args, store=store, **kwargs)

    def ok(*args, **kwargs):
        done = run(*args, **kwargs)
        assert done.returncode == 0 and done.stderr == b"", done.stderr.decode()
        return done.stdout.decode()

    run.ok = ok
    run.json = lambda verb, *args, **kwargs: json.loads(ok(verb, "--json", *args, **kwargs))
    return run


@pytest.fixture
def layout(tmp_path):
    """layout("a", tar...): an OCI layout of one image; its path and the manifest's digest."""

    def make(name, *layers, tag="latest", config=None):
        made = oci.Layout(str(tmp_path / name))
        made.image(tag, list(layers), config or {"Cmd": ["/bin/sh"], "Env": ["A=1"]}, EPOCH, "+gzip")
        made.done()
        return tmp_path / name, made.manifests[0]["digest"]

    return make


def archive(path):
    """The layout as an OCI archive."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for file in sorted(path.rglob("*")):
            tar.add(file, file.relative_to(path), recursive=False)
    return data.getvalue()


@pytest.fixture
def two(cli, layout):
    """Two images with a common layer: app:1 and other/app:2. Their ids."""
    ids = []
    for name, top in (("app:1", "one"), ("other/app:2", "two")):
        path, digest = layout(top, BASE, tar_of(top, 20_000))
        cli.ok("load", "--name", name, input=archive(path))
        ids.append(digest)
    return ids


def objects(store):
    """Everything that takes room."""
    return sorted(p.relative_to(store).as_posix() for kind in ("layers", "images", "blobs", "partial", "names", "tmp")
                  for p in (store / kind).glob("*"))


# ---- load ----

def test_load_by_file_and_by_pipe(cli, layout, tmp_path):
    path, digest = layout("image", BASE, tag="docker.io/library/app:1")
    data = archive(path)
    assert cli.ok("load", input=data) == "Loaded image: app:1\n"
    assert cli.ok("load", "--name", "host.example:5000/a/b", input=gzip.compress(data)) == \
        "Loaded image: host.example:5000/a/b:latest\n"
    (tmp_path / "image.tar").write_bytes(data)
    (told,) = cli.json("load", "-i", tmp_path / "image.tar")
    assert told["name"] == "app:1" and told["id"] == told["digest"] == digest
    assert told["platform"] == "linux/amd64" and told["created"] == "2024-02-29T12:30:00Z"


def test_load_refuses_what_it_should(cli, layout, store, tmp_path):
    path, _ = layout("image", BASE)
    refused(cli("load", "-i", "/nowhere/app.tar"), "cannot open '/nowhere/app.tar'")
    refused(cli("load", "app.tar"), "app.tar", "-i")
    refused(cli("load", "--name", "Upper", input=archive(path)), "Upper")
    refused(cli("load", input=b""), "archive")
    refused(cli("load", input=b"no tar" * 1000), "archive")
    blob = next(p for p in (path / "blobs/sha256").iterdir() if p.stat().st_size > 100_000)
    data = bytearray(blob.read_bytes())
    data[5000] ^= 1
    blob.write_bytes(data)
    refused(cli("load", input=archive(path)), blob.name)
    assert cli.json("images", "--all") == []
    assert not [name for name in objects(store) if name.startswith(("names/", "images/", "tmp/"))]


# ---- images, tag ----

def test_images_as_a_table(cli, two):
    lines = cli.ok("images").splitlines()
    assert lines[0].split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "PLATFORM", "CREATED", "SIZE"]
    assert [line.split()[:4] for line in lines[1:]] == [["app", "1", two[0][7:19], "linux/amd64"],
                                                        ["other/app", "2", two[1][7:19], "linux/amd64"]]
    assert " ago " in lines[1] and lines[1].endswith("kB")
    assert two[0] in cli.ok("images", "--no-trunc") and two[0] in cli.ok("images", "--digests")
    assert cli.ok("images", "-q").split() == [digest[7:19] for digest in two]
    assert cli.ok("images", "-q", "--no-trunc", "app").split() == [two[0]]
    assert cli.ok("images", "-q", "other/*").split() == [two[1][7:19]]
    assert cli.ok("images", "app:*", "-q").split() == [two[0][7:19]]
    assert cli.ok("images", "-q", "nothing") == ""


def test_no_images(cli):
    assert len(cli.ok("images").splitlines()) == 1
    assert cli.ok("images", "-q") == ""
    assert cli.json("images") == []


def test_tag(cli, two):
    cli.ok("tag", "app:1", "app")
    cli.ok("tag", two[1][7:15], "registry.example/x/y:z")
    told = {image["name"]: image["id"] for image in cli.json("images")}
    assert told == {"app:1": two[0], "app:latest": two[0], "other/app:2": two[1], "registry.example/x/y:z": two[1]}
    assert cli.ok("images", "-q").count("\n") == 2  # an id is told once
    refused(cli("tag", "nothing", "app"), "nothing")
    refused(cli("tag", "app", f"app@{two[0]}"), "without a digest")
    refused(cli("tag", "app", "oci:dir"), "not a file or directory")
    refused(cli("tag", "app", "UPPER"), "UPPER")
    refused(cli("tag", "app"), "new name")


def test_a_name_that_moves_leaves_an_image_without_one(cli, two):
    cli.ok("tag", "app:1", "other/app:2")
    assert [image["id"] for image in cli.json("images")] == [two[0], two[0]]
    (nameless,) = [image for image in cli.json("images", "--all") if not image["name"]]
    assert nameless["id"] == two[1] and nameless["repository"] is None and nameless["tag"] is None
    assert ["<none>", "<none>"] == cli.ok("images", "-a").splitlines()[-1].split()[:2]
    assert json.loads(cli.ok("inspect", two[1]))[0]["RepoTags"] == []
    cli.ok("prune", "-f")
    assert len(cli.json("images", "--all")) == 2
    refused(cli("inspect", two[1]), two[1])


def test_ids_are_found_by_their_beginning(cli, two):
    assert json.loads(cli.ok("inspect", two[0][7:11]))[0]["Id"] == two[0]
    assert json.loads(cli.ok("inspect", two[0]))[0]["Id"] == two[0]
    refused(cli("history", "0" * 64), "0000")


# ---- inspect, history ----

def test_inspect(cli, layout):
    config = {"Cmd": ["a\x1b[31m", "b\"\\"], "Env": ["PATH=/bin", "E=\xe9"], "ExposedPorts": {"80/tcp": {}},
              "Labels": {"k": "v"}, "User": "1:2", "WorkingDir": "/w"}
    top = tar_of("top", 1000)
    path, digest = layout("image", BASE, top, config=config)
    cli.ok("load", "--name", "app:1", input=archive(path))
    cli.ok("tag", "app:1", "host.example/b")
    text = cli.ok("inspect", "app:1", two_more := "host.example/b")
    assert "\x1b" not in text
    first, second = json.loads(text)
    assert first == second and two_more
    manifest = json.loads((path / "blobs/sha256" / digest[7:]).read_bytes())
    assert first["Id"] == digest and first["Config"] == config
    assert first["RepoTags"] == ["app:1", "host.example/b:latest"]
    assert first["RepoDigests"] == [f"app@{digest}", f"host.example/b@{digest}"]
    assert (first["Os"], first["Architecture"], first["Created"]) == ("linux", "amd64", "2024-02-29T12:30:00Z")
    assert first["RootFS"] == {"Type": "layers",
                               "Layers": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in (BASE, top)]}
    assert first["Layers"] == manifest["layers"]
    assert first["Descriptor"] == {"mediaType": manifest["mediaType"], "digest": digest,
                                   "size": (path / "blobs/sha256" / digest[7:]).stat().st_size}
    assert first["Size"] == first["Descriptor"]["size"] + manifest["config"]["size"] + sum(
        layer["size"] for layer in manifest["layers"])


def test_inspect_tells_what_is_there_and_what_is_not(cli, two):
    done = cli("inspect", "app:1", "nothing:1", "other/app:2")
    assert done.returncode == 125
    assert done.stderr.decode().startswith("supermachine: ") and b"nothing:1" in done.stderr
    assert [image["Id"] for image in json.loads(done.stdout)] == two
    refused(cli("inspect", "nothing"), "nothing")
    refused(cli("history", "app:1", "--platform", "linux/s390x"), "linux/s390x", "linux/amd64")


def test_history(cli, layout):
    path, digest = layout("image", BASE, tar_of("top", 1000))
    manifest = json.loads((path / "blobs/sha256" / digest[7:]).read_bytes())
    config = json.loads((path / "blobs/sha256" / manifest["config"]["digest"][7:]).read_bytes())
    config["history"] = [
        {"created": "2024-01-01T00:00:00Z", "created_by": "ADD \x1b]0;hostile\x07 " + "x" * 100, "comment": "c"},
        {"created_by": "ENV A=1", "empty_layer": True},
        {"created": "not a time", "created_by": "RUN top"},
    ]
    made = oci.Layout(str(path.parent / "again"))
    for layer in manifest["layers"]:
        made.blob((path / "blobs/sha256" / layer["digest"][7:]).read_bytes(), layer["mediaType"])
    manifest["config"] = made.blob(oci.as_json(config), oci.CONFIG)
    made.manifests = [made.blob(oci.as_json(manifest), oci.MANIFEST)]
    made.done()
    cli.ok("load", "--name", "app", input=archive(path.parent / "again"))
    steps = cli.json("history", "app")
    assert [step["created_by"] for step in steps] == [step["created_by"] for step in reversed(config["history"])]
    assert [step["layer"] for step in steps] == [manifest["layers"][1]["digest"], None, manifest["layers"][0]["digest"]]
    assert [step["created"] for step in steps] == [None, None, "2024-01-01T00:00:00Z"]
    assert [step["size"] for step in steps] == [manifest["layers"][1]["size"], 0, manifest["layers"][0]["size"]]
    table = cli.ok("history", "app")
    assert "\x1b" not in table and "ADD ?]0;hostile? " in table and "x\u2026" in table
    assert all(len(line) < 140 for line in table.splitlines())
    assert "x" * 100 in cli.ok("history", "--no-trunc", "app")


# ---- rmi, prune, du ----

def test_rmi_takes_what_nobody_else_needs(cli, two, store):
    everything = objects(store)
    cli.ok("tag", "app:1", "app:again")
    assert cli.ok("rmi", "app:again") == "Untagged: app:again\n"
    assert objects(store) == everything
    assert cli.ok("rmi", "app:1") == f"Untagged: app:1\nDeleted: {two[0]}\n"
    left = objects(store)
    assert set(left) < set(everything)
    assert cli.json("fsck")["problems"] == 0
    cli.ok("run", "--pull", "never", "--help")
    told = cli.json("rmi", two[1])
    assert [image["id"] for image in told["removed"]] == [two[1]] and told["freed_bytes"] > 300_000
    assert objects(store) == []


def test_rmi_of_several_goes_on_after_one_that_is_not_there(cli, two, store):
    done = cli("rmi", "nothing", "app:1", "other/app:2")
    assert done.returncode == 125 and done.stderr.count(b"\n") == 1
    assert done.stdout.count(b"Deleted:") == 2 and objects(store) == []
    assert cli.ok("rmi", "-f", "nothing") == ""


def test_rmi_by_id_of_an_image_with_several_names(cli, two, store):
    cli.ok("tag", "app:1", "app:again")
    text = refused(cli("rmi", two[0]), "app:1", "app:again", "-f|force")
    assert len(cli.json("images")) == 3, text
    assert cli.ok("rmi", two[0], "-f").count("Untagged: ") == 2
    assert [image["name"] for image in cli.json("images")] == ["other/app:2"]


def test_du_shows_sharing(cli, two):
    told = cli.json("du")
    assert [(image["name"], image["id"]) for image in told["images"]] == list(zip(("app:1", "other/app:2"), two))
    for image in told["images"]:
        assert image["shared_bytes"] >= 600_000 > 200_000 > image["unique_bytes"] >= 40_000  # compressed and converted
    assert told["layers"]["count"] == 3 and told["blobs"]["count"] == 3 + 2 + 2 and told["partials"]["count"] == 0
    assert told["total_bytes"] >= sum(told[kind]["bytes"] for kind in ("layers", "file_systems", "blobs", "partials"))
    plain = cli.ok("du")
    assert "SHARED" in plain and "app:1" in plain and "Total " in plain and "converted layers" not in plain
    assert "converted layers" in cli.ok("du", "-v")


def test_what_du_says_is_what_rmi_frees(cli, two):
    before = cli.json("du")
    freed = cli.json("rmi", "app:1")["freed_bytes"]
    assert freed == before["images"][0]["unique_bytes"]
    assert cli.json("du")["total_bytes"] == before["total_bytes"] - freed


def test_prune_keeps_named_images(cli, two, store):
    everything = objects(store)
    assert cli.ok("prune", "-f") == "Space freed: 0B\n"
    assert objects(store) == everything
    dry = cli.json("prune", "--all", "--dry-run")
    assert {image["id"] for image in dry["removed"]} == set(two) and dry["freed_bytes"] > 300_000 and dry["dry_run"]
    assert "Would remove: app:1\n" in cli.ok("prune", "-an")
    assert objects(store) == everything
    done = cli.json("prune", "--all")
    assert {image["id"] for image in done["removed"]} == set(two) and done["freed_bytes"] == dry["freed_bytes"]
    assert objects(store) == []


def test_prune_by_age_and_size(cli, two, store):
    """What was used least recently goes first; what has just come is not old. (test_store_gc has old ones.)"""
    (store / "used").mkdir(exist_ok=True)
    (store / "used" / two[0][7:]).touch()
    os.utime(store / "used" / two[0][7:], (2**32, 2**32))
    everything = objects(store)
    cli.ok("prune", "--all", "--older-than", "7d")
    cli.ok("prune", "--all", "--max-size", "1g")
    assert objects(store) == everything
    total = cli.json("du")["total_bytes"]
    cli.ok("prune", "--all", "--max-size", str(total - 1))
    assert [image["id"] for image in cli.json("images")] == [two[0]]
    assert cli.json("images")[0]["used"] == "2106-02-07T06:28:16Z"


def test_prune_asks_on_a_terminal(two, store):
    for answer, left in ((b"n\n", True), (b"y\n", False)):
        ours, theirs = pty.openpty()
        process = subprocess.Popen([CLI, "prune", "--all"], stdin=theirs, stdout=subprocess.PIPE, stderr=theirs,
                                   env=environment(store))
        os.close(theirs)
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(ours, 1024)
        assert b"2 images" in shown
        os.write(ours, answer)
        assert process.wait(30) == (125 if left else 0)
        assert (b"Deleted:" in process.stdout.read()) != left
        process.stdout.close()
        os.close(ours)
        assert bool([name for name in objects(store) if name.startswith("names/")]) == left


# ---- save ----

def test_save_and_load_keep_digests(cli, sm, two, tmp_path):
    cli.ok("save", "-o", tmp_path / "both.tar", "app:1", "other/app:2")
    piped = cli("save", "app:1", "other/app:2").stdout
    assert piped == (tmp_path / "both.tar").read_bytes()  # and the same bytes each time
    assert sorted(p.name for p in tmp_path.glob("both.tar*")) == ["both.tar"]
    other = tmp_path / "other-store"
    loaded = sm("load", "-i", tmp_path / "both.tar", store=other)
    assert loaded.stdout == b"Loaded image: app:1\nLoaded image: other/app:2\n", loaded.stderr.decode()
    told = json.loads(sm("images", "--json", store=other).stdout)
    assert [image["id"] for image in told] == two
    assert sm("save", "app:1", "other/app:2", store=other).stdout == piped


def test_save_into_skopeo(cli, two, tmp_path):
    skopeo = needs_program("skopeo")
    cli.ok("save", "-o", tmp_path / "app.tar", "app:1")
    raw = subprocess.run([skopeo, "inspect", "--raw", f"oci-archive:{tmp_path}/app.tar"], capture_output=True,
                         check=True).stdout
    assert "sha256:" + hashlib.sha256(raw).hexdigest() == two[0]
    subprocess.run([skopeo, "copy", "-q", f"oci-archive:{tmp_path}/app.tar", f"docker-archive:{tmp_path}/docker.tar:x:1"],
                   check=True, stdout=subprocess.DEVNULL)
    assert cli.ok("load", "-i", tmp_path / "docker.tar") == "Loaded image: x:1\n"
    assert cli.json("inspect", "x:1")[0]["RootFS"] == cli.json("inspect", "app:1")[0]["RootFS"]


def test_save_refuses_what_it_should(cli, two, tmp_path):
    file = tmp_path / "out.tar"
    file.write_bytes(b"precious")
    refused(cli("save"), "which image")
    refused(cli("save", "-o", file, "app:1", "nothing"), "nothing")
    refused(cli("save", "-o", tmp_path / "no/such/out.tar", "app:1"), "no/such")
    assert file.read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.glob("out.tar*")) == ["out.tar"]
    full = cli("save", "-o", "/dev/full", "app:1")
    refused(full, "No space left")


def test_save_stops_quietly_when_nobody_reads(two, store):
    process = subprocess.Popen([CLI, "save", "app:1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=environment(store))
    process.stdout.read(100)
    process.stdout.close()
    text = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(30) in (125, -signal.SIGPIPE) and text.count("\n") <= 1, text


def test_archives_and_terminals(two, store):
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run([CLI, "save", "app:1"], stdout=theirs, stderr=subprocess.PIPE, env=environment(store))
        assert done.returncode == 125 and b"terminal" in done.stderr
        done = subprocess.run([CLI, "load"], stdin=theirs, capture_output=True, env=environment(store))
        refused(done, "terminal", "-i")
    finally:
        os.close(ours)
        os.close(theirs)


# ---- fsck ----

def test_fsck_finds_and_removes_what_is_damaged(cli, two, store):
    assert cli.ok("fsck").endswith("all right.\n")
    blob = max((store / "blobs").iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[1000] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(data)
    done = cli("fsck")
    assert done.returncode == 1 and blob.name in done.stdout.decode()
    told = json.loads(cli("fsck", "--json").stdout)
    assert told["problems"] == told["unrepaired"] == len(told["found"]) >= 1
    assert cli("fsck", "--repair").returncode in (0, 1)
    assert not blob.exists()


def test_fsck_repair_can_not_fetch_what_came_from_an_archive(cli, layout, two, store):
    manifest = store / "blobs" / two[0][7:]
    manifest.unlink()
    done = cli("fsck", "--repair")
    assert done.returncode == 1 and "load it again" in done.stdout.decode(), done.stdout.decode()
    path, _ = layout("again", BASE, tar_of("one", 20_000))
    cli.ok("load", "--name", "app:1", input=archive(path))
    assert cli.ok("fsck").endswith("all right.\n")


# ---- run, without a machine ----

def test_run_never_asks_when_told_so(cli):
    refused(cli("run", "--pull", "never", "registry.invalid/app"), "registry.invalid/app", "--pull|pull")
    refused(cli("run", "--pull", "sometimes", "app"), "missing\\|always\\|never")


def test_run_of_an_image_of_the_store_gets_as_far_as_the_machine(cli, two, store):
    """Found by its name, without any network; what fails is that there is no such worker."""
    for name in ("app:1", two[1][7:19], "docker.io/library/app:1"):
        refused(cli("run", "--pull", "never", name, env={"SUPERMACHINE_VMM": "/nowhere/worker"}), "/nowhere/worker|kvm")
    assert all(image["used"] for image in cli.json("images"))


# ---- Ctrl-C, progress ----

def test_interrupted_while_another_process_has_the_store(two, layout, store, tmp_path):
    """No event comes meanwhile: it does not wait for ever to be asked."""
    path, _ = layout("image", BASE)
    (tmp_path / "image.tar").write_bytes(archive(path))
    with open(store / "locks/gc", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen([CLI, "load", "-i", tmp_path / "image.tar"], env=environment(store))
        eventually(lambda: str(store / "locks/gc") in opened(process.pid), "it tries to take the lock")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == -signal.SIGINT


def opened(pid):
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            pass  # closed since
    return found


def test_progress_of_a_load_is_wiped(layout, store, tmp_path):
    path, _ = layout("image", BASE)
    (tmp_path / "image.tar").write_bytes(archive(path))
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen([CLI, "load", "-i", tmp_path / "image.tar", "--name", "app"], stdout=subprocess.PIPE,
                               stderr=theirs, stdin=subprocess.DEVNULL, env=environment(store))
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # EIO: the last writer is gone
            break
    os.close(ours)
    assert process.wait(30) == 0 and process.stdout.read() == b"Loaded image: app:latest\n"
    process.stdout.close()
    assert screen(shown) == [""]
    assert b"\n" in shown  # something was there


def screen(data):
    """What a terminal shows after these bytes: lines, the cursor on the last."""
    lines, row = [""], 0
    text = data.decode()
    while text:
        if text.startswith("\x1b["):
            end = next(i for i, c in enumerate(text[2:], 2) if c.isalpha())
            count, kind = text[2:end], text[end]
            if kind == "A":
                row -= int(count)
                assert row >= 0
            elif kind == "J":
                del lines[row + 1:]
                lines[row] = ""
            else:
                assert kind == "K", kind
            text = text[end + 1:]
            continue
        if text[0] == "\n":
            row += 1
            if row == len(lines):
                lines.append("")
        elif text[0] == "\r":
            if row == len(lines) - 1:
                lines[row] = ""
        else:
            lines[row] += text[0]
        text = text[1:]
    return lines
