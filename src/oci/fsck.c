/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checking the store.
 *
 * Theory of operation
 *
 * What, in this order:
 *
 *   names      every file must be understood, and be of the name that it is called by
 *   blobs      hashed; halves of blobs are only looked at from outside, as nobody knows what they should be
 *   layers     the index is read to its end, which has a checksum; the size of the data is right. When the layer's blob
 *              is there and good, the layer is made again and compared byte by byte
 *   metadata   made again from the layers and compared; when no record says from which, the superblock is looked at
 *   snapshots  their metadata; what is in their files is the caller's to check, who knows what machines are
 *   images     every record must have its documents, and for each layer the converted one or the blob
 *
 * Why layers are made again, and no checksum of their data is kept: conversion gives the same bytes for the same blob,
 * so this finds whatever changed since, also by a fault of the conversion; hashing every file's contents a second time
 * would make each pull slower for the sake of a command that is seldom used. A layer without its blob (made from a
 * layout directory) has its structure checked only, and so have all when there is no room to make one again; the result
 * counts them, and snapshots of other versions.
 *
 * Repair: what is damaged is taken out, or replaced where it can be made again here. Images that lack something then
 * are named, so that the caller can fetch them.
 *
 * Others use the store meanwhile (gc_enter): objects may appear, and nothing but damage goes. A damaged object goes
 * under its own lock, after another look at whether it is still the one that was checked.
 *
 * Not done: the parts of layers and metadata that no record reaches, beyond their structure; times of use.
 */
#include "oci/fsck.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/fsck_parts.h"
#include "oci/gc.h"
#include "oci/json.h"
#include "oci/record.h"
#include "oci/store_dirs.h"
#include "oci/text.h"

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory while checking the image store");
}

void fsck_result_done(struct fsck_result *r)
{
    name_records_free(r->lacking, r->n_lacking);
    *r = (struct fsck_result){.checked = 0};
}

void check_problem(struct check *c, enum fsck_kind kind, const char *what, const struct digest *name, const char *text,
                   bool removed)
{
    char object[TEXT_SHOWN_SIZE + 32], digest[DIGEST_STR_SIZE] = "", shown[TEXT_SHOWN_SIZE];

    if (name)
        digest_str(name, digest);
    snprintf(object, sizeof(object), "%s%s%s", text_shown(shown, what), name ? " " : "", digest);
    c->result.problems++;
    c->result.removed += removed;
    if (c->o->problem)
        c->o->problem(c->o->ctx,
                      &(struct fsck_problem){.kind = kind, .object = object, .text = text, .removed = removed});
}

int check_step(struct check *c, uint64_t bytes, struct sm_error *err)
{
    c->done += bytes;
    if (c->o->step && c->o->step(c->o->ctx, c->done < c->total ? c->done : c->total, c->total))
        return sm_error_set(err, ECANCELED, "checking the image store was stopped");
    return 0;
}

bool check_is_good(const struct check *c, enum graph_kind kind, const struct digest *name)
{
    const struct graph_object *o = graph_find(c->g, kind, name);

    return o && !c->bad[o - c->g->objects];
}

/* Names */

/* Under the lock of those who write names. True: it went. */
static bool remove_name(struct check *c, const char *file)
{
    CLEANUP_FD int lock_fd = store_lock_file(c->store, "names", NULL);
    struct name_doc doc;
    int r;

    if (lock_fd < 0 || lock_take(lock_fd, LOCK_EX, NULL) < 0)
        return false;
    r = names_read_file(c->store, file, &doc, NULL);
    if (r >= 0)
        name_doc_done(&doc);
    return r == -EBADMSG && !unlinkat(c->store->names_fd, file, 0);
}

static int check_names(struct check *c, struct sm_error *err)
{
    char **files, text[SM_ERROR_TEXT_MAX + 128];
    size_t n;
    int r = store_list_dir(c->store, c->store->names_fd, false, &files, &n, err);

    for (size_t i = 0; r >= 0 && i < n; i++) {
        struct sm_error why = SM_ERROR_INIT;
        struct name_doc doc;
        char object[DIGEST_HEX_SIZE + 16];

        c->result.checked++;
        r = names_read_file(c->store, files[i], &doc, &why);
        if (r >= 0) {
            name_doc_done(&doc);
        } else if (r == -EBADMSG) {
            snprintf(object, sizeof(object), "name %s", files[i]);
            snprintf(text, sizeof(text),
                     "which name it was cannot be told (%.*s): what it stood for has to be pulled "
                     "or loaded again",
                     SM_ERROR_TEXT_MAX - 1, why.text);
            check_problem(c, FSCK_NAME, object, NULL, text, c->o->repair && remove_name(c, files[i]));
            r = 0;
        } else if (r == -ENOENT) { /* it went meanwhile */
            r = 0;
        } else if (err) {
            *err = why;
        }
    }
    if (r >= 0)
        strings_free(files);
    return r;
}

/* Images */

