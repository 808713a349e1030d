/* SPDX-License-Identifier: Apache-2.0 */
/* Images whose documents are in the store. */
#ifndef SM_OCI_STORED_H
#define SM_OCI_STORED_H

#include "base/error.h"
#include "oci/documents.h"
#include "oci/image.h"
#include "oci/platform.h"
#include "oci/source.h"

/* -ENOENT and a sentence for one that is missing or damaged. Good for as long as the store. */
struct documents documents_of_store(struct oci_store *s);

/*
 * Open an image by its manifest's digest. The caller holds gc_enter(). `want` NULL: whatever its platform. What is
 * missing of its layers and metadata is made from compressed layers that the store has; -ENOENT when that is not
 * enough.
 */
int image_open_stored(struct oci_image **ret, struct oci_store *store, const struct digest *manifest,
                      const struct platform *want, const struct oci_events *events, struct sm_error *err);

#endif
