/* SPDX-License-Identifier: Apache-2.0 */
/* Are converted layers, and what is merged from them, what conversion makes? See fsck.c. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "oci/blobs.h"
#include "oci/convert.h"
#include "oci/erofs.h"
#include "oci/fsck_parts.h"
#include "oci/index.h"
#include "oci/limits.h"
#include "oci/meta.h"
#include "oci/store_dirs.h"

#define CHUNK (256 * 1024u)

/* Comparing */

/* The first byte from `off` on that is no hole in one of them; the end when there is none. */
static uint64_t next_data(int a, int b, uint64_t off, uint64_t size)
{
    off_t x = lseek(a, (off_t)off, SEEK_DATA), y = lseek(b, (off_t)off, SEEK_DATA);

    if (x < 0)
        x = errno == ENXIO ? (off_t)size : (off_t)off;
    if (y < 0)
        y = errno == ENXIO ? (off_t)size : (off_t)off;
    return (uint64_t)(x < y ? x : y);
}

/* 1: the same bytes, 0: not; a file that cannot be read is another one. */
static int same_files(int a, int b, struct sm_error *err)
{
    CLEANUP_FREE uint8_t *buf = malloc(2 * CHUNK);
    struct stat x, y;
    uint64_t size;

    if (!buf)
        return sm_error_set(err, ENOMEM, "out of memory while checking layers");
    if (fstat(a, &x) < 0 || fstat(b, &y) < 0 || x.st_size != y.st_size)
        return 0;
    size = (uint64_t)x.st_size;
    for (uint64_t off = next_data(a, b, 0, size); off < size; off = next_data(a, b, off, size)) {
        ssize_t n = io_pread_full(a, buf, CHUNK, off);

        if (n <= 0 || io_pread_full(b, buf + CHUNK, CHUNK, off) != n || memcmp(buf, buf + CHUNK, (size_t)n) != 0)
            return 0;
        off += (uint64_t)n;
    }
    return 1;
}

/* Layers */

struct layer_files {
    int data_fd, index_fd;
    uint64_t data_size;
};

#define LAYER_FILES_INIT                                                                                               \
    {                                                                                                                  \
        -1, -1, 0                                                                                                      \
    }

static void layer_files_close(struct layer_files *f)
{
    close_fd(&f->data_fd);
    close_fd(&f->index_fd);
}

/* 1: its structure is right. */
static int check_structure(struct check *c, const struct digest *diff_id, struct layer_files *ret, struct sm_error *err)
{
    struct index_reader *index;
    struct oci_entry e;
    int r = store_open_layer(c->store, diff_id, &ret->data_fd, &ret->index_fd, &ret->data_size, err);

    if (r >= 0)
        r = index_reader_new(&index, ret->index_fd, err);
    if (r == -ENOENT || r == -EBADMSG || r == -EIO) /* a bad disk is a damaged layer */
        return 0;
    if (r < 0)
        return r;
    while ((r = index_read(index, &e, err)) > 0 && entry_check(&e, NULL) >= 0)
        ;
    index_reader_free(index);
    return r == -ENOMEM ? r : r == 0;
}

/* The layer made again from a blob, below a temporary directory. */
struct again {
    struct check *c;
    const struct fsck_origin *from;
    struct store_temp temp;
    int blob_fd;
    struct layer_files files;
};

static int begin(void *ctx, unsigned job, struct convert_files *ret, struct sm_error *err)
{
    struct again *a = ctx;
    uint64_t size;
    int r;

    (void)job;
    a->blob_fd = r = blob_open(a->c->store, &a->from->blob, &size, err);
    if (r == -ENOENT)
        return sm_error_set(err, EBADMSG, "the blob went");
    if (r >= 0)
        r = store_temp_new(&a->temp, a->c->store, err);
    if (r >= 0)
        a->files.data_fd = r = store_temp_file(&a->temp, "data", err);
    if (r >= 0)
        a->files.index_fd = r = store_temp_file(&a->temp, "index", err);
    if (r < 0)
        return r;
    *ret = (struct convert_files){a->blob_fd, a->files.data_fd, a->files.index_fd};
    return 0;
}

static int complete(void *ctx, unsigned job, struct sm_error *err)
{
    (void)ctx;
    (void)job;
    (void)err;
    return 0;
}

static int forward(void *ctx, const struct oci_event *event)
{
    struct check *c = ctx;

    (void)event;
    return check_step(c, 0, NULL);
}

