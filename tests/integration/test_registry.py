# SPDX-License-Identifier: Apache-2.0
"""Pulling from a registry on loopback: names and digests, what is not fetched again, cuts, busy servers, size."""
import hashlib
import json
import os
import pathlib
import pty
import random
import select
import signal
import subprocess
import termios
import time

import pytest

from conftest import eventually, needs_program
from doubles import INDEX, MANIFEST, Front, changed, cut, errors, ignoring_range, status
from registry import ARCH, EPOCH, Client, Registry, layout, oci, push_image, random_tar, skopeo

DOCKER = "application/vnd.docker.distribution.manifest."
OTHER = "arm64" if ARCH == "amd64" else "amd64"


@pytest.fixture
def front(registry, double):
    return double(Front, registry.host)


@pytest.fixture
def pushed(registry, tmp_path, request):
    return push_image(registry, tmp_path / "layout", f"test/{request.node.name.partition('[')[0].lower()}")


def fetched(front, layer):
    """Bytes of a layer that a front has sent."""
    return sum(request.sent for request in front.asked(f"GET .*/blobs/{layer['digest']}"))


# ---- Names ----

def test_by_tag_and_by_digest(registry, pushed, client, tmp_path):
    host, repository, digest = registry.host, pushed.repository, pushed.digest
    client.ok("pull", pushed.ref)
    client.same_as(tmp_path / "layout")
    (told,) = client.json("inspect", pushed.ref)
    assert told["Id"] == digest
    assert told["RepoTags"] == [pushed.ref]
    assert told["RepoDigests"] == [f"{host}/{repository}@{digest}"]
    for reference in (f"{host}/{repository}@{digest}", f"{host}/{repository}:latest@{digest}"):
        other = Client(tmp_path / reference.replace("/", "-"))
        other.ok("pull", reference)
        assert other.json("inspect", reference)[0]["Id"] == digest
        other.same_as(tmp_path / "layout")
    client.ok("pull", f"{host}/{repository}")  # the tag is latest when nothing else is said


def test_tag_that_moves(registry, pushed, client, tmp_path):
    client.ok("pull", pushed.ref)
    base = next((tmp_path / "layout/blobs/sha256").glob(pushed.layers[0]["digest"][7:]))
    assert base.exists()
    new = push_image(registry, tmp_path / "new", pushed.repository)
    client.ok("pull", pushed.ref)
    assert client.json("inspect", pushed.ref)[0]["Id"] == new.digest
    images = client.json("images", "--all")
    assert len(images) == 2, images  # what had the name goes on without one
    client.ok("rmi", new.digest)
    assert [client.json("inspect", pushed.digest)[0]["Id"]] == [pushed.digest]
    assert b"test_tag_that_moves" in client("inspect", pushed.ref).stderr


def test_up_to_date_is_one_head(front, pushed, client):
    client.ok("pull", pushed.at(front))
    front.forget()
    client.ok("pull", pushed.at(front))
    assert [request.line for request in front.seen] == [f"HEAD /v2/{pushed.repository}/manifests/latest"]


def test_registry_that_tells_no_digest(front, pushed, client):
    """Docker-Content-Digest is optional: the manifest's own bytes say what it is."""
    front.rule("manifests", changed(headers={"Docker-Content-Digest": None}))
    client.ok("pull", pushed.at(front))
    assert client.json("inspect", pushed.at(front))[0]["Id"] == pushed.digest
    front.seen.clear()
    client.ok("pull", pushed.at(front))
    assert not front.asked("blobs")


def test_offline_after_the_first_pull(storage, registry, pushed, client, tmp_path):
    with Registry(storage, tmp_path / "registry") as gone:
        reference = pushed.at(gone)
        client.ok("pull", reference)
    assert client.json("images")[0]["id"] == pushed.digest
    assert client.json("inspect", reference)[0]["Id"] == pushed.digest
    client.ok("history", reference)
    client.ok("du")
    client.ok("fsck")
    client.ok("tag", reference, "other:name")
    client.ok("rmi", reference)
    assert client.json("inspect", "other:name")[0]["Id"] == pushed.digest
    client.refused(["pull", reference], "Connection refused|refused", gone.host)


# ---- What is fetched, and how often ----

