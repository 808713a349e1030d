/* SPDX-License-Identifier: Apache-2.0 */
/* From a registry into the store: documents, layers (fetched, verified and converted in one stream each), the name. */
#ifndef SM_OCI_PULL_H
#define SM_OCI_PULL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/digest.h"
#include "oci/image.h"

struct oci_ref;
struct oci_store;

struct oci_pull_result {
    struct digest root;     /* what the name means: of an index or a manifest */
    struct digest manifest; /* of the image for the platform that was asked for */
    bool up_to_date;        /* everything was there: one request, nothing fetched */
    uint64_t fetched;       /* bytes of documents and layers that came over the network */
};

/*
 * `ref`: of a registry. options->policy is not looked at: the registry is always asked, but for a name with a digest.
 * `options` and `ret` may be NULL. On failure, and when an event's callback stopped it, no name has changed, and what
 * came of each layer stays for the next time.
 */
int oci_pull(struct oci_store *store, const struct oci_ref *ref, const struct oci_open_options *options,
             struct oci_pull_result *ret, struct sm_error *err);

/* The same, and the image opened. `root`: what the name is to mean; NULL: the registry says. */
int oci_pull_open(struct oci_image **ret_image, struct oci_store *store, const struct oci_ref *ref,
                  const struct digest *root, const struct oci_open_options *options, struct sm_error *err);

/*
 * One blob of `size` bytes into the store, as it is, for whoever needs more than the image (a layer's compressed form
 * for an export). Nothing is fetched when it is there.
 */
int oci_pull_blob(struct oci_store *store, const struct oci_ref *ref, const struct digest *digest, uint64_t size,
                  const struct oci_open_options *options, struct sm_error *err);

#endif
