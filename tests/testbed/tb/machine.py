# SPDX-License-Identifier: Apache-2.0
"""One QEMU process: its command line, its channels, and its end.

Nothing of a machine has a name in the file system. Disks that are private to a run are unlinked
files handed over as descriptors (QEMU opens them again through /proc/self/fd), channels are
socketpairs, and QEMU asks the kernel to be killed when its parent dies. So whatever happens to the
driver, nothing is left behind.

The saved machine remembers its devices: the command line must be the same for saving and for
resuming, but for what stands behind the disks and channels. `signature` names all that matters.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess

from . import config

APPEND = "console=ttyS0 quiet mitigations=off tsc=nowatchdog nokaslr panic=0"
PR_SET_PDEATHSIG = 1


class Shape:
    """What kind of machine: memory in MiB, processors, and whether time counts instructions."""

    def __init__(self, memory, cpus, icount):
        self.memory = memory
        self.cpus = cpus
        self.icount = icount

    def __str__(self):
        return "%d MiB, %d CPU%s%s" % (self.memory, self.cpus, "s" * (self.cpus > 1), ", icount" if self.icount else "")

    def arguments(self):
        if self.icount:
            accel = ["-accel", "tcg,thread=single,tb-size=512", "-icount", "shift=%d,sleep=off" % config.ICOUNT_SHIFT]
        else:
            accel = ["-accel", "tcg,thread=multi,tb-size=512"]
        return ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "q35,hpet=off"] + accel + [
            "-smp", str(self.cpus), "-cpu", "max,-erms", "-m", str(self.memory),
            "-device", "virtio-blk-pci,drive=root,addr=4", "-device", "virtio-blk-pci,drive=payload,addr=5",
            "-device", "virtio-rng-pci,addr=6", "-device", "virtio-serial-pci,addr=7",
            "-device", "virtserialport,chardev=control,name=control,nr=1",
            "-device", "virtserialport,chardev=stdin,name=stdin,nr=2",
            "-serial", "chardev:console", "-mon", "chardev=qmp,mode=control"]


CHANNELS = ("control", "stdin", "console", "qmp")


def version():
    done = subprocess.run([config.QEMU, "--version"], stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout.split("\n")[0]


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Machine:
    """A running QEMU. Channels are non-blocking sockets, except qmp, which only qmp() uses."""

    def __init__(self, shape, base, state_fd, payload_fd, extra):
        ours, theirs = {}, {}
        arguments = [config.QEMU] + shape.arguments()
        for name in CHANNELS:
            ours[name], theirs[name] = socket.socketpair()
            arguments += ["-chardev", "socket,id=%s,fd=%d" % (name, theirs[name].fileno())]
        disk = {
            "driver": "qcow2", "node-name": "root", "discard": "unmap",
            "file": {"driver": "file", "filename": "/proc/self/fd/%d" % state_fd, "discard": "unmap",
                     "cache": {"no-flush": True}},
            "backing": {"driver": "raw", "read-only": True, "file": {
                "driver": "file", "filename": os.path.join(base, "root.img"), "read-only": True, "locking": "off"}},
        }
        payload = {"driver": "raw", "node-name": "payload", "read-only": True, "file": {
            "driver": "file", "filename": "/proc/self/fd/%d" % payload_fd, "read-only": True, "locking": "off"}}
        arguments += ["-blockdev", json.dumps(disk), "-blockdev", json.dumps(payload)] + extra
        self.errors = os.memfd_create("qemu-stderr")
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=self.errors, stderr=self.errors, start_new_session=True,
            pass_fds=[state_fd, payload_fd] + [sock.fileno() for sock in theirs.values()], preexec_fn=die_with_parent)
        for sock in theirs.values():
            sock.close()
        self.channels = ours
        for name, sock in ours.items():
            sock.setblocking(name == "qmp")
        self.qmp_file = None

    def complaint(self):
        """What QEMU wrote to its stderr."""
        os.lseek(self.errors, 0, os.SEEK_SET)
        return os.read(self.errors, 4096).decode(errors="replace").strip()

    def qmp(self, command, **arguments):
        """Runs one QMP command and returns its result."""
        sock = self.channels["qmp"]
        if self.qmp_file is None:
            sock.settimeout(config.BOOT_TIMEOUT)
            self.qmp_file = sock.makefile("rb")
            self.qmp_file.readline()  # the greeting
            self.qmp("qmp_capabilities")
        sock.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        for line in self.qmp_file:
            answer = json.loads(line)
            if "error" in answer:
                raise config.Trouble("QEMU refuses %s: %s" % (command, answer["error"]["desc"]))
            if "return" in answer:
                return answer["return"]
        raise config.Trouble("QEMU ended during %s: %s" % (command, self.complaint()))

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.qmp_file is not None:
            self.qmp_file.close()
        for sock in self.channels.values():
            sock.close()
        if self.errors >= 0:
            os.close(self.errors)
            self.errors = -1
