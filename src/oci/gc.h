/* SPDX-License-Identifier: Apache-2.0 */
/* What goes from the store, when and how: removing images, pruning, and the lock that keeps it from those at work. */
#ifndef SM_OCI_GC_H
#define SM_OCI_GC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/image.h"
#include "oci/names.h"

/*
 * Nothing goes while this is held: by whoever opens objects, from reading the name until all are open; by whoever makes
 * them, until a name reaches them. Returns a descriptor: closing it (or dying) gives it up. Waits for a removal that
 * goes on, at most GC_WAIT_MS; then the sentence says who that is.
 */
int gc_enter(struct oci_store *s, struct sm_error *err);

/* The other side: alone in the store. Waits GC_ALONE_MS for those at work, then -EBUSY and who they are. */
int gc_alone(struct oci_store *s, struct sm_error *err);

#define GC_WAIT_MS  60000
#define GC_ALONE_MS 10000

/* What went, or would go. */
struct gc_result {
    uint64_t bytes;              /* of disk */
    uint32_t objects;            /* blobs, layers, merged metadata, halves of cut pulls, snapshots */
    struct name_record *records; /* that went */
    size_t n_records;
};

void gc_result_done(struct gc_result *r); /* takes a zeroed one */

/*
 * `typed`: as names_find has it. A name: it goes, and with its last name the image and what no other image needs. An
 * id: the image goes, when it has one name at most, or `force`. `force` also makes a missing one no error.
 * -ENOENT, -EINVAL, -EEXIST (also: an id with several names, listed), -EBUSY. `ret` may be NULL.
 */
int gc_remove(struct oci_store *s, const char *typed, bool force, struct gc_result *ret, struct sm_error *err);

/*
 * These snapshots go; `keys` ends with NULL. -EEXIST: others are differences to one of them; with `force` they go as
 * well. The caller holds gc_alone. `ret` may be NULL.
 */
int gc_remove_snapshots(struct oci_store *s, const char *const *keys, bool force, struct gc_result *ret,
                        struct sm_error *err);

struct prune_options {
    bool all; /* images with a name, bakes and bases, too */
    bool dry_run;
    uint64_t older_than_s; /* only what was not used (objects without an image: not made) for so long; 0: all */
    uint64_t max_bytes;    /* stop when the store takes no more than this; 0: take all that may go */
};

/*
 * What no image needs goes first, then with any of the above bakes, then images without a name, then with `all` the
 * others; last bases, likewise. Of each kind what was used least recently first. `ret` may be NULL.
 */
int gc_prune(struct oci_store *s, const struct prune_options *o, struct gc_result *ret, struct sm_error *err);

#endif
