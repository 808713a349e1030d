# SPDX-License-Identifier: Apache-2.0
"""A small owner of supermachine-vmm for tests: speaks the control protocol (src/proto/control.h) directly."""

import array
import os
import socket
import struct
import subprocess
import time

CONFIG, DISK, START, STOP, VSOCK_CONNECT, CONSOLE_TAIL, STATS, RESTORE, SAVE, BAKE, REWIND, TOUCHED = range(1, 13)
OK, ERROR, CONSOLE, STATS_REPLY, SAVED, LIFECYCLE, EXITED, BAKED = 0x81, 0x82, 0x83, 0x84, 0x85, 0xC1, 0xC2, 0xC3
REASONS = {1: "stopped", 2: "power-off", 3: "reset", 4: "panic", 5: "triple-fault", 6: "vcpu-error"}
F_SELF_TEST, F_INITRAMFS, F_CONSOLE, F_VERBOSE, F_PROFILE, F_TRACE, F_RESTORE, F_PREPARE = (1 << i for i in range(8))
SAVE_STOP, SAVE_DIFF, SAVE_LIVE = 1, 2, 4
RESTORE_DIFF, RESTORE_PREFETCH = 1, 2
BAKE_PRE_EXEC, BAKE_LISTENER, BAKE_REQUIRE_LISTENER, BAKE_DIFF, BAKE_STOP, BAKE_POOL = (1 << i for i in range(6))
TRIGGERS = ("heartbeat", "pre-exec", "listener", "parked", "after", "none")
BAKE_EXITS = ("canceled", "stopped", "snapshot_saved", "system_off", "bake_ready")
VERSION = 2
MAX_FRAME = 96 * 1024


class WorkerError(Exception):
    """The worker answered ERROR."""

    def __init__(self, code, text):
        super().__init__(f"{os.strerror(code)}: {text}")
        self.code, self.text = code, text


def string(s):
    b = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<I", len(b)) + b


class Reader:
    def __init__(self, data):
        self.data = data

    def take(self, n):
        if n > len(self.data):
            raise ValueError("frame cut short")
        out, self.data = self.data[:n], self.data[n:]
        return out

    def u32(self):
        return struct.unpack("<I", self.take(4))[0]

    def u64(self):
        return struct.unpack("<Q", self.take(8))[0]

    def blob(self):
        return self.take(self.u32())


def saved(body):
    """The body of SAVED."""
    out = {name: body.u64() for name in ("total_ns", "pause_ns", "data_pages", "zero_pages", "live_pages")}
    return out | {name: body.u32() for name in ("devices", "listeners")}


