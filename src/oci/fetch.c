/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fetching layers' blobs.
 *
 * Theory of operation
 *
 * What: a source (source.h) whose blobs are files of the store: finished ones, or those that are just being fetched. A
 * layer that has been acquired is queued; OCI_PARALLEL_FETCHES of them are on their way at a time, in the order of the
 * manifest, whether or not their conversion has begun. All of it happens inside wait().
 *
 * What an earlier, cut fetch left is gone on with. Nobody vouches for it until whoever reads the file has hashed all of
 * it; when the digest is wrong then, it is fetched anew, once: what came over the network in one piece has no second
 * chance, and the file goes.
 *
 * Locks: of a blob that is not finished, from acquire to release. It is only tried for, so that nobody waits here while
 * others wait for what this process holds.
 */
#include "oci/fetch.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "oci/blobs.h"
#include "oci/events.h"
#include "oci/limits.h"
#include "oci/registry.h"
#include "oci/store.h"

#define HASH_CHUNK (256 * 1024u)

struct slot {
    enum { SLOT_NONE, SLOT_QUEUED, SLOT_RUNNING, SLOT_HERE } state;
    struct digest digest;
    uint64_t size;
    int lock_fd, fd;
    int out_fd;    /* the reader's copy of `fd`, not ours to close */
    bool finished; /* `fd` is of a blob in its place: only the reader doubts it */
    bool fresh;    /* nothing in the file is from before */
    uint64_t have; /* bytes in the file when the fetch began; all of them when it is here */
    unsigned generation;
    struct registry_fetch *fetch;
};

struct fetcher {
    struct oci_store *store;
    struct fetcher_hooks hooks;
    const struct oci_events *events;
    struct registry *registry; /* NULL: not needed so far */
    struct slot slots[OCI_MAX_LAYERS];
    uint64_t bytes, told_ns;
};

static int fail(const struct slot *s, struct sm_error *err)
{
    char name[DIGEST_STR_SIZE];

    digest_str(&s->digest, name);
    return sm_error_wrap(err, "layer %s", name);
}

/* Moving */

/* The transfer ends, by itself or not. */
static void stop(struct fetcher *f, struct slot *s)
{
    uint64_t available = s->have;
    bool done;

    if (!s->fetch)
        return;
    registry_fetch_state(s->fetch, &available, &done, NULL);
    f->bytes += available - s->have;
    registry_fetch_free(s->fetch);
    s->fetch = NULL;
}

static void arrived(struct fetcher *f, struct slot *s)
{
    stop(f, s);
    s->have = s->size;
    s->state = SLOT_HERE;
}

static int start(struct fetcher *f, struct slot *s, struct sm_error *err)
{
    int r = f->registry ? 0 : f->hooks.connect(f->hooks.ctx, &f->registry, err);

    if (r >= 0)
        r = registry_fetch_start(&s->fetch, f->registry, &s->digest, s->size, s->fd, s->have, err);
    if (r < 0)
        return fail(s, err);
    s->state = SLOT_RUNNING;
    return event_tell(f->events, OCI_EVENT_FETCHING, &s->digest, s->have, s->size, err);
}

static int start_some(struct fetcher *f, struct sm_error *err)
{
    unsigned running = 0;
    int r = 0;

    for (unsigned i = 0; i < OCI_MAX_LAYERS; i++)
        running += f->slots[i].state == SLOT_RUNNING;
    for (unsigned i = 0; r >= 0 && running < OCI_PARALLEL_FETCHES && i < OCI_MAX_LAYERS; i++) {
        if (f->slots[i].state == SLOT_QUEUED) {
            r = start(f, &f->slots[i], err);
            running++;
        }
    }
    return r;
}

/* A failure ends everything at once, also that of a layer whose turn would come only later. */
static int look_at(struct fetcher *f, struct slot *s, struct sm_error *err)
{
    uint64_t available;
    bool done;
    int r = registry_fetch_state(s->fetch, &available, &done, err);

    if (r < 0)
        return fail(s, err);
    if (!done)
        return 0;
    arrived(f, s);
    return event_tell(f->events, OCI_EVENT_FETCHING, &s->digest, s->size, s->size, err);
}

int fetcher_tell(struct fetcher *f, struct sm_error *err)
{
    int r = 0;

    if (!event_due(f->events, &f->told_ns))
        return 0;
    for (unsigned i = 0; r >= 0 && i < OCI_MAX_LAYERS; i++) {
        const struct slot *s = &f->slots[i];
        uint64_t available = s->have;
        bool done;

        if (!s->fetch)
            continue;
        registry_fetch_state(s->fetch, &available, &done, NULL);
        r = event_tell(f->events, OCI_EVENT_FETCHING, &s->digest, available, s->size, err);
    }
    return r;
}