def test_only_new_layers_are_fetched(registry, front, client, tmp_path):
    base, top, other = random_tar("base", 400_000), random_tar("top", 10_000), random_tar("other", 20_000)
    first = registry.put(layout(tmp_path / "one", base, top), "test/one")
    second = registry.put(layout(tmp_path / "two", base, other), "test/two")
    client.ok("pull", first.at(front))
    front.forget()
    client.ok("pull", second.at(front))
    assert fetched(front, second.layers[0]) == 0
    assert fetched(front, second.layers[1]) == second.layers[1]["size"]
    client.same_as(tmp_path / "two")
    usage = client.json("du")
    assert len(usage["images"]) == 2
    for told in usage["images"]:
        assert told["shared_bytes"] >= 400_000 > told["unique_bytes"] > 0, told


def test_the_same_layer_twice_in_one_image(registry, front, client, tmp_path):
    twice = random_tar("twice", 50_000)
    made = registry.put(layout(tmp_path / "image", twice, random_tar("between"), twice), "test/twice")
    client.ok("pull", made.at(front))
    assert fetched(front, made.layers[0]) == made.layers[0]["size"]
    client.same_as(tmp_path / "image")


def test_two_at_once_fetch_each_blob_once(front, pushed, client, tmp_path):
    held = [front.hold(f"GET .*{layer['digest']}", after=10_000) for layer in pushed.layers]
    first = client.start("pull", pushed.at(front))
    for hold in held:
        hold.reached()
    second = client.start("pull", pushed.at(front))
    eventually(lambda: len(front.asked("manifests/latest")) > 1, "the second asks too")
    for hold in held:
        hold.release()
    for process in (first, second):
        assert process.wait(60) == 0, process.stderr.read()
    for layer in pushed.layers:
        assert fetched(front, layer) == layer["size"]
    client.same_as(tmp_path / "layout")


def test_layers_come_in_parallel_but_not_all_at_once(registry, front, client, tmp_path):
    made = push_image(registry, tmp_path / "layout", "test/parallel", sizes=[50_000] * 7)
    held = [front.hold(f"GET .*{layer['digest']}", after=1000) for layer in made.layers]
    process = client.start("pull", made.at(front))
    eventually(lambda: sum(hold.arrived.is_set() for hold in held) >= 4, "four layers come at once")
    assert sum(hold.arrived.is_set() for hold in held) == 4
    for hold in held:
        hold.release()
    assert process.wait(60) == 0, process.stderr.read()
    client.same_as(tmp_path / "layout")


# ---- Cuts ----

@pytest.mark.parametrize("seed", range(3))
def test_cuts_at_random_bytes_are_resumed(registry, front, client, tmp_path, seed):
    rng = random.Random(seed)
    made = push_image(registry, tmp_path / "layout", "test/cuts", sizes=(2_000_000, 700_000, 1000))
    for layer in made.layers:
        front.rule(f"GET .*{layer['digest']}", cut(lambda response: rng.randrange(response.size())), 3)
    client.ok("pull", made.at(front))
    for layer in made.layers:
        asked = front.asked(f"GET .*{layer['digest']}")
        assert len(asked) == 4
        assert sum(request.sent for request in asked) < 2 * layer["size"]
        assert [r for r in asked if "range" in r.headers] or asked[0].sent == 0
    client.same_as(tmp_path / "layout")


def test_cut_documents_are_asked_for_again(front, pushed, client, tmp_path):
    front.rule("GET .*/manifests/", cut(20), 1)
    front.rule(f"GET .*{pushed.manifest['config']['digest']}", cut(20), 1)
    client.ok("pull", pushed.at(front))
    client.same_as(tmp_path / "layout")


def test_a_server_that_knows_no_ranges(front, pushed, client, tmp_path):
    layer = pushed.layers[0]
    front.rule(f"GET .*{layer['digest']}", cut(150_000), 1)
    front.rule(f"GET .*{layer['digest']}", ignoring_range)
    client.ok("pull", pushed.at(front))
    assert [request.sent for request in front.asked(layer["digest"])] == [150_000, layer["size"]]
    client.same_as(tmp_path / "layout")


def test_a_range_that_is_not_what_was_asked_for(front, pushed, client, tmp_path):
    """206 from another byte on: taken, it would be damage; it is not taken."""
    layer = pushed.layers[0]
    front.rule(f"GET .*{layer['digest']}", cut(150_000), 1)

    def wrong(request, forward):
        request.headers["range"] = "bytes=100-"
        return forward()

    front.rule(f"GET .*{layer['digest']}", wrong, 1)
    client("pull", pushed.at(front))
    client.ok("pull", pushed.at(front))
    client.same_as(tmp_path / "layout")


