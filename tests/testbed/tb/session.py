# SPDX-License-Identifier: Apache-2.0
"""One run: a resumed machine, the command in it, and the streams between.

One poll loop moves everything: frames from the agent to our stdout and stderr, our stdin to the
machine, the console and the kernel log to a watch for the machine's own failures. Three things end
a run: the agent's EXIT frame, the time limit (then the agent gets a moment to send evidence and
results), or the end of QEMU. A signal to the driver ends it from outside, as an exception; whoever
started the machine kills it.

Once a second the machine gets an interrupt from here. QEMU's emulation of SVM changes the set of a processor's pending
interrupts without its lock where a guest is entered and left (do_vmexit), so that a timer's interrupt which comes from
another thread in that moment can be forgotten. The machine's kernel sets its timer anew only when it has fired: it then
idles for ever, or runs one guest for ever. Any other interrupt makes the emulated APIC look at all that is due.

The emulated serial line may double or lose a character, so the console is only searched for signs of
failure and kept as evidence. Everything else comes in checked frames.
"""

import collections
import fcntl
import json
import os
import re
import secrets
import select
import signal
import struct
import termios
import time
import tty

from . import config, frames, results

# Lines of the machine's kernel that mean: the machine failed, not what runs in it.
FAULT = re.compile(r"soft lockup|hard LOCKUP|rcu.*(detected|self-detected) .*stall|Kernel panic|BUG: |Oops: ")
FATAL = re.compile(r"Kernel panic")
WORTH_A_LINE = re.compile(r"Out of memory: Killed process|oom-kill:|blocked for more than")
ENV_KEPT = ("TERM", "ICOUNT")
CHUNK = frames.CHUNK
INPUT_AHEAD = 256 * 1024  # bytes of input waiting for the machine


class Fault(Exception):
    """The machine failed by itself."""


def wait_ready(booted, timeout):
    """Waits for READY of a machine that boots; shows the console when it does not come."""
    reader, console = frames.Reader(), b""
    deadline = time.monotonic() + timeout
    poll = select.poll()
    control, serial = booted.channels["control"], booted.channels["console"]
    poll.register(control, select.POLLIN)
    poll.register(serial, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise config.Trouble("the machine is not up after %d s; its console:\n%s"
                                 % (timeout, console[-2000:].decode(errors="replace")))
        for fd, _events in poll.poll(left * 1000):
            sock = control if fd == control.fileno() else serial
            data = sock.recv(CHUNK)
            if not data:
                booted.process.wait(timeout=10)
                raise config.Trouble("QEMU ended while the machine booted: %s\n%s"
                                     % (booted.complaint(), console[-2000:].decode(errors="replace")))
            if sock is serial:
                console += data
                continue
            reader.feed(data)
            frame = reader.next()
            while frame is not None:
                if frame[0] == frames.READY:
                    return
                frame = reader.next()


class Terminal:
    """Our own terminal in raw mode while a shell runs inside."""

    def __enter__(self):
        self.saved = termios.tcgetattr(0)
        tty.setraw(0)
        return self

    def __exit__(self, *_):
        termios.tcsetattr(0, termios.TCSADRAIN, self.saved)

    @staticmethod
    def size():
        rows, cols = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))[:2]
        return {"rows": rows or 24, "cols": cols or 80}


