# SPDX-License-Identifier: Apache-2.0
"""`supermachine run`: streams, exit codes, signals, terminals, what Docker users expect of flags."""
import fcntl
import hashlib
import os
import pathlib
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pytest

from conftest import RUN_TIMEOUT, SOAK, children_of, eventually, refused, workers

pytestmark = pytest.mark.kvm


def shell(sm, busybox, script, *options, **kwargs):
    return sm("run", *options, busybox, "sh", "-c", script, **kwargs)


def read_until(stream, word, timeout=RUN_TIMEOUT, begun=b""):
    """Bytes from a pipe until `word` is among what had `begun` and them; there may be more behind it."""
    got = b""
    deadline = time.monotonic() + timeout
    while word not in begun + got:
        ready, _, _ = select.select([stream], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"no {word!r} within {timeout} s; got {got!r}"
        data = os.read(stream.fileno() if hasattr(stream, "fileno") else stream, 65536)
        assert data, f"end before {word!r}; got {got!r}"
        got += data
    return got


# ---- Streams and exit codes ----

def test_output_is_the_commands(sm, busybox):
    result = sm("run", busybox, "echo", "hello from a virtual machine")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"hello from a virtual machine\n", b"")


def test_stdin_reaches_it(sm, busybox):
    result = sm("run", "-i", busybox, "sha256sum", input=b"hello")
    assert result.returncode == 0
    assert result.stdout.split()[0].decode() == hashlib.sha256(b"hello").hexdigest()


@pytest.mark.parametrize("command, code", [
    (("true",), 0),
    (("false",), 1),
    (("sh", "-c", "exit 3"), 3),
    (("sh", "-c", "exit 255"), 255),
    (("no-such-program",), 127),
    (("/no/such/program",), 127),
    (("/etc/passwd",), 126),
    (("/etc",), 126),
    (("sh", "-c", "kill -9 $$"), 137),
    (("sh", "-c", "kill -TERM $$"), 143),
])
def test_exit_codes(sm, busybox, command, code):
    result = sm("run", busybox, *command)
    assert result.returncode == code, result.stderr
    if code in (126, 127):
        assert re.fullmatch(rb"supermachine: [^\n]+\n", result.stderr)
        assert command[0].encode() in result.stderr
    else:
        assert result.stderr == b""


def test_stdout_and_stderr_stay_apart(sm, busybox):
    result = shell(sm, busybox, "for i in 1 2 3; do echo out$i; echo err$i >&2; done")
    assert result.stdout == b"out1\nout2\nout3\n"
    assert result.stderr == b"err1\nerr2\nerr3\n"


def test_ten_mebibytes_there_and_back(sm, busybox):
    data = os.urandom(10 << 20)
    result = sm("run", "-i", busybox, "cat", input=data)
    assert result.returncode == 0
    assert result.stdout == data


def test_stdin_from_a_file_output_to_a_file(sm, start, busybox, tmp_path):
    data = os.urandom(300_000)
    (tmp_path / "in").write_bytes(data)
    with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "wb") as target:
        process = start("run", "-i", busybox, "cat", stdin=source, stdout=target)
        assert process.wait(RUN_TIMEOUT) == 0
    assert (tmp_path / "out").read_bytes() == data


def test_large_output_is_whole(sm, busybox):
    result = shell(sm, busybox, "dd if=/dev/zero bs=64k count=512 2>/dev/null | tr '\\000' x; echo end")
    assert result.returncode == 0
    assert len(result.stdout) == (32 << 20) + 4
    assert result.stdout.endswith(b"xend\n")


def test_without_i_stdin_is_empty_and_untouched(start, busybox):
    process = start("run", busybox, "sh", "-c", "cat; echo end")
    process.stdin.write(b"not for it\n")
    process.stdin.flush()
    assert process.wait(RUN_TIMEOUT) == 0
    assert process.stdout.read() == b"end\n"


def test_open_stdin_holds_nothing_up(start, busybox):
    process = start("run", "-i", busybox, "true")
    assert process.wait(RUN_TIMEOUT) == 0


def test_stdin_is_answered_at_once(start, busybox):
    """A conversation, line by line: nothing waits for a buffer to fill."""
    process = start("run", "-i", busybox, "sh", "-c", "while read -r line; do echo \"got $line\"; done; echo end")
    for i in range(5):
        process.stdin.write(b"%d\n" % i)
        process.stdin.flush()
        assert read_until(process.stdout, b"\n") == b"got %d\n" % i
    process.stdin.close()
    assert process.stdout.read() == b"end\n"
    assert process.wait(RUN_TIMEOUT) == 0


