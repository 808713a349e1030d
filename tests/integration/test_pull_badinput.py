# SPDX-License-Identifier: Apache-2.0
"""Bad input from registries, and stores that can't be written: one sentence each, exit code 125, the store as before.

What concerns logins, tokens, redirects and TLS is in test_registry_auth.py, busy servers in test_registry.py.
"""
import concurrent.futures
import json
import os
import subprocess

import pytest

from conftest import needs_root, refused
from doubles import INDEX, MANIFEST, Front, Lying, changed, errors, short, status, tampered
from registry import ARCH, Client, layout, oci, push_image, random_tar

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


class Served:
    """A good image of two layers in a lying registry, for tests to spoil."""

    def __init__(self, lying, directory):
        self.lying = lying
        self.path = layout(directory, random_tar("a"), random_tar("b"))
        for blob in (self.path / "blobs/sha256").iterdir():
            lying.blobs["sha256:" + blob.name] = blob.read_bytes()
        descriptor = json.loads((self.path / "index.json").read_text())["manifests"][0]
        self.digest = descriptor["digest"]
        self.manifest = json.loads(lying.blobs[self.digest])
        self.serve(lying.blobs[self.digest])
        self.ref = f"{lying.host}/some/app:latest"

    def serve(self, document, media_type=MANIFEST):
        return self.lying.manifest(document, media_type, "latest")

    def descriptor(self, which):
        return {"config": self.manifest["config"], "first layer": self.manifest["layers"][0],
                "last layer": self.manifest["layers"][-1]}[which]


@pytest.fixture
def served(double, tmp_path):
    return Served(double(Lying), tmp_path / "layout")


def test_the_good_image_is_good(served, client):
    client.ok("pull", served.ref)
    client.same_as(served.path)


# ---- There is nobody, or nothing ----

def test_unknown_host(client):
    client.refused(["pull", "no-such-host.invalid/app"], "no-such-host.invalid", "host|name|resolve")


def test_refused_connection(client):
    client.refused(["pull", "127.0.0.1:1/app"], "127.0.0.1:1", "refused")


def test_no_such_tag(registry, client, tmp_path):
    pushed = push_image(registry, tmp_path / "layout", "bad/tags")
    client.refused(["pull", f"{registry.host}/bad/tags:other"], f"{registry.host}/bad/tags:other")
    nothing = "sha256:" + "0" * 64
    client.refused(["pull", f"{registry.host}/bad/tags@{nothing}"], nothing)
    assert pushed.digest


def test_no_such_repository(registry, client):
    client.refused(["pull", f"{registry.host}/bad/nothing"], f"{registry.host}/bad/nothing")


def test_not_a_registry(double, client):
    lying = double(Lying)
    lying.rule("", status(404, body=b"<html>not here</html>", content_type="text/html"))
    client.refused(["pull", f"{lying.host}/app"], lying.host)
    lying.forget()
    lying.rule("", status(200, body=b"<html>welcome</html>", content_type="text/html"))
    client.refused(["pull", f"{lying.host}/app"], lying.host, "web page")


@pytest.mark.parametrize("reference", ["host/UPPER/case", "a//b", "host:99999999/x", "x:", "x@sha256:12", "-x", "",
                                       "a b", "x" * 5000, "[::1/x", "x@md5:d41d8cd98f00b204e9800998ecf8427e"],
                         ids=range(11))
def test_references_that_are_none(client, reference):
    client.refused(["pull", "--", reference], "(?i)reference|name|repository|port|tag|digest")


@pytest.mark.parametrize("kind", ["oci:/no/such", "oci-archive:/no/such.tar", "docker-archive:/no/such.tar"])
def test_only_registries_are_pulled_from(client, kind):
    client.refused(["pull", kind], r"/no/such")


# ---- Manifests ----

@pytest.mark.parametrize("media_type, words", [
    ("text/html", "web page"), ("application/json", "application/json"),
    ("application/vnd.example.thing+json", r"vnd.example.thing\+json"),
    ("application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1")])
def test_wrong_content_type(served, client, media_type, words):
    document = dict(served.manifest)
    document.pop("mediaType")
    served.serve(document if words != "schema 1" else {"schemaVersion": 1}, media_type)
    client.refused(["pull", served.ref], words, served.lying.host)


def test_bytes_decide_what_a_document_is(served, client):
    """A digest stands for bytes, and not for a header that came with them: a manifest that is served as an index is a
    manifest. One that can be read as both is refused (CVE-2021-41190)."""
    served.serve(served.manifest, INDEX)
    client.ok("pull", served.ref)
    client.same_as(served.path)
    both = served.manifest | {"manifests": [{"mediaType": MANIFEST, "digest": served.digest, "size": 1}]}
    for document in (both, {k: v for k, v in both.items() if k != "mediaType"}, both | {"mediaType": INDEX}):
        for media_type in (MANIFEST, INDEX):
            served.serve(document, media_type)
            client.refused(["pull", served.ref], "both|two things")


