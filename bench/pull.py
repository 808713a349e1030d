# SPDX-License-Identifier: Apache-2.0
"""Pull from a registry on loopback: ours (fetch, verify, convert, merge) against `skopeo copy` and `umoci unpack`.

    wall           the first image, over 300 MiB of compressed layers, into an empty store
    second-wall    an image with one more layer on top of it, into the same store
    second-bytes   what that fetched, as a multiple of the new layer (counted in a proxy, in a run of its own)
    shared         what `du` says the two have in common
    up-to-date     the same pull again: one question

Bars: 0.6 of the peers' wall time for the first, and 1.01 of the new layer's bytes for the second.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from common import BUILD, CLI, IMAGES, ROOT, emit, note, paired, timed

sys.path.insert(0, str(ROOT / "tests/integration"))
from doubles import Front  # noqa: E402
from registry import Registry  # noqa: E402

ROUNDS = int(os.environ.get("ROUNDS", "3"))


class Bench:
    def __init__(self, registry, work):
        self.work = work
        self.store = work / "store"
        self.first = registry.put(IMAGES / "devel", "bench/devel")
        self.second = registry.put(IMAGES / "devel-java", "bench/devel-java")
        below = {layer["digest"] for layer in self.first.layers}
        self.added = sum(layer["size"] for layer in self.second.layers if layer["digest"] not in below)
        self.env = {**os.environ, "SUPERMACHINE_HOME": str(self.store)}

    def pull(self, reference):
        return timed([CLI, "pull", reference], env=self.env)

    def ours(self):
        """Seconds for the first image, then for the second."""
        shutil.rmtree(self.store, ignore_errors=True)
        return self.pull(self.first.ref), self.pull(self.second.ref)

    def peer(self):
        layout, seconds = self.work / "layout", []
        for name, image in (("first", self.first), ("second", self.second)):
            seconds.append(timed(["skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{image.ref}",
                                  f"oci:{layout}:{name}"]) +
                           timed(["umoci", "--log=error", "unpack", "--image", f"{layout}:{name}", self.work / name]))
            shutil.rmtree(self.work / name)
        shutil.rmtree(layout)
        return seconds

    def tell(self, *args):
        return json.loads(subprocess.run([CLI, *args], check=True, capture_output=True, env=self.env).stdout)

    def fetched(self, registry):
        """Bytes of layers that the second image costs."""
        shutil.rmtree(self.store)
        with Front(registry.host) as front:
            self.pull(self.first.at(front))
            front.forget()
            self.pull(self.second.at(front))
            return sum(request.sent for request in front.asked("GET .*/blobs/"))


def main():
    with tempfile.TemporaryDirectory(dir=BUILD) as tmp:
        work = pathlib.Path(tmp)
        (work / ".no-payload").touch()
        with Registry(work / "registry", work / "process") as registry:
            bench = Bench(registry, work)
            note(f"pull: {bench.first.size >> 20} MiB in {len(bench.first.layers)} layers, then one of "
                 f"{bench.added >> 20} MiB more; {os.cpu_count()} cores, on the host")
            for layer in bench.second.layers:
                registry.read(layer["digest"])  # the registry's disk is no part of this
            a, b = paired(ROUNDS, bench.ours, bench.peer, warm_up=0)
            for metric, which, bar in (("wall", 0, 0.6), ("second-wall", 1, None)):
                emit("pull", metric, "s", [t[which] for t in a], "skopeo copy + umoci unpack", [t[which] for t in b],
                     bar=bar)
            emit("pull", "up-to-date", "s", [bench.pull(bench.second.ref) for _ in range(10)])
            told = bench.tell("du", "--json")
            emit("pull", "shared", "MiB", [image["shared_bytes"] / (1 << 20) for image in told["images"]])
            emit("pull", "second-bytes", "ratio", [bench.fetched(registry) / bench.added], bar=1.01, digits=5)


main()
