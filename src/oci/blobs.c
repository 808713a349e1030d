/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blobs.
 *
 * Theory of operation
 *
 * What:
 *
 *   blobs/<64 hex>     whole, named by their SHA-256. They appear by rename and never change
 *   partial/<64 hex>   layers that are being fetched, written by whoever holds that blob's lock
 *
 * Nothing here is trusted when it is read: whoever reads a blob hashes it, and one that is wrong counts as missing and
 * is fetched anew. That is also why a fetched layer is not waited for until it is on disk, as documents are: after a
 * power cut it may be short or empty, which costs a download, and the converted layer, which nobody hashes again, was
 * synced. A killed process loses nothing in either case.
 *
 * A partial file is whatever came before the cut. Its bytes were checked by nobody, so whoever goes on with it hashes
 * it from the beginning.
 */
#include "oci/blobs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "oci/store_dirs.h"

#define BLOB_FILE "blob" /* below tmp */

int blob_open(struct oci_store *s, const struct digest *d, uint64_t *ret_size, struct sm_error *err)
{
    char hex[DIGEST_HEX_SIZE];
    struct stat st;
    int fd;

    digest_hex(d, hex);
    fd = store_open_file(s, s->blobs_fd, hex, &st, err);
    if (fd >= 0)
        *ret_size = (uint64_t)st.st_size;
    return fd;
}

int blob_read(struct oci_store *s, const struct digest *d, uint64_t max, void **ret, size_t *ret_len,
              struct sm_error *err)
{
    CLEANUP_FREE void *data = NULL;
    CLEANUP_FD int fd = -1;
    struct digest got;
    uint64_t size;
    ssize_t n;
    int r;

    fd = r = blob_open(s, d, &size, err);
    if (r < 0)
        return r;
    if (size > max)
        return -ENOENT;
    data = malloc(size + 1);
    if (!data)
        return sm_error_set(err, ENOMEM, "out of memory for a document of %llu bytes", (unsigned long long)size);
    n = io_pread_full(fd, data, size, 0);
    if (n < 0)
        return store_fail(s, err, (int)-n, "cannot read a blob");
    r = digest_of(&got, data, (size_t)n, err);
    if (r < 0)
        return r;
    if (!digest_equal(&got, d))
        return -ENOENT;
    *ret = STEAL_PTR(data);
    *ret_len = (size_t)n;
    return 0;
}

int blob_commit(const struct store_temp *t, const char *file, const struct digest *d, struct sm_error *err)
{
    char hex[DIGEST_HEX_SIZE];

    digest_hex(d, hex);
    return store_temp_place(t, file, t->store->blobs_fd, hex, err);
}

int blob_put(struct oci_store *s, const struct digest *d, const void *data, size_t len, struct sm_error *err)
{
    struct store_temp temp = STORE_TEMP_INIT;
    CLEANUP_FREE void *old = NULL;
    CLEANUP_FD int fd = -1;
    size_t old_len;
    int r = blob_read(s, d, len, &old, &old_len, err);

    if (r != -ENOENT)
        return r;
    r = store_temp_new(&temp, s, err);
    if (r < 0)
        return r;
    fd = r = store_temp_file(&temp, BLOB_FILE, err);
    if (r >= 0) {
        r = io_write_full(fd, data, len);
        r = r < 0 ? store_fail(s, err, -r, "cannot write a blob") : blob_commit(&temp, BLOB_FILE, d, err);
    }
    store_temp_discard(&temp);
    return r;
}

int blob_partial_open(struct oci_store *s, const struct digest *d, uint64_t *ret_have, struct sm_error *err)
{
    char hex[DIGEST_HEX_SIZE];
    CLEANUP_FD int fd = -1;
    struct stat st;

    digest_hex(d, hex);
    fd = openat(s->partial_fd, hex, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (fd < 0 || fstat(fd, &st) < 0)
        return store_fail(s, err, errno, "cannot open a blob that is being fetched");
    if (!S_ISREG(st.st_mode))
        return store_fail(s, err, EINVAL, "what should be a blob is no file");
    *ret_have = (uint64_t)st.st_size;
    return steal_fd(&fd);
}

int blob_partial_commit(struct oci_store *s, const struct digest *d, int fd, struct sm_error *err)
{
    char hex[DIGEST_HEX_SIZE];

    digest_hex(d, hex);
    /* On its way to disk, but not waited for: see the top. Where there is no such call it is written a bit later. */
    sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    if (renameat(s->partial_fd, hex, s->blobs_fd, hex) < 0)
        return store_fail(s, err, errno, "cannot put a blob in its place");
    return 0;
}

int blob_partial_discard(struct oci_store *s, const struct digest *d, struct sm_error *err)
{
    char hex[DIGEST_HEX_SIZE];

    digest_hex(d, hex);
    if (unlinkat(s->partial_fd, hex, 0) < 0 && errno != ENOENT)
        return store_fail(s, err, errno, "cannot remove half a blob");
    return 0;
}
