/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists of page runs: see runs.h, and docs/snapshot-format.md for the file.
 *
 * Theory of operation
 *
 * Making: the bitmap is walked once for each gap that is tried, 0, 1, 2, 4 ... pages, until few enough runs are left;
 * with a gap as long as the memory there is one. Only the last walk writes the list.
 *
 * Reading: the header says how many runs follow; the file must have exactly those bytes, the checksum over all of them
 * must fit, and then each run must begin behind the one before it and end within memory. A reader of the list checks
 * nothing of that again.
 *
 * Limits: SNAP_RUNS_MAX runs, SNAP_MEMORY_MAX_PAGES pages.
 */
#include "snap/runs.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/io.h"
#include "snap/crc32c.h"

#define MAGIC_BYTES  8
#define HEADER_BYTES 32
#define HEADER_CRC   28 /* its offset; over what is before it, and all runs */
#define RUN_BYTES    8
#define RUN_WRITTEN  (1u << 31) /* in the count, of a prefetch list only: more than pages of any memory */
#define VERSION      1u

static const struct {
    char magic[MAGIC_BYTES];
    const char *name;
} kinds[] = {
    [SNAP_RUNS_DIFF] = {{'S', 'M', 'd', 'i', 'f', 'f', ' ', '\n'}, "list of changed pages"},
    [SNAP_RUNS_PREFETCH] = {{'S', 'M', 'p', 'r', 'e', 'f', ' ', '\n'}, "prefetch list"},
};

uint32_t snap_bits_count(const uint64_t *bitmap, uint32_t pages)
{
    uint32_t sum = 0;

    for (size_t i = 0; i < SNAP_BITMAP_WORDS(pages); i++)
        sum += (uint32_t)__builtin_popcountll(bitmap[i]);
    return sum;
}

/* The first page from `page` on whose bit is `set`; `pages` when there is none. */
static uint32_t next_bit(const uint64_t *bitmap, uint32_t pages, uint32_t page, bool set)
{
    while (page < pages) {
        uint64_t word = (set ? bitmap[page / 64] : ~bitmap[page / 64]) >> (page % 64);

        if (word) {
            page += (uint32_t)__builtin_ctzll(word);
            return page < pages ? page : pages;
        }
        page = (page / 64 + 1) * 64;
    }
    return pages;
}

/* Runs when gaps of up to `gap` pages are bridged, and pages in them; they go to `out` unless that is NULL. */
static uint32_t walk(const uint64_t *bitmap, uint32_t pages, uint32_t gap, struct snap_run *out, uint32_t *ret_covered)
{
    uint32_t first = next_bit(bitmap, pages, 0, true), n = 0;

    *ret_covered = 0;
    while (first < pages) {
        uint32_t end = next_bit(bitmap, pages, first, false), next = next_bit(bitmap, pages, end, true);

        while (next < pages && next - end <= gap) {
            end = next_bit(bitmap, pages, next, false);
            next = next_bit(bitmap, pages, end, true);
        }
        if (out)
            out[n] = (struct snap_run){.first = first, .count = end - first};
        *ret_covered += end - first;
        n++;
        first = next;
    }
    return n;
}

/*
 * The gap up to which runs are joined: as small as leaves `target` of them; and more, down to SNAP_RUNS_FEW, as long as
 * that adds few pages.
 */
static uint32_t choose_gap(const uint64_t *bitmap, uint32_t pages, uint32_t target)
{
    uint32_t set = snap_bits_count(bitmap, pages), gap = 0, covered;
    uint32_t n = walk(bitmap, pages, 0, NULL, &covered);

    while (n > target || n > SNAP_RUNS_FEW) {
        uint32_t wider = gap + 1 + gap / 4;
        uint32_t fewer = walk(bitmap, pages, wider, NULL, &covered);

        if (n <= target && covered - set > set / SNAP_RUNS_SLACK)
            break;
        gap = wider;
        n = fewer;
    }
    return gap;
}

