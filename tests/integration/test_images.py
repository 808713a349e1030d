# SPDX-License-Identifier: Apache-2.0
"""Real images run their normal command, and a full walk of each one's root in the guest shows what umoci unpacked."""
import re
import signal
import threading

import pytest

from conftest import IMAGES, OUT, image

pytestmark = pytest.mark.kvm

DEADLINE = 300  # seconds for one machine, in an emulated host

# Mount points of the guest, and what it writes for itself; the walk leaves out other file systems by itself.
OWN = {"dev", "proc", "sys", "run", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab", "tmp/walk"}


def entries(text):
    """Path -> description. A directory's mtime is left out: an unpacker makes up those that no layer has, and the guest
    adds files to some."""
    found = {}
    for line in text.splitlines():
        path, mode, rest = line.split(" ", 2)
        if path in OWN or path.split("/")[0] in ("dev", "proc", "sys", "run"):
            continue
        if mode.startswith("4"):
            fields = rest.split(" ")
            fields[4] = "-"
            rest = " ".join(fields)
        found[path] = f"{mode} {rest}"
    return found


@pytest.mark.parametrize("name", ["busybox", "torture", "debian", "python", "nginx", "redis", "node"])
def test_walk_equals_umoci(sm, name):
    reference = image(name)
    expected_file = IMAGES / f"{name}.walk"
    if not expected_file.exists():
        pytest.skip(f"{expected_file} is not there: tests/images/expect {name} makes it, as root")
    expected = entries(expected_file.read_text())
    done = sm("run", "-i", "-m", "512", "-u", "0", "-w", "/", "--entrypoint", "/bin/sh", reference, "-c",
              "mkdir -p /tmp && cat >/tmp/walk && chmod 755 /tmp/walk && exec /tmp/walk / dev proc sys run",
              input=(OUT / "tests/tools/walk").read_bytes(), timeout=DEADLINE)
    assert done.returncode == 0, done.stderr.decode()
    found = entries(done.stdout.decode())
    if "tmp" not in expected:
        found.pop("tmp", None)
    assert sorted(found.keys() ^ expected.keys()) == []
    different = [f"{path}\n  guest: {found[path]}\n  umoci: {expected[path]}"
                 for path in expected if found[path] != expected[path]]
    assert not different, "\n".join(different[:20])
    assert len(found) > 100


def output(sm, *args):
    done = sm("run", "-m", "512", *args, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_debian(sm):
    assert "VERSION_CODENAME=bookworm" in output(sm, image("debian"), "cat", "/etc/os-release")
    assert output(sm, image("debian"), "dpkg", "--audit") == ""


def test_python(sm):
    script = ("import multiprocessing, socket, sqlite3, ssl, sys\n"
              "a, b = socket.socketpair(); a.sendall(b'x'); assert b.recv(1) == b'x'\n"
              "with multiprocessing.Pool(2) as pool: print(sum(pool.map(abs, range(-10, 10))))\n"
              "print(sqlite3.connect(':memory:').execute('select 6*7').fetchone()[0], sys.version_info.major)\n")
    assert output(sm, image("python"), "python3", "-c", script).split() == ["100", "42", "3"]


def test_node(sm):
    script = "setTimeout(() => console.log(require('os').arch(), [1,2,3].map(x => x * 2).join()), 1)"
    assert output(sm, image("node"), "-e", script).strip() == "x64 2,4,6"


def serve_until(start, signo, pattern, stream, *args):
    """Run a service until it says that it is up, send it a signal; its exit code and what it said after that."""
    process = start("run", "-m", "512", *args, stdin=None)
    killer = threading.Timer(DEADLINE, process.kill)
    killer.start()
    try:
        seen = b""
        while not re.search(pattern, seen):
            line = getattr(process, stream).readline()
            assert line, f"ended without {pattern!r}: {seen!r}"
            seen += line
        process.send_signal(signo)
        out, err = process.communicate()
        return process.returncode, out + err
    finally:
        killer.cancel()


def test_redis_serves_and_ends_in_order(sm, start):
    code, rest = serve_until(start, signal.SIGTERM, b"Ready to accept connections", "stdout", image("redis"))
    assert code == 0 and b"bye bye" in rest, rest
    script = "redis-server --daemonize yes --logfile /tmp/log >/dev/null && redis-cli set k v && redis-cli get k"
    assert output(sm, "--entrypoint", "/bin/sh", image("redis"), "-c", script).split() == ["OK", "v"]


def test_nginx_serves_and_ends_in_order(sm, start):
    code, rest = serve_until(start, signal.SIGQUIT, b"start worker process", "stderr", image("nginx"), "nginx", "-g",
                             "daemon off; error_log stderr notice;")
    assert code == 0, rest
    # Without "daemon off" the command returns when the sockets listen.
    script = r'nginx && exec 3<>/dev/tcp/127.0.0.1/80 && printf "GET / HTTP/1.0\r\n\r\n" >&3 && cat <&3'
    assert "Welcome to nginx!" in output(sm, image("nginx"), "bash", "-c", script)
