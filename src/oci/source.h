/* SPDX-License-Identifier: Apache-2.0 */
/* Where the blobs of an image's layers come from. */
#ifndef SM_OCI_SOURCE_H
#define SM_OCI_SOURCE_H

#include <poll.h>
#include <stdbool.h>

#include "base/error.h"
#include "oci/convert.h"
#include "oci/manifest.h"

/*
 * `layer`: its number in the manifest. Only `open` must be there. For each layer that is missing: acquire, then (when
 * it is its turn) open, growth and wait as often as it takes, mismatch or complete; release at last, whatever happened.
 */
struct layer_source {
    /* 1: from here on this process alone works at the blob, and may fetch it ahead of its turn. 0: another one does. */
    int (*acquire)(void *ctx, unsigned layer, const struct descriptor *d, struct sm_error *err);
    /* A descriptor to read the blob from, which becomes the caller's. */
    int (*open)(void *ctx, unsigned layer, const struct descriptor *d, struct sm_error *err);
    /* See struct convert_hooks. */
    int (*growth)(void *ctx, unsigned layer, struct convert_growth *ret, struct sm_error *err);
    int (*wait)(void *ctx, struct pollfd *fds, unsigned n, int timeout_ms, struct sm_error *err);
    bool (*mismatch)(void *ctx, unsigned layer);
    /* All of it has been read and its digest is right. */
    int (*complete)(void *ctx, unsigned layer, const struct descriptor *d, struct sm_error *err);
    void (*release)(void *ctx, unsigned layer);
    void *ctx;
};

struct layout;
struct oci_store;

/* Good for as long as what they are of. */
struct layer_source source_of_layout(struct layout *l);
struct layer_source source_of_store(struct oci_store *s); /* the compressed layers that it keeps */

#endif
