/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening an image.
 *
 * Theory of operation
 *
 * What: reference -> layout -> index, manifest, config (select.c) -> every layer in the store, converting those that
 * are missing -> the merged metadata in the store, merging if it is missing -> descriptors of all of it, as the pieces
 * of one disk. When everything is there already, that is three small documents and a header a layer.
 *
 * Concurrent processes: whoever finds layers missing takes their locks in the order of their digests (so that two
 * images with common layers cannot wait for each other), looks again, and converts what is still missing.
 *
 * The merged metadata depends on the layers alone, so images that differ in their configuration share it.
 */
#include "oci/image.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "oci/convert.h"
#include "oci/limits.h"
#include "oci/meta.h"
#include "oci/ref.h"
#include "oci/select.h"
#include "oci/store.h"
#include "oci/text.h"

struct open_layer {
    int data_fd, index_fd;
    uint64_t data_size;
};

struct oci_image {
    struct oci_store *store;
    struct selected sel;
    char digest[DIGEST_STR_SIZE];
    struct open_layer *layers; /* as many as the manifest has */
    int meta_fd;
    uint64_t meta_size;
    struct oci_extent *extents;
    unsigned n_extents;
};

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory while opening an image");
}

/* Layers that are missing */

struct conversion {
    struct oci_image *img;
    const struct layout *layout;
    struct convert_job jobs[OCI_MAX_LAYERS];
    struct work {
        int lock_fd, blob_fd, data_fd, index_fd;
        struct store_temp temp;
    } work[OCI_MAX_LAYERS];
    unsigned n;
};

static int compare_jobs(const void *a, const void *b)
{
    const struct convert_job *x = a, *y = b;

    return memcmp(x->diff_id.bytes, y->diff_id.bytes, DIGEST_BYTES);
}

/* 1 when it is in the store. */
static int is_stored(struct oci_store *s, const struct digest *diff_id, struct sm_error *err)
{
    CLEANUP_FD int data_fd = -1;
    CLEANUP_FD int index_fd = -1;
    uint64_t size;
    int r = store_open_layer(s, diff_id, &data_fd, &index_fd, &size, err);

    return r == -ENOENT ? 0 : r < 0 ? r : 1;
}

static int list_missing(struct conversion *c, struct sm_error *err)
{
    const struct selected *sel = &c->img->sel;

    for (size_t i = 0; i < sel->manifest.n_layers; i++) {
        const struct descriptor *d = &sel->manifest.layers[i];
        const struct digest *diff_id = &sel->config.diff_ids[i];
        bool again = false;
        int r;

        for (unsigned k = 0; k < c->n; k++)
            again |= digest_equal(&c->jobs[k].diff_id, diff_id);
        r = again ? 1 : is_stored(c->img->store, diff_id, err);
        if (r < 0)
            return r;
        if (!r)
            c->jobs[c->n++] = (struct convert_job){.blob = d->digest,
                                                   .diff_id = *diff_id,
                                                   .blob_size = d->size,
                                                   .compressed = d->media == MEDIA_LAYER_COMPRESSED};
    }
    qsort(c->jobs, c->n, sizeof(c->jobs[0]), compare_jobs);
    return 0;
}

/* Lock them all, then drop those that somebody else has made meanwhile. */
static int lock_missing(struct conversion *c, struct sm_error *err)
{
    unsigned left = 0;

    for (unsigned i = 0; i < c->n; i++) {
        c->work[i].lock_fd = store_lock(c->img->store, STORE_LAYER, &c->jobs[i].diff_id, err);
        if (c->work[i].lock_fd < 0)
            return c->work[i].lock_fd;
    }
    for (unsigned i = 0; i < c->n; i++) {
        int r = is_stored(c->img->store, &c->jobs[i].diff_id, err);

        if (r < 0)
            return r;
        if (r) {
            close_fd(&c->work[i].lock_fd);
        } else {
            int lock_fd = steal_fd(&c->work[i].lock_fd);

            c->jobs[left] = c->jobs[i];
            c->work[left++].lock_fd = lock_fd;
        }
    }
    c->n = left;
    return 0;
}

