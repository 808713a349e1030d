# SPDX-License-Identifier: Apache-2.0
"""kill -9 anywhere leaves a store that works: fsck finds nothing wrong, and the same command then does its work.

Two ways. Before every single change of the disk: strace kills the command as it enters its first, second, … rename,
fsync, unlink and so on. And at random times, several commands at once on one store. SOAK=1: all points and many more
rounds; else a tenth of them.
"""
import itertools
import random
import shutil
import signal
import subprocess
import time

import pytest

from conftest import SOAK, needs_program
from doubles import Front
from registry import Client, layout, push_image, random_tar

CHANGES = ("rename,renameat,renameat2", "unlink,unlinkat,rmdir", "mkdir,mkdirat", "fsync,fdatasync,syncfs", "ftruncate",
           "link,linkat,utimensat", "pwrite64,write,copy_file_range")
STRIDES = {"pull": 10, "load": 10, "rmi": 2, "prune": 2, "tag": 2}  # of the points before which it is killed
ROUNDS = 200 if SOAK else 20
TODAY = time.strftime("%Y%m%d")


@pytest.fixture(scope="module")
def images(registry, tmp_path_factory):
    """Three images: two share a layer."""
    work = tmp_path_factory.mktemp("images")
    shared = random_tar("shared", 300_000)
    one = registry.put(layout(work / "one", shared, random_tar("a", 100_000)), "crash/one")
    two = registry.put(layout(work / "two", shared, random_tar("b", 100_000)), "crash/two")
    return [one, two, push_image(registry, work / "three", "crash/three", sizes=(50_000, 50_000))], work


def fsck(client):
    done = client("fsck")
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def whole(client, image):
    (told,) = client.json("inspect", image.ref)
    assert told["Id"] == image.digest


@pytest.fixture(scope="module")
def archive(images, tmp_path_factory):
    """All three images as one file, for load."""
    client = Client(tmp_path_factory.mktemp("archive") / "client")
    for image in images[0]:
        client.ok("pull", image.ref)
    path = client.home / "images.tar"
    client.ok("save", "-o", path, *[image.ref for image in images[0]])
    return path


@pytest.fixture(scope="module")
def stores(images, tmp_path_factory):
    """Stores to begin with: an empty one, one that has all images."""
    work = tmp_path_factory.mktemp("stores")
    made = {"empty": Client(work / "empty"), "full": Client(work / "full")}
    for client in made.values():
        client.ok("images")
    for image in images[0]:
        made["full"].ok("pull", image.ref)
    return made


def verb_pull(client, images, archive):
    return ["pull", images[0].ref], lambda: whole(client, images[0])


def verb_load(client, images, archive):
    return ["load", "-i", archive], lambda: [whole(client, image) for image in images]


def verb_rmi(client, images, archive):
    def check():
        assert len(client.json("images", "--all")) == 2
        whole(client, images[1])

    return ["rmi", "-f", images[0].ref], check


def verb_prune(client, images, archive):
    def check():
        assert client.json("images", "--all") == [] and client.listing() == set()

    return ["prune", "--all"], check


def verb_tag(client, images, archive):
    return ["tag", images[0].ref, images[1].ref], lambda: whole_as(client, images[1].ref, images[0])


def whole_as(client, name, image):
    assert client.json("inspect", name)[0]["Id"] == image.digest


VERBS = {"pull": ("empty", verb_pull), "load": ("empty", verb_load), "rmi": ("full", verb_rmi),
         "prune": ("full", verb_prune), "tag": ("full", verb_tag)}


@pytest.mark.parametrize("verb", VERBS)
def test_killed_before_each_change_of_the_disk(verb, stores, images, archive, client):
    strace = needs_program("strace")
    begin, make = VERBS[verb]
    arguments, check = make(client, images[0], archive)
    shutil.copytree(stores[begin].store, client.store, symlinks=True)
    probe = client(*arguments, prefix=[strace, "-f", "-qq", "-o", "/dev/null"])
    if probe.returncode != 0 and b"ptrace" in probe.stderr:
        pytest.skip("strace may not trace here: " + probe.stderr.decode().strip())
    rng = random.Random(TODAY + verb)
    killed, stride = 0, 1 if SOAK else STRIDES[verb]
    for calls in CHANGES:
        for point in itertools.count(1 + rng.randrange(stride), stride):
            shutil.rmtree(client.store)
            shutil.copytree(stores[begin].store, client.store, symlinks=True)
            done = client(*arguments, prefix=[strace, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e",
                                              f"inject={calls}:signal=SIGKILL:when={point}"])
            if done.returncode == 0:
                break  # there are no more of these calls
            killed += 1
            fsck(client)
            again = client(*arguments)
            assert again.returncode == 0, (calls, point, again.stderr.decode())
            check()
            fsck(client)
            assert client.listing() is not None  # nothing is left in tmp
    assert killed >= (20 if SOAK else 3)


def test_killed_at_random_times_several_at_once(images, archive, client, registry, double):
    made, work = images
    rng = random.Random(TODAY)
    commands = [["pull", image.ref] for image in made] * 2 + [
        ["load", "-i", str(archive)], ["rmi", "-f", made[0].ref], ["rmi", "-f", made[1].ref], ["prune"],
        ["prune", "--all"], ["tag", made[2].ref, "other:tag"], ["save", "-o", "/dev/null", made[1].ref],
        ["fsck", "--repair"], ["pull", made[1].ref.replace(":latest", "@" + made[1].digest)]]
    begin = time.monotonic()
    client.ok("load", "-i", archive)
    duration = time.monotonic() - begin
    killed = 0
    for _ in range(ROUNDS):
        processes = [client.start(*rng.choice(commands), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                     for _ in range(3)]
        end = time.monotonic() + rng.random() * 2 * duration
        for process in processes:
            try:
                process.wait(max(0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                killed += 1
        for process in processes:
            process.wait()
        client.processes.clear()
        fsck(client)
        if rng.randrange(5) == 0:
            client.ok("pull", made[0].ref)
            client.same_as(work / "one")
    assert killed >= ROUNDS // 4, "too few were still there to be killed"
    for image in made:
        client.ok("pull", image.ref)
        whole(client, image)
    client.ok("prune", "--all")
    assert client.json("images", "--all") == []
    assert client.listing() == set() and client.partials() == {}


def test_killed_pulls_come_to_an_end(images, client, registry, double):
    """Killed again and again in the middle, each goes on where the last one stopped: not much is sent twice."""
    image = images[0][0]
    front = double(Front, registry.host)
    layer = image.layers[0]
    step = layer["size"] // 8

    for number in range(8):
        held = front.hold(f"GET .*{layer['digest']}", after=step)
        process = client.start("pull", image.at(front))
        while not held.arrived.wait(0.01) and process.poll() is None:
            pass
        if process.poll() is not None:
            break
        deadline = time.monotonic() + 10
        want = min(layer["size"], (number + 1) * step) - 40_000
        while client.partials().get(layer["digest"][7:], 0) < want and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        process.wait()
        held.drop()
    client.ok("pull", image.at(front))
    client.same_as(images[1] / "one")
    sent = sum(request.sent for request in front.asked(f"GET .*{layer['digest']}"))
    assert sent < 2 * layer["size"]
