# SPDX-License-Identifier: Apache-2.0
"""The images made of Debian packages: debian, and python, nginx, redis, node on top of it.

`debian` is a minbase of mmdebstrap in one layer. The others are made as an image builder makes them:
umoci unpacks the image below, a step changes the tree (apt in a chroot, with mounts and processes of
its own), umoci packs the difference as a layer. The second step removes what the first one left
(lists, package files, manuals), so every image has whiteouts. umoci writes no opaque directories:
the torture image has those.

Entry point, command, environment and so on are those of the images of these names on Docker Hub.
"""

import os
import shutil
import subprocess

import oci

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# As in Docker's images: lists stay compressed, no caches of them.
DOCKER_APT = ('Acquire::GzipIndexes "true"; Acquire::CompressionTypes::Order:: "gz"; '
              'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache ""; Acquire::Languages "none";')
TIDY = """
rm -rf /var/lib/apt/lists /var/cache/apt/archives /var/cache/apt/*.bin /var/cache/debconf/*-old
rm -rf /usr/share/doc /usr/share/man /usr/share/info /usr/share/lintian
mkdir -p /var/lib/apt/lists/partial /var/cache/apt/archives/partial
"""
ENTRY = """cat >/usr/local/bin/docker-entrypoint.sh <<'END'
#!/bin/sh
set -e
%s
exec "$@"
END
chmod 755 /usr/local/bin/docker-entrypoint.sh
"""

# name: packages; a script for the last layer; options of umoci config
RECIPES = {
    "python": ("python3 python3-venv ca-certificates",
               "ln -s ../../bin/python3 /usr/local/bin/python; ln -s ../../bin/python3 /usr/local/bin/python3",
               ["--config.cmd=python3", "--config.env=LANG=C.UTF-8", "--config.env=PYTHON_VERSION=3.11.2"]),
    "nginx": ("nginx-light ca-certificates", ENTRY % """for script in /docker-entrypoint.d/*.sh; do
    [ ! -x "$script" ] || "$script"
done""" + """
mkdir /docker-entrypoint.d
mv /usr/local/bin/docker-entrypoint.sh /
ln -sf /dev/stdout /var/log/nginx/access.log
ln -sf /dev/stderr /var/log/nginx/error.log
rm -f /var/www/html/index.nginx-debian.html
echo '<h1>Welcome to nginx!</h1>' >/var/www/html/index.html
sed -i '/^worker_processes/s/.*/worker_processes auto;/; /^pid/d; 1i pid /run/nginx.pid;' /etc/nginx/nginx.conf
""", ["--config.entrypoint=/docker-entrypoint.sh", "--config.cmd=nginx", "--config.cmd=-g", "--config.cmd=daemon off;",
      "--config.stopsignal=SIGQUIT", "--config.exposedports=80/tcp", "--config.env=NGINX_VERSION=1.22.1"]),
    "redis": ("redis-server", ENTRY % """if [ "${1#-}" != "$1" ] || [ "${1%.conf}" != "$1" ]; then
    set -- redis-server "$@"
fi
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    find . ! -user redis -exec chown redis '{}' +
    exec setpriv --reuid=redis --regid=redis --clear-groups -- "$0" "$@"
fi
umask 0077""" + """
mkdir /data
chown redis:redis /data
""", ["--config.entrypoint=docker-entrypoint.sh", "--config.cmd=redis-server", "--config.workingdir=/data",
      "--config.volume=/data", "--config.exposedports=6379/tcp", "--config.env=REDIS_VERSION=7.0.15"]),
    "node": ("nodejs", ENTRY % """if [ "${1#-}" != "$1" ] || [ -z "$(command -v "$1")" ]; then
    set -- node "$@"
fi""" + """
groupadd -g 1000 node
useradd -u 1000 -g node -s /bin/bash -m node
""", ["--config.entrypoint=docker-entrypoint.sh", "--config.cmd=node", "--config.env=NODE_VERSION=18.20.4"]),
}


