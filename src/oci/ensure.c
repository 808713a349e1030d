/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Getting an image's layers into the store.
 *
 * Theory of operation
 *
 * What: rounds. Each looks which layers are missing, takes the locks of those that nobody else works at, and converts
 * them, a few at a time; each is put into its place, and its lock given up, as soon as it is done. When everything that
 * is missing is in other hands, a round only waits for a moment. It ends when nothing is missing.
 *
 * Locks: one for a layer (by its diff id), and the source's own for its blob. Neither is waited for while another one
 * is held, so two processes that want the same layers in different orders, or under different names, cannot block each
 * other; and each works at what the other does not. A process that dies gives its locks up, and the next round takes
 * its work over.
 *
 * Order at the end of a layer: first its blob into its place, then the converted layer. A crash in between costs the
 * conversion, not the transfer.
 */
#include "oci/ensure.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "oci/events.h"
#include "oci/limits.h"
#include "oci/store.h"

struct work {
    unsigned layer; /* its number in the manifest */
    bool acquired;
    int lock_fd, blob_fd, data_fd, index_fd;
    struct store_temp temp;
};

struct ensure {
    struct oci_store *store;
    const struct selected *sel;
    const struct layer_source *source;
    const struct oci_events *events;
    bool told[OCI_MAX_LAYERS]; /* that it is there */

    /* this round's */
    struct convert_job jobs[OCI_MAX_LAYERS];
    struct work work[OCI_MAX_LAYERS];
    unsigned n;
    unsigned missing; /* jobs among them */
    bool busy;        /* something is in other hands */
};

