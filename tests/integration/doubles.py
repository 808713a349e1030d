# SPDX-License-Identifier: Apache-2.0
"""HTTP servers that stand in for others in the tests of registries, and misbehave on demand.

    Front          before a real registry: forwards, and does to chosen answers what a test asks for
    Lying          a registry whose content is whatever a test puts in it, true or not
    TokenServer    issues bearer tokens with scope and expiry
    BlobStore      what registries redirect to: another port, and no patience with Authorization
    ForwardProxy   what $http_proxy and $https_proxy name

Each listens on a port of its own on 127.0.0.1, answers in threads, and keeps every request in `seen`. A rule is
(pattern, action, times): the first one with times left whose pattern is found in "METHOD /path?query" answers by
action(request, forward), where forward() is what the server would have answered. The actions that tests share are
below: status, cut, hold and so on.
"""
import base64
import contextlib
import dataclasses
import fcntl
import hashlib
import http.client
import http.server
import json
import re
import secrets
import select
import socket
import socketserver
import ssl
import struct
import termios
import threading
import time
import urllib.parse

DEADLINE = 60  # seconds for what must happen in a test
PIECE = 1 << 16
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "proxy-connection"}


@dataclasses.dataclass
class Request:
    method: str
    target: str  # path and query
    headers: dict  # names in lower case
    body: bytes
    status: int = 0
    sent: int = 0  # bytes of the answer's body

    @property
    def line(self):
        return f"{self.method} {self.target}"

    @property
    def path(self):
        return self.target.partition("?")[0]

    @property
    def query(self):
        return urllib.parse.parse_qs(self.target.partition("?")[2])


@dataclasses.dataclass
class Response:
    status: int = 200
    headers: dict = dataclasses.field(default_factory=dict)
    body: object = b""  # bytes, or an iterable of them and then `length`
    length: int = None
    cut: int = None  # after so many bytes of the body the connection is reset
    held: object = None  # a Hold

    def pieces(self):
        if isinstance(self.body, bytes):
            for at in range(0, len(self.body), PIECE):
                yield self.body[at:at + PIECE]
        else:
            yield from self.body

    def size(self):
        return len(self.body) if isinstance(self.body, bytes) else self.length


class Hold:
    """An answer that stops after some bytes of its body until release() is called."""

    def __init__(self, after):
        self.after = after
        self.arrived = threading.Event()
        self.released = threading.Event()
        self.dropped = False

    def reached(self):
        assert self.arrived.wait(DEADLINE), "nothing came to be held"

    def release(self):
        self.released.set()

    def drop(self):
        """The connection is cut instead."""
        self.dropped = True
        self.released.set()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def handle(self):
        """Who speaks TLS to a plain server is answered as Go's servers do it. It is not in `seen`."""
        with contextlib.suppress(OSError):
            if self.server.double.scheme == "http" and self.connection.recv(1, socket.MSG_PEEK) == b"\x16":
                self.connection.recv(PIECE)
                self.connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request")
                return
            super().handle()

    def serve(self):
        length = int(self.headers.get("Content-Length") or 0)
        headers = {name.lower(): ", ".join(self.headers.get_all(name)) for name in self.headers.keys()}
        request = Request(self.command, self.path, headers, self.rfile.read(length))
        with contextlib.suppress(OSError):  # the client may go at any time, and the tests make it
            self.server.double.handle(self, request)
            return
        self.close_connection = True

    do_GET = do_HEAD = do_POST = do_CONNECT = serve

    def answer(self, request, response):
        self.send_response_only(request.status)
        headers = {"Content-Length": str(response.size()), **response.headers}
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if request.method == "HEAD":
            return
        left = response.cut
        for piece in response.pieces():
            if response.held and request.sent + len(piece) > response.held.after:
                before = max(0, response.held.after - request.sent)
                self.send(request, piece[:before])
                piece = piece[before:]
                response.held.arrived.set()
                response.held.released.wait(DEADLINE)
                if response.held.dropped:
                    self.reset()
                    return
                response.held = None
            if left is not None:
                piece = piece[:left]
                left -= len(piece)
            self.send(request, piece)
            if left == 0:
                self.reset()
                return

    def send(self, request, piece):
        self.wfile.write(piece)
        request.sent += len(piece)

    def reset(self):
        """What a cut looks like: the peer gets RST, not an orderly end (socket(7), SO_LINGER). Not before it has what was
        sent (tcp(7), SIOCOUTQ), as RST throws away what waits here."""
        self.wfile.flush()
        deadline = time.monotonic() + 2
        while struct.unpack("i", fcntl.ioctl(self.connection, termios.TIOCOUTQ, bytes(4)))[0]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