def debian(path, epoch):
    tar = path + ".tar"
    subprocess.run([
        "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=tar",
        "--customize-hook=printf '%s\\n' '" + DOCKER_APT + "' >\"$1/etc/apt/apt.conf.d/docker\"",
        "--customize-hook=cd \"$1\" && rm -f etc/resolv.conf etc/hostname var/cache/apt/*.bin", "bookworm", tar],
        check=True, stdin=subprocess.DEVNULL, env=dict(os.environ, SOURCE_DATE_EPOCH=str(epoch)))
    with open(tar, "rb") as file:
        layer = file.read()
    os.unlink(tar)
    layout = oci.Layout(path)
    layout.image("latest", [layer], {"Cmd": ["bash"], "Env": [PATH]}, epoch, "+gzip")
    layout.done()


def umoci(*arguments):
    subprocess.run(["umoci", "--log=error"] + list(arguments), check=True, stdin=subprocess.DEVNULL)


class Bundle:
    """A tree unpacked by umoci, changed step by step, each step a layer."""

    def __init__(self, layout, directory, epoch):
        self.image = layout + ":latest"
        self.directory = directory
        self.root = os.path.join(directory, "rootfs")
        self.epoch = epoch
        umoci("unpack", "--image", self.image, directory)

    def step(self, script, comment):
        """Runs script with sh in the tree; its difference becomes a layer."""
        helpers = {"etc/resolv.conf": None, "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n"}
        for name, text in helpers.items():
            target = os.path.join(self.root, name)
            if text is None:
                shutil.copyfile("/etc/resolv.conf", target)
            else:
                with open(target, "w") as file:
                    file.write(text)
                os.chmod(target, 0o755)
        env = {"PATH": PATH[5:], "HOME": "/root", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive",
               "PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": str(self.epoch)}
        inside = 'set -e; mount -t proc proc "$1/proc"; mount --bind /dev "$1/dev"; exec chroot "$1" sh -ec "$2"'
        try:
            done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", inside, "sh",
                                   self.root, script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, env=env)
        finally:
            for name in helpers:
                os.unlink(os.path.join(self.root, name))
        if done.returncode:
            raise SystemExit("images: a step failed:\n" + done.stdout.decode(errors="replace")[-3000:])
        self.settle()
        umoci("repack", "--refresh-bundle", "--history.created=" + oci.rfc3339(self.epoch),
              "--history.created_by=" + comment, "--image", self.image, self.directory)

    def settle(self):
        """Takes out what differs from build to build: logs, caches, the time of the build."""
        for name in ("cache/ldconfig/aux-cache", "log/dpkg.log", "log/alternatives.log", "log/bootstrap.log",
                     "log/apt/history.log", "log/apt/term.log", "log/apt/eipp.log.xz"):
            path = os.path.join(self.root, "var", name)
            if os.path.exists(path):
                os.unlink(path)
        subprocess.run(["find", self.root, "-xdev", "-newermt", "@%d" % self.epoch, "-exec", "touch", "-h", "-d",
                        "@%d" % self.epoch, "{}", "+"], check=True)


def derived(name):
    """Returns the maker of an image that stands on debian."""
    packages, script, options = RECIPES[name]

    def make(path, epoch, below, work):
        shutil.copytree(below, path, copy_function=link_blob)
        bundle = Bundle(path, os.path.join(work, "bundle"), epoch)
        bundle.step("apt-get -q update; apt-get -qy install --no-install-recommends " + packages,
                    "apt-get install " + packages)
        bundle.step(TIDY, "rm -rf what apt left")
        bundle.step(script, "set up " + name)
        created = oci.rfc3339(epoch)
        umoci("config", "--image", bundle.image, "--created=" + created, "--history.created=" + created,
              "--history.created_by=configure", "--clear=config.cmd", *options)
        umoci("gc", "--layout", path)

    return make


def link_blob(source, target):
    """Blobs never change, so they are shared; index and marker file are umoci's to rewrite."""
    if "/blobs/" in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)
