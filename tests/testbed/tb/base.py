# SPDX-License-Identifier: Apache-2.0
"""Makes the base of the machine from Debian packages: kernel, modules and root disk.

A base is a directory build/testbed/base-KEY with `vmlinuz`, `modules/` (for the initrd), `root.img`
(ext4, raw, sparse) and `versions` (every package with its version, the kernel first). KEY is a hash
of what decides its content: the list of packages and this file. Which versions Debian had on the day
is written to `versions`, which in turn goes into the key of the saved machines made on it.
`prepare --refresh` makes the base anew.

Everything is made in a directory of its own and renamed into place when complete, so a base that
exists is a whole one.
"""

import glob
import hashlib
import os
import shutil
import subprocess
import tempfile

from . import config

PACKAGES = os.path.join(config.HERE, "inside/packages")
NOT_INSTALLED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
# A user for the tests that must not be root.
TESTER = "chroot \"$1\" sh -c 'groupadd -f -r kvm; useradd -u 1000 -U -m -s /bin/sh -G kvm tester'"


def packages():
    with open(PACKAGES) as file:
        return [line.strip() for line in file if line.strip() and not line.startswith("#")]


def key():
    digest = hashlib.sha256()
    for path in (PACKAGES, os.path.abspath(__file__)):
        with open(path, "rb") as file:
            digest.update(hashlib.sha256(file.read()).digest())
    digest.update(("%s %s %d" % (config.SUITE, config.KERNEL_PACKAGE, config.ROOT_SIZE)).encode())
    return digest.hexdigest()[:16]


def directory():
    return os.path.join(config.CACHE, "base-" + key())


def kernel_package():
    """The package that today's KERNEL_PACKAGE stands for, and its version."""
    show = subprocess.run(["apt-cache", "show", "--no-all-versions", config.KERNEL_PACKAGE],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    for line in show.splitlines():
        if line.startswith("Depends:"):
            for word in line.replace(",", " ").split():
                if word.startswith("linux-image-"):
                    return word
    raise config.Trouble("apt knows no %s: run apt-get update" % config.KERNEL_PACKAGE)


def step(log, text, argv, **options):
    """Runs one step; its output goes to the log, whose end is shown when the step fails."""
    config.say(text)
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **options)
    if done.returncode:
        log.flush()
        with open(log.name, errors="replace") as file:
            tail = "".join(file.readlines()[-15:])
        raise config.Trouble("%s failed (%s):\n%s" % (text, " ".join(argv[:2]), tail))


def make(ret_directory):
    if os.geteuid() != 0:
        raise config.Trouble("making the machine's root disk needs root, once: sudo tests/testbed/prepare")
    for tool in ("mmdebstrap", "mke2fs", "depmod", "apt-get", config.QEMU):
        if not shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            raise config.Trouble("%s is missing: run scripts/setup" % tool)
    os.makedirs(config.CACHE, exist_ok=True)
    work = tempfile.mkdtemp(prefix="new-base-", dir=config.CACHE)
    try:
        with open(os.path.join(work, "log"), "w") as log:
            fill(work, log)
        for leftover in ("log", "kernel", "tree"):
            path = os.path.join(work, leftover)
            if os.path.isdir(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        shutil.rmtree(ret_directory, ignore_errors=True)
        os.rename(work, ret_directory)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def fill(work, log):
    os.chmod(work, 0o755)
    kernel = kernel_package()
    kernel_root = os.path.join(work, "kernel")
    os.mkdir(kernel_root)
    step(log, "fetching %s" % kernel, ["apt-get", "-o", "APT::Sandbox::User=root", "download", kernel], cwd=kernel_root)
    (package,) = glob.glob(os.path.join(kernel_root, "*.deb"))
    step(log, "unpacking it", ["dpkg-deb", "-x", package, kernel_root])
    version = os.listdir(os.path.join(kernel_root, "lib/modules"))[0]
    shutil.copy(os.path.join(kernel_root, "boot/vmlinuz-" + version), os.path.join(work, "vmlinuz"))

    tree = os.path.join(work, "tree")
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--include=" + ",".join(packages())]
    command += ["--dpkgopt=path-exclude=" + pattern for pattern in NOT_INSTALLED]
    command += ["--customize-hook=" + TESTER, config.SUITE, tree]
    step(log, "installing Debian into the machine's root", command)
    shutil.copytree(os.path.join(kernel_root, "lib/modules"), os.path.join(tree, "lib/modules"), symlinks=True)
    step(log, "indexing modules", ["/sbin/depmod", "-b", tree, version])
    modules = os.path.join(work, "modules")
    shutil.copytree(os.path.join(tree, "lib/modules"), os.path.join(modules, "lib/modules"), symlinks=True)
    with open(os.path.join(tree, "etc/resolv.conf"), "w"):
        pass
    for name in ("hostname", "hosts"):
        with open(os.path.join(tree, "etc", name), "w") as file:
            file.write("testbed\n" if name == "hostname" else "127.0.0.1 localhost testbed\n::1 localhost\n")

    versions = subprocess.run(["dpkg-query", "--admindir=" + os.path.join(tree, "var/lib/dpkg"), "-W"],
                              stdout=subprocess.PIPE, check=True, text=True).stdout
    with open(os.path.join(work, "versions"), "w") as file:
        file.write("%s\t%s\n%s" % (version, os.path.basename(package), versions))

    image = os.path.join(work, "root.img")
    step(log, "writing the root disk", [
        "/sbin/mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "lazy_itable_init=1",
        "-d", tree, image, str(config.ROOT_SIZE // config.MIB) + "M"])
