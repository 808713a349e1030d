/* SPDX-License-Identifier: Apache-2.0 */
/* Layers' blobs from a registry into the store, some at a time, readable while they come. */
#ifndef SM_OCI_FETCH_H
#define SM_OCI_FETCH_H

#include <stdint.h>

#include "base/error.h"
#include "oci/image.h"
#include "oci/source.h"

struct fetcher;
struct registry;

/* Where to ask for a registry, once something has to be fetched: it stays the hook's own. */
struct fetcher_hooks {
    int (*connect)(void *ctx, struct registry **ret, struct sm_error *err);
    void *ctx;
};

int fetcher_new(struct fetcher **ret, struct oci_store *store, const struct fetcher_hooks *hooks,
                const struct oci_events *events, struct sm_error *err);
void fetcher_free(struct fetcher *f); /* before the registry */

/* Good for as long as the fetcher. Layers are numbered up to OCI_MAX_LAYERS. */
struct layer_source fetcher_source(struct fetcher *f);

/* Tell how far the fetches are, now and then; -ECANCELED. For calls that wait while blobs are being fetched. */
int fetcher_tell(struct fetcher *f, struct sm_error *err);

/* Bytes that came over the network so far. */
uint64_t fetcher_bytes(const struct fetcher *f);

/* One blob, as it is, into the store; nothing to do when it is there. */
int fetcher_get(struct fetcher *f, const struct descriptor *d, struct sm_error *err);

#endif
