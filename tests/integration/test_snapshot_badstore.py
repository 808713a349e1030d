# SPDX-License-Identifier: Apache-2.0
"""Images that have been baked, and what is on disk of it is spoilt, gone, or in somebody else's hands: a run gives the
right output all the same, or a sentence that says what is wrong.
"""
import json
import os
import pathlib
import shutil
import subprocess

import pytest
import snapstate
from conftest import SOAK

pytestmark = pytest.mark.kvm

ECHO = ("echo", "as it should be")


@pytest.fixture(scope="module")
def baked_home(home, tmp_path_factory):
    """A store of its own: what is converted is laid below, what is baked stays here."""
    if os.geteuid() != 0:
        pytest.skip("needs root to lay one store over another")
    top = tmp_path_factory.mktemp("baked")
    for name in ("upper", "work", "store"):
        (top / name).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", top / "store"], check=True)
    shutil.copytree(home, top / "store", symlinks=True, dirs_exist_ok=True,
                    ignore=lambda where, names: names if pathlib.Path(where).name == "snapshots" else [])
    yield top / "store"
    subprocess.run(["umount", "-l", top / "store"], check=True)


@pytest.fixture
def run(sm, baked_home, busybox):
    """run(): one more run of the image, which must be right. What it said on standard error."""
    def once(*options):
        done = sm("run", *options, busybox, *ECHO, store=baked_home)
        assert (done.returncode, done.stdout) == (0, b"as it should be\n"), done.stderr.decode()
        return done.stderr.decode()

    return once


def snapshots(sm, store):
    """Directories of the store's snapshots, by kind."""
    listed = json.loads(sm("snapshot", "ls", "--json", store=store).stdout)
    return {entry["kind"]: store / "snapshots" / entry["key"] for entry in listed}


def spoil_state(path):
    os.truncate(path / "state", (path / "state").stat().st_size - 1)


def spoil_memory(path):
    os.truncate(path / "memory", (path / "memory").stat().st_size - 4096)


def spoil_list(path):
    name = "diff" if (path / "diff").exists() else "memory"
    (path / name).write_bytes(b"no list")


def spoil_metadata(path):
    (path / "metadata.json").write_text("{}")


def spoil_shape(path):
    """Right checksums, and a machine of another shape."""
    state = snapstate.State((path / "state").read_bytes())
    state.section("MACH").put(0, "I", 512)
    (path / "state").write_bytes(state.bytes())


SPOIL = [spoil_state, spoil_memory, spoil_list, spoil_metadata, spoil_shape]


@pytest.mark.parametrize("spoil", SPOIL if SOAK else [spoil_list, spoil_shape], ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ["bake", "base"] if SOAK else ["bake"])
def test_a_spoilt_snapshot_is_made_anew(sm, run, baked_home, kind, spoil):
    run()
    path = snapshots(sm, baked_home)[kind]
    for file in path.iterdir():
        file.chmod(0o600)
    spoil(path)
    if kind == "base":  # read when the next bake begins with it
        assert sm("snapshot", "rm", snapshots(sm, baked_home)["bake"].name, store=baked_home).returncode == 0
    said = run("-v")
    assert kind == "base" or "restored from a snapshot" not in said, said
    assert "restored from a snapshot" in run("-v"), "it was not made anew"
    assert sm("snapshot", "verify", path.name, store=baked_home).returncode == 0


def test_a_store_that_takes_nothing(run, baked_home):
    """Nothing can be written: the machine runs all the same."""
    subprocess.run(["mount", "-o", "remount,ro", baked_home], check=True)
    try:
        run("-m", "128m")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", baked_home], check=True)


def test_replaced_while_it_is_restored(start, run, sm, baked_home, busybox):
    """Baked by force again and again while others run it: each run is right, from the old or from the new one."""
    run()
    for _ in range(10 if SOAK else 2):
        baking = start("bake", "--force", "-q", busybox, env={"SUPERMACHINE_HOME": str(baked_home)})
        while baking.poll() is None:
            run()
        assert baking.wait() == 0, baking.stderr.read()
    assert sm("snapshot", "verify", snapshots(sm, baked_home)["bake"].name, store=baked_home).returncode == 0


def test_two_at_once(start, run, baked_home, busybox):
    run()
    several = [start("run", busybox, *ECHO, env={"SUPERMACHINE_HOME": str(baked_home)}) for _ in range(4)]
    for process in several:
        assert process.communicate(timeout=120)[0] == b"as it should be\n"
