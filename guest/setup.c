/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the initramfs to the image's root: see setup.h.
 *
 * Theory of operation
 *
 * The image's disk is mounted read-only, a tmpfs takes what is written, overlayfs puts one over the other. The overlay
 * is moved over the initramfs and becomes the root of the agent and of everything it starts; the two layers stay
 * mounted beneath, where no path leads any more. (pivot_root does not work on the initramfs.)
 *
 * Then the image's root gets what a program expects of a container's: /proc, /sys, /dev with the nodes and links that
 * Docker makes, pts, shm, mqueue, control groups, and the three files in /etc when the image has none or empty ones, as
 * images that were exported from a container do. /run is a tmpfs, except where the image's own has something in it:
 * packages make directories there that their programs don't make again. /tmp is the image's.
 *
 * The image is hostile, but all this happens within its own machine: a symbolic link where a directory should be is
 * refused because the set-up could not work, not because it would be dangerous.
 *
 * The root directory keeps the image's mode, owner, attributes and times.
 *
 * For what the agent writes later (PUT, and what changes with a restore) it keeps a copy of the mounts which no path
 * leads to: that can be written to where the root is read-only, and nothing that programs mount afterwards (a dead FUSE
 * for one) is in it to hang on.
 */
#include "setup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "disk.h"
#include "identity.h"

#define LOWER   "/lower"
#define RW      "/rw"
#define UPPER   RW "/upper"
#define WORK    RW "/work"
#define NEWROOT "/newroot"

#define TTY_GID "5" /* of terminals: what glibc expects, and every distribution has */

/* linux/mount.h, which does not go together with sys/mount.h of every C library */
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif

/* All extended attributes of the root directory: XATTR_LIST_MAX and XATTR_SIZE_MAX of Linux. */
#define XATTR_MAX 65536

static int make_dir(const char *path, mode_t mode, struct ga_error *err)
{
    struct stat st;

    if (mkdir(path, mode) == 0)
        return chmod(path, mode) < 0 ? ga_error_sys(err, errno, "making directory %s", path) : 0;
    if (errno != EEXIST || lstat(path, &st) < 0)
        return ga_error_sys(err, errno, "making directory %s", path);
    if (!S_ISDIR(st.st_mode))
        return ga_error_set(err, ENOTDIR, "the image's %s is not a directory, so nothing can be mounted there", path);
    return 0;
}

struct mount_at {
    const char *type, *path;
    unsigned long flags;
    const char *data;
    mode_t mode; /* of the directory when it must be made */
};

static int mount_one(const struct mount_at *m, struct ga_error *err)
{
    int r = make_dir(m->path, m->mode, err);

    if (r < 0)
        return r;
    if (mount(m->type, m->path, m->type, m->flags, m->data) < 0)
        return ga_error_sys(err, errno, "mounting %s", m->path);
    return 0;
}

static int mount_all(const struct mount_at *m, size_t n, struct ga_error *err)
{
    int r = 0;

    for (size_t i = 0; i < n && r == 0; i++)
        r = mount_one(&m[i], err);
    return r;
}

