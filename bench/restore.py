# SPDX-License-Identifier: Apache-2.0
"""How fast a saved machine is there again: bench/restore.py [PART...], all that can be measured here by default.

    own       on any KVM, with a guest of a few instructions: from starting the worker to its first exit. Bar: 5 ms
    stages    a worker's restore, step by step, to the result of /bin/true; against our cold boot (bar: 0.15), and against
              QEMU `microvm` started from its own migration file (bar: 0.3)
    size      the same with 256 MiB and with 4 GiB of memory. Bar: 1.2
    command   `supermachine run IMAGE true`, whole process, when it restores. Bar: 0.7 s; and against a run that boots
    exec      a command in a machine that runs, as who uses the library sees it (roundtrip.c). Bar: 15 ms
    first     the first run of an image that was never run, against a run that boots (bar: 0.35; 2 s), and how large its
              snapshot is beside a full one (bar: 0.15)
    trigger   baking a python image that sleeps, at pre-exec and by the clock of 7 s. Bar: 0.2
    clones    CLONES (100) machines of one snapshot at once: wall time to the last one's result, private memory each
    live      how long a machine of 1.5 GiB stands still while it is saved and runs on
    diff      the size of a snapshot after a small change in a machine that uses 96 MiB, beside a full one. Bar: 0.02

Seconds and milliseconds in the emulated testbed are good as ratios within it only.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import qemu_peer
from common import CLI, ROUNDTRIP, converted, emit, note, paired, timed
from machines import Machine, tinyguest

ROUNDS = int(os.environ.get("ROUNDS", "10"))
CLONES = int(os.environ.get("CLONES", "100"))
STAGES = ("spawned", "configured", "restored", "agent", "result")
STEPS = {"built": "built_ns", "mapped": "mapped_ns", "loaded": "loaded_ns", "entered": "setup_ns", "first-exit": "first_exit_ns"}
LIVE_MIB = 1536
FILLED_MIB = 96  # what is in the memory of a machine of which a diff is taken
SMALL_CHANGE = ("/bin/sh", "-c", "echo changed >/root/changed")


def ms(values):
    return [value * 1000 for value in values]


def steps(machine):
    """What the worker says itself: milliseconds from the request's arrival to each step of a restore."""
    stats = machine.stats()
    return {name: stats[field] / 1e6 for name, field in STEPS.items()}


def emit_steps(prefix, all_steps):
    for name in STEPS:
        emit("restore", f"{prefix}-worker-{name}", "ms", [found[name] for found in all_steps])


def disk_kib(path):
    """KiB on disk of all files below a directory."""
    return sum(entry.stat().st_blocks for entry in pathlib.Path(path).rglob("*") if entry.is_file()) / 2


class Bench:
    """What the parts share, made when it is first needed."""

    def __init__(self, top):
        self.top = pathlib.Path(top)
        self.count = 0
        self.snapshots = {}
        self._image = None

    def directory(self):
        self.count += 1
        path = self.top / str(self.count)
        path.mkdir()
        return path

    def image(self):
        """(reference, root disk)"""
        if not self._image:
            self._image = converted("busybox", self.top)
        return self._image

    def snapshot(self, memory=256):
        """A machine that was set up and has run a command once, saved."""
        if memory not in self.snapshots:
            path = self.directory()
            disk = self.image()[1]
            with Machine().boot(disk, memory) as machine:
                machine.command("/bin/true")
                machine.save(path, stop=True)
            with Machine().restored(path, disk, memory) as machine:  # the first, which tells what the others need
                machine.command("/bin/true")
                machine.touched(path / "prefetch")
            self.snapshots[memory] = path
        return self.snapshots[memory]


def restore_once(bench, memory=256):
    """Runs /bin/true in a clone: when each stage was reached."""
    with Machine() as machine:
        machine.restored(bench.snapshot(memory), bench.image()[1], memory)
        machine.command("/bin/true")
        return machine.times | {"steps": steps(machine)}


