/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The public image store: all about one image, as JSON.
 *
 * Theory of operation
 *
 * What: the members' names and forms are those of Docker's Engine API, GET /images/{name}/json, as far as an image that
 * came from a registry has them; what is Docker's own (graph driver, container it was made from) is left out. Config is
 * the configuration document's own "config" member, parsed and written again. Layers and Descriptor are as in the
 * image's manifest; Source is the record's.
 *
 * Limits: the documents were read through oci/json.h, within OCI_JSON_*; the text has INSPECT_MAX_BYTES.
 *
 * Not done: other platforms of the same name. Each is an image of its own here.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "lib/store.h"
#include "oci/json.h"
#include "oci/json_write.h"
#include "oci/limits.h"

#define INSPECT_MAX_BYTES (8 * OCI_JSON_MAX_BYTES) /* escaping makes text longer, six times at most */

struct description {
    struct found_image image;
    struct name_record *all; /* everything in the store: the image's other names are among it */
    size_t n_all;
};

/* ,"key": */
static void put_key(struct buf *b, const char *key)
{
    json_write_raw(b, ",");
    json_write_string(b, key);
    json_write_raw(b, ":");
}

static void put_member(struct buf *b, const char *key, const char *value)
{
    put_key(b, key);
    json_write_string(b, value);
}

static void put_number(struct buf *b, const char *key, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    put_key(b, key);
    json_write_raw(b, text);
}

/* The run configuration as it stands in the document. */
static int put_config(struct buf *b, struct json *config, struct sm_error *err)
{
    CLEANUP_FREE char *text = NULL;
    struct json *value;
    int r = json_get_object(config, "config", false, &value, err);

    if (r >= 0 && value)
        r = json_text(value, &text, err);
    if (r < 0)
        return r;
    put_key(b, "Config");
    json_write_raw(b, text ? text : "{}");
    return 0;
}

static int put_text(struct buf *b, const char *key, struct json *config, const char *from, struct sm_error *err)
{
    const char *value;
    int r = json_get_string(config, from, false, &value, err);

    if (r >= 0)
        put_member(b, key, value ? value : "");
    return r < 0 ? r : 0;
}

/* All names of the image, or what they are by digest ("nginx@sha256:..."), each once: records are sorted by name. */
static int put_names(struct buf *b, const struct description *d, bool by_digest, struct sm_error *err)
{
    CLEANUP_FREE char *before = NULL;

    put_key(b, by_digest ? "RepoDigests" : "RepoTags");
    json_write_raw(b, "[");
    for (size_t i = 0; i < d->n_all; i++) {
        const struct name_record *r = &d->all[i];
        CLEANUP_FREE char *name = NULL;
        int e;

        if (!digest_equal(&r->manifest, &d->image.record->manifest))
            continue;
        e = by_digest ? record_pinned(r, &name, err) : record_familiar(r, &name, err);
        if (e < 0)
            return e;
        if (!name || (!by_digest && strchr(name, '@')) || (before && strcmp(name, before) == 0))
            continue;
        if (before)
            json_write_raw(b, ",");
        json_write_string(b, name);
        free(before);
        before = STEAL_PTR(name);
    }
    json_write_raw(b, "]");
    return 0;
}

static void put_layers(struct buf *b, const struct description *d)
{
    const struct config_doc *config = &d->image.docs.config_doc;
    const struct manifest_doc *manifest = &d->image.docs.manifest;
    char digest[DIGEST_STR_SIZE];

    json_write_raw(b, ",\"RootFS\":{\"Type\":\"layers\",\"Layers\":[");
    for (size_t i = 0; i < config->n_diff_ids; i++) {
        digest_str(&config->diff_ids[i], digest);
        json_write_raw(b, i ? "," : "");
        json_write_string(b, digest);
    }
    json_write_raw(b, "]},\"Layers\":[");
    for (size_t i = 0; i < manifest->n_layers; i++) {
        const struct descriptor *layer = &manifest->layers[i];

        digest_str(&layer->digest, digest);
        json_write_raw(b, i ? ",{\"mediaType\":" : "{\"mediaType\":");
        json_write_string(b, layer->media_type);
        put_member(b, "digest", digest);
        put_number(b, "size", layer->size);
        json_write_raw(b, "}");
    }
    json_write_raw(b, "]");
}

static int put_image(struct buf *b, const struct description *d, struct sm_error *err)
{
    const struct image_docs *docs = &d->image.docs;
    const struct oci_config *config = &docs->config_doc.config;
    char digest[DIGEST_STR_SIZE];
    int r;

    digest_str(&d->image.record->manifest, digest);
    json_write_raw(b, "{\"Id\":");
    json_write_string(b, digest);
    r = put_names(b, d, false, err);
    if (r >= 0)
        r = put_names(b, d, true, err);
    if (r >= 0)
        r = put_text(b, "Comment", docs->config, "comment", err);
    if (r >= 0)
        r = put_text(b, "Created", docs->config, "created", err);
    if (r >= 0)
        r = put_text(b, "Author", docs->config, "author", err);
    if (r < 0)
        return r;
    put_member(b, "Architecture", config->architecture);
    if (config->variant[0])
        put_member(b, "Variant", config->variant);
    put_member(b, "Os", config->os);
    put_number(b, "Size", image_docs_size(docs));
    r = put_config(b, docs->config, err);
    if (r < 0)
        return r;
    put_layers(b, d);
    json_write_raw(b, ",\"Descriptor\":{\"mediaType\":");
    json_write_string(b, docs->manifest_media);
    put_member(b, "digest", digest);
    put_number(b, "size", docs->manifest_size);
    json_write_raw(b, "}");
    put_member(b, "Source", d->image.record->source);
    json_write_raw(b, "}");
    return 0;
}

static int describe(struct buf *b, struct description *d, struct sm_store *store, const char *name,
                    const char *platform, struct sm_error *err)
{
    int r = found_image_get(&d->image, store->oci, name, platform, err);

    if (r >= 0)
        r = names_list(store->oci, &d->all, &d->n_all, NULL, err);
    if (r >= 0)
        r = put_image(b, d, err);
    buf_u8(b, 0);
    if (r >= 0 && b->bad)
        r = sm_error_set(err, ENOMEM, "out of memory while describing an image");
    return r;
}

int sm_store_inspect(char **ret, struct sm_store *store, const char *name, const char *platform, struct sm_error *err)
{
    struct buf text = buf_init(INSPECT_MAX_BYTES);
    struct description d = {.n_all = 0};
    int r = describe(&text, &d, store, name, platform, err);

    if (r >= 0) {
        *ret = (char *)text.data;
        text = buf_init(0);
    }
    buf_done(&text);
    name_records_free(d.all, d.n_all);
    found_image_done(&d.image);
    return r < 0 ? r : 0;
}

void sm_string_free(char *s)
{
    free(s);
}
