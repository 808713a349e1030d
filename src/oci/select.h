/* SPDX-License-Identifier: Apache-2.0 */
/* From a layout's index.json to one manifest: by tag, then by platform. */
#ifndef SM_OCI_SELECT_H
#define SM_OCI_SELECT_H

#include "base/error.h"
#include "oci/layout.h"
#include "oci/manifest.h"

/* The documents of the image that was chosen, verified and consistent with each other. */
struct selected {
    struct digest manifest_digest;
    struct manifest_doc manifest;
    struct config_doc config;
};

/* `tag`: NULL for the only image, or the one tagged "latest". */
int select_image(struct selected *ret, const struct layout *l, const char *tag, const struct platform *want,
                 struct sm_error *err);
void selected_done(struct selected *s); /* takes a zeroed one */

#endif
