/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image, put together from what is in the store.
 *
 * Theory of operation
 *
 * What: documents (select.c) -> every layer in the store, making those that are missing (ensure.c) -> the merged
 * metadata in the store, merging if it is missing (meta.c) -> descriptors of all of it, as the pieces of one disk. When
 * everything is there already, that is a header a layer and one for the metadata.
 *
 * The merged metadata depends on the layers alone, so images that differ in their configuration share it.
 *
 * Whoever calls this holds gc_enter() (gc.h). Once everything is open that is not needed any more: descriptors stay
 * good when names go.
 */
#include "oci/image.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "oci/ensure.h"
#include "oci/events.h"
#include "oci/meta.h"
#include "oci/select.h"
#include "oci/store.h"

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

static void close_layers(struct oci_image *img)
{
    for (size_t i = 0; img->layers && i < img->sel.manifest.n_layers; i++) {
        close_fd(&img->layers[i].data_fd);
        close_fd(&img->layers[i].index_fd);
    }
}

/* All of them, or -ENOENT without a sentence. */
static int open_layers(struct oci_image *img, struct sm_error *err)
{
    int r = 0;

    for (size_t i = 0; r >= 0 && i < img->sel.manifest.n_layers; i++) {
        struct open_layer *l = &img->layers[i];

        r = store_open_layer(img->store, &img->sel.config.diff_ids[i], &l->data_fd, &l->index_fd, &l->data_size, err);
    }
    if (r < 0)
        close_layers(img);
    return r;
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

static int waiting_for_meta(void *ctx, const char *who)
{
    const struct oci_events *const *events = ctx;

    (void)who;
    return event_tell(*events, OCI_EVENT_WAITING, NULL, 0, 0, NULL);
}

static int ensure_meta(struct oci_image *img, const struct oci_events *events, struct sm_error *err)
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
    lock_fd = store_lock_told(img->store, STORE_IMAGE, &key, waiting_for_meta, &events, err);
    if (lock_fd < 0)
        return lock_fd;
    r = store_open_image(img->store, &key, data_size, &img->meta_fd, &img->meta_size, err);
    if (r != -ENOENT)
        return r;
    r = event_tell(events, OCI_EVENT_MERGING, NULL, 0, 0, err);
    if (r >= 0)
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

static int assemble(struct oci_image *img, const struct layer_source *source, const struct oci_events *events,
                    struct sm_error *err)
{
    size_t n = img->sel.manifest.n_layers;
    int r;

    img->layers = calloc(n + 1, sizeof(*img->layers));
    if (!img->layers)
        return no_memory(err);
    for (size_t i = 0; i < n; i++)
        img->layers[i] = (struct open_layer){.data_fd = -1, .index_fd = -1};
    r = open_layers(img, err);
    if (r == -ENOENT) {
        r = ensure_layers(img->store, &img->sel, source, events, err);
        if (r >= 0) {
            r = open_layers(img, err);
            if (r == -ENOENT)
                r = sm_error_set(err, ENOENT, "a layer vanished from the image store: try again");
        }
    }
    if (r >= 0)
        r = ensure_meta(img, events, err);
    if (r >= 0)
        r = list_extents(img, err);
    for (size_t i = 0; i < n; i++)
        close_fd(&img->layers[i].index_fd);
    return r;
}

int image_assemble(struct oci_image **ret, struct oci_store *store, struct selected *sel,
                   const struct layer_source *source, const struct oci_events *events, struct sm_error *err)
{
    struct oci_image *img = calloc(1, sizeof(*img));
    int r;

    if (!img) {
        selected_done(sel);
        return no_memory(err);
    }
    img->store = store;
    img->meta_fd = -1;
    img->sel = *sel;
    *sel = (struct selected){.manifest = {.n_layers = 0}};
    digest_str(&img->sel.manifest_digest, img->digest);
    r = assemble(img, source, events, err);
    if (r < 0) {
        oci_image_free(img);
        return r;
    }
    *ret = img;
    return 0;
}

void oci_image_free(struct oci_image *img)
{
    if (!img)
        return;
    close_layers(img);
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
