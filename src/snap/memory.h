/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory and its file. The `memory` file is the guest's memory byte for byte, its regions back to back in the
 * order of their addresses, sparse where pages are zero; so it can be mapped as it is. A diff is a file of the same
 * size that holds some pages only, and a list of runs that says which (runs.h).
 *
 * All files are the caller's open descriptors.
 */
#ifndef SM_SNAP_MEMORY_H
#define SM_SNAP_MEMORY_H

#include <stdint.h>

#include <supermachine/supermachine.h>

#include "snap/runs.h"

struct snap_region {
    uint8_t *host; /* page-aligned */
    uint64_t size; /* bytes, a multiple of SNAP_PAGE */
};

struct snap_memory {
    struct snap_region region[SNAP_MEMORY_MAX_REGIONS];
    unsigned n;
};

/* Sum of all regions; at most SNAP_MEMORY_MAX_PAGES. */
uint32_t snap_memory_pages(const struct snap_memory *m);

enum snap_scan {
    SNAP_SCAN_TOUCHED, /* pages that were read or written since they were mapped */
    SNAP_SCAN_PRIVATE, /* pages that are this process's own: written; of memory that has no file, also some read ones */
    SNAP_SCAN_WRITTEN, /* pages that were written since snap_memory_track() */
};

/*
 * Set the bits of such pages, by what the kernel's page tables say (`pagemap_fd`: /proc/self/pagemap). It counts every
 * write, by vCPUs, devices and system calls alike, and costs nothing while the guest runs.
 */
int snap_memory_scan(const struct snap_memory *m, int pagemap_fd, enum snap_scan what, uint64_t *bitmap,
                     struct sm_error *err);

/*
 * From now on writes to memory are tracked, once more from the start (`clear_refs_fd`: /proc/self/clear_refs, to be
 * written). It acts on all memory of this process, which gets a page fault for the first write to each page.
 */
int snap_memory_track(int clear_refs_fd, struct sm_error *err);

/* Does this host's kernel track writes? Tries it on a page of its own. */
bool snap_memory_can_track(int pagemap_fd, int clear_refs_fd);

/* Set the bits of pages for which a memory file of `pages` has data, not holes. */
int snap_memory_mark_data(int fd, uint32_t pages, uint64_t *bitmap, struct sm_error *err);

/* Clear the bits of pages that are, byte for byte, what the memory file `fd` has in their places. */
int snap_memory_drop_same(const struct snap_memory *m, int fd, uint64_t *bitmap, struct sm_error *err);

struct snap_memory_stats {
    uint64_t data_pages; /* written */
    uint64_t zero_pages; /* looked at, and left to be holes */
};

/*
 * Write guest memory to the empty file `fd`: the pages whose bit is set (all when `bitmap` is NULL), but those that
 * are zero. It is read in place; nothing writes to it meanwhile. Not durable before fsync.
 */
int snap_memory_save(const struct snap_memory *m, const uint64_t *bitmap, int fd, struct snap_memory_stats *ret,
                     struct sm_error *err);

/*
 * The same piece by piece, of memory that changes meanwhile: pages that were written since are written again.
 * snap_memory_begin() gives the empty file its length; `has` has a bit for each page of which the file holds data: all
 * clear at first. A page that is zero, but was not, is zeroed in the file, too.
 */
int snap_memory_begin(const struct snap_memory *m, int fd, struct sm_error *err);
int snap_memory_update(const struct snap_memory *m, const uint64_t *bitmap, uint32_t first, uint32_t end, uint64_t *has,
                       int fd, struct sm_error *err);

/* Write base + diff to the empty file `out_fd` as one memory file. */
int snap_memory_merge(int base_fd, int diff_fd, const struct snap_runs *diff, int out_fd, struct sm_error *err);

/*
 * Put a memory file in the place of the regions' present mappings: private, copy on write, nothing is read. The file
 * must be exactly as long as the regions. On failure some regions are mapped and some not.
 */
int snap_memory_map(const struct snap_memory *m, int fd, struct sm_error *err);

/* After snap_memory_map() of the base: the diff's pages over it. */
int snap_memory_map_diff(const struct snap_memory *m, const struct snap_runs *diff, int fd, struct sm_error *err);

/* Forget what was written to these pages of a mapped snapshot: they are the file's again. */
int snap_memory_rewind(const struct snap_memory *m, const struct snap_runs *runs, struct sm_error *err);

/*
 * Have the kernel read these pages into its page cache, unless they seem to be there; does not wait for that. Those
 * that are marked as written get a copy at once, unless they are many (SNAP_OWN_MAX_PAGES). Advice: what fails is left.
 */
void snap_memory_prefetch(const struct snap_memory *m, const struct snap_runs *runs);

/* Checksum of a memory file's pages that are not zero, each with its number; holes don't matter. */
int snap_memory_sum(int fd, uint32_t pages, uint32_t *ret_crc, struct sm_error *err);

#endif
