# SPDX-License-Identifier: Apache-2.0
"""Images are baked by their first run and restored by the next ones: what users see of it, and what may go wrong."""
import json
import re
import subprocess

import pytest

from conftest import RUN_TIMEOUT, eventually, needs_root

pytestmark = pytest.mark.kvm


@pytest.fixture
def store(home):
    """The store all tests share, without snapshots of images."""
    for snapshot in snapshots(home, "bake"):
        for file in snapshot.iterdir():
            file.unlink()
        snapshot.rmdir()
    return home


def snapshots(home, kind):
    found = home.glob("snapshots/*/metadata.json")
    return [path.parent for path in found if json.loads(path.read_text())["kind"] == kind]


def on_disk(path):
    return sum(file.stat().st_blocks * 512 for file in path.iterdir())


def test_first_run_bakes_and_the_next_restores(sm, store, busybox):
    for _ in range(2):
        result = sm("run", busybox, "sh", "-c", "echo out; echo err >&2; exit 7")
        assert (result.returncode, result.stdout, result.stderr) == (7, b"out\n", b"err\n")
    (bake,) = snapshots(store, "bake")
    before = bake.stat().st_ino
    assert sm("run", busybox, "true").returncode == 0
    (bake,) = snapshots(store, "bake")
    assert bake.stat().st_ino == before, "it was baked again"
    metadata = json.loads((bake / "metadata.json").read_text())
    base = store / "snapshots" / metadata["base"]
    assert on_disk(bake) <= 0.15 * on_disk(base)


def test_restored_machines_run_what_is_asked(sm, store, busybox):
    sm("run", busybox, "true")
    script = "pwd; id -u; echo $A $HOSTNAME; hostname; cat /etc/hostname; grep -c box-1 /etc/hosts; cat"
    result = sm("run", "-i", "-w", "/new/dir", "-u", "12:34", "-e", "A=b", "--hostname", "box-1", busybox, "sh", "-c",
                script, input=b"through")
    assert result.stdout.decode().split() == ["/new/dir", "12", "b", "box-1", "box-1", "box-1", "1", "through"]
    assert sm("run", busybox, "no-such-program").returncode == 127
    assert sm("run", "--timeout", "300ms", busybox, "sleep", "300").returncode == 124


def test_clones_are_machines_of_their_own(sm, store, busybox):
    script = ("cat /run/supermachine/generation /proc/sys/kernel/random/boot_id; hostname; "
              "head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '; date +%s")
    lives = [sm("run", busybox, "sh", "-c", script + "; cat /proc/uptime") for _ in range(3)]
    lines = [life.stdout.decode().split("\n") for life in lives]
    for kind in range(4):
        assert len({life[kind] for life in lines}) == 3, lines
    assert re.fullmatch("[0-9a-f]{32}", lines[0][0])
    times = [int(life[4]) for life in lines]
    assert times == sorted(times)
    host = int(subprocess.run(["date", "+%s"], capture_output=True, check=True).stdout)
    assert 0 <= host - times[-1] <= 30


def test_runs_at_once_bake_once(start, sm, store, busybox):
    processes = [start("run", busybox, "sh", "-c", f"exit {i}") for i in range(3)]
    assert [process.wait(RUN_TIMEOUT) for process in processes] == [0, 1, 2]
    assert len(snapshots(store, "bake")) == 1
    assert not list((store / "tmp").iterdir())


@pytest.mark.parametrize("file", ["state", "memory", "metadata.json"])
def test_damaged_snapshots_are_replaced(sm, store, busybox, file):
    sm("run", busybox, "true")
    (bake,) = snapshots(store, "bake")
    before = bake.stat().st_ino
    path = bake / file
    data = bytearray(path.read_bytes()[:5000])
    if file == "memory":
        path.write_bytes(data)  # truncated
    else:
        data[100] ^= 1
        with open(path, "r+b") as f:
            f.write(data)
    result = sm("run", busybox, "echo", "good")
    assert (result.returncode, result.stdout) == (0, b"good\n"), result.stderr
    (bake,) = snapshots(store, "bake")
    assert bake.stat().st_ino != before
    assert sm("run", busybox, "echo", "again").stdout == b"again\n"


def test_without_space_it_runs_all_the_same(sm, store, busybox, tmp_path):
    """A file system with room for nothing: the machine boots, or goes on in the one that could not be saved."""
    needs_root()
    sm("run", busybox, "true")
    for name in ("small", "store"):
        (tmp_path / name).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path / "small"], check=True)
    try:
        for name in ("upper", "work"):
            (tmp_path / "small" / name).mkdir()
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o",
                        f"lowerdir={store},upperdir={tmp_path}/small/upper,workdir={tmp_path}/small/work",
                        tmp_path / "store"], check=True)
        try:
            # Another memory size: neither base nor bake are there.
            result = sm("run", "-m", "200m", busybox, "echo", "ran", store=tmp_path / "store")
            assert (result.returncode, result.stdout) == (0, b"ran\n"), result.stderr
            assert not list((tmp_path / "store/tmp").iterdir())
        finally:
            subprocess.run(["umount", "-l", tmp_path / "store"], check=True)
    finally:
        subprocess.run(["umount", "-l", tmp_path / "small"], check=True)


def test_interrupted_bakes_leave_nothing(start, sm, store, busybox):
    process = start("run", busybox, "true")
    eventually(lambda: process.poll() is not None or list((store / "tmp").iterdir()), "a bake begins", RUN_TIMEOUT)
    process.kill()
    process.wait()
    assert sm("run", busybox, "echo", "fine").stdout == b"fine\n"
    assert not list((store / "tmp").iterdir())