class Listener(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_):
        pass  # connections that end early, handshakes that are refused


class Double:
    scheme = "http"

    def __init__(self, context=None):
        self.server = Listener(("127.0.0.1", 0), Handler)
        self.server.double = self
        self.port = self.server.server_port
        self.host = f"127.0.0.1:{self.port}"
        if context:
            self.scheme = "https"
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True,
                                                     do_handshake_on_connect=False)
        self.url = f"{self.scheme}://{self.host}"
        self.lock = threading.Lock()
        self.seen = []
        self.rules = []
        self.holds = []
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Nobody listens there any more. A second time does nothing."""
        for held in self.holds:
            held.release()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def rule(self, pattern, action, times=-1):
        """From now on; -1: always. Later rules come after earlier ones."""
        with self.lock:
            self.rules.append([re.compile(pattern), action, times])
        return action

    def hold(self, pattern, after=0):
        """The next answer to such a request stops after so many bytes."""
        held = Hold(after)
        self.holds.append(held)

        def action(_request, forward):
            response = forward()
            response.held = held
            return response

        self.rule(pattern, action, 1)
        return held

    def forget(self):
        """Start counting anew, without rules."""
        with self.lock:
            self.seen = []
            self.rules = []

    def asked(self, pattern=""):
        with self.lock:
            return [request for request in self.seen if re.search(pattern, request.line)]

    def handle(self, handler, request):
        with self.lock:
            self.seen.append(request)
            action = None
            for rule in self.rules:
                if rule[2] != 0 and rule[0].search(request.line):
                    rule[2] -= 1
                    action = rule[1]
                    break
        forward = lambda: self.answer(request)  # noqa: E731
        response = action(request, forward) if action else forward()
        request.status = response.status
        handler.answer(request, response)

    def answer(self, request):
        raise NotImplementedError


# ---- Actions ----

def status(code, headers=None, body=b"", content_type="application/json"):
    """An answer of the double's own."""
    return lambda _request, _forward: Response(code, {"Content-Type": content_type, **(headers or {})}, body)


def errors(code, kind, message, headers=None):
    """A refusal as the distribution specification has it ("Error Codes")."""
    body = json.dumps({"errors": [{"code": kind, "message": message}]}).encode()
    return status(code, headers, body)


def changed(**fields):
    """The true answer with other fields; headers are added, None removes one."""

    def action(_request, forward):
        response = forward()
        response.headers |= fields.get("headers", {})
        for name in fields.keys() - {"headers"}:
            setattr(response, name, fields[name])
        return response

    return action


def cut(after):
    """The connection is reset after so many bytes of the body: a number, or what a function says for each answer."""

    def action(_request, forward):
        response = forward()
        response.cut = after(response) if callable(after) else after
        return response

    return action


def short(missing=1):
    """The connection ends in order before the body does, so many bytes early."""

    def action(_request, forward):
        response = forward()
        body = b"".join(response.pieces())
        response.headers |= {"Content-Length": str(len(body)), "Connection": "close"}
        response.body = body[:-missing]
        return response

    return action


def tampered(at=-1):
    """One bit is wrong."""

    def action(_request, forward):
        response = forward()
        body = bytearray(b"".join(response.pieces()))
        if body:
            body[at] ^= 1
        response.body = bytes(body)
        return response

    return action


def ignoring_range(request, forward):
    """As servers that know no ranges do: the whole with 200."""
    request.headers["ignored-range"] = request.headers.pop("range", "")
    return forward()


# ---- Servers ----

