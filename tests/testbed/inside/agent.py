#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The agent: first process of the testbed's machine.

How it works. The machine is booted once, by `prepare`: the agent gets ready, drops the kernel's
caches, says READY and waits. In this moment the machine is saved. Every run is a copy of the machine
that wakes up here, with another disk behind /dev/vdb and somebody else at the ends of its ports.
START then says what to do: set the clock, stir the entropy pool, mount the payload, run the command.
The agent carries its output out, its exit code and what it left in /results, and never returns:
the driver kills the machine.

Being PID 1 it also reaps orphans. One thread, one poll loop; what is written to the control port
blocks when the driver is slow, which slows the command down as a pipe would.
"""

import errno
import fcntl
import json
import os
import pty
import pwd
import select
import signal
import struct
import subprocess
import sys
import tarfile
import termios
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import frames  # noqa: E402

PAYLOAD_DEVICE = "/dev/vdb"
PAYLOAD_MOUNT = "/mnt/payload"
RESULTS = "/results"
RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
KVM_CREATE_VM = 0xAE01
KVM_CREATE_IRQCHIP = 0xAE60
KVM_CREATE_VCPU = 0xAE41
GRACE = 2.0  # seconds for output that a background process still holds open after the command's end


def ioctl_winsize(fd, rows, cols):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def port(name):
    """Opens the virtio-serial port called name."""
    for entry in os.listdir("/sys/class/virtio-ports"):
        with open("/sys/class/virtio-ports/%s/name" % entry) as file:
            if file.read().strip() == name:
                return os.open("/dev/" + entry, os.O_RDWR | os.O_CLOEXEC)
    raise SystemExit("no port " + name)


def sh(*argv):
    """Runs a command of the agent's own (the loop is not running, so nothing else reaps it)."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError("%s: %s" % (" ".join(argv), done.stdout.decode(errors="replace").strip()))


def machine_that_stays():
    """One idle machine, for as long as the testbed lives; returns its descriptors.

    With the first machine of a host and after its last, KVM has the host's kernel patch its scheduler's code
    (preempt_notifier_key). The emulator that runs us now and then goes on with the breakpoint that stood there for a
    moment: all processors take that for ever, and the testbed is dead. While a machine is there, nothing is patched.
    """
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    machine = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    fcntl.ioctl(machine, KVM_CREATE_IRQCHIP, 0)
    return kvm, machine, fcntl.ioctl(machine, KVM_CREATE_VCPU, 0)


class ResultsStream:
    """The file that tarfile writes to: each of its blocks becomes a frame."""

    def __init__(self, send):
        self.send = send

    def write(self, data):
        self.send(frames.RESULTS, data)
        return len(data)


