/* SPDX-License-Identifier: Apache-2.0 */
/* All about one image of the public store: its description as JSON, and its history. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "lib/store.h"
#include "lib/timestamp.h"
#include "oci/gc.h"
#include "oci/json.h"
#include "oci/json_write.h"
#include "oci/limits.h"

#define INSPECT_MAX_BYTES (8 * OCI_JSON_MAX_BYTES) /* escaping makes text longer, six times at most */

/* An image that was found, its documents, and everything else that the store has (for its other names). */
struct found {
    struct name_record *list, *all;
    size_t n, n_all;
    const struct name_record *record; /* in `list` */
    struct image_docs docs;
};

static void found_done(struct found *f)
{
    name_records_free(f->list, f->n);
    name_records_free(f->all, f->n_all);
    image_docs_done(&f->docs);
}

static int find(struct found *f, struct sm_store *store, const char *name, const char *platform, struct sm_error *err)
{
    CLEANUP_FD int lock = gc_enter(store->oci, err);
    int r;

    if (lock < 0)
        return lock;
    r = names_find(store->oci, name, &f->list, &f->n, NULL, err);
    if (r >= 0)
        r = record_choose(&f->record, f->list, f->n, platform, name, err);
    if (r >= 0)
        r = image_docs_read(&f->docs, store->oci, &f->record->manifest, err);
    if (r >= 0)
        r = names_list(store->oci, &f->all, &f->n_all, NULL, err);
    return r;
}

