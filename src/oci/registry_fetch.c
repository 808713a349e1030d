/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layers' blobs, into files.
 *
 * Theory of operation
 *
 * What: an exchange that asks for the bytes that the file does not have yet, and for the rest again after each cut. A
 * server that ignores the range sends all from the start: what the file has already is passed over then, so that
 * whoever reads it meanwhile need not begin anew. One that calls the range impossible (416) is asked without one.
 *
 * Invariants: bytes [0, have) of the file are there and never change; have <= size. `skip` counts what is still to be
 * passed over.
 *
 * Not done here: the digest. Whoever reads the file hashes it anyhow, and these bytes may come from two servers and an
 * earlier run.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "oci/limits.h"
#include "oci/registry_private.h"

struct registry_fetch {
    struct registry *r;
    struct exchange *exchange; /* NULL: there was nothing to ask for */
    char *what;
    int fd;
    uint64_t size, have, skip;
    bool no_range; /* a server said 416 */
};

static uint64_t fetch_from(void *ctx)
{
    struct registry_fetch *f = ctx;

    return f->no_range ? 0 : f->have;
}

static int wrong_size(const struct registry_fetch *f, uint64_t has, struct sm_error *err)
{
    sm_error_set(err, EBADMSG, "%s has %llu bytes for \"%s\", but the manifest promises %llu", f->r->host,
                 (unsigned long long)has, f->what, (unsigned long long)f->size);
    return EXCHANGE_WRONG;
}

static int fetch_head(void *ctx, const struct http_head *head, struct sm_error *err)
{
    struct registry_fetch *f = ctx;

    if (head->status == 416) {
        f->no_range = true;
        sm_error_set(err, EBADMSG, "%s has no bytes behind the first %llu of \"%s\"", f->r->host,
                     (unsigned long long)f->have, f->what);
        return EXCHANGE_AGAIN;
    }
    if (head->status == 200) {
        f->skip = f->have;
        return head->has_length && head->length != f->size ? wrong_size(f, head->length, err) : 0;
    }
    if (!head->has_range || head->range_first != fetch_from(f) || head->range_last >= f->size) {
        sm_error_set(err, EBADMSG, "%s sent other bytes of \"%s\" than it was asked for", f->r->host, f->what);
        return EXCHANGE_WRONG;
    }
    if (head->range_total != UINT64_MAX && head->range_total != f->size)
        return wrong_size(f, head->range_total, err);
    f->skip = f->have - head->range_first;
    return 0;
}

static int fetch_data(void *ctx, const void *data, size_t len, struct sm_error *err)
{
    struct registry_fetch *f = ctx;
    size_t pass = len < f->skip ? len : (size_t)f->skip;
    int r;

    f->skip -= pass;
    data = (const char *)data + pass;
    len -= pass;
    if (len > f->size - f->have) {
        sm_error_set(err, EBADMSG, "%s sends more for \"%s\" than the %llu bytes that the manifest promises",
                     f->r->host, f->what, (unsigned long long)f->size);
        return EXCHANGE_WRONG;
    }
    r = io_pwrite_full(f->fd, data, len, f->have);
    if (r == -ENOSPC || r == -EDQUOT)
        return sm_error_set(err, -r,
                            "cannot write \"%s\" into the store: the disk is full; make room there, for example with "
                            "`supermachine prune`",
                            f->what);
    if (r < 0)
        return sm_error_sys(err, -r, "cannot write \"%s\" into the store", f->what);
    f->have += len;
    return 0;
}

static int fetch_finish(void *ctx, const struct http_head *head, struct sm_error *err)
{
    struct registry_fetch *f = ctx;

    if (f->have == f->size)
        return 0;
    sm_error_set(err, EBADMSG, "%s stopped after %llu of the %llu bytes of \"%s\"", f->r->host,
                 (unsigned long long)f->have, (unsigned long long)f->size, f->what);
    return EXCHANGE_AGAIN;
}

int registry_fetch_start(struct registry_fetch **ret, struct registry *r, const struct digest *digest, uint64_t size,
                         int fd, uint64_t have, struct sm_error *err)
{
    static const struct exchange_ops ops = {fetch_from, fetch_head, fetch_data, fetch_finish};
    CLEANUP_FREE char *path = NULL;
    char name[DIGEST_STR_SIZE];
    struct registry_fetch *f;
    int code = 0;

    digest_str(digest, name);
    if (size > OCI_LAYER_MAX_BLOB || have > size)
        return sm_error_set(err, EFBIG, "the blob %s of %llu bytes is too large, or smaller than what is there of it",
                            name, (unsigned long long)size);
    f = calloc(1, sizeof(*f));
    if (!f)
        return sm_error_set(err, ENOMEM, "out of memory");
    f->r = r;
    f->fd = fd;
    f->size = size;
    f->have = have;
    if (have < size) {
        code = registry_path(r, "blobs", name, &path, &f->what, err);
        if (code >= 0)
            code = exchange_start(
                &f->exchange, r,
                &(struct exchange_request){.method = HTTP_GET, .path = path, .what = f->what, .ops = &ops, .ctx = f},
                err);
    }
    if (code < 0) {
        registry_fetch_free(f);
        return code;
    }
    *ret = f;
    return 0;
}

int registry_fetch_state(struct registry_fetch *f, uint64_t *ret_available, bool *ret_done, struct sm_error *err)
{
    int code = 0;

    if (f->exchange && exchange_ended(f->exchange, &code, err) && code < 0)
        return code;
    *ret_available = f->have;
    *ret_done = f->have == f->size;
    return 0;
}

void registry_fetch_free(struct registry_fetch *f)
{
    if (!f)
        return;
    exchange_free(f->exchange);
    free(f->what);
    free(f);
}
