/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot's prefetch list, the one file that comes later. It is written without a name (O_TMPFILE), so that nothing
 * is left of it when its maker dies, and then linked into the directory, which fails when another one was first.
 *
 * Where a file system can't do that, it is written under a name of its own. Whoever comes next takes that away from one
 * that died; and from one that still writes, who then has no name to link, and gives up.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "lib/snapshots.h"
#include "oci/snapshot_dirs.h"
#include "snap/runs.h"

int snapshot_prefetch_file(const struct snapshot *s, struct sm_error *err)
{
    int fd = openat(s->dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
        unlinkat(s->dir_fd, SNAPSHOT_PREFETCH_NEW, 0);
        fd = openat(s->dir_fd, SNAPSHOT_PREFETCH_NEW, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    }
    return fd < 0 ? sm_error_sys(err, errno, "cannot make a prefetch list for the snapshot %.12s", s->meta.key) : fd;
}

/* The name that it was written under, if it had one. */
static void drop_name(const struct snapshot *s, int fd)
{
    struct stat by_fd, by_name;

    if (!fstat(fd, &by_fd) && !fstatat(s->dir_fd, SNAPSHOT_PREFETCH_NEW, &by_name, AT_SYMLINK_NOFOLLOW) &&
        by_fd.st_dev == by_name.st_dev && by_fd.st_ino == by_name.st_ino)
        unlinkat(s->dir_fd, SNAPSHOT_PREFETCH_NEW, 0);
}

int snapshot_prefetch_add(const struct snapshot *s, int fd, struct sm_error *err)
{
    struct snap_runs runs;
    char path[32];
    int r = snap_runs_read(&runs, SNAP_RUNS_PREFETCH, (uint32_t)(s->meta.memory_mib * MIB / SNAP_PAGE), fd, err);

    if (r < 0) {
        drop_name(s, fd);
        return r;
    }
    snap_runs_done(&runs);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (fsync(fd) < 0 ||
        (linkat(AT_FDCWD, path, s->dir_fd, SNAPSHOT_PREFETCH, AT_SYMLINK_FOLLOW) < 0 && errno != EEXIST))
        r = sm_error_sys(err, errno, "cannot add a prefetch list to the snapshot %.12s", s->meta.key);
    drop_name(s, fd);
    return r < 0 ? r : 0;
}
