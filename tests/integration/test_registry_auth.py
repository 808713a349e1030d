# SPDX-License-Identifier: Apache-2.0
"""Who we are and whom we trust: logins and helpers, tokens, redirects, TLS, proxies, mirrors.

Client.__call__ checks after every command that the password was not shown.
"""
import json

import pytest

from conftest import needs_program, needs_root
from doubles import (BlobStore, ForwardProxy, Front, Response, TokenServer, cut, errors, server_context, status,
                     tampered)
from registry import PASSWORD, USER, Registry, SigningTokenServer, auth, push_image


@pytest.fixture(scope="module")
def pushed(registry, tmp_path_factory):
    return push_image(registry, tmp_path_factory.mktemp("pushed") / "layout", "private/app")


@pytest.fixture
def trusted(authority):
    return ["--ca-file", authority.cert]


# ---- Logins: a registry with htpasswd ----

def place_docker(client, host):
    client.docker_config({"auths": {host: auth()}})


def place_docker_config_variable(client, host):
    client.env["DOCKER_CONFIG"] = str(client.docker_config({"auths": {host: auth()}}, "elsewhere/config.json").parent)
    client.docker_config({"auths": {host: auth(password="old")}})  # would be wrong


def place_containers(client, host):
    client.docker_config({"auths": {host: auth()}}, ".config/containers/auth.json")


def place_containers_runtime(client, host):
    client.env["XDG_RUNTIME_DIR"] = str(client.home / "run")
    client.docker_config({"auths": {host: auth()}}, "run/containers/auth.json")


def place_registry_auth_file(client, host):
    client.env["REGISTRY_AUTH_FILE"] = str(client.docker_config({"auths": {host: auth()}}, "some/file.json"))


def place_repository(client, host):
    client.docker_config({"auths": {host: auth(password="of another"), f"{host}/private/app": auth()}},
                         ".config/containers/auth.json")


def place_helper(client, host):
    client.docker_config({"credHelpers": {host: "test"}, "auths": {host: {}}})
    client.helper("test", f'''[ "$1" = get ] && [ "$(cat)" = {host} ] || exit 9
        echo '{json.dumps({"ServerURL": host, "Username": USER, "Secret": PASSWORD})}' ''')


def place_store(client, host):
    client.docker_config({"credsStore": "everything", "auths": {host: {}}})
    client.helper("everything", f'''echo '{json.dumps({"ServerURL": host, "Username": USER, "Secret": PASSWORD})}' ''')


PLACES = {name[6:]: function for name, function in list(globals().items()) if name.startswith("place_")}


@pytest.mark.parametrize("place", PLACES)
def test_private(private_registry, pushed, client, trusted, place):
    PLACES[place](client, private_registry.host)
    client.ok("pull", *trusted, pushed.at(private_registry))
    assert client.json("inspect", pushed.at(private_registry))[0]["Id"] == pushed.digest


def test_auth_file_option(private_registry, pushed, client, trusted):
    file = client.docker_config({"auths": {private_registry.host: auth()}}, "given.json")
    client.ok("pull", *trusted, "--auth-file", file, pushed.at(private_registry))
    missing = ["pull", *trusted, "--auth-file", "/no/such/file", pushed.at(private_registry)]
    client.refused(missing, "/no/such/file", "exist")


def test_not_logged_in(private_registry, pushed, client, trusted):
    client.refused(["pull", *trusted, pushed.at(private_registry)], "log in|login", private_registry.host)
    client.docker_config({"auths": {private_registry.host: auth(password="wrong")}})
    client.refused(["pull", *trusted, pushed.at(private_registry)], "log in again", private_registry.host)


def test_a_password_goes_to_its_own_host_only(private_registry, registry, double, pushed, client):
    front = double(Front, registry.host)
    place_docker(client, private_registry.host)
    client.ok("pull", pushed.at(front))
    assert not [request for request in front.seen if "authorization" in request.headers]


HELPERS = {
    "missing": (None, "docker-credential-test", "not|PATH"),
    "fails": ("echo 'the keyring is locked' >&2; echo '" + PASSWORD + "'; exit 1", "docker-credential-test",
              "the keyring is locked"),
    "talks nonsense": ("echo 'not JSON, but " + PASSWORD + "'", "docker-credential-test"),
    "is killed": ("kill -9 $$", "docker-credential-test", "signal|SIGKILL|killed"),
    "floods": ("exec head -c 100000000 /dev/zero", "docker-credential-test"),
}