def own(bench):
    kernel = bench.top / "tiny"
    kernel.write_bytes(tinyguest.kernel(tinyguest.forever(tinyguest.event(tinyguest.EV_HEARTBEAT))))
    path = bench.directory()
    with Machine() as machine:
        machine.config(str(kernel), memory=256)
        machine.start()
        machine.event("lifecycle", 10)
        machine.save(path, stop=True)

    def once():
        with Machine() as machine:
            machine.config(memory=256)
            machine.reached("configured")
            machine.restore(path)
            machine.reached("restored")
            machine.event("lifecycle", 10)
            machine.reached("exit")
            return machine.times | {"steps": steps(machine)}

    once()
    times = [once() for _ in range(ROUNDS * 5)]
    for stage in ("spawned", "configured", "restored"):
        emit("restore", f"own-{stage}", "ms", ms(t[stage] for t in times))
    emit_steps("own", [t["steps"] for t in times])
    emit("restore", "own-first-exit", "ms", ms(t["exit"] for t in times), bar=5)


def stages(bench):
    disk = bench.image()[1]
    migrated = str(bench.top / "migrated")
    qemu_peer.save(disk, migrated)
    bench.snapshot()
    ours, peers = paired(ROUNDS, lambda: restore_once(bench), lambda: qemu_peer.restored(disk, migrated, ["/bin/true"])[0])
    for stage in STAGES[:-1]:
        emit("restore", f"stage-{stage}", "ms", ms(t[stage] for t in ours))
    emit_steps("stage", [t["steps"] for t in ours])
    emit("restore", "stage-result", "ms", ms(t["result"] for t in ours), "qemu microvm restored", ms(peers), bar=0.3)

    def boot():
        with Machine().boot(disk) as machine:
            machine.command("/bin/true")
            return machine.times["result"]

    ours, cold = paired(max(3, ROUNDS // 2), lambda: restore_once(bench)["result"], boot)
    emit("restore", "result", "ms", ms(ours), "our boot", ms(cold), bar=0.15)


def size(bench):
    large, small = paired(ROUNDS, lambda: restore_once(bench, 4096)["result"], lambda: restore_once(bench)["result"])
    emit("restore", "4-gib", "ms", ms(large), "256 MiB", ms(small), bar=1.2)


def command(bench):
    image = bench.image()[0]
    timed([CLI, "run", image, "true"])  # the one that bakes
    warm, cold = paired(ROUNDS, lambda: timed([CLI, "run", image, "true"]), lambda: timed([CLI, "run", "--boot", image, "true"]))
    emit("restore", "run-true", "s", warm, bar=0.7)
    emit("restore", "run-true-to-boot", "s", warm, "our run that boots", cold, bar=0.15)


def exec_(bench):
    told = subprocess.run([ROUNDTRIP, bench.image()[0], str(ROUNDS * 20), "/bin/true"], check=True, capture_output=True)
    emit("restore", "exec", "ms", [int(line) / 1e6 for line in told.stdout.split()], bar=15)


def first(bench):
    image = bench.image()[0]

    def bakes():
        """Snapshots of images, not the base: all of them are of this one."""
        listed = json.loads(subprocess.run([CLI, "snapshot", "ls", "--json"], check=True, capture_output=True).stdout)
        return [entry for entry in listed if entry["kind"] == "bake"]

    def never_run():
        subprocess.run([CLI, "snapshot", "rm", *(entry["key"] for entry in bakes())], check=True, stdout=subprocess.DEVNULL)
        return timed([CLI, "run", image, "true"])

    timed([CLI, "run", image, "true"])  # after this the base is there
    ours, cold = paired(ROUNDS, never_run, lambda: timed([CLI, "run", "--boot", image, "true"]))
    emit("restore", "first-run", "s", ours, bar=2)
    emit("restore", "first-run-to-boot", "s", ours, "our run that boots", cold, bar=0.35)
    store = pathlib.Path(os.environ["SUPERMACHINE_HOME"]) / "snapshots"
    emit("restore", "first-run-snapshot", "KiB", [disk_kib(store / entry["key"]) for entry in bakes()], "a full snapshot",
         [disk_kib(bench.snapshot())], bar=0.15)


def trigger(bench):
    image = converted("python", bench.top)[0]

    def bake(when):
        return timed([CLI, "bake", "--force", "--trigger", when, image, "python3", "-c", "import time; time.sleep(3600)"])

    ours, clock = paired(max(3, ROUNDS // 3), lambda: bake("pre-exec"), lambda: bake("after=7000"))
    emit("restore", "bake-pre-exec", "s", ours, "a bake by the clock", clock, bar=0.2)


def clones(bench):
    snapshot, disk = bench.snapshot(), bench.image()[1]
    available = int(next(line for line in pathlib.Path("/proc/meminfo").read_text().splitlines()
                         if line.startswith("MemAvailable")).split()[1]) >> 10
    count = min(CLONES, available // 32)
    if count < CLONES:
        note(f"clones: {count}, since {available} MiB of memory are free here")
    start = time.monotonic()
    machines = []
    try:
        for _ in range(count):
            machines.append(Machine())
        for machine in machines:
            machine.restored(snapshot, disk)
        answered = time.monotonic() - start
        for machine in machines:
            machine.command("/bin/true")
        done = time.monotonic() - start
        private = [machine.private_kib() / 1024 for machine in machines]
    finally:
        for machine in machines:
            machine.close()
    emit("restore", f"{count}-clones-restored", "s", [answered])
    emit("restore", f"{count}-clones-result", "s", [done])
    emit("restore", "clone-private", "MiB", private)


def live(bench):
    disk = bench.image()[1]
    with Machine().boot(disk, LIVE_MIB) as machine:
        machine.command("/bin/sh", "-c", "dd if=/dev/urandom of=/dev/shm/fill bs=1M count=400 2>/dev/null")
        for name, flags in (("live", {"live": True}), ("standing-still", {})):
            pauses, data = [], []
            for _ in range(3):
                path = bench.directory()
                said = machine.save(path, **flags)
                shutil.rmtree(path)
                pauses.append(said["pause_ns"] / 1e6)
                data.append(said["data_pages"] / 256)
            emit("restore", f"pause-{name}", "ms", pauses)
            emit("restore", f"pause-{name}-data", "MiB", data)


def diff(bench):
    """Of a machine that has something in its memory: what a clone writes by only being one is the same for all."""
    base, disk = bench.directory(), bench.image()[1]
    with Machine().boot(disk) as machine:
        machine.command("/bin/dd", "if=/dev/urandom", "of=/dev/shm/fill", "bs=1M", f"count={FILLED_MIB}")
        machine.save(base, stop=True)
    sizes = []
    for _ in range(min(ROUNDS, 5)):
        path = bench.directory()
        with Machine().restored(base, disk) as machine:
            machine.command(*SMALL_CHANGE)
            machine.save(path, stop=True, diff=True)
        sizes.append(disk_kib(path))
        with Machine().restored(path, disk, base=base) as clone:
            if clone.command("/bin/cat", "/root/changed") != b"changed\n":
                raise SystemExit("the diff does not hold the change")
    emit("restore", "diff-small-change", "KiB", sizes, "a full snapshot", [disk_kib(base)], bar=0.02)


PARTS = {"own": own, "stages": stages, "size": size, "command": command, "exec": exec_, "first": first,
         "trigger": trigger, "clones": clones, "live": live, "diff": diff}


def main():
    names = sys.argv[1:] or list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        raise SystemExit(f"restore: no part {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as top:
        note("restore: busybox image, 256 MiB, 1 processor where nothing else is said; " + os.uname().release)
        bench = Bench(top)
        for name in names:
            note(f"restore: {name}")
            PARTS[name](bench)


main()