def test_killed_and_resumed(front, pushed, client, tmp_path):
    layer = pushed.layers[0]
    held = front.hold(f"GET .*{layer['digest']}", after=200_000)
    process = client.start("pull", pushed.at(front))
    held.reached()
    eventually(lambda: client.partials().get(layer["digest"][7:], 0) >= 190_000, "what came is on disk")
    process.kill()
    process.wait()
    held.release()
    have = client.partials()[layer["digest"][7:]]
    front.forget()
    client.ok("pull", pushed.at(front))
    (asked,) = front.asked(f"GET .*{layer['digest']}")
    assert asked.headers["range"].startswith(f"bytes={have}-")
    assert asked.sent == layer["size"] - have
    assert client.partials() == {}
    client.same_as(tmp_path / "layout")


def test_a_damaged_half_is_not_resumed_for_ever(front, pushed, client, tmp_path):
    layer = pushed.layers[0]
    held = front.hold(f"GET .*{layer['digest']}", after=200_000)
    process = client.start("pull", pushed.at(front))
    held.reached()
    eventually(lambda: client.partials().get(layer["digest"][7:], 0) >= 190_000, "what came is on disk")
    process.kill()
    process.wait()
    held.release()
    path = client.store / "partial" / layer["digest"][7:]
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    client("pull", pushed.at(front))  # may find it, and either begin anew or say so
    client.ok("pull", pushed.at(front))
    client.same_as(tmp_path / "layout")


def test_interrupted_by_ctrl_c(front, pushed, client, tmp_path):
    layer = pushed.layers[0]
    held = front.hold(f"GET .*{layer['digest']}", after=200_000)
    process = client.start("pull", pushed.at(front))
    held.reached()
    eventually(lambda: client.partials().get(layer["digest"][7:], 0) >= 190_000, "what came is on disk")
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == -signal.SIGINT  # as a shell expects it, which then says 130
    held.release()
    text = process.stderr.read().decode()
    assert "Traceback" not in text and text.count("\n") <= 1, text
    assert client.json("images") == []
    front.forget()
    client.ok("pull", pushed.at(front))
    (asked,) = front.asked(f"GET .*{layer['digest']}")
    assert "range" in asked.headers
    client.same_as(tmp_path / "layout")