@pytest.mark.parametrize("how", HELPERS)
def test_helper_that(private_registry, pushed, client, trusted, how):
    script, *words = HELPERS[how]
    client.docker_config({"credHelpers": {private_registry.host: "test"}})
    if script:
        client.helper("test", script)
    client.refused(["pull", *trusted, pushed.at(private_registry)], *words)


def test_helper_that_knows_nothing_is_anonymous(registry, double, pushed, client):
    """A helper that has no login says so by these words (docker-credential-helpers); the image may be public."""
    front = double(Front, registry.host)
    client.docker_config({"credsStore": "test"})
    client.helper("test", "echo 'credentials not found in native keychain'; exit 1")
    client.ok("pull", pushed.at(front))


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": 7}', '{"auths":{"HOST":{"auth":"%%%"}}}', "\0"])
def test_login_file_that_is_none(private_registry, pushed, client, trusted, text):
    path = client.docker_config({})
    path.write_text(text.replace("HOST", private_registry.host))
    client.refused(["pull", *trusted, pushed.at(private_registry)], "config.json")


# ---- Tokens ----

@pytest.fixture
def tokens(double):
    return double(TokenServer, users={USER: PASSWORD})


def test_token(registry, double, tokens, pushed, client):
    front = double(Front, registry.host, tokens)
    place_docker(client, front.host)
    client.ok("pull", pushed.at(front))
    asked = tokens.asked("/token")
    assert len(asked) == 1  # one is good for the whole pull
    assert f"repository:{pushed.repository}:pull" in str(asked[0].query) + asked[0].body.decode().replace("%3A", ":")
    assert not [r for r in front.seen if r.headers.get("authorization", "").startswith("Basic")]


def test_token_for_anybody(registry, double, pushed, client):
    tokens = double(TokenServer, field="access_token")
    front = double(Front, registry.host, tokens)
    client.ok("pull", pushed.at(front))
    assert "authorization" not in tokens.seen[0].headers


def test_signed_tokens_of_a_real_registry(storage, authority, double, pushed, client, tmp_path):
    tokens = double(SigningTokenServer, authority, users={USER: PASSWORD})
    with Registry(storage, tmp_path / "registry", tokens=tokens) as behind:
        place_docker(client, behind.host)
        client.ok("pull", pushed.at(behind))
    assert tokens.issued


@pytest.mark.parametrize("uses", [2, 3, 4])
def test_tokens_that_end_in_the_middle(registry, double, pushed, client, uses):
    tokens = double(TokenServer, uses=uses)
    front = double(Front, registry.host, tokens)
    client.ok("pull", pushed.at(front))
    assert len(tokens.issued) >= 2 and "expired" in tokens.refused
    assert sum(r.sent for r in front.asked("GET .*blobs") if r.status == 200) == sum(
        layer["size"] for layer in [*pushed.layers, pushed.manifest["config"]])


def test_token_that_ends_while_a_layer_comes(registry, double, pushed, client):
    """What is on its way goes on; what is asked for after a cut needs a new one."""
    tokens = double(TokenServer)
    front = double(Front, registry.host, tokens)
    layer = pushed.layers[0]

    def end_and_cut(_request, forward):
        response = forward()
        response.cut = 100_000
        tokens.issued.clear()
        return response

    front.rule(f"GET .*{layer['digest']}", end_and_cut, 1)
    client.ok("pull", pushed.at(front))
    asked = [r for r in front.asked(f"GET .*{layer['digest']}") if r.status in (200, 206)]
    assert [r.sent for r in asked] == [100_000, layer["size"] - 100_000]
    assert "unknown" in tokens.refused and len(tokens.asked("/token")) >= 2


def test_token_that_says_when_it_ends(registry, double, pushed, client):
    """Good for no time at all by its own word: a new one for each request that comes later, and never a failure."""
    tokens = double(TokenServer, said_seconds=0)
    front = double(Front, registry.host, tokens)
    client.ok("pull", pushed.at(front))


def test_identity_token(registry, double, pushed, client):
    tokens = double(TokenServer, users={USER: PASSWORD}, field="access_token")
    tokens.refresh_tokens.add("refresh-" + PASSWORD)
    front = double(Front, registry.host, tokens)
    client.docker_config({"auths": {front.host: {"identitytoken": "refresh-" + PASSWORD}}})
    client.ok("pull", pushed.at(front))
    (asked,) = tokens.asked("/token")
    assert asked.method == "POST" and b"grant_type=refresh_token" in asked.body


