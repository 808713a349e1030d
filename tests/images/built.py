# SPDX-License-Identifier: Apache-2.0
"""Images for registries: one that buildah made, and a large pair that shares its base.

`buildah` is a busybox that buildah changed and committed, as a Dockerfile would have it done. `devel` and `devel-java`
are what bench/pull carries: compilers on top of `debian`, one layer each, over 300 MiB compressed, and one further
layer on top of that. The large ones do not travel into the testbed.
"""

import os
import shutil
import subprocess

import oci
import packaged

CHANGE = """
mkdir -p /srv/app
echo 'made by buildah' >/srv/app/greeting
ln -s greeting /srv/app/link
chown -R alice /srv/app
rm /bin/vi /etc/not-executable
"""

# name: the image below, then of each layer the packages
STACKS = {
    "devel": ("debian", ("build-essential", "golang-go", "rustc")),
    "devel-java": ("devel", ("openjdk-17-jre-headless",)),
}


def buildah(path, epoch, below, work):
    def run(*arguments):
        command = ["buildah", "--root", os.path.join(work, "containers"), "--runroot", os.path.join(work, "state"),
                   "--storage-driver", "vfs", *arguments]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, cwd=os.path.dirname(below))  # what it stands on is named in it
        if done.returncode:
            raise SystemExit("images: %s failed:\n%s" % (command, done.stdout[-3000:]))

    run("from", "--quiet", "--name", "made", "oci:%s:latest" % os.path.basename(below))
    run("run", "--isolation", "chroot", "made", "--", "sh", "-ec", CHANGE)
    run("config", "--user", "alice", "--workingdir", "/srv/app", "--env", "MADE_BY=buildah", "--label", "maker=buildah",
        "--entrypoint", '["cat"]', "--cmd", "greeting", "--port", "8080/tcp", "made")
    run("commit", "--quiet", "--timestamp", str(epoch), "--disable-compression=false", "made", "oci:%s:latest" % path)
    run("rm", "made")


def stack(name):
    """Returns the maker of an image with a layer for each group of packages."""
    groups = STACKS[name][1]

    def make(path, epoch, below, work):
        shutil.copytree(below, path, copy_function=packaged.link_blob)
        bundle = packaged.Bundle(path, os.path.join(work, "bundle"), epoch)
        for packages in groups:
            bundle.step("apt-get -q update; apt-get -qy install --no-install-recommends " + packages + packaged.TIDY,
                        "apt-get install " + packages)
        created = oci.rfc3339(epoch)
        packaged.umoci("config", "--image", bundle.image, "--created=" + created, "--history.created=" + created,
                       "--history.created_by=configure", "--config.label=image=" + name)
        packaged.umoci("gc", "--layout", path)
        shutil.rmtree(os.path.join(work, "bundle"))
        open(os.path.join(path, ".no-payload"), "w").close()

    return make
