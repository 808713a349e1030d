# SPDX-License-Identifier: Apache-2.0
"""Snapshots that are not what they should be: each is refused with a sentence that says what is wrong, or is the clone's
own loss; never a crash of the worker, a hang, or something that passes for success.

The machine is a small guest that says all the time that it lives, which any KVM can run, so these tests need no testbed;
those about Linux's devices do.
"""
import os
import random
import select
import shutil

import pytest
import snapstate
import tinyguest as tiny
import worker as w
from checked import SOAK, Lab, check_disk, convert, lab, shelf  # noqa: F401: fixtures
from test_worker import VMM

MEMORY = 32  # MiB
PAGES = MEMORY * 256
QUEUE = 34  # bytes of a queue's state


@pytest.fixture(scope="module")
def tiny_saved(tmp_path_factory):
    """A snapshot of a guest that rings without end."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/kvm")
    top = tmp_path_factory.mktemp("tiny")
    (top / "kernel").write_bytes(tiny.kernel(tiny.forever(tiny.event(tiny.EV_HEARTBEAT))))
    worker = w.Worker(VMM)
    worker.config(str(top / "kernel"), memory=MEMORY)
    worker.start()
    worker.event("lifecycle", 30)
    (top / "saved").mkdir()
    worker.save(top / "saved", stop=True)
    worker.close()
    return top / "saved"


@pytest.fixture
def saved(tiny_saved, shelf):
    """A copy of it, to be spoilt."""
    path = shelf.new()
    for name in ("state", "memory"):
        shutil.copyfile(tiny_saved / name, path / name)
    return path


@pytest.fixture
def state(saved):
    return snapstate.State((saved / "state").read_bytes())


def restore(path, memory=MEMORY, vcpus=1, **kwargs):
    """A worker that runs the clone. Whoever gets it closes it."""
    worker = w.Worker(VMM)
    try:
        worker.config(memory=memory, vcpus=vcpus)
        worker.restore(path, **kwargs)
    except BaseException:
        assert worker.close() == 0, "the worker died of it"
        raise
    return worker


def lives(path, **kwargs):
    worker = restore(path, **kwargs)
    assert worker.event("lifecycle", 30) == ("lifecycle", tiny.EV_HEARTBEAT, 0)
    worker.close()


def refused(path, words, **kwargs):
    with pytest.raises(w.WorkerError, match=words) as failed:
        restore(path, **kwargs)
    assert failed.value.text.startswith("restoring the machine: "), failed.value.text
    assert "\n" not in failed.value.text
    return failed.value.text


def refused_state(path, state, words):
    (path / "state").write_bytes(state.bytes())
    return refused(path, words)


def test_taken_apart_and_put_together(saved, state):
    """What these tests do to a state file is not what makes it bad."""
    data = state.bytes()
    assert data == (saved / "state").read_bytes()
    lives(saved)


# --- damage ---


def test_truncated_anywhere(saved, state):
    """At every place where something begins, and just before."""
    size = (saved / "state").stat().st_size
    places = {at + d for at in state.bounds for d in (-1, 0) if 0 <= at + d < size}
    for at in sorted(places, reverse=True):
        os.truncate(saved / "state", at)
        refused(saved, "state")


def test_any_flipped_bit(saved):
    data = (saved / "state").read_bytes()
    bits = random.Random(4).sample(range(len(data) * 8), 600 if SOAK else 25)
    for bit in [*range(0, 64 * 8, 37), *bits]:
        spoilt = bytearray(data)
        spoilt[bit // 8] ^= 1 << bit % 8
        (saved / "state").write_bytes(spoilt)
        refused(saved, "state")


def test_more_than_a_state(saved):
    with open(saved / "state", "ab") as file:
        file.write(b"more")
    refused(saved, "state")


# --- of another make ---


@pytest.mark.parametrize("what, value, words", [
    ("magic", b"SMsta64\n", "arm64|architecture|processor"), ("magic", b"SQLite f", "not a|magic|state"),
    ("version", 2, "version"), ("page", 16384, "page"),
])
def test_of_another_make(saved, state, what, value, words):
    setattr(state, what, value)
    refused_state(saved, state, words)


def test_a_newer_section(saved, state):
    state.section("VCPU").version = 2
    refused_state(saved, state, "(?s)VCPU|vCPU.*version|version")


def test_a_processor_this_host_has_not(saved, state):
    """A feature in the CPUID table that is not offered here: leaf 1, a bit of ECX that no processor sets for a guest."""
    vcpu = state.section("VCPU")
    for n in range(vcpu.get(0, "I")):
        at = 4 + snapstate.CPUID_ENTRY * n
        if vcpu.get(at, "I") == 7 and vcpu.get(at + 4, "I") == 0:
            vcpu.put(at + 9 + 4, "I", 0xFFFFFFFF)  # EBX: everything
    refused_state(saved, state, "processor|CPU|feature")


@pytest.mark.parametrize("config, words", [({"memory": 64}, "(?i)memory"), ({"vcpus": 2}, "it has 1, this machine 2")])
def test_of_another_shape(saved, config, words):
    refused(saved, words, **config)


# --- right checksums, hostile contents ---


def test_sections_missing_and_twice(saved, state):
    whole = list(state.sections)
    for section in whole:
        state.sections = [s for s in whole if s is not section]
        refused_state(saved, state, "state|it has no|missing|section")
    state.sections = whole + whole[:1]
    refused_state(saved, state, "twice|section|state")
    state.sections = []
    refused_state(saved, state, "state|section|has no")


def test_sections_cut_and_padded(saved, state):
    for section in state.sections:
        kept = bytes(section.data)
        for data in (b"", kept[:-1], kept + b"\0", kept[:len(kept) // 2], kept * 2):
            section.data = bytearray(data)
            if len(data) <= 256 << 10:
                refused_state(saved, state, section.tag.strip() + "|too long|short|bytes|left|end|more|" + "state|count")
        section.data = bytearray(kept)


@pytest.mark.parametrize("count", [0, 257, 1 << 31, 0xFFFFFFFF])
def test_counts(saved, state, count):
    vcpu = state.section("VCPU")
    cpuid = 4 + snapstate.CPUID_ENTRY * vcpu.get(0, "I")
    xcrs = cpuid + snapstate.VCPU_FIXED + 18 * 8 + 8 * 23 + 2 * 10 + 12 * 8
    xsave = xcrs + 4 + 12 * vcpu.get(xcrs, "I")
    msrs = xsave + 4 + vcpu.get(xsave, "I") + 7 * 8 + 1024
    for at in (0, xcrs, xsave, msrs):
        kept = vcpu.get(at, "I")
        vcpu.put(at, "I", count)
        refused_state(saved, state, "vcpu 0")
        vcpu.put(at, "I", kept)
    (saved / "state").write_bytes(state.bytes())
    lives(saved)


@pytest.mark.parametrize("value", [0xFFFFFFFFFFFFFFFF, 0x8000000000000001, 0xFFFFFFFF00000000])
def test_registers_that_no_processor_takes(saved, state, value):
    """Each of a vCPU's numbers in turn: refused, or the guest's own end."""
    vcpu = state.section("VCPU")
    first = 4 + snapstate.CPUID_ENTRY * vcpu.get(0, "I") + snapstate.VCPU_FIXED
    last = first + 18 * 8 + 8 * 23 + 2 * 10 + 12 * 8 - 8
    for at in range(first, last, 8 if SOAK else 24):
        kept = vcpu.get(at, "Q")
        vcpu.put(at, "Q", value)
        (saved / "state").write_bytes(state.bytes())
        survives(saved)
        vcpu.put(at, "Q", kept)


def survives(path, seconds=0.05, **kwargs):
    """Refused with a sentence, or a clone that runs or ends, but no worker that dies or does not answer any more."""
    try:
        worker = restore(path, **kwargs)
    except w.WorkerError as error:
        assert error.text.startswith("restoring the machine: ") and "\n" not in error.text, error.text
        return
    select.select([worker.sock], [], [], seconds)
    ended = False
    try:
        worker.request(w.STOP)
        worker.event("exited", 30)
    except EOFError:
        ended = True
    assert worker.close() == 0, "the worker died of it"
    assert not ended or any(e[0] == "exited" for e in worker.events), "the worker has gone without a word"


@pytest.mark.parametrize("seed", range(40 if SOAK else 3))
def test_anything_with_right_checksums(saved, state, seed):
    """Random bytes in random sections, with checksums that are right."""
    rng = random.Random(seed)
    whole = {(s.tag, s.index): bytes(s.data) for s in state.sections}
    for _ in range(15):
        for section in state.sections:
            section.data = bytearray(whole[section.tag, section.index])
        for _ in range(rng.choice((1, 1, 2, 8))):
            section = rng.choice([s for s in state.sections if s.data])
            section.data[rng.randrange(len(section.data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        (saved / "state").write_bytes(state.bytes())
        survives(saved)


# --- queues, with a kernel that uses them ---


@pytest.fixture(scope="module")
def linux_saved(home, tmp_path_factory):
    top = tmp_path_factory.mktemp("linux")
    lab = Lab(convert(home, "check", top / "disk"))
    (top / "saved").mkdir()
    lab.boot(mib=0).worker.save(top / "saved", stop=True)
    lab.close()
    return top / "saved"


@pytest.fixture
def linux(linux_saved, lab, shelf):
    """linux(state): a clone with that state; its agent may or may not be there."""
    path = shelf.new()
    os.link(linux_saved / "memory", path / "memory")

    def run(state):
        (path / "state").write_bytes(state.bytes())
        return lab.restore(path)

    run.state = lambda: snapstate.State((linux_saved / "state").read_bytes())
    return run


def queues(section):
    """Where each queue's state begins in a VIRT section."""
    at = 4 + 4 + 8 + 12 + 4 + 4
    at += 4 + section.get(at, "I")
    return [at + 4 + QUEUE * n for n in range(section.get(at, "I"))]


