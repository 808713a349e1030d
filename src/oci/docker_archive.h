/* SPDX-License-Identifier: Apache-2.0 */
/* What `docker save` writes: manifest.json, which lists images by the names of their files in the archive. */
#ifndef SM_OCI_DOCKER_ARCHIVE_H
#define SM_OCI_DOCKER_ARCHIVE_H

#include <stddef.h>

#include "base/buf.h"
#include "base/error.h"
#include "oci/archive_files.h"

struct docker_image {
    char *config;  /* a file's name */
    char **tags;   /* "busybox:1.36"; ends with NULL, and may be empty */
    char **layers; /* names of files, lowest first; ends with NULL */
};

struct docker_images {
    struct docker_image *items;
    size_t n;
};

/* On failure nothing is left to be freed. */
int docker_images_parse(struct docker_images *ret, const void *data, size_t len, struct sm_error *err);
void docker_images_done(struct docker_images *d); /* takes a zeroed one */

/*
 * An OCI manifest for such an image: of its files as they are, so the same archive gives the same bytes. They are
 * appended to `ret`, whose limit is the caller's. Refuses when a file is missing.
 */
int docker_make_manifest(struct buf *ret, const struct docker_image *img, const struct archive_files *files,
                         struct sm_error *err);

#endif