/* ---- Inspection. The members' names and forms are those of Docker's Engine API, GET /images/{name}/json ---- */

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
static int put_names(struct buf *b, const struct found *found, bool by_digest, struct sm_error *err)
{
    CLEANUP_FREE char *before = NULL;

    put_key(b, by_digest ? "RepoDigests" : "RepoTags");
    json_write_raw(b, "[");
    for (size_t i = 0; i < found->n_all; i++) {
        const struct name_record *r = &found->all[i];
        CLEANUP_FREE char *name = NULL;
        int e;

        if (!digest_equal(&r->manifest, &found->record->manifest))
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

static void put_layers(struct buf *b, const struct found *found)
{
    const struct config_doc *config = &found->docs.config_doc;
    const struct manifest_doc *manifest = &found->docs.manifest;
    char digest[DIGEST_STR_SIZE];

    json_write_raw(b, ",\"RootFS\":{\"Type\":\"layers\",\"Layers\":[");
    for (size_t i = 0; i < config->n_diff_ids; i++) {
        digest_str(&config->diff_ids[i], digest);
        json_write_raw(b, i ? "," : "");
        json_write_string(b, digest);
    }
    json_write_raw(b, "]},\"Layers\":[");
    for (size_t i = 0; i < manifest->n_layers; i++) {
        const struct descriptor *d = &manifest->layers[i];

        digest_str(&d->digest, digest);
        json_write_raw(b, i ? ",{\"mediaType\":" : "{\"mediaType\":");
        json_write_string(b, d->media_type);
        put_member(b, "digest", digest);
        put_number(b, "size", d->size);
        json_write_raw(b, "}");
    }
    json_write_raw(b, "]");
}

static int put_image(struct buf *b, const struct found *found, struct sm_error *err)
{
    const struct image_docs *docs = &found->docs;
    const struct oci_config *config = &docs->config_doc.config;
    char digest[DIGEST_STR_SIZE];
    int r;

    digest_str(&found->record->manifest, digest);
    json_write_raw(b, "{\"Id\":");
    json_write_string(b, digest);
    r = put_names(b, found, false, err);
    if (r >= 0)
        r = put_names(b, found, true, err);
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
    put_layers(b, found);
    json_write_raw(b, ",\"Descriptor\":{\"mediaType\":");
    json_write_string(b, docs->manifest_media);
    put_member(b, "digest", digest);
    put_number(b, "size", docs->manifest_size);
    json_write_raw(b, "}");
    put_member(b, "Source", found->record->source);
    json_write_raw(b, "}");
    return 0;
}

int sm_store_inspect(char **ret, struct sm_store *store, const char *name, const char *platform, struct sm_error *err)
{
    struct buf text = buf_init(INSPECT_MAX_BYTES);
    struct found found = {.n = 0};
    int r = find(&found, store, name, platform, err);

    if (r >= 0)
        r = put_image(&text, &found, err);
    buf_u8(&text, 0);
    if (r >= 0 && text.bad)
        r = sm_error_set(err, ENOMEM, "out of memory while describing an image");
    if (r >= 0) {
        *ret = (char *)text.data;
        text = buf_init(0);
    }
    buf_done(&text);
    found_done(&found);
    return r < 0 ? r : 0;
}

void sm_string_free(char *s)
{
    free(s);
}

/* ---- History (image-spec config.md, "history") ---- */

struct published_step {
    struct sm_history_entry e;
    char *created_by, *comment;
    char layer[DIGEST_STR_SIZE];
};

void sm_history_free(struct sm_history_entry *list)
{
    while (list) {
        struct published_step *p = CONTAINER_OF(list, struct published_step, e);

        list = list->next;
        free(p->created_by);
        free(p->comment);
        free(p);
    }
}

static int copy_text(char **ret, struct json *step, const char *key, struct sm_error *err)
{
    const char *value;
    int r = json_get_string(step, key, false, &value, err);

    if (r < 0)
        return r;
    *ret = strdup(value ? value : "");
    return *ret ? 0 : sm_error_set(err, ENOMEM, "out of memory while reading an image's history");
}

/* `layer`: NULL for a step that made none. */
static int fill_step(struct published_step *p, struct json *step, const struct descriptor *layer, struct sm_error *err)
{
    const char *created = NULL;
    int r = step ? copy_text(&p->created_by, step, "created_by", err) : 0;

    if (r >= 0 && step)
        r = copy_text(&p->comment, step, "comment", err);
    if (r >= 0 && step)
        r = json_get_string(step, "created", false, &created, err);
    if (r < 0)
        return r;
    p->e.created_by = p->created_by ? p->created_by : "";
    p->e.comment = p->comment ? p->comment : "";
    if (created && timestamp_parse(created, &p->e.created) < 0)
        p->e.created = 0;
    if (layer) {
        digest_str(&layer->digest, p->layer);
        p->e.layer = p->layer;
        p->e.size = layer->size;
    }
    return 0;
}

/* Put before the list, which so has the newest first. */
static int add_step(struct sm_history_entry **list, struct json *step, const struct descriptor *layer,
                    struct sm_error *err)
{
    struct published_step *p = calloc(1, sizeof(*p));

    if (!p)
        return sm_error_set(err, ENOMEM, "out of memory while reading an image's history");
    p->e.next = *list;
    *list = &p->e;
    return fill_step(p, step, layer, err);
}

/* Steps that made a layer go with the manifest's layers in their order; layers that no step tells of come last. */
static int read_history(struct sm_history_entry **list, const struct image_docs *docs, struct sm_error *err)
{
    struct json *steps, *step;
    size_t n, layer = 0;
    bool empty;
    int r = json_get_array(docs->config, "history", false, OCI_CONFIG_MAX_LIST, &steps, &n, err);

    for (size_t i = 0; r >= 0 && i < n; i++) {
        r = json_item_object(steps, i, "history", &step, err);
        if (r >= 0)
            r = json_get_bool(step, "empty_layer", &empty, err);
        if (r >= 0)
            r = add_step(list, step, empty || layer == docs->manifest.n_layers ? NULL : &docs->manifest.layers[layer++],
                         err);
    }
    for (; r >= 0 && layer < docs->manifest.n_layers; layer++)
        r = add_step(list, NULL, &docs->manifest.layers[layer], err);
    return r;
}

int sm_store_history(struct sm_history_entry **ret, struct sm_store *store, const char *name, const char *platform,
                     struct sm_error *err)
{
    struct sm_history_entry *list = NULL;
    struct found found = {.n = 0};
    int r = find(&found, store, name, platform, err);

    if (r >= 0)
        r = read_history(&list, &found.docs, err);
    if (r < 0)
        sm_history_free(list);
    else
        *ret = list;
    found_done(&found);
    return r < 0 ? r : 0;
}