class Front(Double):
    """Forwards to a registry. With `tokens`, a TokenServer, it asks for bearer tokens; with `store`, a BlobStore, it
    redirects to that for blobs."""

    def __init__(self, upstream, tokens=None, store=None, context=None):
        super().__init__(context)
        self.upstream = upstream
        self.tokens = tokens
        self.store = store

    def answer(self, request):
        if self.tokens and (refusal := self.tokens.check(request)):
            return refusal
        if self.store and (found := re.search(r"/blobs/(sha256:[0-9a-f]{64})$", request.path)):
            return Response(307, {"Location": self.store.location(found[1]), "Content-Length": "0"})
        headers = {k: v for k, v in request.headers.items() if k not in HOP_BY_HOP | {"host", "ignored-range"}}
        connection = http.client.HTTPConnection(self.upstream, timeout=DEADLINE)
        connection.request(request.method, request.target, headers=headers)
        reply = connection.getresponse()
        headers = {k: v for k, v in reply.getheaders() if k.lower() not in HOP_BY_HOP}
        length = int(reply.getheader("Content-Length") or 0)
        return Response(reply.status, headers, self.relay(connection, reply), length)

    @staticmethod
    def relay(connection, reply):
        try:
            while piece := reply.read(PIECE):
                yield piece
        finally:
            connection.close()