ABSURD = {
    "empty": b"", "half": b'{"schemaVersion":2,', "list": b"[]", "number": b"7", "not UTF-8": b'{"a":"\xff"}',
    "deep": b"[" * 100_000 + b"]" * 100_000, "deep inside": b'{"annotations":' * 1000 + b"1" + b"}" * 1000,
    "no layers": b'{"schemaVersion":2}', "version 1": b'{"schemaVersion":1}', "version 99": b'{"schemaVersion":99}',
    "NUL": b'{"schemaVersion":2}\0',
    "trailing": b'{"schemaVersion":2}{}',
    "long string": b'{"schemaVersion":2,"x":"' + b"x" * 1_000_000 + b'"}',
}


@pytest.mark.parametrize("what", ABSURD)
@pytest.mark.parametrize("media_type", [MANIFEST, INDEX], ids=["manifest", "index"])
def test_absurd_document(served, client, what, media_type):
    served.serve(ABSURD[what], media_type)
    client.refused(["pull", served.ref], served.lying.host)


@pytest.mark.parametrize("change", [
    {"config": 7}, {"layers": {}}, {"layers": [7]}, {"layers": [{}]},
    {"config": {"mediaType": oci.CONFIG, "digest": "sha256:short", "size": 1}},
    {"config": {"mediaType": oci.CONFIG, "digest": "sha256:" + "0" * 64, "size": -1}},
    {"config": {"mediaType": oci.CONFIG, "digest": "sha256:" + "0" * 64, "size": 1 << 60}},
    {"config": {"mediaType": oci.CONFIG, "digest": "../../../etc/passwd", "size": 1}},
    {"layers": [{"mediaType": LAYER, "digest": "sha256:" + "0" * 64, "size": 1 << 62}]},
    {"layers": [{"mediaType": LAYER, "digest": "sha256:" + "0" * 64, "size": 10}] * 1000},
], ids=lambda change: json.dumps(change)[:40])
def test_absurd_manifest(served, client, change):
    served.serve(served.manifest | change)
    client.refused(["pull", served.ref], served.lying.host)
    assert not served.lying.asked("GET .*/blobs/sha256:0000")


@pytest.mark.parametrize("told", [True, False])
def test_oversized_manifest(served, client, told):
    """One that says how long it is, and one that goes on and on."""
    endless = (b" " * 65536 for _ in range(1 << 14))
    if told:
        served.lying.rule("GET .*manifests", changed(body=endless, length=1 << 30))
    else:
        served.lying.rule("GET .*manifests", changed(body=endless, headers={"Content-Length": None,
                                                                           "Connection": "close"}))
    client.refused(["pull", served.ref], "manifest", "larger|MiB|limit|too")
    assert sum(request.sent for request in served.lying.asked("manifests")) < 64 << 20


@pytest.mark.parametrize("which", ["tag", "digest"])
def test_manifest_with_another_digest(served, client, which):
    served.lying.rule("GET .*manifests", tampered(-2))
    reference = served.ref if which == "tag" else f"{served.lying.host}/some/app@{served.digest}"
    client.refused(["pull", reference], served.digest)


def test_header_with_another_digest(served, client):
    """Docker-Content-Digest in HEAD and GET that is not that of the bytes."""
    wrong = "sha256:" + "1" * 64
    served.lying.rule("manifests", changed(headers={"Docker-Content-Digest": wrong}))
    client.refused(["pull", served.ref], wrong)


@pytest.mark.parametrize("header", ["sha256:", "md5:0", "x" * 10_000])
def test_header_digest_that_is_none(served, client, header):
    served.lying.rule("manifests", changed(headers={"Docker-Content-Digest": header}))
    done = client("pull", served.ref)  # counts as none given: the bytes decide
    if done.returncode != 0:
        refused(done, served.lying.host)


# ---- Indexes ----

def nested(lying, depth, inner):
    for _ in range(depth):
        inner = lying.manifest({"schemaVersion": 2, "mediaType": INDEX, "manifests": [inner]}, INDEX)
    return inner


def test_deep_index(served, client):
    inner = {"mediaType": MANIFEST, "digest": served.digest, "size": len(served.lying.blobs[served.digest]),
             "platform": {"os": "linux", "architecture": ARCH}}
    top = nested(served.lying, 1, inner)
    client.ok("pull", f"{served.lying.host}/some/app@{top['digest']}")
    top = nested(served.lying, 40, inner)
    client.refused(["pull", f"{served.lying.host}/some/app@{top['digest']}"], "index", "nest|deep")