static int source_wait(void *ctx, struct pollfd *fds, unsigned n, int timeout_ms, struct sm_error *err)
{
    struct fetcher *f = ctx;
    int r = start_some(f, err);

    if (r < 0)
        return r;
    if (f->registry) {
        r = registry_wait(f->registry, fds, n, timeout_ms, err);
    } else {
        assert(n || timeout_ms >= 0);
        r = poll(fds, n, timeout_ms) < 0 && errno != EINTR ? sm_error_sys(err, errno, "cannot wait for a layer") : 0;
    }
    for (unsigned i = 0; r >= 0 && i < OCI_MAX_LAYERS; i++) {
        if (f->slots[i].state == SLOT_RUNNING)
            r = look_at(f, &f->slots[i], err);
    }
    return r < 0 ? r : fetcher_tell(f, err);
}

static int source_growth(void *ctx, unsigned layer, struct convert_growth *ret, struct sm_error *err)
{
    struct fetcher *f = ctx;
    struct slot *s = &f->slots[layer];
    int r;

    *ret = (struct convert_growth){.available = s->have, .done = s->state == SLOT_HERE, .generation = s->generation};
    if (s->state != SLOT_RUNNING)
        return 0;
    r = registry_fetch_state(s->fetch, &ret->available, &ret->done, err);
    if (r >= 0 && ret->done)
        arrived(f, s);
    return r;
}

/* Files */

static int open_finished(struct fetcher *f, struct slot *s, struct sm_error *err)
{
    uint64_t size;
    int fd = blob_open(f->store, &s->digest, &size, err);

    if (fd == -ENOENT)
        return 0;
    if (fd < 0)
        return fd;
    if (size != s->size) {
        close(fd);
        return 0;
    }
    s->fd = fd;
    s->finished = true;
    s->have = size;
    s->state = SLOT_HERE;
    return 1;
}

/* With the lock held. */
static int open_partial(struct fetcher *f, struct slot *s, struct sm_error *err)
{
    s->fd = blob_partial_open(f->store, &s->digest, &s->have, err);
    if (s->fd < 0)
        return s->fd;
    if (s->have > s->size) {
        if (ftruncate(s->fd, 0) < 0)
            return sm_error_sys(err, errno, "cannot begin to fetch anew");
        s->have = 0;
    }
    s->fresh = !s->have;
    s->state = s->have == s->size ? SLOT_HERE : SLOT_QUEUED;
    return 0;
}

static void slot_done(struct fetcher *f, struct slot *s)
{
    stop(f, s);
    close_fd(&s->fd);
    close_fd(&s->lock_fd);
    *s = (struct slot){.lock_fd = -1, .fd = -1, .out_fd = -1};
}

static int source_acquire(void *ctx, unsigned layer, const struct descriptor *d, struct sm_error *err)
{
    struct fetcher *f = ctx;
    struct slot *s = &f->slots[layer];
    int r;

    assert(s->state == SLOT_NONE);
    s->digest = d->digest;
    s->size = d->size;
    r = open_finished(f, s, err);
    if (r)
        return r;
    s->lock_fd = store_try_lock(f->store, STORE_BLOB, &d->digest, err);
    if (s->lock_fd == -EAGAIN)
        return 0;
    r = s->lock_fd < 0 ? s->lock_fd : open_finished(f, s, err);
    if (!r)
        r = open_partial(f, s, err);
    if (r < 0)
        slot_done(f, s);
    return r < 0 ? r : 1;
}

static int source_open(void *ctx, unsigned layer, const struct descriptor *d, struct sm_error *err)
{
    struct fetcher *f = ctx;
    struct slot *s = &f->slots[layer];

    (void)d;
    s->out_fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
    return s->out_fd < 0 ? sm_error_sys(err, errno, "cannot open a layer's blob") : s->out_fd;
}

/* Put a file to be fetched into in the place of a damaged blob, for the reader too. */
static bool replace_finished(struct fetcher *f, struct slot *s)
{
    if (s->lock_fd < 0)
        s->lock_fd = store_try_lock(f->store, STORE_BLOB, &s->digest, NULL);
    if (s->lock_fd < 0) {
        s->lock_fd = -1;
        return false;
    }
    close_fd(&s->fd);
    s->finished = false;
    s->fd = blob_partial_open(f->store, &s->digest, &s->have, NULL);
    return s->fd >= 0 && (s->out_fd < 0 || dup3(s->fd, s->out_fd, O_CLOEXEC) >= 0);
}