class Lying(Double):
    """Serves `manifests` (tag or digest -> (media type, bytes)) and `blobs` (digest -> bytes), unchecked."""

    def __init__(self, context=None):
        super().__init__(context)
        self.manifests = {}
        self.blobs = {}

    def blob(self, data, media_type):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def manifest(self, document, media_type=MANIFEST, tag=None):
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.manifests[digest] = (media_type, data)
        if tag:
            self.manifests[tag] = (media_type, data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def answer(self, request):
        if request.path == "/v2/":
            return Response(200, {"Content-Type": "application/json"}, b"{}")
        _, _, name = request.path.rpartition("/")
        if "/manifests/" in request.path and name in self.manifests:
            media_type, data = self.manifests[name]
            return Response(200, {"Content-Type": media_type, "Docker-Content-Digest":
                                  "sha256:" + hashlib.sha256(data).hexdigest()}, data)
        if "/blobs/" in request.path and name in self.blobs:
            return part(request, self.blobs[name])
        kind = "MANIFEST_UNKNOWN" if "/manifests/" in request.path else "BLOB_UNKNOWN"
        return errors(404, kind, "not here")(request, None)


def part(request, data):
    """RFC 9110, 14: one range of the form bytes=A-B or bytes=A-."""
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if not found:
        return Response(200, {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}, data)
    first, last = int(found[1]), int(found[2] or len(data) - 1)
    if first >= len(data):
        return Response(416, {"Content-Range": f"bytes */{len(data)}"})
    last = min(last, len(data) - 1)
    return Response(206, {"Content-Type": "application/octet-stream",
                          "Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first:last + 1])


class TokenServer(Double):
    """Issues tokens to whom `users` names (None: to anybody), good for `uses` requests and `seconds`, and says so.

    `field` is where the token stands in the answer: "token" or "access_token". With `said_seconds` it tells another
    time than it means. Docker's token authentication and its OAuth 2 form (POST, refresh tokens) are both served.
    """

    def __init__(self, users=None, uses=None, seconds=300, said_seconds=None, field="token", context=None):
        super().__init__(context)
        self.users = users
        self.uses = uses
        self.seconds = seconds
        self.said_seconds = said_seconds
        self.field = field
        self.refresh_tokens = set()
        self.issued = {}  # token -> [scopes, uses left, end]
        self.refused = []  # why tokens were not accepted
        self.service = "registry.test"

    def challenge(self, scope, error=None):
        value = f'Bearer realm="{self.url}/token",service="{self.service}",scope="{scope}"'
        if error:
            value += f',error="{error}"'
        body = json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}).encode()
        return Response(401, {"WWW-Authenticate": value, "Content-Type": "application/json"}, body)

    def check(self, request):
        """None when the request has a good token, else the refusal."""
        found = re.match(r"/v2/(.+)/(manifests|blobs)/", request.path)
        scope = f"repository:{found[1]}:pull" if found else ""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        with self.lock:
            entry = self.issued.get(token) if scheme == "Bearer" else None
            if not entry:
                self.refused.append("unknown" if token else "none")
                return self.challenge(scope)
            if entry[1] == 0 or time.monotonic() > entry[2]:
                self.refused.append("expired")
                return self.challenge(scope, "invalid_token")
            if scope and scope not in entry[0]:
                self.refused.append("scope")
                return self.challenge(scope, "insufficient_scope")
            entry[1] -= 1
        return None

    def may(self, request, form):
        if self.users is None:
            return True
        if form.get("grant_type") == ["refresh_token"]:
            return form.get("refresh_token", [""])[0] in self.refresh_tokens
        return basic(request) in self.users.items() or (form.get("username", [""])[0],
                                                        form.get("password", [""])[0]) in self.users.items()

    def answer(self, request):
        form = request.query | (urllib.parse.parse_qs(request.body.decode()) if request.method == "POST" else {})
        if request.path != "/token" or form.get("service") != [self.service]:
            return Response(404)
        if not self.may(request, form):
            return errors(401, "UNAUTHORIZED", "incorrect username or password")(request, None)
        token = secrets.token_urlsafe(24)
        scopes = [s for text in form.get("scope", []) for s in text.split(" ")]
        with self.lock:
            self.issued[token] = [scopes, -1 if self.uses is None else self.uses, time.monotonic() + self.seconds]
        body = {self.field: token, "expires_in": self.seconds if self.said_seconds is None else self.said_seconds}
        return Response(200, {"Content-Type": "application/json"}, json.dumps(body).encode())


def basic(request):
    """(user, password) of a request, or None."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme != "Basic":
        return None
    user, _, password = base64.b64decode(value).decode().partition(":")
    return user, password


class BlobStore(Double):
    """Serves blobs out of a registry's storage under signed addresses. As S3 does, it refuses a request that is
    authorised twice, by address and by header."""

    def __init__(self, read, context=None):
        super().__init__(context)
        self.read = read  # digest -> bytes
        self.signature = secrets.token_hex(16)

    def location(self, digest):
        return f"{self.url}/data/{digest}?signature={self.signature}"

    def answer(self, request):
        if "authorization" in request.headers:
            return Response(400, {"Content-Type": "application/xml"}, b"<Error><Code>InvalidArgument</Code></Error>")
        if request.query.get("signature") != [self.signature]:
            return Response(403)
        return part(request, self.read(request.path.rpartition("/")[2]))


class ForwardProxy(Double):
    """Forwards absolute addresses and CONNECT, all names to 127.0.0.1, so that only who asks it finds hosts below
    .test. With `users` it asks for Proxy-Authorization."""

    def __init__(self, users=None):
        super().__init__()
        self.users = users

    def handle(self, handler, request):
        with self.lock:
            self.seen.append(request)
        if self.users and not self.known(request):
            request.status = 407
            handler.answer(request, Response(407, {"Proxy-Authenticate": 'Basic realm="proxy"'}))
        elif request.method == "CONNECT":
            self.tunnel(handler, request)
        else:
            request.status = 200
            handler.answer(request, self.fetch(request))

    def known(self, request):
        return basic(Request("", "", {"authorization": request.headers.get("proxy-authorization", "")}, b"")) in \
            self.users.items()

    @staticmethod
    def fetch(request):
        url = urllib.parse.urlsplit(request.target)
        connection = http.client.HTTPConnection("127.0.0.1", url.port or 80, timeout=DEADLINE)
        headers = {k: v for k, v in request.headers.items() if k not in HOP_BY_HOP | {"proxy-authorization"}}
        connection.request(request.method, url._replace(scheme="", netloc="").geturl(), headers=headers)
        reply = connection.getresponse()
        headers = {k: v for k, v in reply.getheaders() if k.lower() not in HOP_BY_HOP}
        length = int(reply.getheader("Content-Length") or 0)
        return Response(reply.status, headers, Front.relay(connection, reply), length)

    @staticmethod
    def tunnel(handler, request):
        port = int(request.target.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as far:
            handler.send_response_only(200)
            handler.end_headers()
            near = handler.connection
            request.status = 200
            while True:
                ready, _, _ = select.select([near, far], [], [], DEADLINE)
                if not ready:
                    break
                for source in ready:
                    data = source.recv(PIECE)
                    if not data:
                        handler.close_connection = True
                        return
                    (far if source is near else near).sendall(data)


def server_context(certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
