# SPDX-License-Identifier: Apache-2.0
"""The testbed tested from outside: each run here is a whole resume of the machine (about a second).

Needs QEMU on the host and no KVM. The machine is made first if it is not there yet.
"""

import hashlib
import os
import pty
import select
import signal
import subprocess
import time

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
RUN = os.path.join(HERE, "run")
QUICK = ["--no-tree", "--timeout", "60"]


@pytest.fixture(scope="session", autouse=True)
def prepared():
    if os.environ.get("SUPERMACHINE_TESTBED"):
        pytest.skip("this is the testbed's inside: the testbed is tested from outside", allow_module_level=True)
    done = subprocess.run([os.path.join(HERE, "prepare")], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0
    return done.stdout.strip()


def run(*arguments, **options):
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([RUN] + QUICK + list(arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=120, **options)


def children_of(pid):
    """Process ids of the living whose parent is pid."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % name) as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(name))
    return found


def wait_gone(pids, seconds=10):
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "still there: %s" % pids
        time.sleep(0.02)


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start_long():
    """A run that would last, caught when its command is running; returns it and QEMU's pid."""
    process = subprocess.Popen([RUN] + QUICK + ["echo running; sleep 1000"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"running\n"
    machines = children_of(process.pid)
    assert len(machines) == 1
    return process, machines


@pytest.mark.parametrize("command, code", [(["true"], 0), (["exit 3"], 3), (["kill -9 $$"], 137),
                                           (["/nowhere", "x"], 127), (["/etc/passwd", "x"], 126)])
def test_exit_code(command, code):
    assert run(*command).returncode == code


def test_streams_are_apart():
    done = run("echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_arguments_arrive_as_given():
    assert run("printf", "%s|", "a b", "$HOME", "", "'").stdout == b"a b|$HOME||'|"


def test_a_mebibyte_each_way():
    data = os.urandom(1 << 20)
    done = subprocess.run([RUN] + QUICK + ["tee /dev/stderr"], input=data, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=120)
    assert done.stdout == data
    assert done.stderr == data


def test_input_that_nobody_reads():
    assert run("echo done", stdin=open("/dev/zero", "rb")).stdout == b"done\n"


def test_output_comes_while_it_runs():
    process, machines = start_long()
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    wait_gone(machines)


def test_results_come_back(tmp_path):
    script = ("mkdir -p /results/d; head -c 3000000 /dev/urandom >/results/d/r; sha256sum </results/d/r; "
              "ln -s d/r /results/l; printf x >/results/x")
    done = run("--results", str(tmp_path / "new"), script)
    data = (tmp_path / "new/d/r").read_bytes()
    assert hashlib.sha256(data).hexdigest() == done.stdout.split()[0].decode()
    assert (tmp_path / "new/x").read_text() == "x"
    assert os.readlink(tmp_path / "new/l") == "d/r"


def test_results_come_back_from_a_failure(tmp_path):
    assert run("--results", str(tmp_path), "echo why >/results/log; exit 9").returncode == 9
    assert (tmp_path / "log").read_text() == "why\n"


def test_payload(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/program").write_text("#!/bin/sh\necho \"$PWD ran\"\n")
    (tmp_path / "sub/program").chmod(0o755)
    done = run("--payload", "%s:/opt/thing" % tmp_path, "--cwd", "/opt/thing/sub", "./program; touch new")
    assert done.stdout == b"/opt/thing/sub ran\n"
    assert b"Read-only" in done.stderr
    (tmp_path / "sub/program").write_text("#!/bin/sh\necho changed\n")
    assert run("--payload", "%s:/opt/thing" % tmp_path, "/opt/thing/sub/program").stdout == b"changed\n"


def test_tree_is_inside():
    done = subprocess.run([RUN, "--timeout", "60", "pwd; cat tests/testbed/test_testbed.py"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, timeout=120)
    first, _, rest = done.stdout.partition(b"\n")
    assert first == b"/supermachine"
    with open(__file__, "rb") as file:
        assert rest == file.read()


def test_kvm():
    script = ("import fcntl, os\nkvm = os.open('/dev/kvm', os.O_RDWR)\nvm = fcntl.ioctl(kvm, 0xAE01, 0)\n"
              "vcpu = fcntl.ioctl(vm, 0xAE41, 0)\nprint(fcntl.ioctl(kvm, 0xAE00, 0))")
    assert run("python3", "-c", script).stdout == b"12\n"
    assert run("--user", "tester", "python3", "-c", script).stdout == b"12\n"


def test_clock_and_entropy():
    before = time.time()
    done = [run("date +%s.%N; head -c 32 /dev/urandom | sha256sum") for _ in range(2)]
    after = time.time()
    times, sums = zip(*[one.stdout.split(b"\n")[:2] for one in done])
    assert before <= float(times[0]) <= float(times[1]) <= after
    assert sums[0] != sums[1]


def test_nothing_stays_from_one_run_to_the_next():
    assert run("echo x >/etc/left; sync").returncode == 0
    assert run("test ! -e /etc/left").returncode == 0


def test_timeout_kills_and_brings_evidence(tmp_path):
    process = subprocess.Popen([RUN, "--no-tree", "--timeout", "4", "--results", str(tmp_path),
                                "echo running; echo half >/results/log; sleep 12345"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"running\n"
    machines = children_of(process.pid)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 124
    assert b"sleep 12345" in errors and b"time-out" in errors
    assert (tmp_path / "log").read_text() == "half\n"
    wait_gone(machines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signal_ends_everything(number):
    process, machines = start_long()
    process.send_signal(number)
    process.wait(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    wait_gone(machines)


def test_machine_that_panics_is_the_testbeds_fault():
    done = run("echo c >/proc/sysrq-trigger; sleep 100")
    assert done.returncode == 122
    assert b"testbed fault" in done.stderr and b"the command had not ended" in done.stderr


def test_lockup_in_the_log_is_the_testbeds_fault():
    done = run("echo '<0>watchdog: BUG: soft lockup - CPU#1 stuck for 22s!' >/dev/kmsg; exit 0")
    assert done.returncode == 122
    assert b"exited with 0" in done.stderr


def test_machine_that_ends_is_the_testbeds_fault():
    done = run("echo b >/proc/sysrq-trigger; sleep 100")
    assert done.returncode == 122


def test_wrong_use_says_so():
    for arguments in (["--payload", "/nowhere:/x", "true"], ["--mem", "1", "true"], ["--cpus", "0", "true"],
                      ["--payload", HERE + ":rel", "true"], []):
        done = run(*arguments)
        assert done.returncode == 125, arguments
        assert done.stderr.startswith(b"testbed: ") and b"Traceback" not in done.stderr


def test_prepare_again_returns_at_once(prepared):
    started = time.monotonic()
    done = subprocess.run([os.path.join(HERE, "prepare")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert (done.stdout.strip(), done.stderr) == (prepared, "")
    assert time.monotonic() - started < 5


def test_cache_holds_no_leftovers(prepared):
    assert run("true").returncode == 0
    names = os.listdir(os.path.dirname(prepared))
    known = ("base-", "saved-", "payload-", "new-", "lock")
    assert not [name for name in names if not name.startswith(known)]


def test_shell_on_a_terminal():
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(os.path.join(HERE, "shell"), ["shell", "--no-tree"])
    seen = b""

    def until(wanted):
        nonlocal seen
        deadline = time.monotonic() + 60
        while wanted not in seen:
            left = deadline - time.monotonic()
            assert left > 0 and select.select([fd], [], [], left)[0], seen
            seen += os.read(fd, 4096)

    until(b"# ")
    os.write(fd, b"stty size; tty; echo a$((40+2))b\n")
    until(b"a42b")
    assert b"/dev/pts/0" in seen
    os.write(fd, b"sleep 1000\n")
    time.sleep(0.5)
    os.write(fd, b"\x03")
    os.write(fd, b"echo in$((1+1))t; exit 7\n")
    until(b"in2t")
    try:
        while os.read(fd, 4096):
            pass
    except OSError:
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
