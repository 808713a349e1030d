# SPDX-License-Identifier: Apache-2.0
"""Frames between the driver (outside) and the agent (inside the testbed's machine).

Two virtio-serial ports carry them. On `control` both sides speak; `stdin` carries only the
command's input, so that a command which does not read its input stops that port and nothing else.

A frame is: magic "SMtb", type (1 byte), 3 zero bytes, length (u32), crc32 of the payload (u32),
all little-endian, then the payload. Virtio-serial loses nothing as long as both ends stay open; the
checksum is there to turn a bug into a clear message instead of a strange test result.

This file is used on both sides: it goes into the machine's initrd as it is.
"""

import json
import struct
import zlib

HEADER = struct.Struct("<4sB3xII")
MAGIC = b"SMtb"
MAX_PAYLOAD = 256 * 1024
CHUNK = 32 * 1024

# driver -> agent, on control
START = 1  # JSON: argv, env, cwd, user, time_ns, tty, rows, cols, binds, seed
RESIZE = 2  # JSON: rows, cols
STOP = 3  # give up: kill the command, show what was running, send the results and EXIT
TICK = 4  # nothing, but an interrupt
# driver -> agent, on stdin
INPUT = 8
INPUT_END = 9
# agent -> driver, on control
READY = 16  # the machine is up and has dropped its caches: time to save it
STDOUT = 17
STDERR = 18
KERNEL = 19  # lines of the machine's kernel log
RESULTS = 20  # a piece of the tar stream of /results
EXIT = 21  # JSON: code; the last frame of a run
STARTED = 23  # the command runs
NOTE = 22  # text for the person who watches: the agent's own words


class FrameError(Exception):
    """The stream does not hold a frame where one must be."""


def pack(kind, payload=b""):
    if len(payload) > MAX_PAYLOAD:
        raise ValueError("frame payload of %d bytes" % len(payload))
    return HEADER.pack(MAGIC, kind, len(payload), zlib.crc32(payload)) + payload


def pack_json(kind, value):
    return pack(kind, json.dumps(value).encode())


class Reader:
    """Cuts a byte stream into frames: feed() bytes, then take the frames from next()."""

    def __init__(self):
        self.buffer = bytearray()

    def feed(self, data):
        self.buffer += data

    def next(self):
        """Returns (type, payload), or None until more bytes come."""
        if len(self.buffer) < HEADER.size:
            return None
        magic, kind, length, crc = HEADER.unpack_from(self.buffer)
        if magic != MAGIC or length > MAX_PAYLOAD:
            raise FrameError("no frame where one must start: %r" % bytes(self.buffer[:32]))
        end = HEADER.size + length
        if len(self.buffer) < end:
            return None
        payload = bytes(self.buffer[HEADER.size : end])
        del self.buffer[:end]
        if zlib.crc32(payload) != crc:
            raise FrameError("checksum of a frame of type %d is wrong" % kind)
        return kind, payload