def test_a_line_for_each_layer_on_a_terminal(front, pushed, client):
    """Bytes and time left while one comes; quiet without a terminal, as Client.ok() checks everywhere."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 100))
    held = [front.hold(f"GET .*{layer['digest']}", after=100_000) for layer in pushed.layers]
    process = client.start("pull", pushed.at(front), stderr=theirs)
    os.close(theirs)
    for hold in held:
        hold.reached()
    shown = b""
    deadline = time.monotonic() + 30
    while not all(layer["digest"][7:19].encode() in shown for layer in pushed.layers) or b"kB/" not in shown:
        assert select.select([ours], [], [], max(0, deadline - time.monotonic()))[0], shown
        shown += os.read(ours, 4096)
    for hold in held:
        hold.release()
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # EIO: the last writer is gone
            break
    os.close(ours)
    assert process.wait(60) == 0, shown
    assert shown.count(b"  done") >= len(pushed.layers), shown  # what became of each stays
    assert shown.removesuffix(b"\x1b[J").endswith(b"\n"), shown


# ---- Busy and failing servers ----

@pytest.mark.parametrize("what", ["manifests", "blobs"])
def test_429_waits_as_long_as_it_is_told(front, pushed, client, what):
    front.rule(f"GET .*/{what}/", errors(429, "TOOMANYREQUESTS", "slow down", {"Retry-After": "2"}), 1)
    begin = time.monotonic()
    client.ok("pull", pushed.at(front))
    assert time.monotonic() - begin >= 2


def test_429_for_long_is_told_and_not_waited_for(front, pushed, client):
    front.rule("/v2/", errors(429, "TOOMANYREQUESTS", "you have reached your pull rate limit",
                              {"Retry-After": "3600"}))
    begin = time.monotonic()
    client.refused(["pull", pushed.at(front)], front.host, "limit|429|too many", "60 min|3600|1 h|hour|until")
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize("code", [500, 502, 503, 504])
def test_5xx_is_tried_again(front, pushed, client, tmp_path, code):
    front.rule("HEAD|GET", status(code, body=b"<html>busy</html>", content_type="text/html"), 2)
    front.rule(f"GET .*{pushed.layers[0]['digest']}", status(code), 1)
    client.ok("pull", pushed.at(front))
    client.same_as(tmp_path / "layout")


def test_5xx_for_ever_is_refused(front, pushed, client):
    front.rule("blobs/" + pushed.layers[0]["digest"], status(503))
    client.refused(["pull", pushed.at(front)], "503", front.host)
    assert 2 <= len(front.asked(pushed.layers[0]["digest"])) <= 10


# ---- Kinds of images ----

def test_docker_schema_2(registry, client, tmp_path):
    made = layout(tmp_path / "layout", random_tar("a"), random_tar("b"))
    skopeo("copy", "--dest-tls-verify=false", "--format", "v2s2", f"oci:{made}:latest",
           f"docker://{registry.host}/test/v2s2:latest")
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{registry.host}/test/v2s2:latest")
    assert json.loads(raw)["mediaType"] == DOCKER + "v2+json"
    reference = f"{registry.host}/test/v2s2"
    client.ok("pull", reference)
    client.same_as(made)
    assert client.json("inspect", reference)[0]["Id"] == "sha256:" + hashlib.sha256(raw.encode()).hexdigest()


@pytest.mark.parametrize("compression", ["", "+gzip", "+zstd"])
def test_compressions(registry, client, tmp_path, compression):
    made = push_image(registry, tmp_path / "layout", "test/compression", compression=compression)
    client.ok("pull", made.ref)
    client.same_as(tmp_path / "layout")


def test_zstd_by_skopeo(registry, client, tmp_path):
    made = layout(tmp_path / "layout", random_tar("a"), random_tar("b"))
    skopeo("copy", "--dest-tls-verify=false", "--dest-compress-format", "zstd", f"oci:{made}:latest",
           f"docker://{registry.host}/test/zstd:latest")
    raw = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{registry.host}/test/zstd:latest"))
    assert all(layer["mediaType"].endswith("zstd") for layer in raw["layers"])
    client.ok("pull", f"{registry.host}/test/zstd")
    client.same_as(made)


def index_of(registry, directory, repository, media_type):
    """An index with an image for each of three platforms and an attestation; the manifests' digests by platform."""
    manifests, digests = [], {}
    for name, platform in (("arm", {"architecture": "arm", "variant": "v7"}), ("amd64", {"architecture": "amd64"}),
                           ("arm64", {"architecture": "arm64", "variant": "v8"})):
        made = layout(directory / name, random_tar(name, 20_000), platform=platform)
        pushed = registry.put(made, repository, tag=name)
        manifests.append({"mediaType": MANIFEST, "digest": pushed.digest,
                          "size": len(registry.read(pushed.digest)), "platform": {"os": "linux", **platform}})
        digests[name] = pushed.digest
    manifests.append({**manifests[0], "platform": {"os": "unknown", "architecture": "unknown"},
                      "annotations": {"vnd.docker.reference.type": "attestation-manifest"}})
    data = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}).encode()
    registry.put_manifest(repository, "latest", data, media_type)
    return "sha256:" + hashlib.sha256(data).hexdigest(), digests


@pytest.mark.parametrize("media_type", [INDEX, DOCKER + "list.v2+json"])
def test_platform_is_chosen_from_an_index(registry, front, client, tmp_path, media_type):
    root, digests = index_of(registry, tmp_path, "test/index", media_type)
    reference = f"{front.host}/test/index:latest"
    client.ok("pull", reference)
    (told,) = client.json("inspect", reference)
    assert told["Id"] == digests[ARCH]
    assert told["RepoDigests"] == [f"{front.host}/test/index@{root}"]
    front.forget()
    client.ok("pull", reference)
    assert [request.method for request in front.seen] == ["HEAD"]
    client.ok("pull", "--platform", f"linux/{OTHER}", reference)
    assert client.json("inspect", "--platform", f"linux/{OTHER}", reference)[0]["Id"] == digests[OTHER]
    assert client.json("inspect", "--platform", f"linux/{ARCH}", reference)[0]["Id"] == digests[ARCH]
    client.ok("pull", "--platform", "linux/arm/v7", f"{front.host}/test/index@{root}")
    client.refused(["pull", "--platform", "linux/riscv64", reference], "linux/riscv64", "linux/amd64")