int snap_runs_make(struct snap_runs *ret, const uint64_t *bitmap, uint32_t pages, uint32_t target, struct sm_error *err)
{
    assert(target > 0 && target <= SNAP_RUNS_MAX && pages <= SNAP_MEMORY_MAX_PAGES);
    uint32_t gap = choose_gap(bitmap, pages, target), covered;
    uint32_t n = walk(bitmap, pages, gap, NULL, &covered);
    struct snap_run *run = calloc(n ? n : 1, sizeof(*run));

    if (!run)
        return sm_error_set(err, ENOMEM, "no memory for a list of pages");
    walk(bitmap, pages, gap, run, &covered);
    *ret = (struct snap_runs){.run = run, .n = n, .pages = pages};
    return 0;
}

void snap_runs_done(struct snap_runs *runs)
{
    free(runs->run);
    *runs = (struct snap_runs){0};
}

int snap_runs_mark_written(struct snap_runs *runs, const struct snap_runs *written, struct sm_error *err)
{
    /* Each end of a written run splits one run at most. */
    struct snap_run *out = calloc((size_t)runs->n + 2 * (size_t)written->n + 1, sizeof(*out));
    uint32_t n = 0, w = 0;

    if (!out)
        return sm_error_set(err, ENOMEM, "no memory for a list of pages");
    for (uint32_t i = 0; i < runs->n; i++) {
        uint32_t at = runs->run[i].first, end = at + runs->run[i].count;

        while (at < end) {
            while (w < written->n && written->run[w].first + written->run[w].count <= at)
                w++;
            uint32_t from = w < written->n ? written->run[w].first : end;
            bool in = from <= at;
            uint32_t stop = in ? from + written->run[w].count : from;

            stop = stop < end ? stop : end;
            out[n++] = (struct snap_run){.first = at, .count = stop - at, .written = in};
            at = stop;
        }
    }
    free(runs->run);
    runs->run = out;
    runs->n = n;
    return 0;
}

uint32_t snap_runs_written(const struct snap_runs *runs)
{
    uint32_t sum = 0;

    for (uint32_t i = 0; i < runs->n; i++)
        sum += runs->run[i].written ? runs->run[i].count : 0;
    return sum;
}

void snap_runs_mark(const struct snap_runs *runs, uint64_t *bitmap)
{
    for (uint32_t i = 0; i < runs->n; i++)
        for (uint32_t k = 0; k < runs->run[i].count; k++)
            snap_bit_set(bitmap, runs->run[i].first + k);
}

uint32_t snap_runs_total(const struct snap_runs *runs)
{
    uint32_t sum = 0;

    for (uint32_t i = 0; i < runs->n; i++)
        sum += runs->run[i].count;
    return sum;
}

int snap_runs_write(const struct snap_runs *runs, enum snap_runs_kind kind, int fd, struct sm_error *err)
{
    struct buf b = buf_init(HEADER_BYTES + RUN_BYTES * (size_t)runs->n);

    buf_bytes(&b, kinds[kind].magic, MAGIC_BYTES);
    buf_u32(&b, VERSION);
    buf_u32(&b, SNAP_PAGE);
    buf_u32(&b, runs->pages);
    buf_u32(&b, runs->n);
    buf_u32(&b, 0);
    buf_u32(&b, 0);
    for (uint32_t i = 0; i < runs->n; i++) {
        buf_u32(&b, runs->run[i].first);
        buf_u32(&b, runs->run[i].count | (runs->run[i].written ? RUN_WRITTEN : 0));
    }
    int r = b.bad ? -ENOMEM : 0;
    if (r == 0) {
        uint32_t crc = crc32c(0, b.data, HEADER_CRC);

        buf_patch_u32(&b, HEADER_CRC, crc32c(crc, b.data + HEADER_BYTES, b.len - HEADER_BYTES));
        r = io_pwrite_full(fd, b.data, b.len, 0);
    }
    buf_done(&b);
    return r < 0 ? sm_error_sys(err, -r, "cannot write the snapshot's %s", kinds[kind].name) : 0;
}

