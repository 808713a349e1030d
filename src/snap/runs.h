/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists of page runs: which pages a diff holds (`diff`), which ones a restore soon needs (`prefetch`). Pages are
 * counted in the order of the memory file. The list in a file is one of the doors: see docs/snapshot-format.md.
 */
#ifndef SM_SNAP_RUNS_H
#define SM_SNAP_RUNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <supermachine/supermachine.h>

#include "snap/limits.h"

struct snap_run {
    uint32_t first, count; /* pages; count > 0 */
    bool written;          /* of a prefetch list: these pages were written to */
};

/* Sorted, without overlap, all below `pages`. */
struct snap_runs {
    struct snap_run *run;
    uint32_t n;
    uint32_t pages; /* of the whole memory */
};

enum snap_runs_kind { SNAP_RUNS_DIFF, SNAP_RUNS_PREFETCH };

/* Bitmaps have a bit for each page, in words of 64. */
#define SNAP_BITMAP_WORDS(pages) (((size_t)(pages) + 63) / 64)

static inline void snap_bit_set(uint64_t *bitmap, uint32_t page)
{
    bitmap[page / 64] |= 1ull << (page % 64);
}

static inline void snap_bit_clear(uint64_t *bitmap, uint32_t page)
{
    bitmap[page / 64] &= ~(1ull << (page % 64));
}

static inline bool snap_bit(const uint64_t *bitmap, uint32_t page)
{
    return bitmap[page / 64] >> (page % 64) & 1;
}

/* How many bits are set. */
uint32_t snap_bits_count(const uint64_t *bitmap, uint32_t pages);

/*
 * The runs of set bits. More than `target` of them are joined over short gaps, as short as will do, and more than a few
 * where that costs little (limits.h); so unset pages may be in the list, which is harmless to all users: they copy what
 * is there, read it early, or drop it to be read again.
 */
int snap_runs_make(struct snap_runs *ret, const uint64_t *bitmap, uint32_t pages, uint32_t target,
                   struct sm_error *err);
void snap_runs_done(struct snap_runs *runs);

/* Split the runs where a run of `written` begins or ends, and mark those that lie in one. 0 or -ENOMEM. */
int snap_runs_mark_written(struct snap_runs *runs, const struct snap_runs *written, struct sm_error *err);

/* Pages in the runs that are marked. */
uint32_t snap_runs_written(const struct snap_runs *runs);

/* Sets the bits of all pages in the list. */
void snap_runs_mark(const struct snap_runs *runs, uint64_t *bitmap);

/* Pages in all runs. */
uint32_t snap_runs_total(const struct snap_runs *runs);

/* Write the list to the empty file `fd`. Not durable before fsync. */
int snap_runs_write(const struct snap_runs *runs, enum snap_runs_kind kind, int fd, struct sm_error *err);

/* Read a list for a memory of `pages`; a wrong one is -EBADMSG or -ENOTSUP and a sentence. */
int snap_runs_read(struct snap_runs *ret, enum snap_runs_kind kind, uint32_t pages, int fd, struct sm_error *err);

#endif
