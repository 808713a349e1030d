/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of fsck: what its files share. */
#ifndef SM_OCI_FSCK_PARTS_H
#define SM_OCI_FSCK_PARTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/fsck.h"
#include "oci/graph.h"
#include "oci/store.h"

/* From what a layer was made, as some image has it. */
struct fsck_origin {
    struct digest diff_id, blob;
    uint64_t size;
    bool compressed;
};

struct check {
    struct oci_store *store;
    const struct fsck_options *o;
    struct graph *g;
    bool *bad; /* of each object: it is damaged, and was not made right */
    struct fsck_origin *origins;
    size_t n_origins;
    uint64_t done, total;
    struct fsck_result result;
};

/* `name` NULL: `what` says it all. */
void check_problem(struct check *c, enum fsck_kind kind, const char *what, const struct digest *name, const char *text,
                   bool removed);

/* So many more bytes were looked at. -ECANCELED and a sentence when the caller has had enough. */
int check_step(struct check *c, uint64_t bytes, struct sm_error *err);

/* In the store, and not found damaged. */
bool check_is_good(const struct check *c, enum graph_kind kind, const struct digest *name);

/* Each looks at all objects of its kinds; in this order, as the later ones rely on what the earlier ones found. */
int check_blobs(struct check *c, struct sm_error *err);
int check_layers(struct check *c, struct sm_error *err);
int check_metas(struct check *c, struct sm_error *err);
int check_snapshots(struct check *c, struct sm_error *err);

#endif
