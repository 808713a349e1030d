/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots as directories.
 *
 * Theory of operation
 *
 * What: snapshots/<64 hex>/ has state, memory, metadata.json and, of a difference, diff. They appear together, by one
 * rename, and never change; prefetch may come later. Whoever reads opens the directory once and the files below it, so
 * that they belong together even when another snapshot takes its place meanwhile. Then some may be gone already: see
 * snapshot_dir_is.
 *
 * Replacing: renameat2(2) exchanges two directories in one step; the old one is then where the new one was made, and
 * is removed there, or by whoever opens the store next. Where a file system has no such call, the old one moves away
 * first: a process killed in between leaves none, never half of one.
 *
 * The time of last use is the directory's time of change: nothing else changes it but a prefetch list that comes.
 */
#include "oci/snapshot_dirs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "oci/json.h"
#include "oci/limits.h"
#include "oci/store_dirs.h"

#define BLOCK_UNIT 512 /* of st_blocks */

const char *const snapshot_files[] = {SNAPSHOT_STATE,        SNAPSHOT_MEMORY,   SNAPSHOT_DIFF, SNAPSHOT_PREFETCH,
                                      SNAPSHOT_PREFETCH_NEW, SNAPSHOT_METADATA, NULL};

int snapshot_dir_open(struct oci_store *s, const struct digest *key, struct sm_error *err)
{
    char hex[DIGEST_HEX_SIZE];
    int fd;

    if (s->snapshots_fd < 0)
        return -ENOENT;
    digest_hex(key, hex);
    fd = openat(s->snapshots_fd, hex, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP))
        return -ENOENT;
    return fd < 0 ? store_fail(s, err, errno, "cannot open a snapshot") : fd;
}

bool snapshot_dir_is_at(int dir_fd, int at_fd, const char *name)
{
    struct stat by_fd, by_name;

    return !fstat(dir_fd, &by_fd) && !fstatat(at_fd, name, &by_name, 0) && by_fd.st_dev == by_name.st_dev &&
           by_fd.st_ino == by_name.st_ino;
}

bool snapshot_dir_is(struct oci_store *s, const struct digest *key, int dir_fd)
{
    char hex[DIGEST_HEX_SIZE];

    digest_hex(key, hex);
    return snapshot_dir_is_at(dir_fd, s->snapshots_fd, hex);
}

int snapshot_dir_file(int dir_fd, const char *name, uint64_t *ret_size)
{
    CLEANUP_FD int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat st;

    if (fd < 0)
        return errno == ELOOP ? -ENOENT : -errno;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -ENOENT;
    *ret_size = (uint64_t)st.st_size;
    return steal_fd(&fd);
}

int snapshot_dir_meta(int dir_fd, struct snapshot_meta *ret, struct sm_error *err)
{
    CLEANUP_FREE void *data = NULL;
    CLEANUP_FD int fd = -1;
    uint64_t size;
    ssize_t n;

    fd = snapshot_dir_file(dir_fd, SNAPSHOT_METADATA, &size);
    if (fd == -ENOENT)
        return sm_error_set(err, EBADMSG, "its metadata is not there");
    if (fd < 0)
        return sm_error_sys(err, -fd, "its metadata cannot be read");
    if (size > OCI_JSON_MAX_BYTES)
        return sm_error_set(err, EBADMSG, "its metadata is larger than %llu MiB, which is the limit",
                            OCI_JSON_MAX_BYTES / MIB);
    data = malloc(size + 1);
    if (!data)
        return sm_error_set(err, ENOMEM, "out of memory for a snapshot's metadata");
    n = io_pread_full(fd, data, size, 0);
    if (n < 0)
        return sm_error_sys(err, (int)-n, "its metadata cannot be read");
    return snapshot_meta_parse(ret, data, (size_t)n, err);
}

