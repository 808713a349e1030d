/* SPDX-License-Identifier: Apache-2.0 */
/* What the store takes on disk: of each image its own and what it shares, of each kind, and what would go. */
#ifndef SM_OCI_USAGE_H
#define SM_OCI_USAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/names.h"

/* Bytes are of disk: files of layers have holes. */
struct usage_image {
    struct digest manifest;
    struct name_record *records; /* all that stand for it: at least one */
    size_t n_records;
    int64_t used_s; /* image_last_used */
    uint64_t unique_bytes, shared_bytes;
};

struct usage_total {
    uint32_t count;
    uint64_t bytes;
};

struct usage {
    struct usage_image *images; /* by their first record's name; untagged ones last */
    size_t n_images;
    struct usage_total blobs, layers, metas, partials, snapshots;
    uint64_t bytes;       /* all of it */
    uint64_t reclaimable; /* what gc_prune takes by default */
};

int usage_of(struct usage *ret, struct oci_store *s, struct sm_error *err);
void usage_done(struct usage *u); /* takes a zeroed one */

#endif