static int begin_job(void *ctx, unsigned job, struct convert_files *ret, struct sm_error *err)
{
    struct conversion *c = ctx;
    struct work *w = &c->work[job];
    int r;

    w->blob_fd = layout_open_blob(c->layout, &c->jobs[job].blob, c->jobs[job].blob_size, err);
    if (w->blob_fd < 0)
        return w->blob_fd;
    r = store_temp_new(&w->temp, c->img->store, err);
    if (r < 0)
        return r;
    w->data_fd = store_temp_file(&w->temp, "data", err);
    if (w->data_fd < 0)
        return w->data_fd;
    w->index_fd = store_temp_file(&w->temp, "index", err);
    if (w->index_fd < 0)
        return w->index_fd;
    *ret = (struct convert_files){.blob_fd = w->blob_fd, .data_fd = w->data_fd, .index_fd = w->index_fd};
    return 0;
}

static int complete_job(void *ctx, unsigned job, struct sm_error *err)
{
    struct conversion *c = ctx;
    struct work *w = &c->work[job];
    int r = store_temp_commit(&w->temp, STORE_LAYER, &c->jobs[job].diff_id, err);

    close_fd(&w->blob_fd);
    close_fd(&w->data_fd);
    close_fd(&w->index_fd);
    close_fd(&w->lock_fd);
    return r;
}

static int convert_missing(struct oci_image *img, const struct layout *layout, const struct oci_progress *progress,
                           struct sm_error *err)
{
    struct conversion *c = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return no_memory(err);
    c->img = img;
    c->layout = layout;
    for (unsigned i = 0; i < OCI_MAX_LAYERS; i++)
        c->work[i] =
            (struct work){.lock_fd = -1, .blob_fd = -1, .data_fd = -1, .index_fd = -1, .temp = STORE_TEMP_INIT};
    r = list_missing(c, err);
    if (r >= 0 && c->n)
        r = lock_missing(c, err);
    if (r >= 0 && c->n)
        r = convert_layers(c->jobs, c->n, &(struct convert_hooks){begin_job, complete_job, c}, progress, err);
    for (unsigned i = 0; i < OCI_MAX_LAYERS; i++) {
        struct work *w = &c->work[i];

        close_fd(&w->blob_fd);
        close_fd(&w->data_fd);
        close_fd(&w->index_fd);
        store_temp_discard(&w->temp);
        close_fd(&w->lock_fd);
    }
    free(c);
    return r;
}

static int open_layers(struct oci_image *img, struct sm_error *err)
{
    char name[DIGEST_STR_SIZE];

    for (size_t i = 0; i < img->sel.manifest.n_layers; i++) {
        struct open_layer *l = &img->layers[i];
        const struct digest *diff_id = &img->sel.config.diff_ids[i];
        int r = store_open_layer(img->store, diff_id, &l->data_fd, &l->index_fd, &l->data_size, err);

        digest_str(diff_id, name);
        if (r == -ENOENT)
            return sm_error_set(err, ENOENT, "layer %s vanished from the image store: try again", name);
        if (r < 0)
            return r;
    }
    return 0;
}

/* The merged metadata */

static int make_meta(struct oci_image *img, const struct digest *key, struct sm_error *err)
{
    size_t n = img->sel.manifest.n_layers;
    CLEANUP_FREE struct meta_layer *layers = calloc(n + 1, sizeof(*layers));
    struct store_temp temp = STORE_TEMP_INIT;
    CLEANUP_FD int fd = -1;
    uint64_t size;
    int r;

    if (!layers)
        return no_memory(err);
    for (size_t i = 0; i < n; i++)
        layers[i] = (struct meta_layer){img->sel.config.diff_ids[i], img->layers[i].index_fd, img->layers[i].data_size};
    r = store_temp_new(&temp, img->store, err);
    if (r < 0)
        return r;
    fd = r = store_temp_file(&temp, "meta.erofs", err);
    if (r >= 0)
        r = meta_write(layers, n, key, fd, &size, err);
    if (r >= 0)
        r = store_temp_commit(&temp, STORE_IMAGE, key, err);
    store_temp_discard(&temp);
    return r;
}