def test_cyclic_index(served, client):
    """A cycle can't have right digests: whoever follows one finds the first that is wrong."""
    zeros = "sha256:" + "0" * 64
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": INDEX, "digest": zeros, "size": 300}]}).ljust(300).encode()
    served.lying.manifest(data, INDEX, "latest")
    served.lying.manifests[zeros] = (INDEX, data)
    client.refused(["pull", served.ref], zeros)
    assert len(served.lying.asked("manifests")) < 10


def test_index_too_long(served, client):
    entry = {"mediaType": MANIFEST, "digest": served.digest, "size": 1, "platform": {"os": "linux",
                                                                                      "architecture": "s390x"}}
    served.serve({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] * 2000}, INDEX)
    client.refused(["pull", served.ref], "2000|1024|many")


def test_no_platform(served, client):
    entries = [{"mediaType": MANIFEST, "digest": served.digest, "size": 1, "platform": {"os": system,
                                                                                        "architecture": machine}}
               for system, machine in (("linux", "s390x"), ("windows", ARCH))]
    served.serve({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, INDEX)
    client.refused(["pull", served.ref], f"linux/{ARCH}", "linux/s390x", f"windows/{ARCH}")
    client.refused(["pull", "--platform", "nonsense", served.ref], "nonsense")
    served.serve({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}, INDEX)
    client.refused(["pull", served.ref], f"linux/{ARCH}")


def test_size_in_an_index_that_is_wrong(served, client):
    entry = {"mediaType": MANIFEST, "digest": served.digest, "size": 7, "platform": {"os": "linux",
                                                                                      "architecture": ARCH}}
    served.serve({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}, INDEX)
    client.refused(["pull", served.ref], served.digest, "7")


# ---- Layers that are not for us ----

@pytest.mark.parametrize("media_type, word", [
    ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "foreign"),
    ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "foreign|nondistributable|distribut"),
    ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
    ("application/vnd.oci.image.layer.v1.tar+xz", r"tar\+xz"),
    ("application/vnd.example.model", "vnd.example.model"),
])
def test_layers_refused_by_name(served, client, media_type, word):
    layers = [served.manifest["layers"][0], served.manifest["layers"][1] | {"mediaType": media_type,
                                                                           "urls": ["http://127.0.0.1:1/x"]}]
    served.serve(served.manifest | {"layers": layers})
    client.refused(["pull", served.ref], word)
    assert not served.lying.asked("GET .*/blobs/.*" + layers[0]["digest"])  # known before anything is fetched


def test_artifact_that_is_no_image(served, client):
    config = served.lying.blob(b"{}", "application/vnd.oci.empty.v1+json")
    served.serve(served.manifest | {"config": config, "artifactType": "application/vnd.example.sbom"})
    client.refused(["pull", served.ref], "application/vnd.(oci.empty|example.sbom)")


# ---- Blobs ----

BLOBS = ("config", "first layer", "last layer")
WRONG = ("tampered", "short", "long", "missing", "cut for ever", "less than told", "more than told")


@pytest.fixture(scope="module")
def wrong_blobs(tmp_path_factory):
    """All the cases below at the same time, as many of them wait for retries: (which, how) -> Future."""
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        yield {(which, how): pool.submit(wrong_blob, tmp_path_factory.mktemp("blob"), which, how)
               for how in WRONG for which in BLOBS}


@pytest.mark.parametrize("which", BLOBS)
@pytest.mark.parametrize("how", WRONG)
def test_blob_that_is_wrong(wrong_blobs, which, how):
    wrong_blobs[which, how].result()


def wrong_blob(directory, which, how):
    client = Client(directory / "client")
    with Lying() as lying:
        served = Served(lying, directory / "layout")
        descriptor = served.descriptor(which)
        digest, size = descriptor["digest"], descriptor["size"]
        good = lying.blobs[digest]
        pattern = f"GET .*/blobs/{digest}"
        if how == "tampered":
            lying.rule(pattern, tampered(size // 2))
        elif how == "short":  # an honest, but wrong length
            lying.blobs[digest] = good[:-10]
        elif how == "long":
            lying.blobs[digest] = good + b"x" * 100_000
        elif how == "missing":
            del lying.blobs[digest]
        elif how == "cut for ever":
            lying.rule(pattern, changed(cut=0))
        else:
            descriptor["size"] += -1 if how == "less than told" else 1
            served.serve(served.manifest)
        client.refused(["pull", served.ref], digest)
        assert client.json("images") == []
        # What was wrong does not stay: the same name is good as soon as the registry is.
        lying.forget()
        lying.blobs[digest] = good
        descriptor["size"] = len(good)
        served.serve(served.manifest)
        client.ok("pull", served.ref)
        client.same_as(served.path)


def test_short_body_with_an_orderly_end(served, client):
    """Content-Length promises more than comes: like a cut, so the rest is asked for."""
    served.lying.rule("blobs", short(5), 2)
    client.ok("pull", served.ref)
    client.same_as(served.path)


def test_wrong_diff_id(served, client):
    config = json.loads(served.lying.blobs[served.manifest["config"]["digest"]])
    config["rootfs"]["diff_ids"][1] = "sha256:" + "2" * 64
    served.serve(served.manifest | {"config": served.lying.blob(json.dumps(config).encode(), oci.CONFIG)})
    before = client("images", "--json").stdout
    refused(client("pull", served.ref), "2" * 64, "config")
    assert client("images", "--json").stdout == before


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"rootfs":7}', b'{"architecture":"amd64","os":"linux"}',
                                      b'{"rootfs":{"type":"layers","diff_ids":[]}}'], ids=range(6))
