# SPDX-License-Identifier: Apache-2.0
"""Snapshots by the command line: baked, listed, checked, restored, moved, removed; machines saved while they run; and
what is refused, with nothing left behind. What runs do by themselves is in test_bake.py."""
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess

import pytest

from conftest import needs_root, refused
from test_run import read_until

KEY = "[0-9a-f]{64}"


def ok(done):
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def snapshots(sm, **kwargs):
    return {s["key"]: s for s in json.loads(ok(sm("snapshot", "ls", "--json", **kwargs)))}


def told(done):
    """How a run with -v says that its machine came to be."""
    assert done.returncode == 0, done.stderr.decode()
    lines = re.findall(rb"^supermachine: (booted|restored from a snapshot|baked); ", done.stderr, re.MULTILINE)
    assert len(lines) == 1, done.stderr.decode()
    return lines[0].decode()


@pytest.fixture
def baked(sm, busybox):
    """Busybox's own snapshot: its key."""
    made = json.loads(ok(sm("bake", "--json", busybox)))
    assert re.fullmatch(KEY, made["key"]) and made["duration_ms"] > 0 and made["snapshot"]["key"] == made["key"]
    return made["key"]


@pytest.fixture
def named(start, busybox, request):
    """named("sh script"): a machine named `web` runs it; gives the process once the script has said "ready"."""

    def run(script, name="web"):
        process = start("run", "--name", name, busybox, "sh", "-c", script)
        read_until(process.stdout, b"ready\n")
        return process

    return run


