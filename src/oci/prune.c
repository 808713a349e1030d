/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pruning.
 *
 * Theory of operation
 *
 * What: everything that may go is a candidate: an object that no record reaches, or an image with all its records.
 * Candidates are taken in this order, each kind by its last use, the oldest first: objects, bakes of images that are
 * there, images without a name, images with one (only with `all`), bases that no snapshot needs any more. With
 * max_bytes it stops as soon as the store takes no more than that.
 *
 * Bakes and bases are made again when they are missing, which costs a start or two its speed. So they only go when room
 * is asked for: with `all`, an age or a size. What a user saved of a machine never goes here, nor do its base, and
 * snapshots of other versions.
 *
 * An object that nothing reaches is a layer or the metadata of an image that was opened from a layout, half of a cut
 * pull, or what a killed process left. Its last use is not known: when it was made counts.
 *
 * With the store to itself, prune also removes the locks of objects (nobody takes one without gc_enter, but those of
 * snapshots: see tidy_lock), and times of use that belong to no image.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/gc.h"
#include "oci/json.h"
#include "oci/removal.h"
#include "oci/store_dirs.h"

struct candidate {
    enum { OBJECT, BAKE, UNNAMED, NAMED, BASE } order;
    int64_t used_s;
    uint32_t number; /* of the object or image */
};

static int compare_candidates(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;

    if (x->order != y->order)
        return (int)x->order - (int)y->order;
    if (x->used_s != y->used_s)
        return x->used_s < y->used_s ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

static bool is_old(int64_t used_s, uint64_t older_than_s, int64_t now)
{
    return !older_than_s || (now > used_s && (uint64_t)(now - used_s) >= older_than_s);
}

/* False: it may not go. */
static bool order_of(const struct graph *g, const struct graph_object *o, bool asks, struct candidate *ret)
{
    ret->order = OBJECT;
    if (o->kind != GRAPH_SNAPSHOT)
        return !o->records;
    switch (graph_snapshot(g, o)->kind) {
    case GRAPH_SNAPSHOT_BAKE:
        ret->order = o->records ? BAKE : OBJECT;
        return asks || !o->records;
    case GRAPH_SNAPSHOT_BASE:
        ret->order = BASE;
        return asks;
    case GRAPH_SNAPSHOT_KEPT:
        return false;
    case GRAPH_SNAPSHOT_BAD:
        break;
    }
    return true;
}

static uint32_t list_candidates(struct candidate *ret, const struct graph *g, const struct prune_options *o)
{
    bool asks = o->all || o->older_than_s || o->max_bytes;
    int64_t now = time(NULL);
    uint32_t n = 0;

    for (uint32_t i = 0; i < g->n_objects; i++) {
        struct candidate c = {.used_s = g->objects[i].made_s, .number = i};

        if (order_of(g, &g->objects[i], asks, &c) && is_old(c.used_s, o->older_than_s, now))
            ret[n++] = c;
    }
    for (uint32_t i = 0; i < g->n_images; i++) {
        const struct graph_image *image = &g->images[i];

        if ((!image->named || o->all) && is_old(image->used_s, o->older_than_s, now))
            ret[n++] = (struct candidate){image->named ? NAMED : UNNAMED, image->used_s, i};
    }
    return n;
}

static int remove_candidate(struct removal *r, const struct candidate *c, struct sm_error *err)
{
    if (c->order == UNNAMED || c->order == NAMED)
        return removal_image(r, &r->g->images[c->number], err);
    return r->g->objects[c->number].needed ? 0 : removal_object(r, c->number, err);
}

static int prune(struct removal *r, const struct prune_options *o, struct sm_error *err)
{
    struct candidate *list = calloc((size_t)r->g->n_objects + r->g->n_images + 1, sizeof(*list));
    uint64_t total = 0;
    uint32_t n;
    int code = 0;

    if (!list)
        return sm_error_set(err, ENOMEM, "out of memory while pruning images");
    for (uint32_t i = 0; i < r->g->n_objects; i++)
        total += r->g->objects[i].bytes;
    n = list_candidates(list, r->g, o);
    qsort(list, n, sizeof(*list), compare_candidates);
    for (uint32_t i = 0; code >= 0 && i < n; i++) {
        if (o->max_bytes && total - r->result.bytes <= o->max_bytes)
            break;
        code = remove_candidate(r, &list[i], err);
    }
    free(list);
    return code;
}

static int compare_to_image(const void *key, const void *image)
{
    return memcmp(key, &((const struct graph_image *)image)->manifest, DIGEST_BYTES);
}

/* A snapshot's lock is taken without gc_enter: only one that nobody has goes, and who takes one looks at it again. */
static void tidy_lock(struct oci_store *s, const char *name)
{
    CLEANUP_FD int fd = -1;

    if (strncmp(name, "snapshot-", 9) == 0) {
        fd = openat(s->locks_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
            return;
    }
    unlinkat(s->locks_fd, name, 0);
}

/* Locks of objects, times of use: small, but they would only ever become more. Best effort. */
static void tidy(struct oci_store *s, const struct graph *g)
{
    char **names, text[DIGEST_STR_SIZE] = "sha256:";
    struct digest d;
    size_t n;

    if (store_list_dir(s, s->locks_fd, true, &names, &n, NULL) >= 0) {
        for (size_t i = 0; i < n; i++) {
            if (strchr(names[i], '-')) /* "gc" and "names" have none */
                tidy_lock(s, names[i]);
        }
        strings_free(names);
    }
    if (store_list_dir(s, s->used_fd, false, &names, &n, NULL) < 0)
        return;
    for (size_t i = 0; i < n; i++) {
        memcpy(text + 7, names[i], DIGEST_HEX_SIZE);
        if (digest_parse(&d, text, "", NULL) >= 0 &&
            !bsearch(&d, g->images, g->n_images, sizeof(*g->images), compare_to_image))
            unlinkat(s->used_fd, names[i], 0);
    }
    strings_free(names);
}

int gc_prune(struct oci_store *s, const struct prune_options *o, struct gc_result *ret, struct sm_error *err)
{
    CLEANUP_FD int lock_fd = o->dry_run ? gc_enter(s, err) : gc_alone(s, err);
    struct removal r;
    int code;

    if (lock_fd < 0)
        return lock_fd;
    code = removal_init(&r, s, o->dry_run, err);
    if (code < 0)
        return code;
    code = prune(&r, o, err);
    if (code >= 0 && !o->dry_run)
        tidy(s, r.g);
    if (code >= 0)
        removal_give(&r, ret);
    removal_done(&r);
    return code;
}