static int add_origins(struct check *c, const struct image_parts *p, struct sm_error *err)
{
    struct fsck_origin *larger;

    if (!p->has_config || p->manifest.n_layers != p->config.n_diff_ids)
        return 0;
    larger = reallocarray(c->origins, c->n_origins + p->manifest.n_layers + 1, sizeof(*larger));
    if (!larger)
        return no_memory(err);
    c->origins = larger;
    for (size_t i = 0; i < p->manifest.n_layers; i++) {
        const struct descriptor *d = &p->manifest.layers[i];

        c->origins[c->n_origins++] = (struct fsck_origin){.diff_id = p->config.diff_ids[i],
                                                          .blob = d->digest,
                                                          .size = d->size,
                                                          .compressed = d->media == MEDIA_LAYER_COMPRESSED};
    }
    return 0;
}

static int find_origins(struct check *c, struct sm_error *err)
{
    int r = 0;

    for (uint32_t i = 0; r >= 0 && i < c->g->n_images; i++) {
        struct image_parts p;

        r = image_parts_read(&p, c->store, &c->g->images[i].manifest, err);
        if (r < 0)
            return r;
        r = add_origins(c, &p, err);
        image_parts_done(&p);
    }
    return r;
}

/* The sentence about what is not there; NULL: nothing. */
static const char *what_lacks(const struct check *c, const struct image_parts *p, const struct name_record *rec,
                              char text[256])
{
    char digest[DIGEST_STR_SIZE];

    if (!digest_equal(&rec->root, &rec->manifest) && !check_is_good(c, GRAPH_BLOB, &rec->root))
        return "the index that its name stands for is not there: it has to be pulled again";
    if (!p->has_manifest)
        return "its manifest is not there: it has to be pulled or loaded again";
    if (!p->has_config)
        return "its configuration is not there: it has to be pulled or loaded again";
    if (p->manifest.n_layers != p->config.n_diff_ids)
        return "its manifest and its configuration do not have the same layers";
    for (size_t i = 0; i < p->manifest.n_layers; i++) {
        if (check_is_good(c, GRAPH_LAYER, &p->config.diff_ids[i]) ||
            check_is_good(c, GRAPH_BLOB, &p->manifest.layers[i].digest))
            continue;
        digest_str(&p->manifest.layers[i].digest, digest);
        snprintf(text, 256, "its layer %s is not there: it has to be pulled or loaded again", digest);
        return text;
    }
    return NULL;
}

static int check_record(struct check *c, const struct image_parts *p, const struct name_record *rec,
                        struct sm_error *err)
{
    char text[256], object[TEXT_SHOWN_SIZE + 16], shown[TEXT_SHOWN_SIZE];
    const char *sentence = what_lacks(c, p, rec, text);
    int r;

    c->result.checked++;
    if (!sentence)
        return 0;
    snprintf(object, sizeof(object), "image %s", text_shown(shown, rec->name));
    check_problem(c, FSCK_IMAGE, object, NULL, sentence, false);
    r = name_record_copy(&c->result.lacking[c->result.n_lacking], rec, err);
    c->result.n_lacking += r >= 0;
    return r;
}

static int check_images(struct check *c, struct sm_error *err)
{
    int r = 0;

    c->result.lacking = calloc(c->g->n_records + 1, sizeof(*c->result.lacking));
    if (!c->result.lacking)
        return no_memory(err);
    for (uint32_t i = 0; r >= 0 && i < c->g->n_images; i++) {
        const struct graph_image *image = &c->g->images[i];
        struct image_parts p;

        r = image_parts_read(&p, c->store, &image->manifest, err);
        if (r < 0)
            return r;
        for (uint32_t k = 0; r >= 0 && k < image->n; k++)
            r = check_record(c, &p, &c->g->records[image->first + k].r, err);
        image_parts_done(&p);
    }
    return r;
}

static int check_all(struct check *c, struct sm_error *err)
{
    int r = check_names(c, err);

    if (r >= 0)
        r = graph_new(&c->g, c->store, err);
    if (r < 0)
        return r;
    c->bad = calloc(c->g->n_objects + 1, sizeof(*c->bad));
    if (!c->bad)
        return no_memory(err);
    c->result.checked += c->g->n_objects;
    for (uint32_t i = 0; i < c->g->n_objects; i++)
        c->total += c->g->objects[i].bytes;
    r = find_origins(c, err);
    if (r >= 0)
        r = check_blobs(c, err);
    if (r >= 0)
        r = check_layers(c, err);
    if (r >= 0)
        r = check_metas(c, err);
    if (r >= 0)
        r = check_snapshots(c, err);
    if (r >= 0)
        r = check_images(c, err);
    if (r >= 0)
        r = check_step(c, c->total, err);
    return r;
}

int fsck_store(struct oci_store *s, const struct fsck_options *o, struct fsck_result *ret, struct sm_error *err)
{
    struct check c = {.store = s, .o = o};
    CLEANUP_FD int lock_fd = gc_enter(s, err);
    int r;

    if (lock_fd < 0)
        return lock_fd;
    r = check_all(&c, err);
    graph_free(c.g);
    free(c.bad);
    free(c.origins);
    if (r < 0 || !ret) {
        fsck_result_done(&c.result);
        return r;
    }
    *ret = c.result;
    return 0;
}
