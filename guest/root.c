/* SPDX-License-Identifier: Apache-2.0 */
/* Files of the image's root: see root.h. */
#include "root.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "proto.h"

/* Beside the file that it becomes. */
#define NEW_NAME ".supermachine.new"

int ga_root_open(int root, const char *path, int flags, mode_t mode)
{
    struct open_how how = {
        .flags = (uint64_t)(flags | O_CLOEXEC | (flags & O_PATH ? 0 : O_NONBLOCK | O_NOCTTY)),
        .mode = flags & O_CREAT ? mode : 0,
        .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    };
    long fd = syscall(SYS_openat2, root, path, &how, sizeof(how));

    return fd < 0 ? -errno : (int)fd;
}

/* The directory above `path`, open, and the last part of it. A descriptor or -errno. */
static int open_parent(int root, const char *path, const char **ret_name)
{
    char dir[AGENT_MAX_PATH + 1];
    const char *slash = strrchr(path, '/');

    if (!slash || !slash[1] || (size_t)(slash - path) >= sizeof(dir))
        return -EINVAL;
    memcpy(dir, path, (size_t)(slash - path));
    dir[slash - path] = '\0';
    *ret_name = slash + 1;
    return ga_root_open(root, *dir ? dir : "/", O_PATH | O_DIRECTORY, 0);
}

int ga_root_make_parents(int root, const char *path)
{
    char dir[AGENT_MAX_PATH + 1];
    const char *name;
    int fd = open_parent(root, path, &name), r = 0;

    if (fd >= 0)
        close(fd);
    if (fd != -ENOENT)
        return fd < 0 ? fd : 0;
    for (const char *p = strchr(path + 1, '/'); p && r == 0; p = strchr(p + 1, '/')) {
        if (p[-1] == '/')
            continue;
        memcpy(dir, path, (size_t)(p - path));
        dir[p - path] = '\0';
        fd = open_parent(root, dir, &name);
        if (fd < 0)
            return fd;
        if (mkdirat(fd, name, 0755) < 0)
            r = errno == EEXIST ? 0 : -errno;
        else if (fchmodat(fd, name, 0755, 0) < 0) /* whatever the umask says */
            r = -errno;
        close(fd);
    }
    return r;
}

ssize_t ga_root_read(int root, const char *path, char *ret, size_t size)
{
    struct stat st;
    size_t len = 0;
    ssize_t n = -EINVAL;
    int fd = ga_root_open(root, path, O_RDONLY | O_NOFOLLOW, 0);

    if (fd < 0)
        return fd;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        do {
            n = read(fd, ret + len, size - len);
            len += n > 0 ? (size_t)n : 0;
        } while (n > 0 && len < size);
        if (n < 0)
            n = -errno;
        else if (len == size)
            n = -EFBIG;
        else
            ret[n = (ssize_t)len] = '\0';
    }
    close(fd);
    return n;
}

static int write_all(int fd, const char *text, mode_t mode)
{
    size_t len = strlen(text);
    ssize_t n = write(fd, text, len);

    if (n < 0 || fchmod(fd, mode) < 0)
        return -errno;
    return (size_t)n == len ? 0 : -ENOSPC;
}

int ga_root_replace(int root, const char *path, const char *text, mode_t mode)
{
    const char *name;
    int fd, r, dir = open_parent(root, path, &name);

    if (dir < 0)
        return dir;
    /* What a run that was cut short has left there, or a trap of the image. */
    unlinkat(dir, NEW_NAME, 0);
    fd = openat(dir, NEW_NAME, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    r = fd < 0 ? -errno : write_all(fd, text, mode);
    if (r == 0 && renameat(dir, NEW_NAME, dir, name) < 0)
        r = -errno;
    if (r < 0)
        unlinkat(dir, NEW_NAME, 0);
    if (fd >= 0)
        close(fd);
    close(dir);
    return r;
}
