/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The graph of the store.
 *
 * Theory of operation
 *
 * What: everything in blobs/, layers/, images/, partial/ and snapshots/ is an object. A record reaches
 *
 *   its manifest -> its config and its layers' blobs; config -> diff ids -> converted layers, merged metadata (meta.h)
 *   its root, when that is an index -> indexes in it, down to the manifest
 *   the bakes of its manifest
 *
 * as far as they are in the store: a document that is missing or damaged ends its branch, and what was behind it is
 * reached by nobody. That costs no more than work: such an image has to be fetched again anyway.
 *
 * An index's other manifests, of other platforms, are reached by records of their own, if at all.
 *
 * A snapshot may need a base, another snapshot: that is counted by itself. Bases are reached by no record.
 *
 * Limits: those of documents, of nesting and of opened indexes; STORE_MAX_OBJECTS.
 */
#include "oci/graph.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/blobs.h"
#include "oci/json.h"
#include "oci/limits.h"
#include "oci/meta.h"
#include "oci/snapshot_dirs.h"
#include "oci/store_dirs.h"

#define BLOCK_UNIT 512 /* of st_blocks */

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory while looking through the image store");
}

/* Objects */

static int dir_of(const struct oci_store *s, enum graph_kind kind)
{
    switch (kind) {
    case GRAPH_BLOB:
        return s->blobs_fd;
    case GRAPH_LAYER:
        return s->layers_fd;
    case GRAPH_META:
        return s->images_fd;
    case GRAPH_SNAPSHOT:
        return s->snapshots_fd;
    case GRAPH_PARTIAL:
    case GRAPH_KINDS:
        break;
    }
    return s->partial_fd;
}

static void measure_snapshot(struct oci_store *s, struct graph_object *o)
{
    CLEANUP_FD int fd = snapshot_dir_open(s, &o->name, NULL);

    if (fd >= 0)
        snapshot_dir_usage(fd, &o->bytes, &o->made_s);
}