def test_absurd_config(served, client, document):
    descriptor = served.lying.blob(document, oci.CONFIG)
    served.serve(served.manifest | {"config": descriptor})
    client.refused(["pull", served.ref], "config|diff|unknown/unknown")


def test_hostile_text_is_not_shown_raw(served, client):
    """What a server says goes into a sentence, but not what it does to a terminal."""
    served.lying.rule("manifests", errors(400, "EVIL", "\x1b[2J\x07\r\n red \x9b31m" + "x" * 100_000))
    text = client.refused(["pull", served.ref], served.lying.host)
    assert text.isprintable() or not set(text.rstrip("\n")) & {"\x1b", "\x07", "\r", "\n", "\x9b"}
    assert len(text) < 5000


def test_answer_that_is_no_http(double, client):
    lying = double(Lying)

    def junk(_request, _forward):
        raise ConnectionError  # the double closes the connection without a word

    lying.rule("", junk)
    client.refused(["pull", f"{lying.host}/app"], lying.host)


def test_headers_without_end(served, client):
    served.lying.rule("manifests", changed(headers={f"X-{i}": "y" * 1000 for i in range(1000)}))
    client.refused(["pull", served.ref], served.lying.host)


# ---- The store ----

@pytest.mark.parametrize("size", ["200k", "1m"])
def test_disk_full(registry, client, tmp_path, size):
    needs_root()
    pushed = push_image(registry, tmp_path / "layout", "bad/full", sizes=(900_000, 900_000))
    client.store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", client.store], check=True)
    try:
        refused(client("pull", pushed.ref), "No space left|disk is full")
        client.listing()
        assert client.json("images") == []
        subprocess.run(["mount", "-o", "remount,size=64m", client.store], check=True)
        client.ok("pull", pushed.ref)
        client.ok("fsck")
    finally:
        subprocess.run(["umount", client.store], check=True)


def test_read_only_store(registry, client, tmp_path):
    needs_root()
    pushed = push_image(registry, tmp_path / "layout", "bad/readonly")
    other = push_image(registry, tmp_path / "other", "bad/readonly2")
    client.ok("pull", pushed.ref)
    subprocess.run(["mount", "--bind", client.store, client.store], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", client.store], check=True)
        client.refused(["pull", other.ref], "Read-only|read-only", str(client.store))
        client.refused(["rmi", pushed.ref], "Read-only|read-only")
        assert client.json("images")[0]["id"] == pushed.digest
        assert client.json("inspect", pushed.ref)[0]["Id"] == pushed.digest
    finally:
        subprocess.run(["umount", client.store], check=True)


def test_store_without_permission(registry, client, tmp_path):
    needs_root()
    pushed = push_image(registry, tmp_path / "layout", "bad/permission")
    client.store.mkdir(mode=0o700)
    for parent in client.store.parents:
        if not parent.stat().st_mode & 1:
            os.chmod(parent, parent.stat().st_mode | 0o111)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    probe = subprocess.run([*nobody, "test", "-x", client.home], check=False)
    if probe.returncode:
        pytest.skip("the tests' directory is not for everybody")
    done = client("pull", pushed.ref, prefix=nobody)
    if b"Permission denied" in done.stderr and b"supermachine:" not in done.stderr:
        pytest.skip("the build is not for everybody")
    refused(done, "(?i)permission denied", str(client.store))


def test_another_process_holds_the_lock(registry, client, tmp_path, double):
    """A pull at work: rmi waits for it only so long, then says who it is."""
    pushed = push_image(registry, tmp_path / "layout", "bad/lock")
    other = push_image(registry, tmp_path / "other", "bad/lock2")
    client.ok("pull", other.ref)
    front = double(Front, registry.host)
    held = front.hold(f"GET .*{pushed.layers[0]['digest']}", after=1000)
    process = client.start("pull", pushed.at(front))
    held.reached()
    text = refused(client("rmi", other.ref), str(process.pid), "supermachine")
    assert "pull" in text or "process" in text
    held.release()
    assert process.wait(60) == 0, process.stderr.read()
    client.ok("rmi", other.ref)
    client.ok("fsck")
