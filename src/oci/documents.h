/* SPDX-License-Identifier: Apache-2.0 */
/* Where an image's documents (indexes, manifests, configs) come from: a layout, the store, a registry, an archive. */
#ifndef SM_OCI_DOCUMENTS_H
#define SM_OCI_DOCUMENTS_H

#include "base/error.h"
#include "oci/manifest.h"

struct documents {
    /* The document that `d` describes: at most OCI_JSON_MAX_BYTES, its size and digest right. To be freed. */
    int (*read)(void *ctx, const struct descriptor *d, void **ret, struct sm_error *err);
    void *ctx;
};

#endif