static void again_done(struct again *a)
{
    close_fd(&a->blob_fd);
    layer_files_close(&a->files);
    store_temp_discard(&a->temp);
}

/* A disk that is full or read-only: there is no room to make anything again. */
static bool is_no_room(int r)
{
    return r == -ENOSPC || r == -EDQUOT || r == -EROFS || r == -EACCES;
}

/* 1: made. 0: there is no room, or no good blob of it, or the blob makes another layer (then the image lies, and the
 * layer came from elsewhere). */
static int make_again(struct again *a, struct check *c, const struct digest *diff_id, struct sm_error *err)
{
    struct sm_error why = SM_ERROR_INIT;

    *a = (struct again){.c = c, .temp = STORE_TEMP_INIT, .blob_fd = -1, .files = LAYER_FILES_INIT};
    for (size_t i = 0; i < c->n_origins; i++) {
        struct convert_job job;
        int r;

        a->from = &c->origins[i];
        if (!digest_equal(&a->from->diff_id, diff_id) || !check_is_good(c, GRAPH_BLOB, &a->from->blob))
            continue;
        job = (struct convert_job){a->from->blob, *diff_id, a->from->size, a->from->compressed};
        r = convert_layers(&job, 1, &(struct convert_hooks){.begin = begin, .complete = complete, .ctx = a},
                           &(struct oci_events){forward, c}, &why);
        if (r >= 0)
            return 1;
        again_done(a);
        if (is_no_room(r))
            return 0;
        if (r == -ENOMEM || r == -ECANCELED) {
            if (err)
                *err = why;
            return r;
        }
    }
    return 0;
}

/* Into the place of the damaged one, unless somebody else is just making it. */
static bool replace(struct check *c, enum store_kind kind, const struct digest *name, struct store_temp *temp)
{
    CLEANUP_FD int lock_fd = store_try_lock(c->store, kind, name, NULL);

    return lock_fd >= 0 && store_temp_commit(temp, kind, name, NULL) >= 0;
}

static bool take_out(struct check *c, enum store_kind store_kind, const struct graph_object *o)
{
    CLEANUP_FD int lock_fd = store_try_lock(c->store, store_kind, &o->name, NULL);

    return lock_fd >= 0 && graph_object_remove(c->store, o->kind, &o->name, NULL) >= 0;
}

static int check_layer(struct check *c, uint32_t number, struct sm_error *err)
{
    const struct graph_object *o = &c->g->objects[number];
    struct layer_files files = LAYER_FILES_INIT;
    const char *text = "its index or the size of its data is wrong: it is damaged";
    struct again a;
    bool repaired = false;
    int good = check_structure(c, &o->name, &files, err), made;

    if (good < 0) {
        layer_files_close(&files);
        return good;
    }
    made = make_again(&a, c, &o->name, err);
    if (good && made > 0) {
        good = same_files(files.index_fd, a.files.index_fd, err);
        if (good > 0)
            good = same_files(files.data_fd, a.files.data_fd, err);
        text = "it is not what its blob makes: it is damaged";
    }
    if (!good && made >= 0) {
        if (c->o->repair)
            repaired = made ? replace(c, STORE_LAYER, &o->name, &a.temp) : take_out(c, STORE_LAYER, o);
        c->bad[number] = !(repaired && made);
        check_problem(c, FSCK_LAYER, "layer", &o->name, text, repaired);
    }
    again_done(&a);
    layer_files_close(&files);
    c->result.unproven += good > 0 && !made;
    return made < 0 ? made : good < 0 ? good : check_step(c, o->bytes, err);
}

int check_layers(struct check *c, struct sm_error *err)
{
    int r = 0;

    for (uint32_t i = 0; r >= 0 && i < c->g->n_objects; i++) {
        if (c->g->objects[i].kind == GRAPH_LAYER)
            r = check_layer(c, i, err);
    }
    return r;
}

/* Metadata */

