/* SPDX-License-Identifier: Apache-2.0 */
/* An image's layers, converted, in the store. */
#ifndef SM_OCI_ENSURE_H
#define SM_OCI_ENSURE_H

#include "base/error.h"
#include "oci/image.h"
#include "oci/select.h"
#include "oci/source.h"

/*
 * Convert what is missing; what other processes are just making is waited for. The caller holds gc_enter(). `source`
 * NULL: nothing can be made, -ENOENT when something is missing. What was completed before a failure stays.
 */
int ensure_layers(struct oci_store *store, const struct selected *sel, const struct layer_source *source,
                  const struct oci_events *events, struct sm_error *err);

/*
 * All of an image: its layers, its merged metadata, and everything open. `sel` is the image's afterwards (zeroed), also
 * on failure. With `source` NULL as above.
 */
int image_assemble(struct oci_image **ret, struct oci_store *store, struct selected *sel,
                   const struct layer_source *source, const struct oci_events *events, struct sm_error *err);

#endif