static void measure(const struct oci_store *s, struct graph_object *o, const char *hex)
{
    static const char *const files[GRAPH_KINDS][2] = {[GRAPH_BLOB] = {""},
                                                      [GRAPH_LAYER] = {"/data", "/index"},
                                                      [GRAPH_META] = {"/meta.erofs"},
                                                      [GRAPH_PARTIAL] = {""},
                                                      [GRAPH_SNAPSHOT] = {NULL}};
    char path[DIGEST_HEX_SIZE + 16];
    struct stat st;

    for (size_t i = 0; i < 2 && files[o->kind][i]; i++) {
        snprintf(path, sizeof(path), "%s%s", hex, files[o->kind][i]);
        if (fstatat(dir_of(s, o->kind), path, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        o->bytes += (uint64_t)st.st_blocks * BLOCK_UNIT;
        if (st.st_mtime > o->made_s)
            o->made_s = st.st_mtime;
    }
}

static int compare_objects(const void *a, const void *b)
{
    const struct graph_object *x = a, *y = b;

    return x->kind != y->kind ? (int)x->kind - (int)y->kind : memcmp(&x->name, &y->name, sizeof(x->name));
}

static int add_objects(struct graph *g, struct oci_store *s, enum graph_kind kind, struct sm_error *err)
{
    struct graph_object *larger;
    char **names, text[DIGEST_STR_SIZE];
    size_t n;
    int r = store_list_dir(s, dir_of(s, kind), false, &names, &n, err);

    if (r < 0)
        return r;
    larger = reallocarray(g->objects, g->n_objects + n + 1, sizeof(*larger));
    if (!larger) {
        strings_free(names);
        return no_memory(err);
    }
    g->objects = larger;
    for (size_t i = 0; r >= 0 && i < n; i++) {
        struct graph_object *o = &g->objects[g->n_objects];

        *o = (struct graph_object){.kind = kind};
        snprintf(text, sizeof(text), "sha256:%s", names[i]);
        r = digest_parse(&o->name, text, "the name of an object", err);
        if (r >= 0) {
            measure(s, o, names[i]);
            if (kind == GRAPH_SNAPSHOT)
                measure_snapshot(s, o);
            g->n_objects++;
        }
    }
    strings_free(names);
    return r;
}

struct graph_object *graph_find(const struct graph *g, enum graph_kind kind, const struct digest *name)
{
    struct graph_object key = {.kind = kind, .name = *name};

    return g->n_objects ? bsearch(&key, g->objects, g->n_objects, sizeof(key), compare_objects) : NULL;
}

int graph_object_remove(struct oci_store *s, enum graph_kind kind, const struct digest *name, struct sm_error *err)
{
    char hex[DIGEST_HEX_SIZE];

    digest_hex(name, hex);
    if (kind == GRAPH_LAYER || kind == GRAPH_META || kind == GRAPH_SNAPSHOT)
        return store_remove_dir(s, dir_of(s, kind), hex, err);
    if (unlinkat(dir_of(s, kind), hex, 0) < 0 && errno != ENOENT)
        return store_fail(s, err, errno, "cannot remove an object");
    return 0;
}

/* Documents */

/* 1: parsed. 0: missing or damaged. */
static int read_manifest(struct oci_store *s, const struct digest *d, struct manifest_doc *ret, struct sm_error *err)
{
    CLEANUP_FREE void *data = NULL;
    size_t len;
    int r = blob_read(s, d, OCI_JSON_MAX_BYTES, &data, &len, err);

    if (r >= 0)
        r = manifest_doc_parse(ret, data, len, NULL);
    else if (r != -ENOENT)
        return r;
    return r == -ENOMEM ? no_memory(err) : r >= 0;
}

static int read_config(struct oci_store *s, const struct digest *d, struct config_doc *ret, struct sm_error *err)
{
    CLEANUP_FREE void *data = NULL;
    size_t len;
    int r = blob_read(s, d, OCI_JSON_MAX_BYTES, &data, &len, err);

    if (r >= 0)
        r = config_doc_parse(ret, data, len, NULL);
    else if (r != -ENOENT)
        return r;
    return r == -ENOMEM ? no_memory(err) : r >= 0;
}

static int read_index(struct oci_store *s, const struct digest *d, struct index_doc *ret, struct sm_error *err)
{
    CLEANUP_FREE void *data = NULL;
    size_t len;
    int r = blob_read(s, d, OCI_JSON_MAX_BYTES, &data, &len, err);

    if (r >= 0)
        r = index_doc_parse(ret, data, len, NULL);
    else if (r != -ENOENT)
        return r;
    return r == -ENOMEM ? no_memory(err) : r >= 0;
}

int image_parts_read(struct image_parts *ret, struct oci_store *s, const struct digest *manifest, struct sm_error *err)
{
    struct image_parts p = {.has_manifest = false};
    int r = read_manifest(s, manifest, &p.manifest, err);

    p.has_manifest = r > 0;
    if (r > 0) {
        r = read_config(s, &p.manifest.config.digest, &p.config, err);
        p.has_config = r > 0;
    }
    if (r < 0) {
        image_parts_done(&p);
        return r;
    }
    *ret = p;
    return 0;
}

void image_parts_done(struct image_parts *p)
{
    if (p->has_manifest)
        manifest_doc_done(&p->manifest);
    if (p->has_config)
        config_doc_done(&p->config);
    p->has_manifest = p->has_config = false;
}

/* Snapshots */

struct graph_snapshot *graph_snapshot(const struct graph *g, const struct graph_object *o)
{
    return &g->snapshots[(uint32_t)(o - g->objects) - (g->n_objects - g->n_snapshots)];
}

/* 1: understood. 0: it is not there, damaged, or of another version (`ret_other`). */
static int read_snapshot(struct oci_store *s, const struct digest *key, struct snapshot_meta *ret, bool *ret_other,
                         struct sm_error *err)
{
    CLEANUP_FD int fd = snapshot_dir_open(s, key, err);
    int r;

    *ret_other = false;
    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    r = snapshot_dir_meta(fd, ret, NULL);
    *ret_other = r == -ENOTSUP;
    return r == -ENOMEM ? no_memory(err) : r >= 0;
}

static void fill_snapshot(struct graph *g, struct graph_snapshot *to, const struct snapshot_meta *m)
{
    struct digest base;

    to->kind = m->kind == SNAPSHOT_BASE   ? GRAPH_SNAPSHOT_BASE
               : m->kind == SNAPSHOT_BAKE ? GRAPH_SNAPSHOT_BAKE
                                          : GRAPH_SNAPSHOT_KEPT;
    /* Both were checked when they were read. */
    if (m->kind == SNAPSHOT_BAKE && digest_parse(&to->image, m->image_digest, "", NULL) < 0)
        to->kind = GRAPH_SNAPSHOT_BAD;
    if (m->base[0] && snapshot_key_digest(&base, m->base, NULL) >= 0)
        to->base = graph_find(g, GRAPH_SNAPSHOT, &base);
    if (to->base)
        to->base->needed++;
}

/* The objects are sorted: snapshots are the last. */
static int add_snapshots(struct graph *g, struct oci_store *s, struct sm_error *err)
{
    uint32_t first = g->n_objects;

    while (first && g->objects[first - 1].kind == GRAPH_SNAPSHOT)
        first--;
    g->n_snapshots = g->n_objects - first;
    g->snapshots = calloc(g->n_snapshots + 1, sizeof(*g->snapshots));
    if (!g->snapshots)
        return no_memory(err);
    for (uint32_t i = 0; i < g->n_snapshots; i++) {
        struct snapshot_meta m;
        bool other;
        int r = read_snapshot(s, &g->objects[first + i].name, &m, &other, err);

        if (r < 0)
            return r;
        if (r) {
            fill_snapshot(g, &g->snapshots[i], &m);
            snapshot_meta_done(&m);
        } else {
            g->snapshots[i].kind = other ? GRAPH_SNAPSHOT_KEPT : GRAPH_SNAPSHOT_BAD;
        }
    }
    return 0;
}

/* Reaching */

struct walk {
    struct graph *g;
    struct oci_store *s;
    struct graph_record *record;
    unsigned opened; /* indexes */
};

static int reach(struct walk *w, enum graph_kind kind, const struct digest *name, struct sm_error *err)
{
    struct graph_object *o = graph_find(w->g, kind, name);
    struct graph_record *rec = w->record;
    uint32_t number, *larger;

    if (!o)
        return 0;
    number = (uint32_t)(o - w->g->objects);
    for (uint32_t i = 0; i < rec->n_objects; i++) { /* some hundreds at most: see OCI_MAX_LAYERS */
        if (rec->objects[i] == number)
            return 0;
    }
    larger = reallocarray(rec->objects, rec->n_objects + 1, sizeof(*larger));
    if (!larger)
        return no_memory(err);
    rec->objects = larger;
    rec->objects[rec->n_objects++] = number;
    o->records++;
    return 0;
}

static int reach_image(struct walk *w, struct sm_error *err)
{
    struct image_parts p;
    struct digest key;
    int r = reach(w, GRAPH_BLOB, &w->record->r.manifest, err);

    if (r >= 0)
        r = image_parts_read(&p, w->s, &w->record->r.manifest, err);
    if (r < 0)
        return r;
    if (p.has_manifest)
        r = reach(w, GRAPH_BLOB, &p.manifest.config.digest, err);
    for (size_t i = 0; r >= 0 && p.has_manifest && i < p.manifest.n_layers; i++)
        r = reach(w, GRAPH_BLOB, &p.manifest.layers[i].digest, err);
    for (size_t i = 0; r >= 0 && p.has_config && i < p.config.n_diff_ids; i++)
        r = reach(w, GRAPH_LAYER, &p.config.diff_ids[i], err);
    if (r >= 0 && p.has_config && p.config.n_diff_ids <= OCI_MAX_LAYERS) {
        r = meta_key(p.config.diff_ids, p.config.n_diff_ids, &key, err);
        if (r >= 0)
            r = reach(w, GRAPH_META, &key, err);
    }
    image_parts_done(&p);
    return r;
}

static int reach_snapshots(struct walk *w, struct sm_error *err)
{
    int r = 0;

    for (uint32_t i = 0; r >= 0 && i < w->g->n_snapshots; i++) {
        const struct graph_snapshot *s = &w->g->snapshots[i];

        if (s->kind == GRAPH_SNAPSHOT_BAKE && digest_equal(&s->image, &w->record->r.manifest))
            r = reach(w, GRAPH_SNAPSHOT, &w->g->objects[w->g->n_objects - w->g->n_snapshots + i].name, err);
    }
    return r;
}

static int reach_index(struct walk *w, const struct digest *d, unsigned depth, struct sm_error *err)
{
    struct index_doc idx;
    int r;

    if (!graph_find(w->g, GRAPH_BLOB, d) || depth > OCI_INDEX_MAX_NESTING || w->opened++ >= OCI_INDEX_MAX_OPENED)
        return 0;
    r = reach(w, GRAPH_BLOB, d, err);
    if (r >= 0)
        r = read_index(w->s, d, &idx, err);
    if (r <= 0)
        return r;
    for (size_t i = 0; r >= 0 && i < idx.n; i++) {
        if (idx.items[i].media == MEDIA_INDEX)
            r = reach_index(w, &idx.items[i].digest, depth + 1, err);
    }
    index_doc_done(&idx);
    return r;
}

/* Records */

static int compare_manifests(const void *a, const void *b)
{
    const struct graph_record *x = a, *y = b;
    int r = memcmp(&x->r.manifest, &y->r.manifest, sizeof(x->r.manifest));

    return r ? r : strcmp(x->r.name, y->r.name);
}

static int add_records(struct graph *g, struct oci_store *s, struct sm_error *err)
{
    struct name_record *list;
    size_t n;
    int r = names_list(s, &list, &n, NULL, err);

    if (r < 0)
        return r;
    g->records = calloc(n + 1, sizeof(*g->records));
    g->images = calloc(n + 1, sizeof(*g->images));
    if (!g->records || !g->images) {
        name_records_free(list, n);
        return no_memory(err);
    }
    for (size_t i = 0; i < n; i++)
        g->records[i].r = list[i];
    g->n_records = (uint32_t)n;
    free(list);
    qsort(g->records, n, sizeof(*g->records), compare_manifests);
    for (uint32_t i = 0; i < g->n_records; i++) {
        const struct name_record *rec = &g->records[i].r;
        struct graph_image *img = g->n_images ? &g->images[g->n_images - 1] : NULL;

        if (!img || !digest_equal(&img->manifest, &rec->manifest)) {
            img = &g->images[g->n_images++];
            *img = (struct graph_image){.manifest = rec->manifest, .first = i};
            img->used_s = img->last_use_s = image_last_used(s, &rec->manifest);
        }
        img->n++;
        img->named += !name_is_untagged(rec);
        if (rec->created_s > img->used_s)
            img->used_s = rec->created_s;
    }
    return 0;
}

int graph_new(struct graph **ret, struct oci_store *s, struct sm_error *err)
{
    struct graph *g = calloc(1, sizeof(*g));
    int r = 0;

    if (!g)
        return no_memory(err);
    for (int kind = 0; r >= 0 && kind < GRAPH_KINDS; kind++)
        r = add_objects(g, s, (enum graph_kind)kind, err);
    if (r >= 0) {
        qsort(g->objects, g->n_objects, sizeof(*g->objects), compare_objects);
        r = add_snapshots(g, s, err);
    }
    if (r >= 0)
        r = add_records(g, s, err);
    for (uint32_t i = 0; r >= 0 && i < g->n_records; i++) {
        struct walk w = {.g = g, .s = s, .record = &g->records[i]};

        r = reach_image(&w, err);
        if (r >= 0)
            r = reach_snapshots(&w, err);
        if (r >= 0 && !digest_equal(&w.record->r.root, &w.record->r.manifest))
            r = reach_index(&w, &w.record->r.root, 0, err);
    }
    if (r < 0) {
        graph_free(g);
        return r;
    }
    *ret = g;
    return 0;
}

void graph_free(struct graph *g)
{
    if (!g)
        return;
    for (uint32_t i = 0; i < g->n_records; i++) {
        name_record_done(&g->records[i].r);
        free(g->records[i].objects);
    }
    free(g->records);
    free(g->images);
    free(g->snapshots);
    free(g->objects);
    free(g);
}
