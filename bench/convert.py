# SPDX-License-Identifier: Apache-2.0
"""Layers to a bootable image: ours (verify, convert, merge) against `umoci unpack` and `mkfs.erofs`.

Both start from the same OCI layout (a Debian image of over 100 MiB unpacked) and an empty store. Bars: 0.7 of the
peers' wall time, and 64 MiB of memory at the peak.
"""
import os
import pathlib
import resource
import shutil
import subprocess
import tempfile

from common import BUILD, IMAGES, emit, note, paired, timed

ROUNDS = 5
IMAGE = "python"
TOOL = BUILD / "out/tests/tools/convert"


def peak_kib(cmd):
    """Peak resident size of the largest process of a command, measured in a child of its own: ru_maxrss only grows."""
    pid = os.fork()
    if pid == 0:
        status = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode
        kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        pathlib.Path(os.environ["PEAK_FILE"]).write_text(str(kib))
        os._exit(status)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise SystemExit(f"{cmd[0]} failed")
    return int(pathlib.Path(os.environ["PEAK_FILE"]).read_text())


def main():
    layout = IMAGES / IMAGE
    with tempfile.TemporaryDirectory(dir=BUILD) as tmp:
        work = pathlib.Path(tmp)
        os.environ["PEAK_FILE"] = str(work / "peak")

        def ours():
            store = work / "store"
            seconds = timed([TOOL, f"oci:{layout}"], env={**os.environ, "SUPERMACHINE_HOME": str(store)})
            shutil.rmtree(store)
            return seconds

        def peer():
            seconds = timed(["umoci", "unpack", "--image", f"{layout}:latest", work / "bundle"])
            seconds += timed(["mkfs.erofs", "--quiet", work / "image.erofs", work / "bundle/rootfs"])
            shutil.rmtree(work / "bundle")
            (work / "image.erofs").unlink()
            return seconds

        tree = subprocess.run(["du", "-sm", IMAGES / IMAGE], capture_output=True, text=True, check=True).stdout
        note(f"convert: {layout} ({tree.split()[0]} MiB of blobs), {os.cpu_count()} cores, on the host")
        a, b = paired(ROUNDS, ours, peer)
        emit("convert", "wall", "s", a, "umoci unpack + mkfs.erofs", b, bar=0.7)
        os.environ["SUPERMACHINE_HOME"] = str(work / "store")
        emit("convert", "peak-memory", "MiB", [peak_kib([TOOL, f"oci:{layout}"]) / 1024], bar=64)


main()
