# SPDX-License-Identifier: Apache-2.0
"""With others: skopeo pushes what umoci and buildah made, we pull and run it; skopeo and umoci take what we save."""
import hashlib
import json
import subprocess
import tarfile

import pytest

from conftest import image, needs_program
from doubles import Front
from registry import layout, push_image, random_tar, skopeo
from test_run import read_until

MADE_BY = {"buildah": "buildah", "umoci": "redis"}


@pytest.fixture(scope="session")
def pushed_by_skopeo(registry):
    """pushed_by_skopeo(name) -> (reference, directory of the layout, digest of the manifest)."""
    done = {}

    def push(name):
        if name not in done:
            path = image(name).removeprefix("oci:")
            reference = f"{registry.host}/made/{name}:1.0"
            skopeo("copy", "--dest-tls-verify=false", f"oci:{path}:latest", f"docker://{reference}")
            raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{reference}").encode()
            done[name] = reference, path, "sha256:" + hashlib.sha256(raw).hexdigest()
        return done[name]

    return push


@pytest.mark.parametrize("maker", MADE_BY)
def test_pulled_saved_and_loaded_elsewhere(pushed_by_skopeo, client, tmp_path, maker):
    needs_program("umoci")
    reference, path, digest = pushed_by_skopeo(MADE_BY[maker])
    client.ok("pull", reference)
    client.same_as(path)
    assert client.json("inspect", reference)[0]["Id"] == digest

    archive = tmp_path / "saved.tar"
    client.ok("save", "-o", archive, reference)
    assert client("save", reference).stdout == archive.read_bytes()  # the same bytes each time, through a pipe too

    # skopeo
    skopeo("copy", "--preserve-digests", f"oci-archive:{archive}", f"dir:{tmp_path}/skopeo")
    manifest = (tmp_path / "skopeo/manifest.json").read_bytes()
    assert "sha256:" + hashlib.sha256(manifest).hexdigest() == digest
    # umoci, for which an archive is a layout in a tar
    with tarfile.open(archive) as t:
        t.extractall(tmp_path / "layout")
    (tag,) = subprocess.run(["umoci", "ls", "--layout", tmp_path / "layout"], check=True, capture_output=True,
                            text=True).stdout.split()
    listed = json.loads((tmp_path / "layout/index.json").read_text())["manifests"]
    assert [entry["digest"] for entry in listed] == [digest]
    subprocess.run(["umoci", "unpack", "--rootless", "--image", f"{tmp_path}/layout:{tag}", tmp_path / "bundle"],
                   check=True, capture_output=True)
    stat = json.loads(subprocess.run(["umoci", "stat", "--json", "--image", f"{tmp_path}/layout:{tag}"], check=True,
                                     capture_output=True).stdout)
    assert stat["history"]

    # and ours again, somewhere else
    other = type(client)(tmp_path / "other")
    other.ok("load", "-i", archive)
    assert other.json("images")[0]["id"] == digest
    other.same_as(path)


def test_what_skopeo_archives_is_loaded(registry, client, tmp_path):
    made = layout(tmp_path / "layout", random_tar("a"), random_tar("b"))
    digest = json.loads((made / "index.json").read_text())["manifests"][0]["digest"]
    skopeo("copy", f"oci:{made}:latest", f"oci-archive:{tmp_path}/oci.tar:some/name:1")
    skopeo("copy", f"oci:{made}:latest", f"docker-archive:{tmp_path}/docker.tar:some/name:2")
    client.ok("load", "-i", tmp_path / "oci.tar")
    assert client.json("inspect", "some/name:1")[0]["Id"] == digest
    client.same_as(made)
    with open(tmp_path / "docker.tar", "rb") as file:
        client.ok("load", stdin=file)
    (told,) = client.json("inspect", "some/name:2")
    diff_ids = json.loads((made / "blobs/sha256" / json.loads((made / "blobs/sha256" / digest[7:]).read_text())
                           ["config"]["digest"][7:]).read_text())["rootfs"]["diff_ids"]
    assert told["RootFS"]["Layers"] == diff_ids


def test_saved_after_its_blobs_went(registry, front_of, client, tmp_path):
    """Compressed layers may have been given up: save fetches them again, and says so when there is nobody to ask."""
    made = push_image(registry, tmp_path / "layout", "peers/saved")
    client.ok("pull", made.at(front_of))
    client.ok("save", "-o", tmp_path / "one.tar", made.at(front_of))
    skopeo("copy", "--preserve-digests", f"oci-archive:{tmp_path}/one.tar", f"dir:{tmp_path}/copy")
    assert hashlib.sha256((tmp_path / "copy/manifest.json").read_bytes()).hexdigest() == made.digest[7:]


@pytest.fixture
def front_of(registry, double):
    return double(Front, registry.host)


# ---- On machines ----

@pytest.mark.kvm
@pytest.mark.parametrize("maker, output", [("buildah", b"made by buildah\n"), ("umoci", None)])
def test_runs(pushed_by_skopeo, sm, maker, output):
    """Pulled because it was missing, then without the registry."""
    reference, _, _ = pushed_by_skopeo(MADE_BY[maker])
    command = [] if output else ["redis-server", "--version"]
    for policy in ("missing", "never"):
        done = sm("run", "-m", "512", "--pull", policy, reference, *command, timeout=300)
        assert done.returncode == 0, done.stderr.decode()
        if output:
            assert done.stdout == output
        else:
            assert b"Redis server v=7" in done.stdout


@pytest.mark.kvm
def test_pull_policies(registry, front_of, sm, tmp_path):
    path = image("busybox").removeprefix("oci:")
    made = registry.put(path, "peers/policy")
    reference = made.at(front_of)
    refused = sm("run", "--pull", "never", reference, "true")
    assert refused.returncode == 125 and b"pull" in refused.stderr and front_of.seen == []
    assert sm("run", "--pull", "always", reference, "true").returncode == 0
    front_of.forget()
    assert sm("run", reference, "true").returncode == 0
    assert sm("run", "--pull", "never", reference, "true").returncode == 0
    assert front_of.seen == []
    assert sm("run", "--pull", "always", reference, "true").returncode == 0
    assert [request.method for request in front_of.seen] == ["HEAD"]
    # The registry is gone: with `missing` nobody asks it, with `always` the run is refused.
    front_of.stop()
    assert sm("run", reference, "true").returncode == 0
    assert sm("run", "--pull", "always", reference, "true").returncode == 125


@pytest.mark.kvm
def test_a_removed_image_goes_on_running(registry, start, sm):
    made = registry.put(image("busybox").removeprefix("oci:"), "peers/removed")
    assert sm("pull", made.ref).returncode == 0
    process = start("run", "-i", made.ref, "sh", "-c", "echo ready; read x; ls /bin | wc -l; echo $x")
    read_until(process.stdout, b"ready\n")
    assert sm("rmi", "-f", made.ref).returncode == 0
    out, err = process.communicate(b"still here\n", timeout=120)
    assert b"still here" in out and process.returncode == 0, err