def test_token_server_that_refuses(registry, double, tokens, pushed, client):
    front = double(Front, registry.host, tokens)
    client.refused(["pull", pushed.at(front)], "log in|login", front.host)
    client.docker_config({"auths": {front.host: auth(password="wrong")}})
    client.refused(["pull", pushed.at(front)], "log in|login", front.host)


def test_token_with_too_little_scope(registry, double, pushed, client):
    tokens = double(TokenServer)
    front = double(Front, registry.host, tokens)
    front.rule("manifests", lambda request, _: tokens.challenge("repository:private/app:pull", "insufficient_scope"))
    client.refused(["pull", pushed.at(front)], "log in|login|not allowed", front.host)
    assert len(front.seen) < 10


def test_forbidden(registry, double, pushed, client):
    front = double(Front, registry.host)
    front.rule("manifests", errors(403, "DENIED", "requested access to the resource is denied"))
    client.refused(["pull", pushed.at(front)], "logged in", front.host, "private/app")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"token":7}', b'{"token":"a\\r\\nX: y"}',
                                  b'{"token":"' + b"x" * 3_000_000 + b'"}'], ids=range(7))
def test_token_server_that_talks_nonsense(registry, double, tokens, pushed, client, body):
    front = double(Front, registry.host, tokens)
    tokens.rule("/token", status(200, body=body))
    client.refused(["pull", pushed.at(front)], f"token server of {front.host}|{tokens.host}")


@pytest.mark.parametrize("value", ["", "Bearer", 'Bearer realm="ftp://x/"', 'Bearer realm="not a url"', "Digest x=y",
                                   'Bearer realm="http://registry.invalid/token"', "Basic " + "x" * 60_000],
                         ids=range(7))
def test_challenge_that_is_none(registry, double, pushed, client, value):
    front = double(Front, registry.host)
    front.rule("/v2/", lambda *_: Response(401, {"WWW-Authenticate": value}))
    client.refused(["pull", pushed.at(front)], front.host)


# ---- Redirects ----

def test_redirect_drops_authorization(registry, double, tokens, pushed, client):
    store = double(BlobStore, registry.read)
    front = double(Front, registry.host, tokens, store)
    place_docker(client, front.host)
    client.ok("pull", pushed.at(front))
    assert len(store.seen) == 1 + len(pushed.layers)
    for request in store.seen:
        assert "authorization" not in request.headers, request
        assert "cookie" not in request.headers
    assert all(r.headers.get("authorization", "").startswith("Bearer") for r in front.asked("blobs"))


def test_redirect_drops_basic_authorization(registry, double, pushed, client):
    store = double(BlobStore, registry.read)
    front = double(Front, registry.host, store=store)
    front.rule("/v2/", lambda request, forward: forward() if "authorization" in request.headers else
               Response(401, {"WWW-Authenticate": 'Basic realm="x"'}))
    place_docker(client, front.host)
    client.ok("pull", pushed.at(front))
    assert len(store.seen) == 1 + len(pushed.layers)
    assert not [request for request in store.seen if "authorization" in request.headers]


def test_resumed_behind_a_redirect(registry, double, pushed, client):
    """A cut at the blob store: asked again of the registry, as the address may have ended."""
    store = double(BlobStore, registry.read)
    front = double(Front, registry.host, store=store)
    store.rule(pushed.layers[0]["digest"], cut(100_000), 1)
    client.ok("pull", pushed.at(front))
    asked = store.asked(pushed.layers[0]["digest"])
    assert len(asked) == 2 and sum(r.sent for r in asked) < 2 * pushed.layers[0]["size"]
    assert asked[1].headers["range"].startswith("bytes=")


def test_redirects_without_end(registry, double, pushed, client):
    front = double(Front, registry.host)
    front.rule("blobs", lambda request, _: Response(307, {"Location": front.url + request.target}))
    client.refused(["pull", pushed.at(front)], "redirect", front.host)
    assert len(front.seen) < 200


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://127.0.0.1/", "", "http://"])
def test_redirect_to_nowhere(registry, double, pushed, client, location):
    front = double(Front, registry.host)
    front.rule("blobs", lambda *_: Response(307, {"Location": location}))
    client.refused(["pull", pushed.at(front)], front.host)


