# SPDX-License-Identifier: Apache-2.0
"""Real registries for the tests: Debian's docker-registry on loopback, its certificates and users, and what is in it.

All registries of a session share one storage directory, so an image that was pushed to one can be pulled from each:
plain, over TLS, with users, with signed tokens. Images get there as layouts, by put() (this file's own few lines, bytes
as they are) or by skopeo.
"""
import base64
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time

import pytest

from conftest import CLI, OUT, ROOT, RUN_TIMEOUT, needs_program, refused
from doubles import DEADLINE, TokenServer

sys.path.insert(0, str(ROOT / "tests/images"))
import oci  # noqa: E402

EPOCH = 1700000000
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
USER, PASSWORD = "alice", "s3cret-" + secrets.token_hex(8)  # nobody may say this password


def openssl(*args, **kwargs):
    return subprocess.run([needs_program("openssl"), *map(str, args)], check=True, capture_output=True, **kwargs).stdout


class Authority:
    """A certificate authority of the tests' own."""

    def __init__(self, directory):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.cert, self.key = self.dir / "ca.crt", self.dir / "ca.key"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
                "/CN=Test authority", "-days", 30, "-keyout", self.key, "-out", self.cert)

    def issue(self, name, subject_names="IP:127.0.0.1,DNS:localhost,DNS:registry.test", days=30):
        """(certificate, key). With days=-1 it has expired."""
        cert, key, csr, extensions = (self.dir / f"{name}.{suffix}" for suffix in ("crt", "key", "csr", "ext"))
        openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", csr)
        extensions.write_text(f"subjectAltName={subject_names}\n")
        openssl("x509", "-req", "-in", csr, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial", "-days", days,
                "-extfile", extensions, "-out", cert)
        return cert, key


class Registry:
    """One docker-registry process. Use as a context."""

    def __init__(self, storage, directory, tls=None, client_ca=None, users=None, tokens=None):
        self.storage = pathlib.Path(storage)
        self.dir = pathlib.Path(directory)
        self.tls, self.client_ca, self.users, self.tokens = tls, client_ca, users, tokens
        self.process = None

    def config(self, port):
        http_part = {"addr": f"127.0.0.1:{port}", "secret": "of these tests"}
        if self.tls:
            http_part["tls"] = {"certificate": str(self.tls[0]), "key": str(self.tls[1])}
            if self.client_ca:
                http_part["tls"]["clientcas"] = [str(self.client_ca)]
        config = {"version": 0.1, "log": {"level": "warn", "accesslog": {"disabled": True}}, "http": http_part,
                  "storage": {"filesystem": {"rootdirectory": str(self.storage)}, "delete": {"enabled": True}}}
        if self.users:
            file = self.dir / "htpasswd"
            for user, password in self.users.items():
                made = subprocess.run([needs_program("htpasswd"), "-niB", "-C", "4", user], input=password + "\n",
                                      check=True, capture_output=True, text=True).stdout
                with file.open("a") as out:
                    out.write(made.strip() + "\n")
            config["auth"] = {"htpasswd": {"realm": "test registry", "path": str(file)}}
        if self.tokens:
            config["auth"] = {"token": {"realm": self.tokens.url + "/token", "service": self.tokens.service,
                                        "issuer": self.tokens.issuer, "rootcertbundle": str(self.tokens.cert)}}
        return config  # JSON is YAML

    def __enter__(self):
        program = needs_program("docker-registry")
        self.dir.mkdir(parents=True, exist_ok=True)
        for _ in range(5):  # another may take the port first
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            (self.dir / "config.yml").write_text(json.dumps(self.config(self.port)))
            self.log = open(self.dir / "log", "wb")
            self.process = subprocess.Popen([program, "serve", self.dir / "config.yml"], stdin=subprocess.DEVNULL,
                                            stdout=self.log, stderr=self.log, cwd=self.dir)
            if self.listens():
                self.host = f"127.0.0.1:{self.port}"
                return self
            self.stop()
        pytest.fail(f"docker-registry does not start: {(self.dir / 'log').read_text()[-2000:]}")

    def listens(self):
        deadline = time.monotonic() + DEADLINE
        while self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
            assert time.monotonic() < deadline, "docker-registry does not listen"
            time.sleep(0.01)
        return False

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.log.close()
            self.process = None

    def __exit__(self, *_):
        self.stop()

    # ---- Content. The layout of the storage is that of distribution's `filesystem` driver. ----

    def file(self, digest):
        hexadecimal = digest.removeprefix("sha256:")
        return self.storage / f"docker/registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"

    def read(self, digest):
        return self.file(digest).read_bytes()

    def adopt(self, repository, path, digest):
        """A blob that is a file, given to the registry without copying it: for large ones."""
        target = self.file(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, target)
        self.link(repository, digest)

    def link(self, repository, digest):
        where = self.storage / "docker/registry/v2/repositories" / repository / "_layers/sha256" / digest[7:]
        where.mkdir(parents=True, exist_ok=True)
        (where / "link").write_text(digest)

    def put_manifest(self, repository, reference, data, media_type):
        connection = http.client.HTTPConnection(self.host, timeout=DEADLINE)
        connection.request("PUT", f"/v2/{repository}/manifests/{reference}", data, {"Content-Type": media_type})
        reply = connection.getresponse()
        body = reply.read()
        connection.close()
        assert reply.status == 201, body

    def put(self, layout, repository, tag="latest", of="latest"):
        """An image or an index of an OCI layout, bytes as they are. Its Image."""
        layout = pathlib.Path(str(layout).removeprefix("oci:"))
        for descriptor in json.loads((layout / "index.json").read_text())["manifests"]:
            if descriptor.get("annotations", {}).get("org.opencontainers.image.ref.name") == of:
                self.put_tree(layout, repository, descriptor)
                data = (layout / "blobs/sha256" / descriptor["digest"][7:]).read_bytes()
                self.put_manifest(repository, tag, data, descriptor["mediaType"])
                return Image(self, repository, tag, descriptor["digest"], json.loads(data))
        raise KeyError(of)

    def put_tree(self, layout, repository, descriptor):
        path = layout / "blobs/sha256" / descriptor["digest"][7:]
        document = json.loads(path.read_bytes())
        for below in document.get("manifests", []):
            self.put_tree(layout, repository, below)
        for blob in [document["config"], *document["layers"]] if "config" in document else []:
            target = self.file(blob["digest"])
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(layout / "blobs/sha256" / blob["digest"][7:], target)
                except OSError:  # another file system
                    shutil.copyfile(layout / "blobs/sha256" / blob["digest"][7:], target)
            self.link(repository, blob["digest"])
        self.put_manifest(repository, descriptor["digest"], path.read_bytes(), descriptor["mediaType"])