class Agent:
    def __init__(self):
        self.control = port("control")
        self.stdin_port = port("stdin")
        self.control_reader = frames.Reader()
        self.stdin_reader = frames.Reader()
        self.kmsg = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.poll = select.poll()
        self.handlers = {}
        self.outputs = 0  # streams of the command that are still open
        self.child = None
        self.status = None
        self.input_fd = None
        self.pending_input = b""
        self.tty_fd = None
        self.deadline = None

    # --- talking ---------------------------------------------------------------------------

    def send(self, kind, payload=b""):
        data = memoryview(frames.pack(kind, payload))
        while data:
            data = data[os.write(self.control, data[: frames.CHUNK]) :]

    def send_json(self, kind, value):
        self.send(kind, json.dumps(value).encode())

    def note(self, text):
        self.send(frames.NOTE, text.encode(errors="replace")[: frames.CHUNK])

    # --- the loop --------------------------------------------------------------------------

    def watch(self, fd, events, handler):
        self.handlers[fd] = handler
        self.poll.register(fd, events)

    def unwatch(self, fd):
        if self.handlers.pop(fd, None):
            self.poll.unregister(fd)

    def serve(self):
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.watch(wake_read, select.POLLIN, self.on_child)
        self.watch(self.control, select.POLLIN, self.on_control)
        self.watch(self.kmsg, select.POLLIN, self.on_kmsg)
        sh("sync")
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")
        sh("blockdev", "--flushbufs", PAYLOAD_DEVICE)
        os.lseek(self.kmsg, 0, os.SEEK_END)
        self.send(frames.READY)
        while True:
            timeout = None
            if self.deadline is not None:
                timeout = max(0, self.deadline - time.monotonic()) * 1000
            for fd, events in self.poll.poll(timeout):
                if fd in self.handlers:
                    self.handlers[fd](fd, events)
            if self.status is not None:
                late = self.deadline is not None and time.monotonic() >= self.deadline
                if self.outputs == 0 or late:
                    self.finish()

    def on_control(self, fd, _events):
        self.control_reader.feed(os.read(fd, frames.CHUNK))
        while True:
            frame = self.control_reader.next()
            if frame is None:
                return
            kind, payload = frame
            if kind == frames.START:
                self.start(json.loads(payload))
            elif kind == frames.RESIZE and self.tty_fd is not None:
                size = json.loads(payload)
                ioctl_winsize(self.tty_fd, size["rows"], size["cols"])
            elif kind == frames.STOP:
                self.stop()
            else:
                assert kind == frames.TICK, kind

    def on_kmsg(self, fd, _events):
        """Passes kernel log lines on: 'level,sequence,time,flags;text' becomes '<level> text'."""
        try:
            while True:
                record = os.read(fd, 8192).decode(errors="replace")
                prefix, _, text = record.partition(";")
                level = int(prefix.split(",")[0]) & 7
                self.send(frames.KERNEL, ("<%d> %s" % (level, text.split("\n")[0])).encode())
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EPIPE):
                raise

    def on_child(self, fd, _events):
        try:
            os.read(fd, 512)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.child:
                self.status = status
                self.deadline = time.monotonic() + GRACE

    # --- the command -----------------------------------------------------------------------

    def start(self, order):
        try:
            time.clock_settime_ns(time.CLOCK_REALTIME, order["time_ns"])
            seed = bytes.fromhex(order["seed"])
            with open("/dev/urandom", "wb", buffering=0) as random:
                fcntl.ioctl(random, RNDADDENTROPY, struct.pack("ii", len(seed) * 8, len(seed)) + seed)
                fcntl.ioctl(random, RNDRESEEDCRNG)
            if order["binds"]:
                os.makedirs(PAYLOAD_MOUNT, exist_ok=True)
                sh("mount", "-t", "ext4", "-o", "ro,noload", PAYLOAD_DEVICE, PAYLOAD_MOUNT)
                for name, destination in order["binds"]:
                    os.makedirs(destination, exist_ok=True)
                    sh("mount", "--bind", os.path.join(PAYLOAD_MOUNT, name), destination)
            self.spawn(order)
            self.send(frames.STARTED)
        except Exception as error:  # whatever it is: the driver must hear of it
            self.note("cannot start the command: %s" % error)
            self.send_json(frames.EXIT, {"code": 125})

    def spawn(self, order):
        env = order["env"]
        if order["tty"]:
            self.child, master = pty.fork()
            if self.child == 0:
                self.exec(order, env)
            self.tty_fd = master
            self.input_fd = os.dup(master)  # a second number, to be watched for room on its own
            ioctl_winsize(master, order["rows"], order["cols"])
            self.add_output(master, frames.STDOUT)
        else:
            in_read, in_write = os.pipe()
            out_read, out_write = os.pipe()
            err_read, err_write = os.pipe()
            self.child = os.fork()
            if self.child == 0:
                os.setsid()
                for target, fd in enumerate((in_read, out_write, err_write)):
                    os.dup2(fd, target)
                os.closerange(3, 256)
                self.exec(order, env)
            for fd in (in_read, out_write, err_write):
                os.close(fd)
            self.input_fd = in_write
            self.add_output(out_read, frames.STDOUT)
            self.add_output(err_read, frames.STDERR)
        os.set_blocking(self.input_fd, False)
        self.watch(self.stdin_port, select.POLLIN, self.on_stdin)

    def exec(self, order, env):
        """In the child: becomes the command, as a shell would start it (127, 126 when it cannot)."""
        code = 126
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGCHLD, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            if order["user"] != "root":
                account = pwd.getpwnam(order["user"])
                os.initgroups(account.pw_name, account.pw_gid)
                os.setgid(account.pw_gid)
                os.setuid(account.pw_uid)
                env.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name)
            os.chdir(order["cwd"] or env["HOME"])
            os.execvpe(order["argv"][0], order["argv"], env)
        except FileNotFoundError as error:
            code = 127
            os.write(2, ("testbed: %s: %s\n" % (order["argv"][0], error)).encode())
        except BaseException as error:
            os.write(2, ("testbed: %s: %s\n" % (order["argv"][0], error)).encode())
        finally:
            os._exit(code)

    def add_output(self, fd, kind):
        self.outputs += 1

        def on_output(fd, _events):
            try:
                data = os.read(fd, frames.CHUNK)
            except OSError as error:
                if error.errno != errno.EIO:  # what a pty says at its end
                    raise
                data = b""
            if data:
                self.send(kind, data)
            else:
                self.unwatch(fd)
                self.outputs -= 1

        self.watch(fd, select.POLLIN, on_output)

    def on_stdin(self, fd, _events):
        self.stdin_reader.feed(os.read(fd, frames.CHUNK))
        self.pump_stdin()

    def pump_stdin(self):
        """Moves input to the command; while its pipe is full the port is not read."""
        while self.input_fd is not None:
            if self.pending_input:
                try:
                    written = os.write(self.input_fd, self.pending_input)
                    self.pending_input = self.pending_input[written:]
                    continue
                except BlockingIOError:
                    self.unwatch(self.stdin_port)
                    self.watch(self.input_fd, select.POLLOUT, self.on_input_room)
                    return
                except OSError:  # the command has closed its input: swallow the rest
                    self.pending_input = b""
            frame = self.stdin_reader.next()
            if frame is None:
                break
            if frame[0] == frames.INPUT:
                self.pending_input = frame[1]
            elif self.tty_fd is None:
                os.close(self.input_fd)
                self.input_fd = None

    def on_input_room(self, fd, _events):
        self.unwatch(fd)
        self.watch(self.stdin_port, select.POLLIN, self.on_stdin)
        self.pump_stdin()

    # --- the end ---------------------------------------------------------------------------

    def stop(self):
        """Time is up: evidence first, then the same way out as after a normal end."""
        ps = ["ps", "--ppid", "2", "-p", "2", "--deselect", "-o", "pid,ppid,stat,wchan:20,time,args"]
        listing = subprocess.run(ps, stdout=subprocess.PIPE).stdout.decode(errors="replace")
        self.note("running when time was up:\n" + "\n".join(listing.splitlines()[:100]))
        os.kill(-1, signal.SIGKILL)
        self.finish()

    def finish(self):
        """Sends what is left of the output, the results, and the exit code as the last frame."""
        self.on_kmsg(self.kmsg, 0)
        if os.path.isdir(RESULTS) and os.listdir(RESULTS):
            with tarfile.open(fileobj=ResultsStream(self.send), mode="w|", bufsize=frames.CHUNK) as tar:
                tar.add(RESULTS, arcname=".")
        code = 137
        if self.status is not None:
            code = os.waitstatus_to_exitcode(self.status)
        self.send_json(frames.EXIT, {"code": code if code >= 0 else 128 - code})
        while True:  # the driver ends the machine
            signal.pause()


if __name__ == "__main__":
    kept = machine_that_stays()
    Agent().serve()