def test_other_platforms_are_not_fetched(registry, front, client, tmp_path):
    _, digests = index_of(registry, tmp_path, "test/index2", INDEX)
    client.ok("pull", f"{front.host}/test/index2")
    assert not front.asked(f"manifests/{digests['arm']}")
    assert len(front.asked("GET .*blobs/")) == 2  # config and layer


# ---- Large things ----

def test_layer_of_ten_thousand_entries(registry, client, tmp_path):
    t = oci.Tar(EPOCH)
    for number in range(10_000):
        t.add(f"many/{number % 100}/{number}", data=b"%d" % number)
    made = registry.put(layout(tmp_path / "layout", t.done()), "test/many")
    client.ok("pull", made.ref)
    client.same_as(tmp_path / "layout")


def gibibyte(directory):
    """A layer of 1 GiB that does not compress (AES in counter mode over nothing), as a zstd blob: (path, digest,
    diff id, size)."""
    head = oci.header(b"gibibyte", oci.FILE, 0o644, 0, 0, 1 << 30, EPOCH, b"", 0, 0)
    script = """set -e -o pipefail
        { cat "$1/head"
          head -c 1073741824 /dev/zero | openssl enc -aes-128-ctr -K "$2" -iv "$2"
          head -c 1024 /dev/zero
        } | tee >(sha256sum >"$1/diff") | zstd -q -1 | tee >(sha256sum >"$1/digest") >"$1/blob"
        wait"""
    (directory / "head").write_bytes(head)
    subprocess.run(["bash", "-c", script, "bash", directory, "0123456789abcdef" * 2], check=True)
    eventually(lambda: all((directory / name).read_text() for name in ("diff", "digest")), "sha256sum has written")
    diff, digest = ("sha256:" + (directory / name).read_text().split()[0] for name in ("diff", "digest"))
    return directory / "blob", digest, diff, (directory / "blob").stat().st_size


def test_layer_of_a_gibibyte_in_64_mib(registry, client, tmp_path):
    """The command at its peak and the child that converts at its peak, as if both came at once. What they share counts
    twice. One layer, so one child at a time."""
    needs_program("zstd")
    path, digest, diff, size = gibibyte(tmp_path)
    registry.adopt("test/gibibyte", path, digest)
    made = oci.Layout(str(tmp_path / "layout"))
    config = made.blob(oci.as_json({"architecture": ARCH, "os": "linux", "config": {},
                                    "rootfs": {"type": "layers", "diff_ids": [diff]}}), oci.CONFIG)
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
                "layers": [{"mediaType": oci.LAYER + "+zstd", "digest": digest, "size": size}]}
    made.manifests.append(made.blob(oci.as_json(manifest), MANIFEST) |
                          {"annotations": {"org.opencontainers.image.ref.name": "latest"}})
    made.done()
    reference = registry.put(tmp_path / "layout", "test/gibibyte").ref
    process = client.start("pull", reference)
    own, children = peak_of(process)
    assert process.returncode == 0, process.stderr.read()
    registry.file(digest).unlink()
    (data,) = client.store.glob("layers/*/data")
    assert data.stat().st_size == 1 << 30
    assert client.partials() == {}
    assert own + children <= 64 << 10, f"{own} KiB of the command, {children} KiB of its largest child"
    client.ok("prune", "--all")  # not to be kept with what pytest keeps
    assert not list(client.store.glob("layers/*"))


def peak_of(process):
    """Waits for it. KiB at the peak of the process itself and of its largest child: their VmHWM, which only grows,
    looked at until they end. (ru_maxrss of a process that was waited for is mixed with its own children's.)"""
    peaks = {}
    while process.poll() is None:
        for pid in [process.pid, *descendants(process.pid)]:
            if found := high_water(pid):
                peaks[pid] = found
        time.sleep(0.02)
    own = peaks.pop(process.pid)
    return own, max(peaks.values(), default=0)


def descendants(pid):
    try:
        found = [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return found + [below for child in found for below in descendants(child)]


def high_water(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM:")), 0)