def test_redirect_from_tls_to_plain_http(registry, authority, double, pushed, client, trusted):
    """Bytes are checked by digest, but who reads along is not: not without --plain-http."""
    store = double(BlobStore, registry.read)
    front = double(Front, registry.host, store=store, context=server_context(*authority.issue("front")))
    store.url = f"http://registry.test:{store.port}"
    proxy = double(ForwardProxy)
    client.env["http_proxy"] = proxy.url
    client.refused(["pull", *trusted, pushed.at(front)], "http")


# ---- TLS ----

def test_tls_and_http2(tls_registry, pushed, client, trusted):
    client.ok("pull", *trusted, pushed.at(tls_registry))
    assert client.json("inspect", pushed.at(tls_registry))[0]["Id"] == pushed.digest


def test_certificate_of_an_unknown_authority(tls_registry, pushed, client):
    client.refused(["pull", pushed.at(tls_registry)], tls_registry.host, "certificate", "--ca-file")


@pytest.mark.parametrize("where", ["configuration", ".config/containers", ".config/docker"])
def test_authority_that_files_name(tls_registry, authority, pushed, client, where):
    if where == "configuration":
        client.docker_config({"registries": {tls_registry.host: {"ca_file": str(authority.cert)}}},
                             ".config/supermachine/registries.json")
    else:
        directory = client.home / where / "certs.d" / tls_registry.host
        directory.mkdir(parents=True)
        (directory / "ca.crt").write_bytes(authority.cert.read_bytes())
    client.ok("pull", pushed.at(tls_registry))


def test_system_without_ca_certificates(registry, tls_registry, pushed, client, trusted):
    """Nobody is trusted then but who is named; and where no TLS is spoken none are needed."""
    needs_root()
    bare = [needs_program("unshare"), "-m", "sh", "-c", 'mount -t tmpfs tmpfs /etc/ssl/certs && exec "$@"', "sh"]
    client.refused(["pull", pushed.at(tls_registry)], "ca-certificates", "--ca-file", prefix=bare)
    client.ok("pull", pushed.at(registry), prefix=bare)
    client.ok("pull", *trusted, pushed.at(tls_registry), prefix=bare)


def tls_front(double, registry, authority, name, **kwargs):
    return double(Front, registry.host, context=server_context(*authority.issue(name, **kwargs)))


def test_certificate_that_has_expired(registry, authority, double, pushed, client, trusted):
    front = tls_front(double, registry, authority, "expired", days=-1)
    client.refused(["pull", *trusted, pushed.at(front)], front.host, "expired")


def test_certificate_of_another_host(registry, authority, double, pushed, client, trusted):
    front = tls_front(double, registry, authority, "other", subject_names="DNS:other.test")
    client.refused(["pull", *trusted, pushed.at(front)], front.host, "certificate", "name|host|another")


def test_plain_server_where_tls_is_spoken(registry, double, pushed, client, trusted):
    """registry.test is no loopback name, so TLS it is; a proxy finds the host."""
    front = double(Front, registry.host)
    proxy = double(ForwardProxy)
    text = client.refused(["pull", *trusted, pushed.at(f"registry.test:{front.port}")], "registry.test", "TLS",
                          "--plain-http", env={"https_proxy": proxy.url})
    assert "registry.test" in text


def test_tls_server_where_plain_http_is_spoken(tls_registry, pushed, client):
    client.refused(["pull", "--plain-http", pushed.at(tls_registry)], tls_registry.host, "HTTPS|TLS|400")


@pytest.mark.parametrize("content", [None, "", "not a certificate\n"])
def test_ca_file_that_is_none(tls_registry, pushed, client, tmp_path, content):
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_text(content)
    client.refused(["pull", "--ca-file", file, pushed.at(tls_registry)], str(file))


def test_client_certificate(storage, authority, pushed, client, trusted, tmp_path):
    with Registry(storage, tmp_path / "registry", tls=authority.issue("mutual"), client_ca=authority.cert) as mutual:
        cert, key = authority.issue("somebody")
        client.refused(["pull", *trusted, pushed.at(mutual)], mutual.host, "certificate")
        client.refused(["pull", *trusted, "--cert-file", cert, "--key-file", authority.key, pushed.at(mutual)],
                       "client certificate", "belong together|--key-file")
        client.ok("pull", *trusted, "--cert-file", cert, "--key-file", key, pushed.at(mutual))