int ga_setup_early(struct ga_error *err)
{
    static const struct mount_at early[] = {
        {"devtmpfs", "/dev", MS_NOSUID, "mode=0755", 0755},
        {"proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, 0555},
        {"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, 0555},
    };

    return mount_all(early, sizeof(early) / sizeof(early[0]), err);
}

/* ---- The root ---- */

/* overlayfs shows the upper directory's own attributes at its root. */
static int copy_attributes(const char *from, const char *to, struct stat *ret_st, struct ga_error *err)
{
    struct stat st;
    char *names = malloc(XATTR_MAX), *value = malloc(XATTR_MAX);
    ssize_t len;
    int r = 0;

    if (!names || !value) {
        r = ga_error_set(err, ENOMEM, "no memory to copy attributes");
        goto out;
    }
    if (stat(from, &st) < 0 || chown(to, st.st_uid, st.st_gid) < 0 || chmod(to, st.st_mode & 07777) < 0) {
        r = ga_error_sys(err, errno, "copying the attributes of the root directory");
        goto out;
    }
    len = listxattr(from, names, XATTR_MAX);
    for (ssize_t at = 0; at < len; at += (ssize_t)strlen(names + at) + 1) {
        ssize_t n = getxattr(from, names + at, value, XATTR_MAX);

        if (strncmp(names + at, "trusted.overlay.", strlen("trusted.overlay.")) == 0 || n < 0)
            continue;
        if (setxattr(to, names + at, value, (size_t)n, 0) < 0) {
            r = ga_error_sys(err, errno, "copying attribute %s of the root directory", names + at);
            goto out;
        }
    }
    *ret_st = st;
out:
    free(names);
    free(value);
    return r;
}

static int mount_layers(const struct ga_setup *s, struct stat *ret_root, struct ga_error *err)
{
    char size[64] = "mode=0755";
    struct mount_at rw = {"tmpfs", RW, MS_NOATIME, size, 0700};
    struct mount_at overlay = {"overlay", NEWROOT, 0, "lowerdir=" LOWER ",upperdir=" UPPER ",workdir=" WORK, 0755};
    int r = make_dir(LOWER, 0700, err);

    if (r < 0)
        return r;
    if (mount(s->root_device, LOWER, s->root_fstype, MS_RDONLY, NULL) < 0)
        return ga_error_sys(err, errno, "mounting the image's disk %s as %s", s->root_device, s->root_fstype);
    if (s->overlay_bytes)
        snprintf(size, sizeof(size), "mode=0755,size=%" PRIu64, s->overlay_bytes);
    if ((r = mount_one(&rw, err)) < 0 || (r = make_dir(UPPER, 0755, err)) < 0 || (r = make_dir(WORK, 0700, err)) < 0 ||
        (r = copy_attributes(LOWER, UPPER, ret_root, err)) < 0)
        return r;
    return mount_one(&overlay, err);
}

static int enter_root(struct ga_error *err)
{
    /* Of the initramfs; what is open stays open. */
    umount2("/sys", MNT_DETACH);
    umount2("/proc", MNT_DETACH);
    umount2("/dev", MNT_DETACH);
    unlink("/init"); /* its pages are freed as far as this process does not use them */
    if (chdir(NEWROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
        return ga_error_sys(err, errno, "entering the image's root");
    return 0;
}

static int make_nodes(struct ga_error *err)
{
    static const struct {
        const char *path;
        unsigned major, minor;
    } nodes[] = {
        {"/dev/null", 1, 3},    {"/dev/zero", 1, 5}, {"/dev/full", 1, 7},    {"/dev/random", 1, 8},
        {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0},  {"/dev/fuse", 10, 229}, {"/dev/net/tun", 10, 200},
    };
    static const char *const links[][2] = {
        {"/proc/self/fd", "/dev/fd"},       {"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"},
        {"/proc/self/fd/2", "/dev/stderr"}, {"/proc/kcore", "/dev/core"},      {"pts/ptmx", "/dev/ptmx"},
    };
    int r = make_dir("/dev/net", 0755, err);

    for (size_t i = 0; i < sizeof(nodes) / sizeof(nodes[0]) && r == 0; i++)
        if (mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)) < 0 ||
            chmod(nodes[i].path, 0666) < 0)
            r = ga_error_sys(err, errno, "making %s", nodes[i].path);
    for (size_t i = 0; i < sizeof(links) / sizeof(links[0]) && r == 0; i++)
        if (symlink(links[i][0], links[i][1]) < 0)
            r = ga_error_sys(err, errno, "making %s", links[i][1]);
    return r;
}

static int mount_inside(struct ga_error *err)
{
    static const struct mount_at first[] = {
        {"proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, 0555},
        {"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, 0555},
        {"cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, 0755},
        {"tmpfs", "/dev", MS_NOSUID | MS_STRICTATIME, "mode=0755,size=64m", 0755},
        {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=" TTY_GID, 0755},
        {"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777", 01777},
        {"mqueue", "/dev/mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, 01777},
    };
    int r = mount_all(first, sizeof(first) / sizeof(first[0]), err);

    return r < 0 ? r : make_nodes(err);
}

/* ---- Names and network ---- */

/* Best effort: a kernel without the knob has the old behaviour. */
static void write_knob(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    ssize_t n = write(fd, text, strlen(text));
    (void)n;
    close(fd);
}

static int start_network(struct ga_error *err)
{
    struct ifreq ifr = {.ifr_name = "lo"};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int r = 0;

    if (fd < 0)
        return ga_error_sys(err, errno, "making a socket");
    if (ioctl(fd, SIOCGIFFLAGS, &ifr) == 0)
        ifr.ifr_flags |= IFF_UP | IFF_RUNNING;
    if (ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
        r = ga_error_sys(err, errno, "starting the loopback interface");
    close(fd);
    /* As in Docker's containers: any user may serve port 80 and ping. */
    write_knob("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    write_knob("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    return r;
}

/* Absent, empty, or a link to nowhere. */
static bool file_missing(const char *path)
{
    struct stat st;

    return stat(path, &st) < 0 ? errno == ENOENT : S_ISREG(st.st_mode) && st.st_size == 0;
}

static int write_file(const char *path, const char *text, struct ga_error *err)
{
    struct stat st;
    size_t len = strlen(text);
    int fd, r = 0;

    if (!file_missing(path))
        return 0;
    if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode))
        unlink(path);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0644);
    if (fd < 0)
        return ga_error_sys(err, errno, "making %s", path);
    if (write(fd, text, len) != (ssize_t)len)
        r = ga_error_sys(err, errno, "writing %s", path);
    close(fd);
    return r;
}

static int write_names(const struct ga_setup *s, const char *hostname, struct ga_error *err)
{
    char text[GA_HOSTS_SIZE];
    struct stat st;
    int r;

    if (mkdir("/etc", 0755) < 0 && errno != EEXIST)
        return ga_error_sys(err, errno, "making /etc");
    /* An image whose /etc is no directory is odd but may run. */
    if (stat("/etc", &st) < 0 || !S_ISDIR(st.st_mode))
        return 0;
    snprintf(text, sizeof(text), "%s\n", hostname);
    r = write_file("/etc/hostname", text, err);
    if (r < 0)
        return r;
    ga_hosts_text(text, hostname, s->hosts);
    r = write_file("/etc/hosts", text, err);
    if (r < 0 || !*s->resolv_conf)
        return r;
    return write_file("/etc/resolv.conf", s->resolv_conf, err);
}

/* A directory for the execs' groups. The agent itself stays in the root group. */
static int open_cgroup(int *ret, struct ga_error *err)
{
    int r = make_dir("/sys/fs/cgroup/exec", 0755, err);

    if (r < 0)
        return r;
    *ret = open("/sys/fs/cgroup/exec", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret < 0 ? ga_error_sys(err, errno, "opening the control groups") : 0;
}

/* A path that can't be opened is said to be not empty: nothing of the image must be hidden. */
static bool empty_or_missing(const char *path)
{
    struct dirent *e;
    bool empty = true;
    DIR *d = opendir(path);

    if (!d)
        return errno == ENOENT;
    while (empty && (e = readdir(d)))
        empty = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
    closedir(d);
    return empty;
}

static int mount_run(struct ga_error *err)
{
    static const struct mount_at run = {"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755", 0755};

    return empty_or_missing(run.path) ? mount_one(&run, err) : 0;
}

/* The root as the agent itself writes to it. A descriptor, or -errno with a sentence. */
static int open_root(bool read_only, struct ga_error *err)
{
    long fd = syscall(SYS_open_tree, AT_FDCWD, "/", OPEN_TREE_CLONE | AT_RECURSIVE | O_CLOEXEC);

    if (fd < 0)
        return ga_error_sys(err, errno, "copying the mounts of the root");
    if (read_only && mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) < 0) {
        int r = ga_error_sys(err, errno, "making the root read-only");

        close((int)fd);
        return r;
    }
    return (int)fd;
}

int ga_setup_root(const struct ga_setup *s, int *ret_cgroup, int *ret_root, struct ga_error *err)
{
    const char *hostname = *s->hostname ? s->hostname : GA_DEFAULT_HOSTNAME;
    struct stat st;
    int cgroup = -1, root, r;

    if (sethostname(hostname, strlen(hostname)) < 0)
        return ga_error_sys(err, errno, "setting the host name '%s'", hostname);
    if ((r = start_network(err)) < 0 || (r = ga_disk_wait(s->root_device, err)) < 0 ||
        (r = mount_layers(s, &st, err)) < 0 || (r = enter_root(err)) < 0 || (r = mount_inside(err)) < 0 ||
        (r = mount_run(err)) < 0 || (r = write_names(s, hostname, err)) < 0 || (r = open_cgroup(&cgroup, err)) < 0)
        return r;

    struct timespec times[2] = {st.st_atim, st.st_mtim};
    utimensat(AT_FDCWD, "/", times, 0); /* mount points may have been made in it */
    root = open_root(s->flags & AGENT_SETUP_READ_ONLY, err);
    if (root < 0) {
        close(cgroup);
        return root;
    }
    *ret_cgroup = cgroup;
    *ret_root = root;
    return 0;
}