def snapshot_files(directory, diff):
    """Descriptors of new, empty files for a snapshot."""
    return [os.open(f"{directory}/{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            for name in ("state", "memory", *(["diff"] if diff else []))]


def close_all(fds):
    for fd in fds:
        os.close(fd)


class Worker:
    """One worker process. Every wait has a deadline; close() leaves nothing behind."""

    def __init__(self, binary, env=None):
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.events = []
        self.next_id = 1

        def to_fd3():
            os.dup2(theirs.fileno(), 3, inheritable=True)

        self.proc = subprocess.Popen([binary], close_fds=False, preexec_fn=to_fd3, env=env, stdin=subprocess.DEVNULL)
        theirs.close()

    def send(self, kind, body=b"", fds=(), raw=None):
        ident, self.next_id = self.next_id, self.next_id + 1
        frame = raw if raw is not None else struct.pack("<HHI", kind, 0, ident) + body
        anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([frame], anc)
        return ident

    def recv(self, timeout=60):
        """The next frame as (type, id, Reader), or None at the end of file."""
        self.sock.settimeout(timeout)
        try:
            data = self.sock.recv(MAX_FRAME)
        except ConnectionResetError:
            return None
        if not data:
            return None
        kind, _, ident = struct.unpack("<HHI", data[:8])
        return kind, ident, Reader(data[8:])

    def reply(self, ident, timeout=60):
        while True:
            frame = self.recv(timeout)
            if frame is None:
                raise EOFError("the worker is gone")
            kind, got, body = frame
            if got == 0:
                self.keep(kind, body)
                continue
            assert got == ident, f"reply to {got}, not {ident}"
            if kind == ERROR:
                raise WorkerError(body.u32(), body.blob().decode())
            return kind, body

    def keep(self, kind, body):
        if kind == LIFECYCLE:
            self.events.append(("lifecycle", body.u32(), body.u64()))
        elif kind == EXITED:
            self.events.append(("exited", REASONS[body.u32()], body.blob().decode(), body.blob()))
        elif kind == BAKED:
            self.events.append(("baked", BAKE_EXITS[body.u32()], TRIGGERS[body.u32()], body.u32(), body.blob().decode(), saved(body)))

    def request(self, kind, body=b"", fds=(), timeout=60):
        return self.reply(self.send(kind, body, fds), timeout)

    def event(self, what, timeout=60):
        """Wait for the first event of a sort and take it."""
        deadline = time.monotonic() + timeout
        while True:
            for e in self.events:
                if e[0] == what:
                    self.events.remove(e)
                    return e
            frame = self.recv(max(0.01, deadline - time.monotonic()))
            if frame is None:
                raise EOFError("the worker is gone")
            self.keep(frame[0], frame[2])

    def config(self, kernel=None, initramfs=None, memory=256, vcpus=1, cid=3, flags=0, cmdline="", console=None, kvm="/dev/kvm",
               version=VERSION):
        """Without a kernel: for restore()."""
        paths = [(kvm, os.O_RDWR)]
        if kernel:
            paths.append((kernel, os.O_RDONLY))
        else:
            flags |= F_RESTORE
        if initramfs:
            paths.append((initramfs, os.O_RDONLY))
            flags |= F_INITRAMFS
        fds = [os.open(p, how | os.O_CLOEXEC) for p, how in paths]
        mine = list(fds)
        if console is not None:
            flags |= F_CONSOLE
            fds.append(console)
        try:
            body = struct.pack("<IIIIQ", version, memory, vcpus, flags, cid) + string(cmdline)
            return self.request(CONFIG, body, fds)
        finally:
            for fd in mine:
                os.close(fd)

    def disk(self, extents, fds, writable=False, serial=""):
        body = struct.pack("<B", writable) + string(serial) + struct.pack("<I", len(extents))
        for e in extents:
            body += struct.pack("<IQQ", *e)
        return self.request(DISK, body, fds)

    def start(self):
        return self.request(START)

    def save(self, directory, stop=False, diff=False, live=False, timeout=120):
        """Write the machine to directory/state, directory/memory and, of a diff, directory/diff; what the worker says of it."""
        fds = snapshot_files(directory, diff)
        flags = (SAVE_STOP if stop else 0) | (SAVE_DIFF if diff else 0) | (SAVE_LIVE if live else 0)
        try:
            _, body = self.request(SAVE, struct.pack("<I", flags), fds, timeout)
        finally:
            close_all(fds)
        return saved(body)

    def restore(self, directory, generation=None, base=None):
        """From directory/state and directory/memory; of a diff, `base` is the directory it goes with."""
        paths = [f"{directory}/state", f"{directory}/memory"]
        flags = 0
        if base:
            flags |= RESTORE_DIFF
            paths += [f"{base}/memory", f"{directory}/diff"]
        if os.path.exists(f"{directory}/prefetch"):
            flags |= RESTORE_PREFETCH
            paths.append(f"{directory}/prefetch")
        fds = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths]
        try:
            return self.request(RESTORE, struct.pack("<I", flags) + (generation or os.urandom(16)), fds)
        finally:
            close_all(fds)

    def bake(self, directory=None, flags=0, heartbeat=0, after_ms=0, quiesce_ms=0, diff=False):
        """Arm a bake; with a directory its files are made there. event("baked") has the outcome."""
        fds = snapshot_files(directory, diff) if directory else []
        flags |= (BAKE_DIFF if diff else 0) | (0 if directory else BAKE_POOL)
        try:
            return self.request(BAKE, struct.pack("<IQII", flags, heartbeat, after_ms, quiesce_ms), fds)
        finally:
            close_all(fds)

    def rewind(self, generation=None):
        return self.request(REWIND, generation or os.urandom(16))

    def touched(self, path):
        """Write the list of pages touched since the restore to a new file."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            return self.request(TOUCHED, b"", [fd])
        finally:
            os.close(fd)

    def console(self):
        _, body = self.request(CONSOLE_TAIL)
        return body.blob().decode(errors="replace")

    def stats(self):
        _, r = self.request(STATS)
        out = {"memory": r.u64(), "setup_ns": r.u64(), "uptime_ns": r.u64(), "built_ns": r.u64(),
               "mapped_ns": r.u64(), "loaded_ns": r.u64(), "first_exit_ns": r.u64(), "lost": r.u64(), "vcpus": r.u32(),
               "sandbox": r.u32(), "exits": {}}
        for _ in range(r.u32()):
            name = r.blob().decode()
            out["exits"][name] = r.u64()
        out["profile"] = r.blob().decode()
        return out

    def vsock(self, port):
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.request(VSOCK_CONNECT, struct.pack("<I", port), [theirs.fileno()])
        except BaseException:
            mine.close()
            raise
        finally:
            theirs.close()
        return mine

    def ended(self):
        """Its exit status if it has ended, with the events it left behind kept."""
        try:
            status = self.proc.wait(1)
        except subprocess.TimeoutExpired:
            return None
        while frame := self.recv(1):
            self.keep(frame[0], frame[2])
        return status

    def close(self):
        self.sock.close()
        try:
            return self.proc.wait(10)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            raise
