# SPDX-License-Identifier: Apache-2.0
"""The doubles are right: skopeo and curl, which know registries, see in them what they should."""
import json
import subprocess

import pytest

from conftest import needs_program
from doubles import (BlobStore, ForwardProxy, Front, Lying, TokenServer, cut, errors, ignoring_range, part, short,
                     tampered)
from registry import PASSWORD, USER, Registry, SigningTokenServer, layout, push_image, random_tar, skopeo


@pytest.fixture(scope="module")
def pushed(registry, tmp_path_factory):
    return push_image(registry, tmp_path_factory.mktemp("image") / "layout", "doubles/image")


def copy(image, host, directory, *args):
    skopeo("copy", "--src-tls-verify=false", *args, f"docker://{image.at(host)}", f"dir:{directory}")
    found = json.loads((directory / "manifest.json").read_text())
    assert found == image.manifest
    for layer in found["layers"]:
        assert (directory / layer["digest"][7:]).stat().st_size == layer["size"]


def curl(*args):
    return subprocess.run([needs_program("curl"), "-sS", *args], capture_output=True)


def test_registries_share_their_storage(pushed, registry, tls_registry, private_registry, tmp_path):
    copy(pushed, registry, tmp_path / "plain")
    copy(pushed, tls_registry, tmp_path / "tls")
    copy(pushed, private_registry, tmp_path / "private", "--src-creds", f"{USER}:{PASSWORD}")
    answer = curl("--cacert", tls_registry.tls[0].parent / "ca.crt", "-o", "/dev/null", "-w", "%{http_version}",
                  f"https://{tls_registry.host}/v2/")
    assert answer.stdout == b"2"


@pytest.mark.parametrize("field", ["token", "access_token"])
def test_tokens(pushed, registry, double, tmp_path, field):
    tokens = double(TokenServer, users={USER: PASSWORD}, field=field)
    front = double(Front, registry.host, tokens)
    copy(pushed, front, tmp_path / "copy", "--src-creds", f"{USER}:{PASSWORD}")
    assert tokens.seen[0].query["scope"] == ["repository:doubles/image:pull"]
    assert tokens.refused[0] == "none"
    assert curl("-f", f"{front.url}/v2/doubles/image/manifests/latest").returncode == 22


def test_a_registry_accepts_signed_tokens(pushed, storage, authority, double, tmp_path):
    tokens = double(SigningTokenServer, authority)
    with Registry(storage, tmp_path / "registry", tokens=tokens) as behind:
        copy(pushed, behind, tmp_path / "copy")
    assert tokens.asked("/token")


def test_redirects(pushed, registry, double, tmp_path):
    store = double(BlobStore, registry.read)
    front = double(Front, registry.host, store=store)
    copy(pushed, front, tmp_path / "copy")
    assert len(store.seen) == 1 + len(pushed.layers)
    layer = pushed.layers[0]["digest"]
    address = f"{front.url}/v2/doubles/image/blobs/{layer}"
    assert curl("-fL", "-H", "Range: bytes=10-19", address).stdout == registry.read(layer)[10:20]
    assert curl("-fL", "--oauth2-bearer", "x", "--location-trusted", address).returncode == 22


def test_faults(pushed, registry, double):
    front = double(Front, registry.host)
    address = f"{front.url}/v2/doubles/image/blobs/{pushed.layers[0]['digest']}"
    whole = registry.read(pushed.layers[0]["digest"])
    assert curl(address).stdout == whole
    front.rule("blobs", cut(1000), 1)
    answer = curl(address)
    assert answer.returncode == 56 and answer.stdout == whole[:1000]  # the connection was reset
    front.rule("blobs", short(), 1)
    answer = curl(address)
    assert answer.returncode == 18 and answer.stdout == whole[:-1]
    front.rule("blobs", tampered(), 1)
    assert curl(address).stdout not in (whole, b"")
    assert curl("-H", "Range: bytes=5-", address).stdout == whole[5:]
    front.rule("blobs", ignoring_range, 1)
    assert curl("-H", "Range: bytes=5-", address).stdout == whole
    front.rule("blobs", errors(429, "TOOMANYREQUESTS", "slow down", {"Retry-After": "1"}), 1)
    answer = curl("-i", address)
    assert b"429" in answer.stdout and b"Retry-After: 1" in answer.stdout
    held = front.hold("blobs", after=500)
    with subprocess.Popen([needs_program("curl"), "-sS", address], stdout=subprocess.PIPE) as process:
        held.reached()
        assert process.poll() is None
        held.release()
        assert process.communicate()[0] == whole
    assert len(front.asked("blobs")) == 8


def test_lies(double, tmp_path):
    lying = double(Lying)
    made = layout(tmp_path / "image", random_tar("a"))
    for blob in (made / "blobs/sha256").iterdir():
        lying.blobs["sha256:" + blob.name] = blob.read_bytes()
    descriptor = json.loads((made / "index.json").read_text())["manifests"][0]
    lying.manifest(lying.blobs[descriptor["digest"]], tag="latest")
    skopeo("copy", "--src-tls-verify=false", f"docker://{lying.host}/x:latest", f"dir:{tmp_path}/copy")
    assert part(lying.seen[0], b"x").status == 200


def test_forward_proxy(pushed, registry, tls_registry, double):
    proxy = double(ForwardProxy, users={USER: PASSWORD})
    path = f"/v2/doubles/image/blobs/{pushed.layers[0]['digest']}"
    whole = registry.read(pushed.layers[0]["digest"])
    known = ["--proxy", proxy.url, "--proxy-user", f"{USER}:{PASSWORD}"]
    assert curl(*known, f"http://registry.test:{registry.port}{path}").stdout == whole
    assert curl(*known, "--cacert", tls_registry.tls[0].parent / "ca.crt",
                f"https://registry.test:{tls_registry.port}{path}").stdout == whole
    assert curl("-f", "--proxy", proxy.url, f"http://registry.test:{registry.port}{path}").returncode == 22
    assert [request.method for request in proxy.seen] == ["GET", "CONNECT", "GET"]