void snapshot_dir_usage(int dir_fd, uint64_t *ret_bytes, int64_t *ret_used_s)
{
    struct stat st;

    *ret_bytes = 0;
    for (const char *const *name = snapshot_files; *name; name++) {
        if (!fstatat(dir_fd, *name, &st, AT_SYMLINK_NOFOLLOW))
            *ret_bytes += (uint64_t)st.st_blocks * BLOCK_UNIT;
    }
    *ret_used_s = fstat(dir_fd, &st) < 0 ? 0 : st.st_mtime;
}

void snapshot_dir_used(int dir_fd)
{
    (void)!futimens(dir_fd, NULL);
}

int snapshot_dirs_list(struct oci_store *s, char ***ret, size_t *ret_n, struct sm_error *err)
{
    return store_list_dir(s, s->snapshots_fd, false, ret, ret_n, err);
}

static void clear(int parent_fd, const char *name)
{
    CLEANUP_FD int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

    if (fd >= 0)
        store_clear_dir(parent_fd, name, fd);
    else
        unlinkat(parent_fd, name, 0);
}

/* Where directories can't be exchanged: what is there goes to `old` first. */
static int replace_in_two_steps(int from_fd, const char *from, const char *old, int to_fd, const char *to)
{
    int r = renameat(to_fd, to, from_fd, old) < 0 ? -errno : 0;

    if (r >= 0 && renameat(from_fd, from, to_fd, to) < 0) {
        r = -errno;
        (void)!renameat(from_fd, old, to_fd, to);
    }
    return r;
}

/* What was there is at `ret_old`, or that is "". */
static int place(int from_fd, const char *from, int to_fd, const char *to, bool replace, char ret_old[NAME_MAX + 1])
{
    ret_old[0] = '\0';
    if (!renameat(from_fd, from, to_fd, to)) /* an empty directory gives way: it is nothing */
        return 0;
    if (errno != EEXIST && errno != ENOTEMPTY && errno != ENOTDIR)
        return -errno;
    if (!replace)
        return -EEXIST;
    snprintf(ret_old, NAME_MAX + 1, "%s", from);
    if (!renameat2(from_fd, from, to_fd, to, RENAME_EXCHANGE))
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -errno;
    snprintf(ret_old, NAME_MAX + 1, "%.*s.old", NAME_MAX - 4, from);
    return replace_in_two_steps(from_fd, from, ret_old, to_fd, to);
}

static void put_back(int from_fd, const char *from, const char *old, int to_fd, const char *to)
{
    if (!strcmp(old, from)) {
        (void)!renameat2(from_fd, from, to_fd, to, RENAME_EXCHANGE);
        return;
    }
    (void)!renameat(to_fd, to, from_fd, from);
    if (old[0])
        (void)!renameat(from_fd, old, to_fd, to);
}

int snapshot_dir_put(int from_fd, const char *from, int dir_fd, int to_fd, const char *to, bool replace)
{
    char old[NAME_MAX + 1];
    int r = fsync(dir_fd) < 0 ? -errno : place(from_fd, from, to_fd, to, replace, old);

    if (r < 0)
        return r;
    if (fsync(to_fd) < 0) {
        r = -errno;
        put_back(from_fd, from, old, to_fd, to);
        return r;
    }
    if (old[0])
        clear(from_fd, old);
    return 0;
}

int snapshot_dir_commit(struct store_temp *t, const struct digest *key, bool replace, struct sm_error *err)
{
    struct oci_store *s = t->store;
    char hex[DIGEST_HEX_SIZE];
    int r;

    digest_hex(key, hex);
    r = snapshot_dir_put(s->tmp_fd, t->name, t->dir_fd, s->snapshots_fd, hex, replace);
    if (r < 0)
        return r == -EEXIST ? r : store_fail(s, err, -r, "cannot put a snapshot in its place");
    close_fd(&t->dir_fd);
    return 0;
}

int snapshot_dir_remove(struct oci_store *s, const struct digest *key, struct sm_error *err)
{
    char hex[DIGEST_HEX_SIZE];

    digest_hex(key, hex);
    return store_remove_dir(s, s->snapshots_fd, hex, err);
}
