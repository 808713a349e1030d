# SPDX-License-Identifier: Apache-2.0
"""Real images run their normal command, and a full walk of each one's root in the guest shows what umoci unpacked."""
import pathlib
import re
import signal
import subprocess

import pytest

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
def test_walk_equals_umoci(cli, image, build, images_dir, name):
    expected_file = images_dir / f"{name}.walk"
    if not expected_file.exists():
        pytest.skip(f"{expected_file} is not there: tests/images/expect {name} makes it, as root")
    expected = entries(expected_file.read_text())
    walk = pathlib.Path(build) / "out/tests/tools/walk"
    with open(walk, "rb") as program:
        done = subprocess.run(
            [cli, "run", "-i", "-m", "512", "-u", "0", "-w", "/", "--entrypoint", "/bin/sh", image(name), "-c",
             "mkdir -p /tmp && cat >/tmp/walk && chmod 755 /tmp/walk && exec /tmp/walk / dev proc sys run"],
            stdin=program, capture_output=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr.decode()
    found = entries(done.stdout.decode())
    if "tmp" not in expected:
        found.pop("tmp", None)
    assert sorted(found.keys() ^ expected.keys()) == []
    different = [f"{path}\n  guest: {found[path]}\n  umoci: {expected[path]}"
                 for path in expected if found[path] != expected[path]]
    assert not different, "\n".join(different[:20])
    assert len(found) > 100


def output(cli, *args, **kwargs):
    done = subprocess.run([cli, "run", "-m", "512", *args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=DEADLINE, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_debian(cli, image):
    assert 'VERSION_CODENAME=bookworm' in output(cli, image("debian"), "cat", "/etc/os-release")
    assert output(cli, image("debian"), "dpkg", "--audit") == ""


def test_python(cli, image):
    script = ("import ctypes, hashlib, json, multiprocessing, sqlite3, ssl, socket, sys\n"
              "a, b = socket.socketpair(); a.sendall(b'x'); assert b.recv(1) == b'x'\n"
              "with multiprocessing.Pool(2) as pool: print(sum(pool.map(abs, range(-10, 10))))\n"
              "print(sqlite3.connect(':memory:').execute('select 6*7').fetchone()[0], sys.version_info.major)\n")
    assert output(cli, image("python"), "python3", "-c", script).split() == ["100", "42", "3"]


def test_node(cli, image):
    script = "setTimeout(() => console.log(require('os').arch(), [1,2,3].map(x => x * 2).join()), 1)"
    assert output(cli, image("node"), "-e", script).strip() == "x64 2,4,6"


def wait_for(stream, pattern):
    seen = ""
    for line in stream:
        seen += line
        if re.search(pattern, line):
            return
    pytest.fail(f"ended without '{pattern}':\n{seen}")


def serve_until(cli, signo, pattern, *args):
    """Run a service until it says that it is up, send it a signal, and return its exit code."""
    process = subprocess.Popen(["timeout", "-s", "KILL", str(DEADLINE), cli, "run", "-m", "512", *args],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for(process.stdout, pattern)
        process.send_signal(signo)  # timeout(1) passes it on
        rest = process.stdout.read()
        return process.wait(DEADLINE), rest
    finally:
        process.kill()
        process.wait()


def test_redis_serves_and_ends_in_order(cli, image):
    code, rest = serve_until(cli, signal.SIGTERM, "Ready to accept connections", image("redis"))
    assert code == 0 and "bye bye" in rest, rest
    script = "redis-server --daemonize yes --logfile /tmp/log >/dev/null && redis-cli set k v && redis-cli get k"
    assert output(cli, "--entrypoint", "/bin/sh", image("redis"), "-c", script).split() == ["OK", "v"]


def test_nginx_serves_and_ends_in_order(cli, image):
    code, rest = serve_until(cli, signal.SIGQUIT, "start worker process", image("nginx"), "nginx", "-g",
                             "daemon off; error_log stderr notice;")
    assert code == 0, rest
    # Without "daemon off" the command returns when the sockets listen.
    script = r'nginx && exec 3<>/dev/tcp/127.0.0.1/80 && printf "GET / HTTP/1.0\r\n\r\n" >&3 && cat <&3'
    assert "Welcome to nginx!" in output(cli, image("nginx"), "bash", "-c", script)
