# SPDX-License-Identifier: Apache-2.0
"""Takes a snapshot's `state` apart and puts it together again with right checksums: docs/snapshot-format.md."""
import struct

HEADER, ENTRY = 64, 24


def crc32c(data):
    """CRC-32C (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def entry(n):
    for _ in range(8):
        n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
    return n


TABLE = [entry(n) for n in range(256)]


class Section:
    def __init__(self, tag, index, version, data):
        self.tag, self.index, self.version, self.data = tag, index, version, bytearray(data)

    def put(self, offset, fmt, *values):
        struct.pack_into("<" + fmt, self.data, offset, *values)

    def get(self, offset, fmt):
        return struct.unpack_from("<" + fmt, self.data, offset)[0]


class State:
    def __init__(self, data):
        self.magic, self.version, self.page = struct.unpack_from("<8sII", data)
        self.sections, self.bounds = [], [0, HEADER]
        for n in range(struct.unpack_from("<I", data, 24)[0]):
            tag, index, version, offset, length, _, _ = struct.unpack_from("<4sHHIIII", data, HEADER + ENTRY * n)
            self.sections.append(Section(tag.decode(), index, version, data[offset:offset + length]))
            self.bounds += [HEADER + ENTRY * n, offset]
        self.bounds = sorted(set(self.bounds))  # where something begins

    def section(self, tag, index=0):
        return next(s for s in self.sections if (s.tag, s.index) == (tag, index))

    def bytes(self):
        at, table, body = HEADER + ENTRY * len(self.sections), b"", b""
        for s in self.sections:
            table += struct.pack("<4sHHIIII", s.tag.encode(), s.index, s.version, at + len(body), len(s.data),
                                 crc32c(s.data), 0)
            body += s.data
        head = struct.pack("<8sIIQII28x", self.magic, self.version, self.page, at + len(body), len(self.sections),
                           crc32c(table))
        return head + struct.pack("<I", crc32c(head)) + table + body


CPUID_ENTRY = 25  # bytes
VCPU_FIXED = 4 + 1 + 8 + 4  # between a vCPU's CPUID table and its registers
RSP, RIP, RFLAGS = (8 * n for n in (6, 16, 17))  # among them


def where(state):
    """Where each vCPU is, in words."""
    said = []
    for section in (s for s in State(state).sections if s.tag == "VCPU"):
        at = 4 + CPUID_ENTRY * section.get(0, "I") + VCPU_FIXED
        rip, rsp, flags = (section.get(at + register, "Q") for register in (RIP, RSP, RFLAGS))
        said.append(f"vcpu {section.index}: run state {section.get(at - 4, 'I')} rip {rip:#x} rsp {rsp:#x} rflags {flags:#x}")
    return "; ".join(said)


def runs(kind, pages, items, version=1):
    """A list of page runs, `diff` or `prefetch`, whatever is in it."""
    body = b"".join(struct.pack("<II", first, count) for first, count in items)
    head = struct.pack("<8sIIIII", {"diff": b"SMdiff \n", "prefetch": b"SMpref \n"}[kind], version, 4096, pages, len(items), 0)
    return head + struct.pack("<I", crc32c(head + body)) + body
