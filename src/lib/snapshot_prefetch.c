/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot's prefetch list, the one file that comes later. It is written without a name (O_TMPFILE), so that nothing
 * is left of it when its maker dies, and then linked into the directory, which fails when another one was first.
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

    return fd < 0 ? sm_error_sys(err, errno, "cannot make a prefetch list for the snapshot %.12s", s->meta.key) : fd;
}

int snapshot_prefetch_add(const struct snapshot *s, int fd, struct sm_error *err)
{
    struct snap_runs runs;
    char path[32];
    int r = snap_runs_read(&runs, SNAP_RUNS_PREFETCH, (uint32_t)(s->meta.memory_mib * MIB / SNAP_PAGE), fd, err);

    if (r < 0)
        return r;
    snap_runs_done(&runs);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (fsync(fd) < 0 ||
        (linkat(AT_FDCWD, path, s->dir_fd, SNAPSHOT_PREFETCH, AT_SYMLINK_FOLLOW) < 0 && errno != EEXIST))
        return sm_error_sys(err, errno, "cannot add a prefetch list to the snapshot %.12s", s->meta.key);
    return 0;
}