class Session:
    """Arguments: a resumed machine, the payload's binds, what to run, and how long it may take."""

    def __init__(self, resumed, argv, binds, timeout, results_directory, env, cwd, user, use_tty, show_kernel):
        self.machine = resumed
        self.timeout = timeout
        self.tty = use_tty
        self.show_kernel = show_kernel
        self.results = results.Results(results_directory)
        self.reader = frames.Reader()
        self.poll = select.poll()
        self.handlers = {}
        self.to_control = bytearray()
        self.to_stdin = bytearray()
        self.input_open = True
        self.code = None
        self.deadline = None  # counts from STARTED
        self.tick = 0.0  # when the next is due
        self.timed_out = False
        self.faults = []
        self.kernel = collections.deque(maxlen=config.KERNEL_TAIL)
        self.console = bytearray()
        inside = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
                  "USER": "root", "LANG": "C.UTF-8", "SUPERMACHINE_TESTBED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        inside.update({name: os.environ[name] for name in ENV_KEPT if name in os.environ})
        inside.update(env)
        order = {"argv": argv, "env": inside, "cwd": cwd, "user": user, "binds": binds, "tty": use_tty,
                 "seed": secrets.token_hex(64)}
        if use_tty:
            order.update(Terminal.size())
        order["time_ns"] = time.time_ns()
        self.to_control += frames.pack_json(frames.START, order)

    # --- the loop --------------------------------------------------------------------------

    def watch(self, fd, events, handler):
        if not isinstance(fd, int):
            fd = fd.fileno()
        self.handlers[fd] = handler
        self.poll.register(fd, events)

    def unwatch(self, fd):
        if not isinstance(fd, int):
            fd = fd.fileno()
        if self.handlers.pop(fd, None):
            self.poll.unregister(fd)

    def run(self):
        """Runs to the end and returns the exit code for the driver's caller."""
        try:
            self.loop()
        except Fault as fault:
            self.faults.append(str(fault))
        return self.verdict()

    def loop(self):
        channels = self.machine.channels
        wake = time.monotonic() + config.WAKE_TIMEOUT
        self.watch(channels["console"], select.POLLIN, self.on_console)
        self.watch(channels["control"], select.POLLIN | select.POLLOUT, self.on_control)
        self.watch(channels["stdin"], select.POLLOUT, self.on_stdin_room)
        if self.tty:
            resize_read, resize_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            signal.signal(signal.SIGWINCH, lambda *_: None)
            signal.set_wakeup_fd(resize_write, warn_on_full_buffer=False)
            self.watch(resize_read, select.POLLIN, self.on_resize)
        if self.tty or not os.isatty(0):
            self.watch(0, select.POLLIN, self.on_input)
        else:
            self.to_stdin += frames.pack(frames.INPUT_END)
        while self.code is None:
            now = time.monotonic()
            if self.deadline is None:
                if now >= wake:
                    raise Fault("the machine did not wake up within %d s" % config.WAKE_TIMEOUT)
            elif now >= self.deadline:
                if self.timed_out:
                    return
                self.timed_out = True
                self.deadline = now + config.STOP_TIMEOUT
                self.unwatch(0)
                self.send_control(frames.pack(frames.STOP))
            until = wake if self.deadline is None else min(self.deadline, self.next_tick(now))
            for fd, events in self.poll.poll(max(0.0, until - now) * 1000 + 1):
                if fd in self.handlers:
                    self.handlers[fd](fd, events)

    def next_tick(self, now):
        """When it is due; sends the one that is."""
        if now >= self.tick:
            self.tick = now + config.TICK
            if not self.to_control:
                self.send_control(frames.pack(frames.TICK))
        return self.tick

    def send_control(self, data):
        self.to_control += data
        self.watch(self.machine.channels["control"], select.POLLIN | select.POLLOUT, self.on_control)

    def flush(self, sock, buffer):
        """Sends what the socket takes; returns True when nothing is left."""
        try:
            while buffer:
                del buffer[: sock.send(buffer[: 4 * CHUNK])]
        except BlockingIOError:
            pass
        except OSError:
            raise self.ended() from None
        return not buffer

    def ended(self):
        """The exception for a QEMU that is gone."""
        self.machine.process.wait(timeout=30)
        why = self.machine.complaint() or "it was reset or switched off"
        if self.deadline is not None:
            return Fault("the machine ended by itself: %s" % why)
        return config.Trouble("QEMU ended at once: %s" % why)

    def on_control(self, _fd, events):
        sock = self.machine.channels["control"]
        if events & select.POLLOUT and self.flush(sock, self.to_control):
            self.watch(sock, select.POLLIN, self.on_control)
        if events & ~select.POLLOUT:
            try:
                data = sock.recv(8 * CHUNK)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                raise self.ended()
            self.reader.feed(data)
            try:
                while True:
                    frame = self.reader.next()
                    if frame is None:
                        break
                    self.on_frame(*frame)
            except frames.FrameError as error:
                raise Fault("the control channel is damaged: %s" % error) from error

    def on_frame(self, kind, payload):
        if kind == frames.STDOUT:
            write_all(1, payload)
        elif kind == frames.STDERR:
            write_all(2, payload)
        elif kind == frames.KERNEL:
            self.on_kernel_line(payload.decode(errors="replace"))
        elif kind == frames.RESULTS:
            self.results.feed(payload)
        elif kind == frames.NOTE:
            config.say(payload.decode(errors="replace"))
        elif kind == frames.STARTED:
            self.deadline = time.monotonic() + self.timeout
        elif kind == frames.EXIT:
            self.code = json.loads(payload)["code"]

    def on_kernel_line(self, line):
        self.kernel.append(line)
        if self.show_kernel:
            config.say("kernel: " + line)
        if FAULT.search(line):
            self.faults.append(line)
        elif WORTH_A_LINE.search(line):
            config.say("the machine's kernel says: " + line)

    def on_console(self, fd, _events):
        data = os.read(fd, CHUNK)
        if not data:
            self.unwatch(fd)
            return
        self.console += data
        del self.console[:-16384]
        text = self.console.decode(errors="replace")
        if FATAL.search(text):
            raise Fault("the machine's kernel panicked")
        if not self.faults and FAULT.search(text):
            self.faults.append([line for line in text.splitlines() if FAULT.search(line)][0].strip())

    # --- input -----------------------------------------------------------------------------

    def on_input(self, fd, _events):
        data = os.read(fd, CHUNK)
        if data:
            self.to_stdin += frames.pack(frames.INPUT, data)
        else:
            self.unwatch(fd)
            self.to_stdin += frames.pack(frames.INPUT_END)
        if len(self.to_stdin) > INPUT_AHEAD:
            self.unwatch(fd)
        self.watch(self.machine.channels["stdin"], select.POLLOUT, self.on_stdin_room)
        self.input_open = bool(data)

    def on_stdin_room(self, fd, _events):
        if self.flush(self.machine.channels["stdin"], self.to_stdin):
            self.unwatch(fd)
        wanted = self.input_open and (self.tty or not os.isatty(0)) and not self.timed_out
        if wanted and len(self.to_stdin) <= INPUT_AHEAD and 0 not in self.handlers:
            self.watch(0, select.POLLIN, self.on_input)

    def on_resize(self, fd, _events):
        os.read(fd, 512)
        self.send_control(frames.pack_json(frames.RESIZE, Terminal.size()))

    # --- the end ---------------------------------------------------------------------------

    def verdict(self):
        count = self.results.unpack()
        if self.results.destination:
            config.say("%d result files in %s" % (count, self.results.destination))
        if self.faults:
            self.evidence()
            what = "the command had not ended" if self.code is None else "the command had exited with %d" % self.code
            config.say("testbed fault: %s; %s. This says nothing about the command: run it again."
                       % (self.faults[0], what))
            return config.EXIT_FAULT
        if self.timed_out:
            self.evidence()
            config.say("time-out: killed after %g s" % self.timeout)
            return config.EXIT_TIMEOUT
        return self.code

    def evidence(self):
        lines = list(self.kernel)[-40:] or self.console.decode(errors="replace").splitlines()[-40:]
        if lines:
            config.say("the machine's kernel log ends with:\n  " + "\n  ".join(lines))


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
