/* SPDX-License-Identifier: Apache-2.0 */
/* The documents of an image: index, manifest, config, of OCI (image-spec 1.1) and of Docker (schema 2). */
#ifndef SM_OCI_MANIFEST_H
#define SM_OCI_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/digest.h"
#include "oci/image.h"
#include "oci/platform.h"

enum media {
    MEDIA_UNKNOWN,
    MEDIA_INDEX,
    MEDIA_MANIFEST,
    MEDIA_CONFIG,
    MEDIA_LAYER,            /* plain tar */
    MEDIA_LAYER_COMPRESSED, /* gzip or zstd: the bytes tell */
    MEDIA_LAYER_FOREIGN,    /* not to be distributed with the image */
    MEDIA_LAYER_ENCRYPTED,
};

struct descriptor {
    enum media media;
    char media_type[128]; /* as written, fit to be shown */
    struct digest digest;
    uint64_t size;
    char *ref_name;   /* its tag in a layout; NULL when it has none */
    char *image_name; /* its whole name, as containerd and Docker annotate it; NULL: none */
    bool has_platform;
    struct platform platform;
};

struct index_doc {
    struct descriptor *items;
    size_t n;
};

struct manifest_doc {
    struct descriptor config;
    struct descriptor *layers;
    size_t n_layers;
};

struct config_doc {
    struct oci_config config;
    struct platform platform;
    struct digest *diff_ids;
    size_t n_diff_ids;
};

/* On failure nothing is left to be freed. The _done functions take zeroed ones. */
int index_doc_parse(struct index_doc *ret, const void *data, size_t len, struct sm_error *err);
void index_doc_done(struct index_doc *doc);
int manifest_doc_parse(struct manifest_doc *ret, const void *data, size_t len, struct sm_error *err);
void manifest_doc_done(struct manifest_doc *doc);
int config_doc_parse(struct config_doc *ret, const void *data, size_t len, struct sm_error *err);
void config_doc_done(struct config_doc *doc);

/* Is this an index or a manifest? For documents that came without a descriptor. One that could be read as either is
 * refused. */
int doc_media(enum media *ret, const void *data, size_t len, struct sm_error *err);

/* A layout's own version file. */
int layout_doc_check(const void *data, size_t len, struct sm_error *err);

#endif
