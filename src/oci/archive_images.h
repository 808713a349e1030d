/* SPDX-License-Identifier: Apache-2.0 */
/* Which images an archive holds, and under which names: from its index.json or its manifest.json. */
#ifndef SM_OCI_ARCHIVE_IMAGES_H
#define SM_OCI_ARCHIVE_IMAGES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/error.h"
#include "oci/documents.h"
#include "oci/platform.h"
#include "oci/select.h"
#include "oci/spool.h"

struct archive_image {
    char **names;    /* as written in the archive; ends with NULL, and may be empty */
    bool maybe_tags; /* they are of image-spec's annotation, which may be tags alone */

    /* What it is: descriptors that differ in their platforms, or (of Docker's archives) the one of a manifest that was
     * made, whose bytes are here. */
    struct index_doc roots;
    struct buf made;
};

struct archive_images {
    struct archive_image *items;
    size_t n;
    const char *kind; /* "oci-archive", "docker-archive" */
};

/* On failure nothing is left to be freed. At least one image, or a sentence. */
int archive_images_list(struct archive_images *ret, const struct spool *spool, struct sm_error *err);
void archive_images_done(struct archive_images *a); /* takes a zeroed one */

/* The documents of one of them. `ret_root`: what its name stands for: the only root, or else the manifest. */
int archive_image_select(struct selected *ret, struct digest *ret_root, const struct archive_image *img,
                         const struct spool *spool, const struct platform *want, struct sm_error *err);

#endif
