/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing snapshots as archives.
 *
 * Theory of operation
 *
 * What: memory is walked twice in the order of its pages, each page from where it is (of a difference, its own runs
 * from its memory file, all else from the base's): once to find which pages are not zero and what their checksum is,
 * once to write these. So a file system that knows no holes makes no larger archive, and what is written is whole: its
 * metadata, which comes last because the checksum is in it, has no base.
 *
 * Limits: a bit for each page in memory, and a buffer.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "lib/snapshot_archive.h"
#include "oci/tar_write.h"
#include "snap/crc32c.h"
#include "snap/memory.h"

#define CHUNK_PAGES 256u

struct source {
    const struct snapshot *s;
    struct snap_runs diff; /* none: everything is in one file */
    uint32_t pages;
    uint64_t *data; /* bits of pages that may hold something: at first by holes, then by content */
    uint32_t n_data;
    uint32_t crc; /* as snap_memory_sum() of all of it */
    uint8_t *buf;
};

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory while writing an archive");
}

static void clear_run(uint64_t *bitmap, const struct snap_run *run)
{
    for (uint32_t page = run->first; page < run->first + run->count; page++)
        bitmap[page / 64] &= ~(1ull << (page % 64));
}

/* The pages of the difference for which its own file has data are those of its runs: nothing else is written there. */
static int mark_data(struct source *src, struct sm_error *err)
{
    const struct snapshot *s = src->s;
    bool full = s->base_memory_fd < 0;
    int r = snap_memory_mark_data(full ? s->memory_fd : s->base_memory_fd, src->pages, src->data, err);

    if (r < 0 || full)
        return r;
    for (uint32_t i = 0; i < src->diff.n; i++)
        clear_run(src->data, &src->diff.run[i]);
    snap_runs_mark(&src->diff, src->data);
    return 0;
}

/* Which file a page is in. `run`: the first that does not end before it, kept between calls. */
static int file_of(const struct source *src, uint32_t page, uint32_t *run)
{
    while (*run < src->diff.n && page >= src->diff.run[*run].first + src->diff.run[*run].count)
        ++*run;
    if (src->s->base_memory_fd < 0 || (*run < src->diff.n && page >= src->diff.run[*run].first))
        return src->s->memory_fd;
    return src->s->base_memory_fd;
}

/* Called with `n` neighbouring pages, in order. */
typedef int pages_fn(struct source *src, void *ctx, uint32_t first, uint32_t n, struct sm_error *err);

static int each_data(struct source *src, pages_fn *fn, void *ctx, struct sm_error *err)
{
    uint32_t run = 0, page = 0;
    int r = 0;

    while (r >= 0 && page < src->pages) {
        uint32_t n = 0;
        ssize_t got;
        int fd;

        if (!src->data[page / 64]) {
            page = (page / 64 + 1) * 64;
            continue;
        }
        if (!snap_bit(src->data, page)) {
            page++;
            continue;
        }
        fd = file_of(src, page, &run);
        while (n < CHUNK_PAGES && page + n < src->pages && snap_bit(src->data, page + n) &&
               file_of(src, page + n, &run) == fd)
            n++;
        got = io_pread_full(fd, src->buf, (size_t)n * SNAP_PAGE, (uint64_t)page * SNAP_PAGE);
        if (got != (ssize_t)n * SNAP_PAGE)
            return sm_error_sys(err, got < 0 ? (int)-got : EIO, "cannot read the memory of the snapshot %.12s",
                                src->s->meta.key);
        r = fn(src, ctx, page, n, err);
        page += n;
    }
    return r;
}

static int look_at_pages(struct source *src, void *ctx, uint32_t first, uint32_t n, struct sm_error *err)
{
    static const uint8_t zeros[SNAP_PAGE];

    (void)ctx;
    (void)err;
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *data = src->buf + (size_t)i * SNAP_PAGE;
        uint32_t page = first + i;
        const uint8_t number[] = {(uint8_t)page, (uint8_t)(page >> 8), (uint8_t)(page >> 16), (uint8_t)(page >> 24)};

        if (memcmp(data, zeros, SNAP_PAGE) == 0) {
            src->data[page / 64] &= ~(1ull << (page % 64));
            continue;
        }
        src->n_data++;
        src->crc = crc32c(crc32c(src->crc, number, sizeof(number)), data, SNAP_PAGE);
    }
    return 0;
}

