/* SPDX-License-Identifier: Apache-2.0 */
/* Images from an archive into the store: OCI archives, and what `docker save` writes. */
#ifndef SM_OCI_LOAD_H
#define SM_OCI_LOAD_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "oci/digest.h"

struct oci_store;
struct oci_events;

/* A zeroed one is good: everything is loaded, under the names that the archive tells. */
struct oci_load_options {
    const char *file;     /* what the archive is called in sentences, and what an image is named after whose archive
                             tells a tag alone; NULL: it came through a pipe */
    const char *name;     /* the one name that the image gets, instead of the archive's; refused for several images */
    const char *select;   /* only the image that has this name or tag in the archive; NULL: all */
    const char *platform; /* "os/arch[/variant]", NULL: linux on this host's architecture */
    bool one;             /* refuse an archive of several images, and say which there are */
    bool nameless;        /* no name is put into the store, neither the archive's nor `name` */
    const struct oci_events *events; /* NULL: none; only they can stop it */
};

/* What is in the store now: an entry for each name, and for each image without one. */
struct oci_loaded_image {
    char *name; /* canonical; "@sha256:..." for an image without a name */
    struct digest root, manifest;
};

struct oci_loaded {
    struct oci_loaded_image *images;
    size_t n;
};

/*
 * Read an archive (tar, also compressed with gzip or zstd) from a descriptor, which may be a pipe, to its end; convert
 * every layer; then put the images and their names into the store. When something is wrong no image and no name is
 * there.
 */
int oci_load(struct oci_loaded *ret, struct oci_store *store, int fd, const struct oci_load_options *options,
             struct sm_error *err);
void oci_loaded_done(struct oci_loaded *l); /* takes a zeroed one */

#endif
