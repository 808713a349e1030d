/* SPDX-License-Identifier: Apache-2.0 */
/* From a list of images, or from what a name means, to one manifest: by tag, then by platform. */
#ifndef SM_OCI_SELECT_H
#define SM_OCI_SELECT_H

#include "base/error.h"
#include "oci/documents.h"
#include "oci/manifest.h"

/* The documents of the image that was chosen, verified and consistent with each other. */
struct selected {
    struct digest manifest_digest;
    struct manifest_doc manifest;
    struct config_doc config;
};

/* One of `list` (a layout's index.json). `tag`: NULL for the only image, or the one tagged "latest". */
int select_image(struct selected *ret, const struct documents *docs, const struct index_doc *list, const char *tag,
                 const struct platform *want, struct sm_error *err);
/* `root`: an index or a manifest. */
int select_root(struct selected *ret, const struct documents *docs, const struct descriptor *root,
                const struct platform *want, struct sm_error *err);
/* The manifest itself, verified before; NULL for `want`: whatever its platform. */
int select_manifest(struct selected *ret, const struct documents *docs, const struct digest *digest, const void *data,
                    size_t len, const struct platform *want, struct sm_error *err);
void selected_done(struct selected *s); /* takes a zeroed one */

#endif
