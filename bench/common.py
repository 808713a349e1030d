# SPDX-License-Identifier: Apache-2.0
"""What every bench shares: where the build is, paired runs, and the one JSON line a figure is.

A figure is {"bench", "metric", "value", "unit", "n", "p50", "p90", "p99"}; `value` is the median. Where a peer ran in
the same run it also has "peer", "peer_value" (its median) and "ratio" (ours / the peer's), and where a bar is set,
"bar": the ratio or value that we mean to stay below. Nothing else goes to standard output; progress goes to standard
error.
"""
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("SUPERMACHINE_BUILD", ROOT / "build"))
IMAGES = pathlib.Path(os.environ.get("SUPERMACHINE_IMAGES", BUILD / "images"))
CLI = BUILD / "out/src/cli/supermachine"
ROUNDTRIP = BUILD / "out/bench/roundtrip"
VMM = BUILD / "out/src/vmm/supermachine-vmm"
KERNEL = BUILD / "guest/vmlinux-x86_64"
INITRAMFS = BUILD / "guest/initramfs.cpio"


def note(text):
    print(text, file=sys.stderr, flush=True)


def percentile(values, p):
    """Nearest rank: the smallest value that at least p percent of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * p // 100) - 1)]


def emit(bench, metric, unit, values, peer=None, peer_values=None, bar=None, digits=3):
    def short(v):
        return round(v, digits)

    line = {"bench": bench, "metric": metric, "value": short(statistics.median(values)), "unit": unit,
            "n": len(values), "p50": short(percentile(values, 50)), "p90": short(percentile(values, 90)),
            "p99": short(percentile(values, 99))}
    if peer_values:
        line |= {"peer": peer, "peer_value": short(statistics.median(peer_values)),
                 "ratio": round(statistics.median(values) / statistics.median(peer_values), 3)}
    if bar is not None:
        line["bar"] = bar
    print(json.dumps(line), flush=True)


def paired(rounds, ours, peer, warm_up=1):
    """Run both in turn (A B A B …), so that what the machine does meanwhile falls on both. Lists of their results."""
    a, b = [], []
    for i in range(-warm_up, rounds):
        x, y = ours(), peer()
        if i >= 0:
            a.append(x)
            b.append(y)
    return a, b


def timed(cmd, timeout=300, **kwargs):
    """Wall seconds of a command. It must succeed."""
    start = time.monotonic()
    process = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               **kwargs)
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise SystemExit(f"{cmd[0]} did not end within {timeout} s: {output.decode(errors='replace')[-2000:]}")
    wall = time.monotonic() - start
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, cmd))} failed ({process.returncode}): "
                         f"{output.decode(errors='replace')[-2000:]}")
    return wall


def converted(name, directory):
    """A test image, converted into a store below `directory`: its reference for us, its root disk as a file for QEMU."""
    reference, disk = f"oci:{IMAGES}/{name}", f"{directory}/{name}.img"
    os.environ["SUPERMACHINE_HOME"] = f"{directory}/store"
    subprocess.run([BUILD / "out/tests/tools/convert", reference, disk], check=True, stdout=subprocess.DEVNULL)
    return reference, disk