static bool source_mismatch(void *ctx, unsigned layer)
{
    struct fetcher *f = ctx;
    struct slot *s = &f->slots[layer];

    assert(s->state == SLOT_HERE);
    if (s->finished) {
        if (!replace_finished(f, s))
            return false;
    } else if (s->fresh) {
        blob_partial_discard(f->store, &s->digest, NULL);
        return false;
    }
    if (ftruncate(s->fd, 0) < 0)
        return false;
    s->have = 0;
    s->fresh = true;
    s->generation++;
    s->state = SLOT_QUEUED;
    return true;
}

static int source_complete(void *ctx, unsigned layer, const struct descriptor *d, struct sm_error *err)
{
    struct fetcher *f = ctx;
    struct slot *s = &f->slots[layer];

    assert(s->state == SLOT_HERE);
    return s->finished ? 0 : blob_partial_commit(f->store, &d->digest, s->fd, err);
}

static void source_release(void *ctx, unsigned layer)
{
    struct fetcher *f = ctx;

    slot_done(f, &f->slots[layer]);
}

/* The whole */

int fetcher_new(struct fetcher **ret, struct oci_store *store, const struct fetcher_hooks *hooks,
                const struct oci_events *events, struct sm_error *err)
{
    struct fetcher *f = calloc(1, sizeof(*f));

    if (!f)
        return sm_error_set(err, ENOMEM, "out of memory while fetching layers");
    *f = (struct fetcher){.store = store, .hooks = *hooks, .events = events};
    for (unsigned i = 0; i < OCI_MAX_LAYERS; i++)
        f->slots[i] = (struct slot){.lock_fd = -1, .fd = -1, .out_fd = -1};
    *ret = f;
    return 0;
}

void fetcher_free(struct fetcher *f)
{
    for (unsigned i = 0; f && i < OCI_MAX_LAYERS; i++)
        slot_done(f, &f->slots[i]);
    free(f);
}

struct layer_source fetcher_source(struct fetcher *f)
{
    return (struct layer_source){.acquire = source_acquire,
                                 .open = source_open,
                                 .growth = source_growth,
                                 .wait = source_wait,
                                 .mismatch = source_mismatch,
                                 .complete = source_complete,
                                 .release = source_release,
                                 .ctx = f};
}

uint64_t fetcher_bytes(const struct fetcher *f)
{
    return f->bytes;
}

/* One blob */

static int hash_file(int fd, struct digest *ret, struct sm_error *err)
{
    CLEANUP_FREE uint8_t *buf = malloc(HASH_CHUNK);
    struct hasher *h = NULL;
    uint64_t at = 0;
    ssize_t n = 1;
    int r = buf ? hasher_new(&h, err) : sm_error_set(err, ENOMEM, "out of memory while fetching a blob");

    while (r >= 0 && n > 0) {
        n = io_pread_full(fd, buf, HASH_CHUNK, at);
        if (n > 0)
            hasher_add(h, buf, (size_t)n);
        if (n < 0)
            r = sm_error_sys(err, (int)-n, "cannot read a blob");
        else
            at += (uint64_t)n;
    }
    if (r >= 0)
        hasher_end(h, ret);
    hasher_free(h);
    return r;
}

static int get_here(struct fetcher *f, const struct descriptor *d, struct sm_error *err)
{
    struct slot *s = &f->slots[0];
    char name[DIGEST_STR_SIZE], is[DIGEST_STR_SIZE];
    struct digest got;
    int r;

    do {
        r = 0;
        while (r >= 0 && s->state != SLOT_HERE)
            r = source_wait(f, NULL, 0, event_timeout(f->events), err);
        if (r >= 0)
            r = hash_file(s->fd, &got, err);
        if (r < 0)
            return r;
        if (digest_equal(&got, &d->digest))
            return source_complete(f, 0, d, err);
    } while (source_mismatch(f, 0));
    digest_str(&d->digest, name);
    digest_str(&got, is);
    return sm_error_set(err, EBADMSG, "layer %s: the blob has the digest %s: it is damaged or was tampered with", name,
                        is);
}

int fetcher_get(struct fetcher *f, const struct descriptor *d, struct sm_error *err)
{
    int r;

    while (!(r = source_acquire(f, 0, d, err))) {
        r = event_tell(f->events, OCI_EVENT_WAITING, &d->digest, 0, d->size, err);
        if (r < 0)
            return r;
        poll(NULL, 0, EVENT_TICK_MS);
    }
    if (r < 0)
        return r;
    r = get_here(f, d, err);
    source_release(f, 0);
    return r;
}