# ---- Proxies ----

def test_http_proxy(registry, double, pushed, client):
    proxy = double(ForwardProxy, users={USER: "proxypw"})
    reference = pushed.at(f"registry.test:{registry.port}")
    env = {"http_proxy": f"http://{USER}:proxypw@{proxy.host}"}
    client.ok("pull", "--plain-http", reference, env=env)
    assert proxy.asked("GET http://registry.test")
    text = client.refused(["pull", "--plain-http", reference], "registry.test", "the proxy .* wants a login",
                          env={"http_proxy": f"http://{USER}:wr0ngpw@{proxy.host}"})
    assert "wr0ngpw" not in text


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy"])
def test_https_proxy(tls_registry, double, pushed, client, trusted, variable):
    proxy = double(ForwardProxy)
    client.ok("pull", *trusted, pushed.at(f"registry.test:{tls_registry.port}"), env={variable: proxy.url})
    assert proxy.asked(f"CONNECT registry.test:{tls_registry.port}")


def test_no_proxy(registry, double, pushed, client):
    proxy = double(ForwardProxy)
    client.ok("pull", pushed.ref, env={"http_proxy": proxy.url, "no_proxy": "example.test,127.0.0.1"})
    assert proxy.seen == []


def test_proxy_that_is_not_there(registry, pushed, client):
    client.refused(["pull", "--plain-http", pushed.at(f"registry.test:{registry.port}")], "127.0.0.1:1|proxy",
                   env={"http_proxy": "http://127.0.0.1:1"})


def test_plain_http_is_not_spoken_unasked(registry, double, pushed, client):
    proxy = double(ForwardProxy)
    client.refused(["pull", pushed.at(f"registry.test:{registry.port}")], "registry.test",
                   env={"http_proxy": proxy.url, "https_proxy": "http://127.0.0.1:1"})
    assert proxy.seen == []


# ---- Mirrors ----

def mirrored(client, host, *mirrors, **more):
    client.docker_config({"registries": {host: {"mirrors": list(mirrors), **more}}},
                         ".config/supermachine/registries.json")


def test_mirror(registry, double, tmp_path, client):
    """Images of Docker's registry come from the mirror, by the names they have there; nobody else is asked."""
    made = push_image(registry, tmp_path / "layout", "library/app")
    mirror = double(Front, registry.host)
    mirrored(client, "docker.io", mirror.url)
    client.ok("pull", "app")
    assert mirror.asked("/v2/library/app/")
    (told,) = client.json("inspect", "app")
    assert told["Id"] == made.digest and told["RepoTags"] == ["app:latest"]
    mirror.forget()
    client.ok("pull", "app")
    assert [request.method for request in mirror.seen] == ["HEAD"]


@pytest.mark.parametrize("how", ["lacks it", "is down", "fails", "wants a login", "lies"])
def test_mirror_that(registry, double, pushed, client, how):
    """Then its registry is asked, without a word."""
    origin, mirror = double(Front, registry.host), double(Front, registry.host)
    mirrored(client, origin.host, mirror.url)
    if how == "is down":
        mirror.stop()
    else:
        mirror.rule("manifests" if how == "lies" else "", {
            "lacks it": status(404), "fails": status(503), "lies": tampered(3),
            "wants a login": lambda *_: Response(401, {"WWW-Authenticate": 'Basic realm="x"'})}[how])
    client.ok("pull", pushed.at(origin))
    assert origin.asked("manifests")


def test_login_is_not_for_the_mirror(registry, double, tokens, pushed, client):
    origin, mirror = double(Front, registry.host, tokens), double(Front, registry.host)
    place_docker(client, origin.host)
    mirrored(client, origin.host, mirror.url)
    client.ok("pull", pushed.at(origin))
    assert mirror.asked("GET .*blobs")
    assert not [request for request in mirror.seen if "authorization" in request.headers]


@pytest.mark.parametrize("text", ["{", "[]", '{"registries": 7}', '{"registries":{"HOST":{"mirrors":["ftp://x"]}}}',
                                  '{"registries":{"HOST":{"miror":[]}}}'])
def test_configuration_that_is_none(registry, pushed, client, text):
    path = client.docker_config({}, ".config/supermachine/registries.json")
    path.write_text(text.replace("HOST", registry.host))
    client.refused(["pull", pushed.ref], "registries.json|ftp|miror")
