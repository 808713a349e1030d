/* SPDX-License-Identifier: Apache-2.0 */
/* A machine's memory and the files of snapshots: what it came from, which of its pages a snapshot holds. */
#ifndef SM_MACHINE_SNAPSHOT_MEMORY_H
#define SM_MACHINE_SNAPSHOT_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include <supermachine/supermachine.h>

#include "snap/memory.h"

struct machine;
struct machine_files;

/* The snapshot that a machine was restored from. */
struct origin {
    bool known;                       /* it was restored */
    int state_fd, memory_fd, base_fd; /* of its own, to be read; base_fd: -1 when it is no diff */
    struct snap_runs diff;            /* pages of memory_fd; n = 0 when it is no diff */
};

/* Map the files' memory in the place of the machine's, and remember them. */
int origin_map(struct machine *m, const struct machine_files *files, struct sm_error *err);

/* Fine on a zeroed one, and on what origin_map() has left half-done. */
void origin_done(struct origin *o);

/* Guest memory, as the snapshot code sees it. */
struct snap_memory machine_memory(const struct machine *m);

/* A bitmap of all of it, clear. */
uint64_t *machine_pages_new(const struct machine *m, struct sm_error *err);

/*
 * Set the bits of the pages that a save has to look at: all that are not known to be zero, or, of a diff, all that are
 * not known to be the base's.
 */
int machine_pages_wanted(const struct machine *m, bool diff, uint64_t *bitmap, struct sm_error *err);

/* After pages were looked at or copied: what a file that was cut short has taken with it may pass for zeros. */
int machine_check_memory(const struct machine *m, struct sm_error *err);

/* Set the bits of the pages that were written since the last snap_memory_track(). */
int machine_pages_written(const struct machine *m, uint64_t *bitmap, struct sm_error *err);

#endif
