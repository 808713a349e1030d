# SPDX-License-Identifier: Apache-2.0
"""Snapshots that leave the store and come back: they are restored as if they had never been away."""
import json

import pytest

pytestmark = pytest.mark.kvm


def bakes(store):
    found = store.glob("snapshots/*/metadata.json")
    return [path.parent for path in found if json.loads(path.read_text())["kind"] == "bake"]


@pytest.fixture
def store(home):
    """The store all tests share, without snapshots of images."""
    for snapshot in bakes(home):
        for file in snapshot.iterdir():
            file.unlink()
        snapshot.rmdir()
    return home


def test_an_archive_is_the_snapshot(sm, store, busybox, tmp_path):
    archive = tmp_path / "snapshot.tar"
    assert sm("run", busybox, "true").returncode == 0
    (bake,) = bakes(store)
    assert sm("snapshot", "export", "-o", archive, bake.name[:12]).returncode == 0
    assert sm("snapshot", "rm", bake.name).returncode == 0
    assert not bakes(store)

    cut = tmp_path / "cut.tar"
    cut.write_bytes(archive.read_bytes()[:-1000])
    result = sm("snapshot", "import", cut)
    assert result.returncode == 125 and b"ends early" in result.stderr
    assert not bakes(store) and not list((store / "tmp").iterdir())

    result = sm("snapshot", "import", archive)
    assert result.returncode == 0, result.stderr
    (back,) = bakes(store)
    inode = back.stat().st_ino
    assert (back.name, json.loads((back / "metadata.json").read_text())["base"]) == (bake.name, "")
    result = sm("run", busybox, "sh", "-c", "echo back; exit 3")
    assert (result.returncode, result.stdout) == (3, b"back\n"), result.stderr
    (back,) = bakes(store)
    assert back.stat().st_ino == inode, "it was baked again"
    assert sm("snapshot", "verify", bake.name).returncode == 0
