# SPDX-License-Identifier: Apache-2.0
"""What the integration tests share: the programs under test, the images, running them, and that nothing stays behind.

They drive what was built, as its users do. Environment:
    SUPERMACHINE_OUT     the build directory (default: build/out of this tree)
    SUPERMACHINE_IMAGES  the test images, OCI layouts (default: build/images; made by tests/images/make)
    SOAK=1               long versions of the tests that repeat things

Tests that start machines carry the marker `kvm`; the others run anywhere.
"""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SUPERMACHINE_BUILD", ROOT / "build"))
OUT = pathlib.Path(os.environ.get("SUPERMACHINE_OUT", BUILD / "out"))
IMAGES = pathlib.Path(os.environ.get("SUPERMACHINE_IMAGES", BUILD / "images"))
CLI = OUT / "src/cli/supermachine"
SOAK = bool(os.environ.get("SOAK"))

RUN_TIMEOUT = 120  # seconds for one command: emulated hosts are slow
GONE_TIMEOUT = 10  # seconds in which a worker must have gone after its owner


def pytest_configure(config):
    # A run in the background of a shell script comes with SIGINT ignored, and programs hand that on: Ctrl-C would do
    # nothing to the programs under test. A signal that is caught here is at its default in them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "kvm: starts machines: needs a KVM that runs Linux")
    config.pluginmanager.import_plugin("registry")  # its fixtures are for all files here


@pytest.fixture(scope="session", autouse=True)
def built():
    if not CLI.exists():
        pytest.skip(f"{CLI} is not built: run 'make'")


def image(name):
    """The reference of a test image; skips when it was not made."""
    path = IMAGES / name
    if not (path / "index.json").exists():
        pytest.skip(f"no image {path}: make it with 'tests/images/make {name}'")
    return f"oci:{path}"


@pytest.fixture(scope="session")
def busybox():
    return image("busybox")


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """One image store for all tests that don't need their own: images are converted once. In the testbed, where
    converting is slow, it begins with what the host has converted (`make images`), laid below a writable layer."""
    made = BUILD / "store"
    if not os.environ.get("SUPERMACHINE_TESTBED") or not made.exists() or os.geteuid() != 0:
        yield tmp_path_factory.mktemp("home")
        return
    top = tmp_path_factory.mktemp("home")
    for name in ("upper", "work", "store"):
        (top / name).mkdir()
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o",
                    f"lowerdir={made},upperdir={top}/upper,workdir={top}/work", top / "store"], check=True)
    yield top / "store"
    subprocess.run(["umount", "-l", top / "store"], check=True)


def environment(home, extra=None):
    env = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")}
    env["SUPERMACHINE_HOME"] = str(home)
    env.update(extra or {})
    return env


@pytest.fixture
def sm(home):
    """sm("run", ..., input=b"", env={}): runs the program to its end; a CompletedProcess with bytes."""

    def run(*args, input=None, env=None, timeout=RUN_TIMEOUT, prefix=(), store=None, **kwargs):
        if input is None:
            kwargs.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run([*map(str, prefix), CLI, *map(str, args)], input=input, capture_output=True,
                              timeout=timeout, env=environment(store or home, env), **kwargs)

    return run


@pytest.fixture
def start(home):
    """start("run", ...): the program with pipes, still running; killed at the end of the test if need be."""
    processes = []

    def run(*args, env=None, **kwargs):
        for stream in ("stdin", "stdout", "stderr"):
            kwargs.setdefault(stream, subprocess.PIPE)
        process = subprocess.Popen([CLI, *map(str, args)], env=environment(home, env), **kwargs)
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()


def workers():
    """Process ids of all workers on this host that are not dead."""
    found = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            comm = pathlib.Path(f"/proc/{entry}/comm").read_text().strip()
            state = pathlib.Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if comm.startswith("supermachine-vm") and state not in "ZX":
            found.add(int(entry))
    return found


def children_of(pid):
    """The workers that this process has started."""
    return {w for w in workers() if parent_of(w) == pid}


def parent_of(pid):
    try:
        return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def eventually(condition, what, timeout=GONE_TIMEOUT):
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} within {timeout} s"
        time.sleep(0.02)
    return value


@pytest.fixture(autouse=True)
def nothing_left_behind(request):
    """After each test: no worker of its own is left."""
    before = workers()
    yield
    mine = set()
    deadline = time.monotonic() + GONE_TIMEOUT
    while time.monotonic() < deadline:
        mine = workers() - before
        # On a shared machine others may run theirs: only orphans and children of this process are ours.
        mine = {w for w in mine if parent_of(w) in (1, os.getpid(), None)}
        if not mine:
            return
        time.sleep(0.05)
    pytest.fail(f"workers left behind: {sorted(mine)}")


def refused(result, *words, code=125):
    """That a run failed as ours do: exit code, one sentence on stderr that holds these words, nothing on stdout."""
    text = result.stderr.decode()
    assert result.returncode == code, text
    assert result.stdout == b""
    assert re.fullmatch(r"supermachine: [^\n]+\n", text), f"not one sentence: {text!r}"
    for word in words:
        assert re.search(word, text), f"{word!r} is not in {text!r}"
    return text


def needs_root():
    if os.geteuid() != 0:
        pytest.skip("needs root to change what the program sees")


def needs_program(name):
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if not path:
        pytest.skip(f"needs {name}")
    return path


