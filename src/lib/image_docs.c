/* SPDX-License-Identifier: Apache-2.0 */
/* An image's documents out of the store: see store.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "lib/store.h"
#include "lib/timestamp.h"
#include "oci/blobs.h"
#include "oci/gc.h"
#include "oci/json.h"
#include "oci/limits.h"
#include "oci/text.h"

static int read_blob(struct oci_store *s, const struct digest *d, const char *what, void **ret, size_t *ret_len,
                     struct sm_error *err)
{
    char digest[DIGEST_STR_SIZE];
    int r = blob_read(s, d, OCI_JSON_MAX_BYTES, ret, ret_len, err);

    if (r != -ENOENT)
        return r;
    digest_str(d, digest);
    return sm_error_set(err, ENOENT, "the store has no %s %s, or a damaged one: 'supermachine fsck --repair' mends it",
                        what, digest);
}

static int read_manifest(struct image_docs *d, struct oci_store *s, const struct digest *digest, struct sm_error *err)
{
    CLEANUP_FREE void *data = NULL;
    struct json *doc = NULL;
    char shown[TEXT_SHOWN_SIZE];
    const char *media;
    size_t len;
    int r = read_blob(s, digest, "manifest", &data, &len, err);

    if (r < 0)
        return r;
    d->manifest_size = len;
    r = manifest_doc_parse(&d->manifest, data, len, err);
    if (r >= 0)
        r = json_parse(&doc, data, len, err);
    if (r >= 0)
        r = json_get_string(doc, "mediaType", false, &media, err);
    if (r >= 0)
        snprintf(d->manifest_media, sizeof(d->manifest_media), "%s",
                 media ? text_shown(shown, media) : "application/vnd.oci.image.manifest.v1+json");
    json_free(doc);
    return r < 0 ? r : 0;
}

static int read_config(struct image_docs *d, struct oci_store *s, struct sm_error *err)
{
    CLEANUP_FREE void *data = NULL;
    size_t len;
    int r = read_blob(s, &d->manifest.config.digest, "configuration", &data, &len, err);

    if (r < 0)
        return r;
    r = config_doc_parse(&d->config_doc, data, len, err);
    return r < 0 ? r : json_parse(&d->config, data, len, err);
}

int image_docs_read(struct image_docs *ret, struct oci_store *s, const struct digest *manifest, struct sm_error *err)
{
    struct image_docs d = {.config = NULL};
    int r = read_manifest(&d, s, manifest, err);

    if (r >= 0)
        r = read_config(&d, s, err);
    if (r < 0) {
        image_docs_done(&d);
        return r;
    }
    *ret = d;
    return 0;
}

void image_docs_done(struct image_docs *d)
{
    manifest_doc_done(&d->manifest);
    config_doc_done(&d->config_doc);
    json_free(d->config);
    *d = (struct image_docs){.config = NULL};
}

int found_image_get(struct found_image *f, struct oci_store *s, const char *typed, const char *platform,
                    struct sm_error *err)
{
    CLEANUP_FD int lock = gc_enter(s, err);
    int r;

    if (lock < 0)
        return lock;
    r = names_find(s, typed, &f->list, &f->n, NULL, err);
    if (r >= 0)
        r = record_choose(&f->record, f->list, f->n, platform, typed, err);
    return r < 0 ? r : image_docs_read(&f->docs, s, &f->record->manifest, err);
}

void found_image_done(struct found_image *f)
{
    name_records_free(f->list, f->n);
    image_docs_done(&f->docs);
}

uint64_t image_docs_size(const struct image_docs *d)
{
    /* No overflow: sizes of descriptors are limited where they are read. */
    uint64_t size = d->manifest_size + d->manifest.config.size;

    for (size_t i = 0; i < d->manifest.n_layers; i++)
        size += d->manifest.layers[i].size;
    return size;
}

int64_t image_docs_created(const struct image_docs *d)
{
    const char *text;
    int64_t t;

    if (json_get_string(d->config, "created", false, &text, NULL) < 0 || !text || timestamp_parse(text, &t) < 0)
        return 0;
    return t;
}