static int prepare(struct source *src, struct sm_error *err)
{
    int r = 0;

    src->data = calloc(SNAP_BITMAP_WORDS(src->pages), sizeof(*src->data));
    src->buf = malloc((size_t)CHUNK_PAGES * SNAP_PAGE);
    if (!src->data || !src->buf)
        return no_memory(err);
    if (src->s->diff_fd >= 0)
        r = snap_runs_read(&src->diff, SNAP_RUNS_DIFF, src->pages, src->s->diff_fd, err);
    if (r >= 0)
        r = mark_data(src, err);
    return r < 0 ? r : each_data(src, look_at_pages, NULL, err);
}

/* Members */

static int put_state(struct tar_writer *w, const struct snapshot *s, struct sm_error *err)
{
    CLEANUP_FREE uint8_t *data = malloc(s->meta.state_bytes);
    ssize_t n = data ? io_pread_full(s->state_fd, data, s->meta.state_bytes, 0) : 0;
    int r;

    if (!data)
        return no_memory(err);
    if (n != (ssize_t)s->meta.state_bytes)
        return sm_error_sys(err, n < 0 ? (int)-n : EIO, "cannot read the state of the snapshot %.12s", s->meta.key);
    r = tar_file(w, ARCHIVE_STATE, s->meta.state_bytes, err);
    return r < 0 ? r : tar_data(w, data, s->meta.state_bytes, err);
}

static int put_pages(struct tar_writer *w, const struct source *src, struct sm_error *err)
{
    size_t len = ARCHIVE_PAGES_BYTES(src->s->meta.memory_mib);
    CLEANUP_FREE uint8_t *bits = malloc(len);
    int r;

    if (!bits)
        return no_memory(err);
    for (size_t i = 0; i < len; i++) /* in the order of pages, whatever the host's bytes are */
        bits[i] = (uint8_t)(src->data[i / 8] >> (8 * (i % 8)));
    r = tar_file(w, ARCHIVE_PAGES, len, err);
    return r < 0 ? r : tar_data(w, bits, len, err);
}

struct parts {
    struct tar_writer *w;
    uint64_t left; /* of all parts that are not begun */
    unsigned next;
};

static int begin_part(struct parts *p, struct sm_error *err)
{
    uint64_t size = p->left < ARCHIVE_PART_BYTES ? p->left : ARCHIVE_PART_BYTES;
    char name[32];

    snprintf(name, sizeof(name), ARCHIVE_PART, p->next++);
    p->left -= size;
    return tar_file(p->w, name, size, err);
}

static int put_memory(struct source *src, void *ctx, uint32_t first, uint32_t n, struct sm_error *err)
{
    struct parts *p = ctx;
    size_t len = (size_t)n * SNAP_PAGE, done = 0;
    int r = 0;

    (void)first;
    while (r >= 0 && done < len) {
        size_t now = len - done;

        if (!p->w->left)
            r = begin_part(p, err);
        if (r >= 0) {
            if (now > p->w->left)
                now = (size_t)p->w->left;
            r = tar_data(p->w, src->buf + done, now, err);
            done += now;
        }
    }
    return r;
}

static int put_metadata(struct tar_writer *w, const struct source *src, struct sm_error *err)
{
    struct snapshot_meta m = src->s->meta;
    struct buf text;
    int r;

    m.base[0] = '\0';
    m.base_crc = m.diff_crc = 0;
    m.diff_bytes = 0;
    m.memory_crc = src->crc;
    m.memory_data = (uint64_t)src->n_data * SNAP_PAGE;
    r = snapshot_meta_write(&text, &m, err);
    if (r < 0)
        return r;
    r = tar_file(w, ARCHIVE_METADATA, text.len, err);
    if (r >= 0)
        r = tar_data(w, text.data, text.len, err);
    buf_done(&text);
    return r;
}

int snapshot_archive_write(const struct snapshot *s, int fd, const struct oci_events *events, struct sm_error *err)
{
    struct source src = {.s = s, .pages = (uint32_t)(s->meta.memory_mib * MIB / SNAP_PAGE)};
    struct tar_writer w = {.fd = fd, .events = events};
    struct parts parts = {.w = &w};
    int r = prepare(&src, err);

    parts.left = (uint64_t)src.n_data * SNAP_PAGE;
    w.total = parts.left + s->meta.state_bytes + ARCHIVE_PAGES_BYTES(s->meta.memory_mib);
    if (r >= 0)
        r = put_state(&w, s, err);
    if (r >= 0)
        r = put_pages(&w, &src, err);
    if (r >= 0)
        r = each_data(&src, put_memory, &parts, err);
    if (r >= 0)
        r = put_metadata(&w, &src, err);
    if (r >= 0)
        r = tar_finish(&w, err);
    snap_runs_done(&src.diff);
    free(src.data);
    free(src.buf);
    return r < 0 ? r : 0;
}
