/* SPDX-License-Identifier: Apache-2.0 */
/* Images from the store into one OCI archive, which Docker loads as well. */
#ifndef SM_OCI_EXPORT_H
#define SM_OCI_EXPORT_H

#include <stddef.h>

#include "base/error.h"

struct oci_events;
struct oci_store;
struct name_record;
struct descriptor;

struct oci_save_options {
    /*
     * A blob of the image that the store has no more (its layer is converted, its bytes were given up): fetch it and
     * put it into the store (oci/blobs.h). NULL: a missing blob is refused with a sentence.
     */
    int (*fetch)(void *ctx, const struct name_record *image, const struct descriptor *blob, struct sm_error *err);
    void *fetch_ctx;
    const struct oci_events *events; /* NULL: none */
};

/*
 * Write the images of `records` (oci/names.h) to `fd`, which may be a pipe: from its present offset on, no seeking.
 * The same images give the same bytes. Everything is looked up before the first byte is written. The caller holds
 * gc_enter(), and keeps SIGPIPE away. `options` may be NULL.
 */
int oci_save(struct oci_store *store, const struct name_record *records, size_t n, int fd,
             const struct oci_save_options *options, struct sm_error *err);

#endif
