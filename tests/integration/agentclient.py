# SPDX-License-Identifier: Apache-2.0
"""A small client of the guest's agent for tests: speaks docs/guest-protocol.md over a worker's vsock connection."""
import functools
import pathlib
import re
import struct

HEADER = (pathlib.Path(__file__).resolve().parents[2] / "guest/proto.h").read_text()


@functools.cache
def number(name):
    """A number by its name in guest/proto.h."""
    return int(re.search(rf"\b{name}(?:\s*=)?\s+(0x\w+?|\d+)u?\b", HEADER)[1], 0)


def bit(name):
    """A flag by its name in guest/proto.h."""
    return 1 << int(re.search(rf"\b{name}\s+\(1u << (\d+)\)", HEADER)[1])


def string(text):
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def strings(items):
    return struct.pack("<I", len(items)) + b"".join(map(string, items))


class AgentError(Exception):
    pass


class Agent:
    """One connection. Requests and an exec on one are answered in order."""

    def __init__(self, worker, timeout=60):
        self.sock = worker.vsock(number("AGENT_PORT"))
        self.sock.settimeout(timeout)
        self.send("AGENT_HELLO", struct.pack("<II", number("AGENT_MAGIC"), number("AGENT_VERSION")))
        kind, _ = self.frame()
        assert kind == number("AGENT_HELLO"), kind

    def send(self, name, payload=b""):
        self.sock.sendall(struct.pack("<IHH", len(payload), number(name), 0) + payload)

    def exactly(self, n):
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                raise EOFError("the agent's connection has ended")
            data += more
        return data

    def frame(self):
        length, kind, _ = struct.unpack("<IHH", self.exactly(8))
        payload = self.exactly(length)
        if kind == number("AGENT_ERROR"):
            raise AgentError(payload[8:].decode())
        return kind, payload

    def ok(self):
        kind, _ = self.frame()
        assert kind == number("AGENT_OK"), kind

    def ping(self):
        self.send("AGENT_PING")
        self.ok()

    def setup(self, device="/dev/vda", hostname="clone", flags=0):
        self.send("AGENT_SETUP", string(hostname) + string(device) + string("erofs") + struct.pack("<QI", 0, flags) +
                  string("") + string(""))
        self.ok()

    def pre_exec(self):
        self.send("AGENT_PRE_EXEC")
        self.ok()

    def renew(self, generation, hostname="", signal=0):
        self.send("AGENT_RENEW", generation + string(hostname) + struct.pack("<I", signal))
        self.ok()

    def put(self, path, data, mode=0o644, uid=0, gid=0):
        self.send("AGENT_PUT", string(path) + struct.pack("<IIIQ", mode, uid, gid, len(data)))
        for at in range(0, len(data), 65536):
            self.send("AGENT_PUT_DATA", data[at:at + 65536])
        self.ok()

    def exec(self, *argv, flags=0):
        """Start a program; finish() takes its end."""
        self.send("AGENT_EXEC", struct.pack("<IQHH", flags, 0, 0, 0) + strings(argv) + strings([]) + string("") +
                  string("") + struct.pack("<I", 0))
        return self.started()

    def attach(self):
        self.send("AGENT_ATTACH", struct.pack("<I", 0))
        return self.started()

    def started(self):
        kind, payload = self.frame()
        if kind == number("AGENT_START_ERROR"):
            raise AgentError(payload[12:].decode())
        assert kind == number("AGENT_STARTED"), kind
        return struct.unpack("<I", payload)[0]

    def output(self, size):
        """The next `size` bytes or more of stdout."""
        out = b""
        while len(out) < size:
            kind, payload = self.frame()
            assert kind == number("AGENT_STDOUT"), kind
            out += payload
        return out

    def finish(self):
        """(exit status, what is left of stdout); 128 and the signal for a program that was killed by one."""
        out = b""
        while True:
            kind, payload = self.frame()
            if kind == number("AGENT_STDOUT"):
                out += payload
            elif kind == number("AGENT_EXITED"):
                status, signal = struct.unpack("<II", payload[:8])
                return (128 + signal if signal else status), out

    def run(self, *argv):
        """Run a program: (exit status, stdout)."""
        self.exec(*argv)
        return self.finish()

    def close(self):
        self.sock.close()