static int ensure_meta(struct oci_image *img, const struct oci_progress *progress, struct sm_error *err)
{
    CLEANUP_FD int lock_fd = -1;
    uint64_t data_size = 0;
    struct digest key;
    int r = meta_key(img->sel.config.diff_ids, img->sel.config.n_diff_ids, &key, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < img->sel.manifest.n_layers; i++)
        data_size += img->layers[i].data_size; /* 127 x 1 TiB at most */
    r = store_open_image(img->store, &key, data_size, &img->meta_fd, &img->meta_size, err);
    if (r != -ENOENT)
        return r;
    lock_fd = store_lock(img->store, STORE_IMAGE, &key, err);
    if (lock_fd < 0)
        return lock_fd;
    r = store_open_image(img->store, &key, data_size, &img->meta_fd, &img->meta_size, err);
    if (r != -ENOENT)
        return r;
    if (progress)
        progress->fn(progress->ctx, "merging layers", 0, 0);
    r = make_meta(img, &key, err);
    if (r >= 0)
        r = store_open_image(img->store, &key, data_size, &img->meta_fd, &img->meta_size, err);
    return r == -ENOENT ? sm_error_set(err, EIO, "the merged image vanished from the image store: try again") : r;
}

static int list_extents(struct oci_image *img, struct sm_error *err)
{
    img->extents = calloc(img->sel.manifest.n_layers + 1, sizeof(*img->extents));
    if (!img->extents)
        return no_memory(err);
    img->extents[img->n_extents++] = (struct oci_extent){.fd = img->meta_fd, .offset = 0, .length = img->meta_size};
    for (size_t i = 0; i < img->sel.manifest.n_layers; i++) {
        const struct open_layer *l = &img->layers[i];

        if (l->data_size)
            img->extents[img->n_extents++] = (struct oci_extent){.fd = l->data_fd, .offset = 0, .length = l->data_size};
    }
    return 0;
}

static int open_image(struct oci_image *img, const struct layout *layout, const struct oci_progress *progress,
                      struct sm_error *err)
{
    int r;

    img->layers = calloc(img->sel.manifest.n_layers + 1, sizeof(*img->layers));
    if (!img->layers)
        return no_memory(err);
    for (size_t i = 0; i < img->sel.manifest.n_layers; i++)
        img->layers[i] = (struct open_layer){.data_fd = -1, .index_fd = -1};
    r = convert_missing(img, layout, progress, err);
    if (r >= 0)
        r = open_layers(img, err);
    if (r >= 0)
        r = ensure_meta(img, progress, err);
    if (r >= 0)
        r = list_extents(img, err);
    for (size_t i = 0; i < img->sel.manifest.n_layers; i++)
        close_fd(&img->layers[i].index_fd);
    return r;
}

int oci_image_open(struct oci_image **ret, struct oci_store *store, const char *ref,
                   const struct oci_open_options *options, struct sm_error *err)
{
    struct oci_image *img = calloc(1, sizeof(*img));
    struct layout layout = LAYOUT_INIT;
    struct oci_ref parsed = OCI_REF_INIT;
    struct platform want;
    char shown[TEXT_SHOWN_SIZE];
    int r;

    if (!img)
        return no_memory(err);
    img->store = store;
    img->meta_fd = -1;
    r = ref_parse(&parsed, ref, err);
    if (r >= 0 && parsed.kind != REF_OCI_DIR)
        r = sm_error_set(err, ENOTSUP, "image \"%s\" is not in a directory: write oci:DIRECTORY or oci:DIRECTORY:TAG",
                         text_shown(shown, ref));
    if (r >= 0)
        r = platform_parse(&want, options ? options->platform : NULL, err);
    if (r >= 0)
        r = layout_open(&layout, parsed.path, err);
    if (r >= 0) {
        r = select_image(&img->sel, &layout, parsed.tag, &want, err);
        if (r >= 0)
            r = open_image(img, &layout, options ? options->progress : NULL, err);
        if (r < 0)
            r = sm_error_wrap(err, "image \"%s\"", text_shown(shown, ref));
    }
    layout_done(&layout);
    ref_done(&parsed);
    if (r < 0) {
        oci_image_free(img);
        return r;
    }
    digest_str(&img->sel.manifest_digest, img->digest);
    *ret = img;
    return 0;
}

void oci_image_free(struct oci_image *img)
{
    if (!img)
        return;
    for (size_t i = 0; img->layers && i < img->sel.manifest.n_layers; i++)
        close_fd(&img->layers[i].data_fd);
    close_fd(&img->meta_fd);
    free(img->layers);
    free(img->extents);
    selected_done(&img->sel);
    free(img);
}

const struct oci_config *oci_image_config(const struct oci_image *img)
{
    return &img->sel.config.config;
}

const char *oci_image_digest(const struct oci_image *img)
{
    return img->digest;
}

unsigned oci_image_extents(const struct oci_image *img, const struct oci_extent **ret)
{
    *ret = img->extents;
    return img->n_extents;
}