static const struct descriptor *layer_of(const struct ensure *e, unsigned layer)
{
    return &e->sel->manifest.layers[layer];
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

static void release(struct ensure *e, struct work *w)
{
    close_fd(&w->blob_fd);
    close_fd(&w->data_fd);
    close_fd(&w->index_fd);
    store_temp_discard(&w->temp);
    if (w->acquired && e->source->release)
        e->source->release(e->source->ctx, w->layer);
    w->acquired = false;
    close_fd(&w->lock_fd);
}

/* Hooks of the conversion */

static int begin_job(void *ctx, unsigned job, struct convert_files *ret, struct sm_error *err)
{
    struct ensure *e = ctx;
    struct work *w = &e->work[job];
    int r;

    w->blob_fd = e->source->open(e->source->ctx, w->layer, layer_of(e, w->layer), err);
    if (w->blob_fd < 0)
        return w->blob_fd;
    r = store_temp_new(&w->temp, e->store, err);
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
    struct ensure *e = ctx;
    struct work *w = &e->work[job];
    const struct descriptor *d = layer_of(e, w->layer);
    int r = e->source->complete ? e->source->complete(e->source->ctx, w->layer, d, err) : 0;

    if (r >= 0)
        r = store_temp_commit(&w->temp, STORE_LAYER, &e->jobs[job].diff_id, err);
    release(e, w);
    if (r < 0)
        return r;
    e->told[w->layer] = true;
    return event_tell(e->events, OCI_EVENT_DONE, &d->digest, d->size, d->size, err);
}

static int job_growth(void *ctx, unsigned job, struct convert_growth *ret, struct sm_error *err)
{
    struct ensure *e = ctx;

    return e->source->growth(e->source->ctx, e->work[job].layer, ret, err);
}

static int job_wait(void *ctx, struct pollfd *fds, unsigned n, int timeout_ms, struct sm_error *err)
{
    struct ensure *e = ctx;

    return e->source->wait(e->source->ctx, fds, n, timeout_ms, err);
}

static bool job_mismatch(void *ctx, unsigned job)
{
    struct ensure *e = ctx;

    return e->source->mismatch(e->source->ctx, e->work[job].layer);
}

static int convert(struct ensure *e, struct sm_error *err)
{
    struct convert_hooks hooks = {.begin = begin_job,
                                  .complete = complete_job,
                                  .ctx = e,
                                  .growth = e->source->growth ? job_growth : NULL,
                                  .wait = e->source->wait ? job_wait : NULL,
                                  .mismatch = e->source->mismatch ? job_mismatch : NULL};

    return convert_layers(e->jobs, e->n, &hooks, e->events, err);
}

/* Rounds */

/* A missing layer becomes a job of this round, unless it is in other hands, or has just come out of them. */
static int take(struct ensure *e, unsigned layer, struct sm_error *err)
{
    const struct descriptor *d = layer_of(e, layer);
    const struct digest *diff_id = &e->sel->config.diff_ids[layer];
    struct work w = {.layer = layer, .blob_fd = -1, .data_fd = -1, .index_fd = -1, .temp = STORE_TEMP_INIT};
    int r;

    w.lock_fd = store_try_lock(e->store, STORE_LAYER, diff_id, err);
    if (w.lock_fd == -EAGAIN) {
        e->busy = true;
        return 0;
    }
    if (w.lock_fd < 0)
        return w.lock_fd;
    r = is_stored(e->store, diff_id, err);
    if (!r) {
        r = e->source->acquire ? e->source->acquire(e->source->ctx, layer, d, err) : 1;
        if (r > 0) {
            w.acquired = true;
            e->work[e->n] = w;
            e->jobs[e->n++] = (struct convert_job){.blob = d->digest,
                                                   .diff_id = *diff_id,
                                                   .blob_size = d->size,
                                                   .compressed = d->media == MEDIA_LAYER_COMPRESSED};
            return 0;
        }
        e->busy |= !r;
    }
    close_fd(&w.lock_fd);
    return r < 0 ? r : 0;
}

static int look_at(struct ensure *e, unsigned layer, struct sm_error *err)
{
    const struct digest *diff_id = &e->sel->config.diff_ids[layer];
    char name[DIGEST_STR_SIZE];
    int r;

    for (unsigned i = 0; i < e->n; i++) {
        if (digest_equal(&e->jobs[i].diff_id, diff_id)) {
            e->missing++;
            return 0;
        }
    }
    r = is_stored(e->store, diff_id, err);
    if (r < 0)
        return r;
    if (r) {
        if (e->told[layer])
            return 0;
        e->told[layer] = true;
        return event_tell(e->events, OCI_EVENT_DONE, &layer_of(e, layer)->digest, 0, layer_of(e, layer)->size, err);
    }
    digest_str(&layer_of(e, layer)->digest, name);
    if (!e->source)
        return sm_error_set(err, ENOENT, "layer %s is not in the image store", name);
    e->missing++;
    r = take(e, layer, err);
    return r < 0 ? sm_error_wrap(err, "layer %s", name) : 0;
}

/* Everything that is missing is in other hands. */
static int wait_for_others(const struct ensure *e, struct sm_error *err)
{
    int r = 0;

    for (unsigned i = 0; r >= 0 && i < e->sel->manifest.n_layers; i++) {
        if (!e->told[i])
            r = event_tell(e->events, OCI_EVENT_WAITING, &layer_of(e, i)->digest, 0, layer_of(e, i)->size, err);
    }
    if (r >= 0 && e->busy)
        poll(NULL, 0, EVENT_TICK_MS);
    return r;
}

int ensure_layers(struct oci_store *store, const struct selected *sel, const struct layer_source *source,
                  const struct oci_events *events, struct sm_error *err)
{
    struct ensure *e = calloc(1, sizeof(*e));
    int r = 0;

    if (!e)
        return sm_error_set(err, ENOMEM, "out of memory while converting layers");
    assert(sel->manifest.n_layers == sel->config.n_diff_ids && sel->manifest.n_layers <= OCI_MAX_LAYERS);
    *e = (struct ensure){.store = store, .sel = sel, .source = source, .events = events};
    do {
        e->n = e->missing = 0;
        e->busy = false;
        for (unsigned i = 0; r >= 0 && i < sel->manifest.n_layers; i++)
            r = look_at(e, i, err);
        if (r >= 0 && e->missing)
            r = e->n ? convert(e, err) : wait_for_others(e, err);
        for (unsigned i = 0; i < e->n; i++)
            release(e, &e->work[i]);
    } while (r >= 0 && e->missing);
    free(e);
    return r < 0 ? r : 0;
}