@pytest.mark.kvm
@pytest.mark.parametrize("offset, fmt, value", [
    (3, "Q", 1 << 40), (11, "Q", (128 << 20) - 8), (19, "Q", 0xFFFFFFFFFFFFF000), (3, "Q", 0xD0000000), (0, "H", 0xFFFF),
    (0, "H", 0), (0, "H", 3), (2, "B", 2),
], ids=["outside", "across-the-end", "wraps", "device", "too-large", "none", "no-power-of-two", "no-bool"])
def test_queues_outside_of_memory(linux, offset, fmt, value):
    state = linux.state()
    for index in range(3):
        section = state.section("VIRT", index)
        for at in queues(section):
            if not section.data[at + 2]:
                continue
            kept = section.get(at + offset, fmt)
            section.put(at + offset, fmt, value)
            with pytest.raises(w.WorkerError, match="queue|ring|ready"):
                linux(state)
            section.put(at + offset, fmt, kept)


@pytest.mark.kvm
@pytest.mark.parametrize("offset", [27, 29, 31], ids=["available", "used", "told"])
def test_queue_positions_that_are_lies(linux, offset):
    """Indices anywhere in their rings: the device or the driver may be confused, the worker is not."""
    state = linux.state()
    for index in range(3):
        section = state.section("VIRT", index)
        for at in queues(section):
            section.put(at + offset, "H", 0x8000 ^ section.get(at + offset, "H"))
    try:
        machine = linux(state)
    except w.WorkerError as error:
        assert "queue" in error.text or "ring" in error.text
        return
    for _ in range(20):
        machine.worker.stats()  # it answers while the guest makes what it can of them
    machine.worker.request(w.STOP)
    machine.worker.event("exited", 30)
    assert machine.worker.close() == 0


