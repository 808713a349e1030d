/* SPDX-License-Identifier: Apache-2.0 */
/* Are blobs what their names say? See fsck.c. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "oci/blobs.h"
#include "oci/fsck_parts.h"
#include "oci/limits.h"
#include "oci/store_dirs.h"

#define CHUNK (1024 * 1024u)

/* 1: right, 0: not. -errno only for what is no fault of the blob: it cannot be read at all, say. */
static int hash_blob(struct check *c, int fd, const struct digest *want, struct sm_error *err)
{
    CLEANUP_FREE uint8_t *buf = malloc(CHUNK);
    struct hasher *h = NULL;
    struct digest got;
    uint64_t off = 0;
    ssize_t n = 0;
    int r = buf ? hasher_new(&h, err) : sm_error_set(err, ENOMEM, "out of memory while checking blobs");

    while (r >= 0 && (n = io_pread_full(fd, buf, CHUNK, off)) > 0) {
        hasher_add(h, buf, (size_t)n);
        off += (uint64_t)n;
        r = check_step(c, (uint64_t)n, err);
    }
    if (r >= 0 && n < 0 && n != -EIO) /* a bad disk is a damaged blob */
        r = store_fail(c->store, err, (int)-n, "cannot read a blob");
    if (r >= 0) {
        hasher_end(h, &got);
        r = !n && digest_equal(&got, want);
    }
    hasher_free(h);
    return r;
}

/*
 * Blobs are put into their places without a lock, over what is there. So it is taken out first, and put back when it
 * is not the one that was looked at.
 */
static bool remove_blob(struct check *c, const struct digest *name, const struct stat *looked_at)
{
    struct store_temp temp = STORE_TEMP_INIT;
    char hex[DIGEST_HEX_SIZE];
    struct stat st;
    bool same = false;

    digest_hex(name, hex);
    if (store_temp_new(&temp, c->store, NULL) < 0)
        return false;
    if (!renameat(c->store->blobs_fd, hex, temp.dir_fd, "blob")) {
        same = !fstatat(temp.dir_fd, "blob", &st, AT_SYMLINK_NOFOLLOW) && st.st_ino == looked_at->st_ino;
        /* It fails where somebody has put it there again, which is as good. */
        if (!same)
            (void)!linkat(temp.dir_fd, "blob", c->store->blobs_fd, hex, 0);
    }
    store_temp_discard(&temp);
    return same;
}

static int check_blob(struct check *c, uint32_t number, struct sm_error *err)
{
    const struct digest *name = &c->g->objects[number].name;
    struct stat st = {.st_ino = 0};
    CLEANUP_FD int fd = -1;
    uint64_t size;
    int r;

    fd = blob_open(c->store, name, &size, err);
    if (fd == -ENOENT) { /* it went meanwhile, or is no file */
        c->bad[number] = true;
        return 0;
    }
    if (fd < 0)
        return fd;
    r = hash_blob(c, fd, name, err);
    if (r)
        return r < 0 ? r : 0;
    c->bad[number] = true;
    check_problem(c, FSCK_BLOB, "blob", name, "its content is not what its digest says: it is damaged",
                  c->o->repair && !fstat(fd, &st) && remove_blob(c, name, &st));
    return 0;
}

static int check_partial(struct check *c, uint32_t number, struct sm_error *err)
{
    const struct digest *name = &c->g->objects[number].name;
    CLEANUP_FD int lock_fd = -1;
    char hex[DIGEST_HEX_SIZE];
    bool removed = false;
    struct stat st;

    digest_hex(name, hex);
    if (fstatat(c->store->partial_fd, hex, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
        (S_ISREG(st.st_mode) && (uint64_t)st.st_size <= OCI_LAYER_MAX_BLOB))
        return check_step(c, c->g->objects[number].bytes, err);
    c->bad[number] = true;
    if (c->o->repair) {
        lock_fd = store_try_lock(c->store, STORE_BLOB, name, NULL);
        removed = lock_fd >= 0 && !unlinkat(c->store->partial_fd, hex, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0);
    }
    check_problem(c, FSCK_PARTIAL, "half of blob", name, "it is no file, or larger than a layer may be", removed);
    return 0;
}

int check_blobs(struct check *c, struct sm_error *err)
{
    int r = 0;

    for (uint32_t i = 0; r >= 0 && i < c->g->n_objects; i++) {
        if (c->g->objects[i].kind == GRAPH_BLOB)
            r = check_blob(c, i, err);
        else if (c->g->objects[i].kind == GRAPH_PARTIAL)
            r = check_partial(c, i, err);
    }
    return r;
}