def end(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


# ---- Bake and restore ----

@pytest.mark.kvm
def test_setup_makes_the_base_once(sm):
    first = ok(sm("setup"))
    assert "The base snapshot for 256 MiB and 1 processor" in first and "can run machines" in first
    again = json.loads(ok(sm("setup", "--json")))
    assert again["baked"] is False and again["memory_mib"] == 256 and again["cpus"] == 1
    assert snapshots(sm)[again["key"]]["kind"] == "base"


@pytest.mark.kvm
def test_bake_list_inspect_verify_run(sm, busybox, baked):
    listed = snapshots(sm)[baked]
    assert listed["kind"] == "bake" and listed["trigger"] == "pre-exec" and not listed["workload"]
    assert listed["memory_mib"] == 256 and listed["cpus"] == 1 and listed["problem"] is None
    assert snapshots(sm)[listed["base"]]["kind"] == "base"
    assert listed["disk_bytes"] < 0.15 * snapshots(sm)[listed["base"]]["disk_bytes"] + (4 << 20)
    table = ok(sm("snapshot", "ls"))
    assert baked[:12] in table and "pre-exec" in table
    assert baked in ok(sm("snapshot", "ls", "-q", "--no-trunc")).split()
    about, = json.loads(ok(sm("snapshot", "inspect", baked[:10])))
    assert about["Key"] == baked
    assert "good" in ok(sm("snapshot", "verify", baked))
    again = json.loads(ok(sm("bake", "--json", busybox)))
    assert again["key"] == baked and again["baked"] is False
    run = sm("run", "-v", busybox, "sh", "-c", "echo out; cat /run/supermachine/generation >&2")
    assert told(run) == "restored from a snapshot"
    assert run.stdout == b"out\n" and b"Linux version" not in run.stderr
    quiet = sm("run", busybox, "cat", "/run/supermachine/generation")
    assert re.fullmatch(rb"[0-9a-f]{32}\n?", quiet.stdout) and quiet.stderr == b""
    assert quiet.stdout.strip() not in run.stderr


@pytest.mark.kvm
def test_force_bakes_anew(sm, busybox, baked):
    made = ok(sm("bake", "--force", busybox))
    assert re.match(f"{baked} baked in ", made) and " on disk, a difference to the base " in made
    assert told(sm("run", "-v", busybox, "true")) == "restored from a snapshot"


@pytest.mark.kvm
def test_extra_files_and_warm_up(sm, busybox, tmp_path):
    extra = tmp_path / "extra:file"
    extra.write_text("from the host\n")
    extra.chmod(0o640)
    options = ("--extra-file", f"{extra}:/srv/deep/extra", "--warmup", "cat /srv/deep/extra >/warm", "--tag", "warm")
    script = "cat /warm; stat -c '%a %u' /srv/deep/extra"
    first = sm("run", "-v", *options, busybox, "sh", "-c", script)
    assert told(first) == "baked" and first.stdout == b"from the host\n640 0\n"
    second = sm("run", "-v", *options, busybox, "sh", "-c", script)
    assert told(second) == "restored from a snapshot" and second.stdout == first.stdout
    extra.write_text("from another host\n")
    mine = [s for s in snapshots(sm).values() if s["tag"] == "warm"]
    assert len(mine) == 1
    assert json.loads(ok(sm("bake", "--json", *options, busybox)))["key"] != mine[0]["key"]


@pytest.mark.kvm
def test_warm_up_that_fails_is_told(sm, busybox):
    refused(sm("bake", "--warmup", "exit 3", busybox), "3")


@pytest.mark.kvm
def test_export_remove_import_run(sm, baked, tmp_path):
    archive = tmp_path / "baked.tar"
    assert ok(sm("snapshot", "export", "-o", archive, baked[:16])) == ""
    assert ok(sm("snapshot", "rm", baked)).startswith("1 snapshot removed")
    assert baked not in snapshots(sm)
    refused(sm("snapshot", "verify", baked), baked[:8])
    # Half of it is nothing.
    data = archive.read_bytes()
    refused(sm("snapshot", "import", input=data[:len(data) // 2]), "archive|cut|end")
    assert ok(sm("snapshot", "import", "--dest", tmp_path / "dir", archive)) == f"{tmp_path}/dir\n"
    assert {"state", "memory", "metadata.json"} <= set(os.listdir(tmp_path / "dir"))
    run = sm("run", "--snapshot", tmp_path / "dir", "echo", "from a directory")
    assert (run.returncode, run.stdout, run.stderr) == (0, b"from a directory\n", b"")
    key = ok(sm("snapshot", "import", input=data)).strip()
    assert snapshots(sm)[key]["base"] is None  # whole now
    assert ok(sm("run", "--snapshot", key[:12], "echo", "imported")) == "imported\n"
    ok(sm("snapshot", "rm", "--force", key))


# ---- Commands that run in a snapshot ----

@pytest.mark.kvm
def test_a_command_goes_on_from_its_trigger(sm, busybox):
    """What it wrote before it was saved is there, and what it does afterwards."""
    command = ("sh", "-c", "echo begun; sleep 0.5; echo saved; sleep 1; echo on; exit 7")
    first = sm("run", "-v", "--trigger", "after=1000", busybox, *command)
    assert first.returncode == 7 and first.stdout == b"begun\nsaved\non\n", first.stderr
    second = sm("run", "-v", "--trigger", "after=1000", busybox, *command)
    assert second.returncode == 7 and second.stdout == b"begun\nsaved\non\n", second.stderr
    assert b"restored from a snapshot; " in second.stderr


@pytest.mark.kvm
@pytest.mark.parametrize("cpus", ["1", "4"])
def test_heartbeats_end_a_bake(sm, busybox, cpus):
    made = json.loads(ok(sm("bake", "--force", "--json", "--cpus", cpus, "--trigger", "heartbeat=3", "--after", "60000",
                            busybox, "sleep", "300")))
    assert made["line"].startswith("trigger heartbeat fired after "), made["line"]


@pytest.mark.kvm
def test_require_listener_refuses(sm, busybox):
    refused(sm("bake", "--require-listener", "--after", "1000", busybox, "sleep", "60"),
            "listener readiness timeout after 1000 ms; refusing zero-listener snapshot")


# ---- Machines that run ----

COUNTING = "echo kept >/kept; echo ready; i=0; while :; do i=$((i + 1)); echo $i >/count; echo at $i; sleep 0.05; done"


@pytest.mark.kvm
def test_save_a_machine_that_runs(sm, start, named, tmp_path):
    process = named(COUNTING)
    made = sm("snapshot", "create", "web", "one", cwd=tmp_path)
    assert ok(made) == "one\n" and b"stood still for" in made.stderr
    clone = sm("run", "--snapshot", tmp_path / "one", "cat", "/kept")
    assert (clone.returncode, clone.stdout) == (0, b"kept\n"), clone.stderr
    assert process.poll() is None, "the machine that was saved runs on"
    # Without a command the clone's own goes on.
    clone = start("run", "--snapshot", tmp_path / "one")
    assert re.search(rb"at \d+\n", read_until(clone.stdout, b"\n"))
    end(clone)
    # To the store, as a difference; by its key.
    made = json.loads(ok(sm("snapshot", "create", "--diff", "--json", "web")))
    listed = snapshots(sm)[made["key"]]
    assert listed["kind"] == "vm" and listed["base"]
    clone = sm("run", "--snapshot", made["key"], "cat", "/kept", "/count")
    assert clone.stdout.startswith(b"kept\n") and int(clone.stdout.split()[1]) > 0, clone.stderr
    ok(sm("snapshot", "rm", made["key"]))
    end(process)
    assert os.listdir(tmp_path) == ["one"]


@pytest.mark.kvm
def test_a_name_is_had_once(sm, named, busybox, tmp_path, home):
    process = named("echo ready; sleep 300")
    text = refused(sm("run", "--name", "web", busybox, "true"), "'web' runs already")
    assert f"process {process.pid}:" in text
    # There is something already where it shall go.
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    refused(sm("snapshot", "create", "web", tmp_path / "there"), "there")
    refused(sm("snapshot", "create", "web", tmp_path / "no/parent"), "no/parent")
    assert os.listdir(tmp_path) == ["there"] and os.listdir(tmp_path / "there") == ["file"]
    # Its owner is killed: the name is free, and nobody is there to be asked.
    end(process)
    refused(sm("snapshot", "create", "web"), "no machine named 'web' runs")
    assert ok(sm("run", "--name", "web", busybox, "echo", "mine")) == "mine\n"
    assert os.listdir(home / "vms") == []


@pytest.mark.kvm
def test_save_and_stop(sm, named, tmp_path):
    process = named(COUNTING)
    ok(sm("snapshot", "create", "--stop", "web", tmp_path / "stopped"))
    clone = sm("run", "--snapshot", tmp_path / "stopped", "cat", "/kept")
    assert clone.stdout == b"kept\n", clone.stderr
    for _ in range(3):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    end(process)


# ---- What is refused ----

@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.mark.parametrize("name, words", [
    ("5d3c0000", "5d3c0000"), ("nothing", "nothing"), ("/nowhere/at/all", "/nowhere/at/all"),
])
def test_unknown_snapshots(sm, store, name, words):
    for verb in (("run", "--snapshot"), ("snapshot", "inspect"), ("snapshot", "verify"), ("snapshot", "export")):
        refused(sm(*verb, name, store=store), words)
    assert ok(sm("snapshot", "ls", "-q", store=store)) == ""


def test_unknown_snapshots_are_not_removed(sm, store):
    refused(sm("snapshot", "rm", "5d3c0000", store=store), "5d3c0000")
    assert json.loads(ok(sm("snapshot", "rm", "--force", "--json", "5d3c0000", store=store)))["objects"] == 0


@pytest.mark.parametrize("data", [b"", b"no archive at all", b"\0" * 10240, os.urandom(20000)], ids=["empty", "text", "zeros", "noise"])
def test_archives_that_are_none(sm, store, data):
    refused(sm("snapshot", "import", input=data, store=store), "archive|snapshot|tar")
    assert ok(sm("snapshot", "ls", "-q", store=store)) == ""


def flip(path):
    """A bit of the first byte that is not zero, a page from the start."""
    with open(path, "r+b") as file:
        file.seek(4096 if path.name == "memory" else 100)
        while not (byte := file.read(1))[0]:
            pass
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x10]))


def says(old, new):
    """Its description with that changed, and the checksum that it then has."""

    def change(path):
        data = path.read_bytes()
        body = data[:data.rindex(b',"sum":')].replace(old, new)
        assert body != data[:len(body)]
        path.write_bytes(body + b',"sum":"%s"}' % hashlib.sha256(body).hexdigest().encode() + data[data.rindex(b"}") + 1:])

    return change


@pytest.mark.kvm
def test_damaged_snapshots(sm, baked, tmp_path):
    """Each file in turn: refused with one sentence that says what is wrong."""
    whole, spoilt = tmp_path / "whole", tmp_path / "spoilt"
    ok(sm("snapshot", "import", "--dest", whole, input=sm("snapshot", "export", baked).stdout))
    for name, change, words in (("state", flip, "state"), ("state", lambda path: os.truncate(path, 0), "state"),
                                ("metadata.json", flip, "metadata"), ("metadata.json", os.unlink, "metadata"),
                                ("metadata.json", says(b'"format":1', b'"format":2'), "format|version"),
                                ("metadata.json", says(b'"arch":"x86_64"', b'"arch":"arm64"'), "arm64"),
                                ("metadata.json", says(b'"memory_mib":256', b'"memory_mib":512'), "memory"),
                                ("memory", lambda path: os.truncate(path, 4096), "memory")):
        shutil.copytree(whole, spoilt, copy_function=os.link)
        (spoilt / name).unlink()
        subprocess.run(["cp", "--sparse=always", whole / name, spoilt / name], check=True)
        change(spoilt / name)
        refused(sm("run", "--snapshot", spoilt, "true"), words)
        shutil.rmtree(spoilt)
    flip(whole / "memory")
    checked = sm("snapshot", "verify", whole)
    assert checked.returncode == 1 and b"memory" in checked.stdout, checked


@pytest.mark.kvm
def test_an_image_that_is_gone(sm, busybox, tmp_path):
    """What its machines would read their files from is neither in the store nor where it was."""
    layout, place, here = tmp_path / "layout", tmp_path / "place", {"store": tmp_path / "store"}
    shutil.copytree(busybox.removeprefix("oci:"), layout)
    key = json.loads(ok(sm("bake", "--json", f"oci:{layout}", **here)))["key"]
    ok(sm("snapshot", "import", "--dest", place, input=sm("snapshot", "export", key, **here).stdout, **here))
    assert ok(sm("run", "--snapshot", place, "echo", "there", store=tmp_path / "other")) == "there\n"
    shutil.rmtree(layout)
    refused(sm("run", "--snapshot", place, "true", store=tmp_path / "third"),
            rf"not in the store: pull or load 'oci:{layout}' \(sha256:")


@pytest.fixture
def small(tmp_path):
    """A file system of this many MiB, for a store; read-only on demand."""
    needs_root()
    place = tmp_path / "small"
    place.mkdir()
    mounted = []

    def mount(mib):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", place], check=True)
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


def leftovers(store):
    """Files of snapshots and of unfinished work in a store."""
    return [p for d in ("snapshots", "tmp") for p in (store / d).rglob("*")]


@pytest.mark.kvm
def test_no_space(sm, busybox, small):
    store = small(8)
    refused(sm("bake", busybox, store=store), "make room there")
    assert leftovers(store) == []


@pytest.mark.kvm
def test_where_nothing_can_be_written(sm, named, small):
    place = small(64)
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    process = named("echo ready; sleep 300")
    refused(sm("snapshot", "create", "web", place / "here"), "read-only|Read-only")
    assert process.poll() is None
    end(process)