/* 1: written to temp/meta.erofs; 0: a layer is not there, or not right; or there is no room. */
static int merge_again(struct check *c, const struct image_parts *p, const struct digest *key, struct store_temp *temp,
                       int *ret_fd, struct sm_error *err)
{
    size_t n = p->config.n_diff_ids;
    struct meta_layer *layers = calloc(n + 1, sizeof(*layers));
    CLEANUP_FD int fd = -1;
    uint64_t size;
    size_t opened;
    int r = layers ? 1 : sm_error_set(err, ENOMEM, "out of memory while checking images");

    for (opened = 0; r > 0 && opened < n; opened++) {
        const struct digest *diff_id = &p->config.diff_ids[opened];
        int data_fd = -1, index_fd = -1;

        r = check_is_good(c, GRAPH_LAYER, diff_id)
                ? store_open_layer(c->store, diff_id, &data_fd, &index_fd, &size, err)
                : -ENOENT;
        layers[opened] = (struct meta_layer){*diff_id, index_fd, size};
        close_fd(&data_fd);
        r = r == -ENOENT ? 0 : r < 0 ? r : 1;
    }
    if (r > 0) {
        r = store_temp_new(temp, c->store, err);
        if (r >= 0)
            fd = r = store_temp_file(temp, "meta.erofs", err);
        if (r >= 0)
            r = meta_write(layers, n, key, fd, &size, err);
        r = is_no_room(r) ? 0 : r < 0 ? r : 1;
    }
    for (size_t i = 0; layers && i < opened; i++)
        close_fd(&layers[i].index_fd);
    free(layers);
    if (r > 0)
        *ret_fd = steal_fd(&fd);
    return r;
}

static void damaged_meta(struct check *c, uint32_t number, struct store_temp *made)
{
    const struct graph_object *o = &c->g->objects[number];
    bool repaired = false;

    if (c->o->repair)
        repaired = made ? replace(c, STORE_IMAGE, &o->name, made) : take_out(c, STORE_IMAGE, o);
    c->bad[number] = !(repaired && made);
    check_problem(c, FSCK_META, "merged image", &o->name, "it is not what its layers make: it is damaged", repaired);
}

static int open_meta(const struct check *c, const struct digest *key)
{
    char path[DIGEST_HEX_SIZE + 16];
    struct stat st;

    digest_hex(key, path);
    memcpy(path + strlen(path), "/meta.erofs", sizeof("/meta.erofs"));
    return store_open_file(c->store, c->store->images_fd, path, &st, NULL);
}

static int check_merged(struct check *c, const struct image_parts *p, bool *looked_at, struct sm_error *err)
{
    struct store_temp temp = STORE_TEMP_INIT;
    const struct graph_object *o;
    CLEANUP_FD int again_fd = -1;
    CLEANUP_FD int fd = -1;
    struct digest key;
    int r;

    if (!p->has_config || p->config.n_diff_ids > OCI_MAX_LAYERS)
        return 0;
    r = meta_key(p->config.diff_ids, p->config.n_diff_ids, &key, err);
    if (r < 0)
        return r;
    o = graph_find(c->g, GRAPH_META, &key);
    if (!o || looked_at[o - c->g->objects])
        return 0;
    r = merge_again(c, p, &key, &temp, &again_fd, err);
    if (r > 0) {
        looked_at[o - c->g->objects] = true;
        fd = open_meta(c, &key);
        r = fd < 0 ? 0 : same_files(fd, again_fd, err);
        if (!r)
            damaged_meta(c, (uint32_t)(o - c->g->objects), &temp);
    }
    store_temp_discard(&temp);
    return r < 0 ? r : check_step(c, o->bytes, err);
}

/* What is left: of images that have no record, or lack a layer. */
static int check_alone(struct check *c, uint32_t number, struct sm_error *err)
{
    CLEANUP_FD int fd = open_meta(c, &c->g->objects[number].name);
    int r = fd < 0 ? 0 : erofs_check(fd, 0);

    if (r < 0 && r != -EIO)
        return store_fail(c->store, err, -r, "cannot read a merged image");
    if (r <= 0)
        damaged_meta(c, number, NULL);
    c->result.unproven += r > 0;
    return check_step(c, c->g->objects[number].bytes, err);
}

int check_metas(struct check *c, struct sm_error *err)
{
    CLEANUP_FREE bool *looked_at = calloc(c->g->n_objects + 1, sizeof(*looked_at));
    int r = looked_at ? 0 : sm_error_set(err, ENOMEM, "out of memory while checking images");

    for (uint32_t i = 0; r >= 0 && i < c->g->n_images; i++) {
        struct image_parts p;

        r = image_parts_read(&p, c->store, &c->g->images[i].manifest, err);
        if (r < 0)
            return r;
        r = check_merged(c, &p, looked_at, err);
        image_parts_done(&p);
    }
    for (uint32_t i = 0; r >= 0 && i < c->g->n_objects; i++) {
        if (c->g->objects[i].kind == GRAPH_META && !looked_at[i])
            r = check_alone(c, i, err);
    }
    return r;
}