def test_closed_stdout_ends_a_writer(start, busybox):
    process = start("run", busybox, "sh", "-c", "while :; do echo y; done")
    assert read_until(process.stdout, b"y\n").startswith(b"y\n")
    process.stdout.close()
    assert process.wait(RUN_TIMEOUT) == 128 + signal.SIGPIPE
    assert process.stderr.read() == b""


def unread(pipe):
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]


def test_slow_reader_gets_everything(start, busybox):
    process = start("run", busybox, "sh", "-c", "dd if=/dev/zero bs=1k count=1000 2>/dev/null; echo done >&2")
    # Nobody reads stdout until the pipe has no room for its mebibyte.
    size = fcntl.fcntl(process.stdout, fcntl.F_GETPIPE_SZ)
    eventually(lambda: unread(process.stdout) >= size // 2, "the pipe is filled")
    data = process.stdout.read()
    assert len(data) == 1000 * 1024
    assert process.stderr.read() == b"done\n"
    assert process.wait(RUN_TIMEOUT) == 0


# ---- Docker's flags ----

def test_environment(sm, busybox, tmp_path):
    (tmp_path / "vars").write_text("# comment\nA=file\nB=from file\nHERE\nMISSING\n")
    result = sm("run", "-e", "A=flag", "-e", "C=", "-e", "HERE", "--env", "GONE", "--env-file", tmp_path / "vars",
                busybox, "env", env={"HERE": "host value"})
    lines = dict(line.split("=", 1) for line in result.stdout.decode().splitlines())
    assert lines["A"] == "flag" and lines["B"] == "from file" and lines["C"] == "" and lines["HERE"] == "host value"
    assert "MISSING" not in lines and "GONE" not in lines
    assert "/bin" in lines["PATH"] and lines["HOME"].startswith("/")
    assert re.fullmatch("[0-9a-f]{12}", lines["HOSTNAME"])
    assert "TERM" not in lines


def test_directory_user_hostname(sm, busybox):
    result = shell(sm, busybox, "pwd; id -u; id -g; hostname; cat /etc/hostname; echo $HOSTNAME", "-w", "/a/new/dir",
                   "-u", "1234:567", "--hostname", "web-1")
    assert result.stdout.decode().split() == ["/a/new/dir", "1234", "567", "web-1", "web-1", "web-1"]


def test_machine_is_set_up(sm, busybox):
    """What programs expect to find: mounts, device links, name files, and the loopback interface, up, and no other."""
    script = ("while read -r _ where type _; do echo $where $type; done </proc/mounts; echo --; ls /sys/class/net;"
              "cat /sys/class/net/lo/flags; readlink /dev/fd; readlink /dev/stdin; grep -c localhost /etc/hosts;"
              "test -e /etc/resolv.conf && echo resolv; cat /proc/1/comm;"
              "for f in /dev/null /dev/ptmx; do test -w $f || echo bad $f; done")
    mounts, rest = shell(sm, busybox, script).stdout.decode().split("--\n")
    found = dict(line.rsplit(" ", 1) for line in mounts.splitlines())
    assert found["/"] == "overlay"
    for where, kind in (("/proc", "proc"), ("/sys", "sysfs"), ("/dev/pts", "devpts"), ("/dev/shm", "tmpfs"),
                        ("/run", "tmpfs"), ("/sys/fs/cgroup", "cgroup2")):
        assert found.get(where) == kind, mounts
    lines = rest.split()
    assert lines[0] == "lo" and int(lines[1], 16) & 0x9 == 0x9, rest  # IFF_UP, IFF_LOOPBACK
    assert lines[2:4] == ["/proc/self/fd", "/proc/self/fd/0"], rest
    assert int(lines[4]) >= 1 and lines[5] == "resolv" and len(lines) == 7, rest


def test_unknown_user_is_told(sm, busybox):
    refused(sm("run", "-u", "nobody-here", busybox, "true"), "nobody-here")


def test_entrypoint_replaces_and_clears(sm, busybox):
    result = sm("run", "--entrypoint", "echo", busybox, "one", "two")
    assert result.stdout == b"one two\n"
    refused(sm("run", "--entrypoint", "", busybox), "nothing to run")


def test_name_and_rm_are_taken(sm, busybox):
    assert sm("run", "--rm", "--name", "web.1", busybox, "true").returncode == 0
    refused(sm("run", "--name", "bad name", busybox, "true"), "the name 'bad name'")
    refused(sm("run", "--hostname", "-x", busybox, "true"), "the hostname '-x'")


def test_root_can_be_written_and_is_fresh_each_time(sm, busybox):
    script = "test -e /mark && exit 9; echo x >/mark; mkdir -p /usr/new; rm -rf /etc/passwd; ls /mark"
    for _ in range(2):
        assert shell(sm, busybox, script).stdout == b"/mark\n"


def test_timeout_stops_it(sm, busybox):
    begin = time.monotonic()
    result = sm("run", "--timeout", "1s", busybox, "sleep", "300")
    assert result.returncode == 124
    assert b"--timeout" in result.stderr
    assert time.monotonic() - begin < 60


def test_timeout_kills_what_ignores_the_stop_signal(sm, busybox):
    result = shell(sm, busybox, "trap '' TERM; while :; do sleep 1; done", "--timeout", "500ms", "--stop-timeout",
                   "500ms")
    assert result.returncode == 124


def test_verbose_shows_the_boot(sm, busybox):
    result = sm("run", "--boot", "-v", busybox, "echo", "hi")
    assert result.stdout == b"hi\n"
    assert b"Linux version" in result.stderr and b"supermachine: booted; 256 MiB, 1 processor; " in result.stderr


# ---- Signals ----

@pytest.mark.parametrize("signame", ["TERM", "INT", "HUP", "QUIT", "USR1"])
def test_signals_are_passed_on(start, busybox, signame):
    process = start("run", busybox, "sh", "-c",
                    f"trap 'echo got; exit 7' {signame}; echo ready; while :; do sleep 0.05; done")
    read_until(process.stdout, b"ready\n")
    process.send_signal(getattr(signal, "SIG" + signame))
    assert process.wait(RUN_TIMEOUT) == 7
    assert process.stdout.read() == b"got\n"


def test_signal_kills_what_does_not_catch_it(start, busybox):
    process = start("run", busybox, "sh", "-c", "echo ready; exec sleep 300")
    read_until(process.stdout, b"ready\n")
    process.send_signal(signal.SIGINT)
    assert process.wait(RUN_TIMEOUT) == 130


def taken(pid, number):
    """Whether no such signal waits for the process; two that wait are one."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return not any(int(line.split()[1], 16) >> number - 1 & 1 for line in status.splitlines()
                   if line.startswith(("SigPnd", "ShdPnd")))


def test_third_request_ends_what_ignores_them(start, busybox):
    process = start("run", busybox, "sh", "-c", "trap '' INT TERM; echo ready; while :; do sleep 1; done")
    read_until(process.stdout, b"ready\n")
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        eventually(lambda: taken(process.pid, signal.SIGINT), "the signal is taken")
    assert process.wait(30) == 130


def test_interrupt_during_the_start_ends_everything(start, busybox):
    process = start("run", busybox, "sleep", "300")
    eventually(lambda: children_of(process.pid), "a worker")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) in (-signal.SIGINT, 130)


def test_killed_owner_takes_its_machine_along(start, busybox):
    process = start("run", busybox, "sh", "-c", "echo ready; sleep 300")
    read_until(process.stdout, b"ready\n")
    mine = children_of(process.pid)
    assert mine
    process.kill()
    process.wait()
    eventually(lambda: not mine & workers(), "the worker ends")


# ---- Terminals ----

class Terminal:
    """The program on a terminal of its own, as a person has it."""

    def __init__(self, start, rows, cols, *args):
        self.master, self.slave = pty.openpty()
        self.resize(rows, cols)
        self.before = termios.tcgetattr(self.slave)
        self.rest = b""
        self.process = start(*args, stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True,
                             preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def resize(self, rows, cols):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def write(self, data):
        os.write(self.master, data)

    def until(self, word):
        """What is shown up to and with `word`; what comes behind it is for the next call."""
        if word not in self.rest:
            self.rest += read_until(self.master, word, begun=self.rest)
        end = self.rest.index(word) + len(word)
        shown, self.rest = self.rest[:end], self.rest[end:]
        return shown

    def close(self):
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(start):
    opened = []

    def make(*args):
        opened.append(Terminal(start, *args))
        return opened[-1]

    yield make
    for t in opened:
        t.close()


def test_terminal_has_size_and_follows_it(terminal, busybox):
    t = terminal(33, 99, "run", "-it", busybox, "sh")
    t.until(b"# ")
    t.write(b"stty size; tty\n")
    assert b"33 99\r\n" in t.until(b"/dev/pts/")
    t.until(b"# ")
    t.resize(44, 111)
    # The size travels on its own; the shell sees it when it has arrived.
    t.write(b"until stty size | grep '44 111'; do sleep 0.1; done; echo do''ne\n")
    assert b"44 111\r\n" in t.until(b"done\r\n")
    t.until(b"# ")
    t.write(b"exit 5\n")
    assert t.process.wait(RUN_TIMEOUT) == 5


def test_terminal_is_raw_and_restored(terminal, busybox):
    t = terminal(24, 80, "run", "-it", busybox, "sh", "-c", "echo ready; cat")
    t.until(b"ready")
    assert not termios.tcgetattr(t.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    t.write(b"\x04")  # the guest's terminal makes an end of file of it
    assert t.process.wait(RUN_TIMEOUT) == 0
    assert termios.tcgetattr(t.slave) == t.before


def test_ctrl_c_reaches_the_workload(terminal, busybox):
    t = terminal(24, 80, "run", "-it", busybox, "sh", "-c", "trap 'echo inter''rupted; exit 9' INT; echo ready; "
                 "while :; do sleep 0.1; done")
    t.until(b"ready")
    t.write(b"\x03")
    t.until(b"interrupted")
    assert t.process.wait(RUN_TIMEOUT) == 9
    assert termios.tcgetattr(t.slave) == t.before


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGHUP])
def test_terminal_is_restored_after_a_signal(terminal, busybox, signo):
    t = terminal(24, 80, "run", "-it", busybox, "sh", "-c", "echo ready; exec sleep 300")
    t.until(b"ready")
    t.process.send_signal(signo)
    assert t.process.wait(RUN_TIMEOUT) == 128 + signo
    assert termios.tcgetattr(t.slave) == t.before


def test_terminal_without_i(terminal, busybox):
    t = terminal(24, 80, "run", "-t", busybox, "sh", "-c", "test -t 1 && echo a terminal; echo $TERM")
    assert b"a terminal\r\nxterm\r\n" in t.until(b"xterm\r\n")
    assert t.process.wait(RUN_TIMEOUT) == 0


# ---- Sizes, and many in a row ----

def test_two_processors_work(sm, busybox):
    script = ("nproc; grep -c ^processor /proc/cpuinfo; "
              "for i in 1 2 3 4; do (i=0; while [ $i -lt 30000 ]; do i=$((i + 1)); done) & done; wait; "
              "awk '/^cpu[01] /{ print $1, ($2 + $3 > 0) }' /proc/stat")
    result = shell(sm, busybox, script, "--cpus", "2")
    assert result.stdout.decode().split("\n")[:4] == ["2", "2", "cpu0 1", "cpu1 1"]


@pytest.mark.parametrize("size, mib", [("128", 128), ("512m", 512), ("2g", 2048), ("8192", 8192)])
def test_memory_sizes_boot(sm, busybox, size, mib):
    result = shell(sm, busybox, "awk '/MemTotal/{ print $2 }' /proc/meminfo", "-m", size)
    assert result.returncode == 0, result.stderr
    total = int(result.stdout) / 1024
    assert mib * 0.85 - 16 < total <= mib


def host_memory_kib():
    with open("/proc/meminfo") as f:
        fields = dict(line.split(":", 1) for line in f)
    return int(fields["MemAvailable"].split()[0])


def test_many_runs_leave_nothing(sm, busybox, home):
    """200 in a row with SOAK=1: no file, process or memory stays."""
    count = 200 if SOAK else 15
    for _ in range(2):  # the first bakes, the second notes what it has touched
        shell(sm, busybox, "true")
    files = sorted(p for p in home.rglob("*"))
    before, processes, shm = host_memory_kib(), len(os.listdir("/proc")), sorted(os.listdir("/dev/shm"))
    for i in range(count):
        result = sm("run", busybox, "echo", i)
        assert (result.returncode, result.stdout) == (0, b"%d\n" % i), result.stderr
    assert sorted(p for p in home.rglob("*")) == files
    assert sorted(os.listdir("/dev/shm")) == shm
    assert workers() == set()
    assert abs(len(os.listdir("/proc")) - processes) < 25
    assert before - host_memory_kib() < 64 * 1024


def test_owner_keeps_no_descriptors_and_worker_has_few(start, busybox):
    process = start("run", busybox, "sh", "-c", "echo ready; sleep 300")
    read_until(process.stdout, b"ready\n")
    assert len(os.listdir(f"/proc/{process.pid}/fd")) < 32
    process.send_signal(signal.SIGTERM)
    process.wait(RUN_TIMEOUT)


def test_several_at_once(start, busybox):
    processes = [start("run", busybox, "sh", "-c", f"echo {i}; exit {i}", stdin=subprocess.DEVNULL) for i in range(3)]
    for i, process in enumerate(processes):
        assert process.wait(RUN_TIMEOUT) == i
        assert process.stdout.read() == b"%d\n" % i


# ---- Evidence ----

def test_a_trace_of_what_nobody_answers(sm, busybox):
    result = sm("run", "--boot", busybox, "true", env={"SUPERMACHINE_TRACE": "1"})
    assert result.returncode == 0
    lines = re.findall(rb"^supermachine-vmm: vcpu \d+: unhandled (?:MMIO|port) (?:read|write) of \d bytes at 0x[0-9a-f]+$",
                       result.stderr, re.M)
    assert lines and len(lines) <= 1000, result.stderr
    assert sm("run", "--boot", busybox, "true", env={"SUPERMACHINE_TRACE": "0"}).stderr == b""
