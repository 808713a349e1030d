# SPDX-License-Identifier: Apache-2.0
"""Guests of a few instructions, as kernels that the worker boots: 32-bit protected mode, flat, no paging."""

import struct

LOAD = 0x100000
LIFECYCLE = 0xD0000000
VIRTIO = 0xD0001000
LC_EVENT_ARG, LC_EVENT, LC_POWER, LC_TEXT = 0x20, 0x28, 0x2C, 0x800
EV_AGENT_READY, EV_HEARTBEAT, EV_PANIC = 1, 2, 6

SPIN = b"\xeb\xfe"  # jmp to itself
HALT = b"\xf4\xeb\xfd"  # hlt, and again
TRIPLE_FAULT = b"\x0f\x01\x1d" + struct.pack("<I", LOAD + 0xF00) + b"\x0f\x0b"  # lidt of nothing, ud2


def out(port, value):
    """mov dx, port; mov al, value; out dx, al"""
    return b"\x66\xba" + struct.pack("<H", port) + b"\xb0" + bytes([value]) + b"\xee"


def write32(addr, value):
    """mov dword [addr], value"""
    return b"\xc7\x05" + struct.pack("<II", addr, value)


def write8(addr, value):
    return b"\xc6\x05" + struct.pack("<IB", addr, value)


def forever(code):
    """The code again and again."""
    distance = -(len(code) + 5)
    return code + b"\xe9" + struct.pack("<i", distance)


def say(text):
    return b"".join(out(0x3F8, c) for c in text.encode())


def power(what):
    return write32(LIFECYCLE + LC_POWER, what)


def event(kind):
    return write32(LIFECYCLE + LC_EVENT, kind)


def panic(text):
    code = b"".join(write8(LIFECYCLE + LC_TEXT + i, c) for i, c in enumerate(text))
    # The argument is a register of 64 bits, and this is 32-bit code: by way of MMX.
    code += write32(0x9000, len(text)) + write32(0x9004, 0)
    code += b"\x0f\x6f\x05" + struct.pack("<I", 0x9000)  # movq mm0, [0x9000]
    code += b"\x0f\x7f\x05" + struct.pack("<I", LIFECYCLE + LC_EVENT_ARG)  # movq [arg], mm0
    return code + event(EV_PANIC) + HALT


def kernel(code, machine=62):
    """An ELF file with one segment and a PVH note, entered at its first byte."""
    note = struct.pack("<III", 4, 4, 18) + b"Xen\0" + struct.pack("<I", LOAD)
    code_at = 64 + 2 * 56 + len(note)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, code_at, LOAD, LOAD, len(code), 0x4000, 4096)
    notes = struct.pack("<IIQQQQQQ", 4, 4, 64 + 112, 0, 0, len(note), len(note), 4)
    return head + load + notes + note + code
