/* SPDX-License-Identifier: Apache-2.0 */
/* Taking records and objects out of the store, and keeping account of it: what gc.h's functions are made of. */
#ifndef SM_OCI_REMOVAL_H
#define SM_OCI_REMOVAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/gc.h"
#include "oci/graph.h"

/* The caller holds gc_alone, or for a dry run gc_enter, from before the graph is made. */
struct removal {
    struct oci_store *store;
    struct graph *g;
    bool dry_run;
    bool *gone; /* of each object */
    struct gc_result result;
};

int removal_init(struct removal *ret, struct oci_store *s, bool dry_run, struct sm_error *err);
void removal_done(struct removal *r); /* takes a zeroed one */

/* What no other record reaches goes with it. Each record and object only once. */
int removal_record(struct removal *r, uint32_t record, struct sm_error *err);
int removal_object(struct removal *r, uint32_t object, struct sm_error *err);

/* All records of an image, and what else is known of it. */
int removal_image(struct removal *r, const struct graph_image *image, struct sm_error *err);

/* Out with what was counted; the result's owner is the caller then. `ret` may be NULL. */
void removal_give(struct removal *r, struct gc_result *ret);

#endif
