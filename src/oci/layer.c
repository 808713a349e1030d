/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Converting one layer.
 *
 * Theory of operation
 *
 * What: entries are written to the index as they come. A file of up to OCI_INLINE_MAX bytes goes into its index
 * record; a larger one gets the next multiple of 4096 in `data`, where it keeps its holes: a hole of the tar is not
 * written, and neither are 16 KiB of zeros. So `data` is a sparse file whose size is the end of the last file, rounded
 * up, and a bomb of zeros costs no disk space.
 *
 * Writing goes through one buffer of 1 MiB that always is a contiguous piece of `data`; files are packed into it until
 * it is full, so a thousand small files cost one system call.
 *
 * Limits: entries, sum of sizes, index bytes (limits.h). Decompressed bytes and ratio are watched by the other side.
 */
#include "oci/layer.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/io.h"
#include "oci/disk.h"
#include "oci/index.h"
#include "oci/limits.h"

#define BUFFER  (1024 * 1024u)
#define GRANULE (16 * 1024u) /* zeros are looked for in pieces of this size */

struct converter {
    struct index_writer *index;
    int data_fd;
    uint64_t data_end; /* where the next file may begin, not yet aligned */
    uint32_t entries;

    struct oci_entry small; /* the file at hand, when it is small: its strings are the tar reader's, alive until end */
    uint8_t content[OCI_INLINE_MAX];
    uint64_t file_off; /* the file at hand, when it is large: its place in data */
    bool is_small;

    uint8_t *buf;
    size_t len;
    uint64_t pos; /* place of buf[0] in data */
};

static bool is_zero(const uint8_t *p, size_t len)
{
    return !p[0] && !memcmp(p, p + 1, len - 1);
}

static int write_run(struct converter *c, size_t from, size_t to, struct sm_error *err)
{
    int r = from < to ? io_pwrite_full(c->data_fd, c->buf + from, to - from, c->pos + from) : 0;

    return r < 0 ? disk_error(err, -r, "cannot write the layer's files") : 0;
}

static int flush(struct converter *c, struct sm_error *err)
{
    size_t from = 0, at = 0;
    int r = 0;

    while (r >= 0 && at < c->len) {
        size_t n = c->len - at < GRANULE ? c->len - at : GRANULE;

        if (is_zero(c->buf + at, n)) {
            r = write_run(c, from, at, err);
            from = at + n;
        }
        at += n;
    }
    if (r >= 0)
        r = write_run(c, from, c->len, err);
    c->pos += c->len;
    c->len = 0;
    return r;
}

static int append(struct converter *c, const uint8_t *p, size_t len, uint64_t at, struct sm_error *err)
{
    uint64_t gap;
    int r;

    assert(at >= c->pos + c->len);
    gap = at - (c->pos + c->len);
    if (gap < OCI_BLOCK && gap <= BUFFER - c->len) {
        memset(c->buf + c->len, 0, gap);
        c->len += gap;
    } else {
        r = flush(c, err);
        if (r < 0)
            return r;
        c->pos = at;
    }
    while (len) {
        size_t n = BUFFER - c->len < len ? BUFFER - c->len : len;

        memcpy(c->buf + c->len, p, n);
        c->len += n;
        p += n;
        len -= n;
        if (c->len == BUFFER) {
            r = flush(c, err);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

static int on_entry(void *ctx, const struct oci_entry *from_tar, struct sm_error *err)
{
    struct converter *c = ctx;
    struct oci_entry e = *from_tar;
    int r = entry_check(&e, err);

    if (r < 0)
        return r;
    if (++c->entries > OCI_LAYER_MAX_ENTRIES)
        return sm_error_set(err, EFBIG, "the layer has more than %u entries, which is the limit",
                            OCI_LAYER_MAX_ENTRIES);
    c->is_small = e.type == OCI_FILE && e.size <= OCI_INLINE_MAX;
    if (c->is_small && e.size) {
        c->small = e;
        memset(c->content, 0, sizeof(c->content));
        return 0;
    }
    if (e.type == OCI_FILE && e.size) {
        c->file_off = e.data_off = align_up(c->data_end, OCI_BLOCK);
        c->data_end = e.data_off + e.size; /* both are at most OCI_LAYER_MAX_DATA */
        if (c->data_end > OCI_LAYER_MAX_DATA)
            return sm_error_set(err, EFBIG, "the layer's files are larger than 1 TiB together, which is the limit");
    }
    return index_write(c->index, &e, err);
}

static int on_data(void *ctx, const void *data, size_t len, uint64_t offset, struct sm_error *err)
{
    struct converter *c = ctx;

    if (!c->is_small) {
        if (c->file_off + offset < c->pos + c->len)
            return sm_error_set(err, EBADMSG, "the layer's tar is corrupt: a sparse file's pieces overlap");
        return append(c, data, len, c->file_off + offset, err);
    }
    assert(range_within(offset, len, c->small.size));
    memcpy(c->content + offset, data, len);
    return 0;
}

static int on_end(void *ctx, struct sm_error *err)
{
    struct converter *c = ctx;

    if (!c->is_small)
        return 0;
    c->small.content = c->content;
    return index_write(c->index, &c->small, err);
}

int layer_convert(const struct unpack_source *in, int data_fd, int index_fd, struct sm_error *err)
{
    struct converter *c = calloc(1, sizeof(*c));
    uint64_t size;
    int r;

    if (c)
        c->buf = malloc(BUFFER);
    if (!c || !c->buf) {
        free(c);
        return sm_error_set(err, ENOMEM, "out of memory while converting a layer");
    }
    c->data_fd = data_fd;
    r = index_writer_new(&c->index, index_fd, err);
    if (r >= 0)
        r = unpack_tar(in, &(struct unpack_tar_sink){on_entry, on_data, on_end, c}, err);
    if (r >= 0)
        r = flush(c, err);
    size = align_up(c->data_end, OCI_BLOCK);
    if (r >= 0 && ftruncate(data_fd, (off_t)size) < 0)
        r = disk_error(err, errno, "cannot write the layer's files");
    if (r >= 0)
        r = index_finish(c->index, size, err);
    index_writer_free(c->index);
    free(c->buf);
    free(c);
    return r;
}