/* The whole file in `data`, which is empty. */
static int read_whole(struct buf *data, const char *name, int fd, struct sm_error *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return sm_error_sys(err, errno, "cannot read the snapshot's %s", name);
    if (!S_ISREG(st.st_mode) || st.st_size < HEADER_BYTES || (uint64_t)st.st_size > data->max)
        return sm_error_set(err, EBADMSG, "the snapshot's %s has a size that no such list has (%lld bytes)", name,
                            (long long)st.st_size);
    void *p = buf_reserve(data, (size_t)st.st_size);
    if (!p)
        return sm_error_set(err, ENOMEM, "no memory to read the snapshot's %s", name);
    ssize_t n = io_pread_full(fd, p, data->len, 0);
    if (n < 0)
        return sm_error_sys(err, (int)-n, "cannot read the snapshot's %s", name);
    if ((size_t)n != data->len)
        return sm_error_set(err, EBADMSG, "the snapshot's %s became shorter while it was read", name);
    return 0;
}

static int check_header(const struct buf *data, enum snap_runs_kind kind, uint32_t pages, uint32_t *ret_n,
                        struct sm_error *err)
{
    const char *name = kinds[kind].name;
    struct reader r = reader_init(data->data, HEADER_BYTES);
    const void *magic = reader_bytes(&r, MAGIC_BYTES);
    uint32_t version = reader_u32(&r), page = reader_u32(&r), total = reader_u32(&r), n = reader_u32(&r);
    uint32_t spare = reader_u32(&r), crc = reader_u32(&r);

    if (memcmp(magic, kinds[kind].magic, MAGIC_BYTES) != 0)
        return sm_error_set(err, EBADMSG, "the snapshot's %s is something else", name);
    if (crc != crc32c(crc32c(0, data->data, HEADER_CRC), data->data + HEADER_BYTES, data->len - HEADER_BYTES))
        return sm_error_set(err, EBADMSG, "the snapshot's %s does not fit its checksum", name);
    if (version != VERSION)
        return sm_error_set(err, ENOTSUP, "the snapshot's %s has version %u, this supermachine reads version %u", name,
                            version, VERSION);
    if (page != SNAP_PAGE)
        return sm_error_set(err, ENOTSUP, "the snapshot's %s counts pages of %u bytes, this host has %u", name, page,
                            SNAP_PAGE);
    if (total != pages)
        return sm_error_set(err, EBADMSG, "the snapshot's %s is for a memory of %u pages, not %u", name, total, pages);
    if (n > SNAP_RUNS_MAX || data->len != HEADER_BYTES + RUN_BYTES * (size_t)n || spare)
        return sm_error_set(err, EBADMSG, "the snapshot's %s says %u runs, which does not fit its size", name, n);
    *ret_n = n;
    return 0;
}

int snap_runs_read(struct snap_runs *ret, enum snap_runs_kind kind, uint32_t pages, int fd, struct sm_error *err)
{
    struct buf data = buf_init(HEADER_BYTES + RUN_BYTES * (size_t)SNAP_RUNS_MAX);
    struct snap_runs runs = {.pages = pages};
    uint32_t n = 0, at = 0;
    int r = read_whole(&data, kinds[kind].name, fd, err);

    if (r == 0)
        r = check_header(&data, kind, pages, &n, err);
    if (r == 0 && !(runs.run = calloc(n ? n : 1, sizeof(*runs.run))))
        r = sm_error_set(err, ENOMEM, "no memory for the snapshot's %s", kinds[kind].name);
    struct reader in = reader_init(data.data + HEADER_BYTES, r == 0 ? data.len - HEADER_BYTES : 0);
    while (r == 0 && runs.n < n) {
        struct snap_run run = {.first = reader_u32(&in)};

        run.count = reader_u32(&in);
        run.written = kind == SNAP_RUNS_PREFETCH && run.count & RUN_WRITTEN;
        if (run.written)
            run.count &= ~RUN_WRITTEN;
        if (run.first < at || run.count == 0 || !range_within(run.first, run.count, pages))
            r = sm_error_set(err, EBADMSG,
                             "the snapshot's %s is not usable: run %u is not behind the one before it, "
                             "or not within memory",
                             kinds[kind].name, runs.n);
        at = run.first + run.count;
        runs.run[runs.n++] = run;
    }
    buf_done(&data);
    if (r < 0) {
        snap_runs_done(&runs);
        return r;
    }
    *ret = runs;
    return 0;
}