# --- memory ---


@pytest.mark.parametrize("change", [-1, -4096, 1, 4096, -(MEMORY << 20)])
def test_memory_of_another_length(saved, change):
    os.truncate(saved / "memory", (MEMORY << 20) + change)
    refused(saved, "memory")


def test_not_even_files(saved):
    for name in ("state", "memory"):
        os.rename(saved / name, saved / "kept")
        os.symlink("/dev/null", saved / name)
        refused(saved, name)
        os.unlink(saved / name)
        os.mkdir(saved / name)
        refused(saved, name)
        os.rmdir(saved / name)
        os.rename(saved / "kept", saved / name)
    lives(saved)


# --- diffs and lists ---


@pytest.fixture
def changed(tiny_saved, shelf):
    """A diff of it."""
    path = shelf.new()
    worker = restore(tiny_saved)
    worker.event("lifecycle", 30)
    worker.save(path, stop=True, diff=True)
    worker.close()
    return path


CHANGED = {
    "empty": (b"", "too short|size|cut"),
    "cut": (b"SMdiff \n", "too short|size|cut"),
    "another-list": (snapstate.runs("prefetch", PAGES, [(0, 1)]), "something else"),
    "version": (snapstate.runs("diff", PAGES, [(0, 1)], version=2), "version"),
    "another-size": (snapstate.runs("diff", PAGES + 1, [(0, 1)]), "pages"),
    "no-page": (snapstate.runs("diff", PAGES, [(0, 0)]), "run|pages"),
    "overlap": (snapstate.runs("diff", PAGES, [(5, 2), (6, 1)]), "run|order|overlap"),
    "order": (snapstate.runs("diff", PAGES, [(9, 1), (3, 1)]), "run|order|overlap"),
    "beyond": (snapstate.runs("diff", PAGES, [(PAGES - 1, 2)]), "run|pages"),
    "wraps": (snapstate.runs("diff", PAGES, [(0xFFFFFFFF, 2)]), "run|pages"),
    "too-many": (snapstate.runs("diff", PAGES, [(2 * n, 1) for n in range(8193)]), "size|runs"),
    "more": (snapstate.runs("diff", PAGES, [(0, 1)]) + b"x", "checksum|size"),
    "short": (snapstate.runs("diff", PAGES, [(0, 2)])[:-1], "checksum|size"),
}


@pytest.mark.parametrize("content, words", CHANGED.values(), ids=CHANGED)
def test_lists_of_changed_pages(tiny_saved, changed, content, words):
    lives(changed, base=tiny_saved)
    (changed / "diff").write_bytes(content)
    assert "list of changed pages" in refused(changed, words, base=tiny_saved)


@pytest.mark.parametrize("content", [b"", snapstate.runs("prefetch", PAGES, [(PAGES, 1)]), os.urandom(4096)], ids=["empty", "beyond", "noise"])
def test_lists_of_pages_to_prefetch(saved, content):
    """Only a hint: without it the machine is as good; but a broken one is said to be broken, or left alone."""
    (saved / "prefetch").write_bytes(content)
    survives(saved)


def test_the_wrong_base(tiny_saved, changed, shelf):
    other = shelf.new()
    (other / "memory").write_bytes(bytes(4096))
    refused(changed, "memory|base", base=other)