class Image:
    """What was pushed."""

    def __init__(self, registry, repository, tag, digest, manifest):
        self.registry, self.repository, self.tag, self.digest = registry, repository, tag, digest
        self.manifest = manifest
        self.layers = manifest.get("layers", [])

    def at(self, host):
        """Its reference at another host: a front, a registry of the same storage."""
        return f"{getattr(host, 'host', host)}/{self.repository}:{self.tag}"

    @property
    def ref(self):
        return self.at(self.registry)

    @property
    def size(self):
        return sum(layer["size"] for layer in self.layers)


class SigningTokenServer(TokenServer):
    """Its tokens are JWTs that a docker-registry verifies by the certificate (distribution's "Token Authentication
    Specification"), so that the two check each other."""

    issuer = "token server of the tests"

    def __init__(self, authority, **kwargs):
        super().__init__(**kwargs)
        self.cert, self.key = authority.issue(f"tokens-{self.port}")

    def answer(self, request):
        response = super().answer(request)
        if response.status != 200:
            return response
        body = json.loads(response.body)
        scopes = [s for text in request.query.get("scope", []) for s in text.split(" ")]
        access = [{"type": kind, "name": name, "actions": actions.split(",")} for scope in scopes
                  for kind, name, actions in [scope.split(":")]]
        now = int(time.time())
        claims = {"iss": self.issuer, "sub": "someone", "aud": self.service, "nbf": now - 60, "iat": now,
                  "exp": now + int(self.seconds), "jti": secrets.token_hex(8), "access": access}
        der = base64.b64encode(openssl("x509", "-in", self.cert, "-outform", "DER")).decode()
        text = b".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=") for p in
                         ({"typ": "JWT", "alg": "RS256", "x5c": [der]}, claims))
        signature = openssl("dgst", "-sha256", "-sign", self.key, input=text)
        body[self.field] = (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()
        response.body = json.dumps(body).encode()
        return response


# ---- Images ----

def random_tar(name, size=200_000, files=4):
    t = oci.Tar(EPOCH)
    for i in range(files):
        t.add(f"{name}/{i}", data=os.urandom(size // files))
    return t.done()


def layout(path, *layers, compression="+gzip", config=None, platform=None):
    """An OCI layout made of tar archives, for this host's platform if nothing else is said."""
    made = oci.Layout(str(path))
    text = {"os": "linux", **(platform or {"architecture": ARCH}), "config": config or {}, "rootfs": {
        "type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]}}
    manifest = {"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": made.blob(oci.as_json(text), oci.CONFIG),
                "layers": [made.blob(oci.compress(layer, compression), oci.LAYER + compression) for layer in layers]}
    made.manifests.append(made.blob(oci.as_json(manifest), oci.MANIFEST) |
                          {"annotations": {"org.opencontainers.image.ref.name": "latest"}})
    made.done()
    return pathlib.Path(path)


def push_image(registry, path, repository, sizes=(300_000, 200_000), **kwargs):
    """A small image with layers that nobody else has."""
    layers = [random_tar(f"layer{i}", size) for i, size in enumerate(sizes)]
    return registry.put(layout(path, *layers, **kwargs), repository)


def skopeo(*args, **kwargs):
    done = subprocess.run([needs_program("skopeo"), *map(str, args)], capture_output=True, text=True, timeout=300,
                          stdin=subprocess.DEVNULL, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- The program under test ----

class Client:
    """The command with a store and a home of its own, so that no login or proxy of who runs the tests is used."""

    LEFT_OUT = re.compile(r"(XDG_|DOCKER_|REGISTRY_|SSL_CERT_|CURL_).*|(https?|all|no)_proxy|SUPERMACHINE_CONFIG",
                          re.IGNORECASE)

    def __init__(self, directory):
        self.home = directory / "home"
        self.store = directory / "store"
        self.home.mkdir(parents=True)
        self.env = {k: v for k, v in os.environ.items() if not self.LEFT_OUT.fullmatch(k)}
        self.env |= {"HOME": str(self.home), "SUPERMACHINE_HOME": str(self.store)}
        self.processes = []

    def __call__(self, *args, env=None, prefix=(), timeout=RUN_TIMEOUT, **kwargs):
        if "input" not in kwargs:
            kwargs.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run([*map(str, prefix), CLI, *map(str, args)], capture_output=True, timeout=timeout,
                              env=self.env | (env or {}), **kwargs)
        assert PASSWORD.encode() not in done.stdout + done.stderr, "a secret is shown"
        return done

    def ok(self, *args, **kwargs):
        """What it wrote to standard output. When not on a terminal, good news are quiet."""
        done = self(*args, **kwargs)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stderr == b"", done.stderr.decode()
        return done.stdout.decode()

    def json(self, verb, *args, **kwargs):
        return json.loads(self.ok(verb, "--json", *args, **kwargs))

    def refused(self, args, *words, **kwargs):
        """One sentence that holds these words. No name and no image has come or gone; layers and documents that were
        good by themselves may stay, as halves that can be resumed do, but nothing that is wrong."""
        before = self.listing()
        text = refused(self(*args, **kwargs), *words)
        changed = self.listing() ^ before
        assert not [name for name in changed if name.startswith(("names/", "images/"))], changed
        if changed:
            self.ok("fsck")
        return text

    def start(self, *args, env=None, **kwargs):
        for stream in ("stdout", "stderr"):
            kwargs.setdefault(stream, subprocess.PIPE)
        process = subprocess.Popen([CLI, *map(str, args)], env=self.env | (env or {}), stdin=subprocess.DEVNULL,
                                   **kwargs)
        self.processes.append(process)
        return process

    def listing(self):
        """Names of all objects in the store, and of what should not be there for long."""
        found = {path.relative_to(self.store).as_posix() for kind in ("layers", "images", "blobs", "names", "tmp")
                 for path in (self.store / kind).glob("*")}
        assert not [name for name in found if name.startswith("tmp/")], found
        return found

    def partials(self):
        return {path.name: path.stat().st_size for path in (self.store / "partial").glob("*")}

    def same_as(self, path):
        """The image in the store is the one that conversion makes of this layout: layers and merged metadata."""
        other = self.store.parent / "converted"
        shutil.rmtree(other, ignore_errors=True)
        subprocess.run([OUT / "tests/tools/convert", f"oci:{path}", "-", f"linux/{ARCH}"], check=True,
                       stdout=subprocess.DEVNULL, env=self.env | {"SUPERMACHINE_HOME": str(other)})
        made = [p.relative_to(other) for kind in ("layers", "images") for p in (other / kind).rglob("*") if p.is_file()]
        assert len(made) >= 3
        for name in made:
            assert (self.store / name).read_bytes() == (other / name).read_bytes(), name

    def docker_config(self, config, name=".docker/config.json"):
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config))
        return path

    def helper(self, name, script):
        """A credential helper docker-credential-NAME, found by $PATH."""
        path = self.home / "bin" / f"docker-credential-{name}"
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)
        self.env["PATH"] = f"{path.parent}:{os.environ['PATH']}"


def auth(user=USER, password=PASSWORD):
    """An entry of "auths"."""
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


# ---- Fixtures ----

@pytest.fixture
def client(tmp_path):
    it = Client(tmp_path / "client")
    yield it
    for process in it.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()



@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def storage(tmp_path_factory):
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="session")
def registry(storage, tmp_path_factory):
    """A plain one, for all tests."""
    with Registry(storage, tmp_path_factory.mktemp("plain")) as it:
        yield it


@pytest.fixture(scope="session")
def tls_registry(storage, authority, tmp_path_factory):
    """Over TLS (and so by HTTP/2 to who can), certificate of the tests' authority."""
    with Registry(storage, tmp_path_factory.mktemp("tls"), tls=authority.issue("tls")) as it:
        yield it


@pytest.fixture(scope="session")
def private_registry(storage, authority, tmp_path_factory):
    """TLS, and only for USER with PASSWORD."""
    with Registry(storage, tmp_path_factory.mktemp("private"), tls=authority.issue("private"),
                  users={USER: PASSWORD}) as it:
        yield it


@pytest.fixture
def double():
    """double(Class, ...): a double that ends with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda cls, *args, **kwargs: stack.enter_context(cls(*args, **kwargs))
