/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request, carried through to an answer.
 *
 * Theory of operation
 *
 * What: a machine of a few states, stepped by registry_wait() and never blocking:
 *
 *   READY --> RUNNING --> ENDED
 *     ^          |  401: LOGIN, until a token is there
 *     |          |  redirect: at once
 *     +----------+  cut, 429, 5xx, time-out: PAUSE, then from the start (of redirects, too: signed URLs get old)
 *                   refused for good by a mirror: the next server
 *
 * Who is sent what: Authorization goes only to the endpoint's own scheme, host and port; a client certificate only to
 * the endpoint's own host. A redirect never leaves https for http unless the user allowed plain HTTP.
 *
 * Retries: `failures` counts attempts in a row that brought nothing much; options.attempts of them are final. Pauses
 * double, with jitter, so that many clients of one server do not come back together; Retry-After is a lower bound. A
 * server that was never reached is not tried again: a wrong name should be told at once.
 *
 * Invariants: `transfer` is there in RUNNING only. The callbacks of `q.ops` run inside http_wait(); from() before each
 * request. After ENDED nothing is called any more.
 *
 * Limits: REGISTRY_*_MAX, REGISTRY_REFUSAL_BYTES.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "oci/registry_private.h"
#include "oci/text.h"

enum state { READY, RUNNING, LOGIN, PAUSE, ENDED };

struct exchange {
    struct list node;
    struct registry *r;
    struct exchange_request q; /* strings are ours */
    enum state state;
    unsigned endpoint; /* index */
    struct http_url url;
    bool redirected; /* `url` is what a redirect named */
    unsigned redirects, failures, tries, refusals;
    uint64_t paused_ms; /* since something came last */

    struct http_transfer *transfer;
    char *sent; /* the Authorization header, to know it when it comes back */
    uint64_t from;
    bool wanted; /* the body is for ops */
    struct buf refusal;

    unsigned login_needed; /* LOGIN: until the endpoint has had so many */
    uint64_t until_ns;     /* PAUSE */
    int result;
    struct sm_error err;
};

static struct endpoint *endpoint_of(const struct exchange *x)
{
    return x->q.token_for ? x->q.token_for : &x->r->endpoint[x->endpoint];
}

static const char *copy(const char *s, bool *ok)
{
    char *p = s ? strdup(s) : NULL;

    *ok = *ok && (p || !s);
    return p;
}

static void free_copy(const char *s)
{
    wipe_free((char *)(uintptr_t)s);
}

int exchange_start(struct exchange **ret, struct registry *r, const struct exchange_request *q, struct sm_error *err)
{
    struct exchange *x = calloc(1, sizeof(*x));
    bool ok = x != NULL;

    assert(!q->path != !q->url && !q->url == !q->token_for);
    if (!ok)
        return sm_error_set(err, ENOMEM, "out of memory");
    x->r = r;
    x->q = *q;
    x->q.path = copy(q->path, &ok);
    x->q.url = copy(q->url, &ok);
    x->q.what = copy(q->what, &ok);
    x->q.accept = copy(q->accept, &ok);
    x->q.authorization = copy(q->authorization, &ok);
    x->q.body = copy(q->body, &ok);
    list_init(&x->node);
    if (!ok) {
        exchange_free(x);
        return sm_error_set(err, ENOMEM, "out of memory");
    }
    if (!q->token_for) /* a token's is stepped by its endpoint */
        list_push_back(&r->exchanges, &x->node);
    *ret = x;
    return 0;
}

static void drop_transfer(struct exchange *x)
{
    http_transfer_free(x->transfer);
    x->transfer = NULL;
    wipe_free(x->sent);
    x->sent = NULL;
    buf_done(&x->refusal);
}

void exchange_free(struct exchange *x)
{
    if (!x)
        return;
    list_remove(&x->node);
    drop_transfer(x);
    http_url_done(&x->url);
    free_copy(x->q.path);
    free_copy(x->q.url);
    free_copy(x->q.what);
    free_copy(x->q.accept);
    free_copy(x->q.authorization);
    free_copy(x->q.body);
    free(x);
}

bool exchange_ended(const struct exchange *x, int *ret, struct sm_error *err)
{
    if (x->state != ENDED)
        return false;
    if (x->result < 0 && err)
        *err = x->err;
    *ret = x->result;
    return true;
}

uint64_t exchange_timer(const struct exchange *x)
{
    return x->state == PAUSE ? x->until_ns : x->state == READY ? 0 : UINT64_MAX;
}

/* Where it goes on to. Each is called with the transfer's end, and x->err set where it is a failure. */

static void end(struct exchange *x, int result)
{
    x->state = ENDED;
    x->result = result;
}

static void fail(struct exchange *x)
{
    end(x, x->err.code > 0 ? -x->err.code : -EIO);
}

static void begin_again(struct exchange *x)
{
    x->redirected = false;
    x->redirects = 0;
    x->state = READY;
}

/* This server will not do. */
static void next_server(struct exchange *x)
{
    if (x->q.token_for || x->endpoint + 1 >= x->r->n_endpoints) {
        fail(x);
        return;
    }
    x->endpoint++;
    x->failures = x->refusals = 0;
    x->paused_ms = 0;
    begin_again(x);
}

static uint64_t jitter(uint64_t ms)
{
    uint32_t random = 0;

    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != sizeof(random))
        random = (uint32_t)io_now_ns();
    return ms / 2 + random % (ms / 2 + 1);
}

static void try_again(struct exchange *x, const struct http_head *head)
{
    uint64_t pause = x->r->o.backoff_ms;
    unsigned allowed = endpoint_of(x)->mirror && !x->q.token_for ? REGISTRY_MIRROR_ATTEMPTS : x->r->o.attempts;
    uint64_t from = x->q.ops->from(x->q.ctx);

    if (from > x->from && from - x->from >= REGISTRY_PROGRESS) {
        x->failures = 0;
        x->paused_ms = 0;
    }
    if (++x->failures >= allowed || ++x->tries >= REGISTRY_TRIES_MAX) {
        if (x->failures > 1)
            sm_error_wrap(&x->err, "gave up after %u attempts", x->failures);
        next_server(x);
        return;
    }
    for (unsigned i = 1; i < x->failures && pause < REGISTRY_BACKOFF_MAX_MS; i++)
        pause *= 2;
    pause = jitter(pause < REGISTRY_BACKOFF_MAX_MS ? pause : REGISTRY_BACKOFF_MAX_MS);
    if (head && head->has_retry && pause < head->retry_after_s * UINT64_C(1000))
        pause = head->retry_after_s * UINT64_C(1000);
    if (x->paused_ms + pause > REGISTRY_WAIT_MAX_MS) {
        next_server(x);
        return;
    }
    x->paused_ms += pause;
    begin_again(x);
    x->state = PAUSE;
    x->until_ns = io_now_ns() + pause * 1000000;
}

/* Starting */

static int on_head(void *ctx, const struct http_head *head, struct sm_error *err)
{
    struct exchange *x = ctx;

    endpoint_of(x)->reached = true;
    x->wanted = head->status == 200 || head->status == 206 || (head->status == 416 && x->from);
    x->refusal = buf_init(REGISTRY_REFUSAL_BYTES);
    return x->wanted ? x->q.ops->head(x->q.ctx, head, err) : 0;
}

static int on_data(void *ctx, const void *data, size_t len, struct sm_error *err)
{
    struct exchange *x = ctx;

    if (x->wanted)
        return x->q.ops->data(x->q.ctx, data, len, err);
    if (len > REGISTRY_REFUSAL_BYTES - x->refusal.len)
        return EXCHANGE_ENOUGH;
    buf_bytes(&x->refusal, data, len);
    return 0;
}

static const struct http_tls *tls_for(const struct exchange *x)
{
    const struct endpoint *ep = endpoint_of(x);

    return strcmp(x->url.host, ep->url.host) ? &x->r->tls : &ep->tls;
}

static int find_url(struct exchange *x, struct sm_error *err)
{
    struct endpoint *ep = endpoint_of(x);
    CLEANUP_FREE char *full = NULL;
    const char *url = x->q.url;
    struct http_url parsed;
    int r;

    if (x->redirected)
        return 0;
    if (x->q.path) {
        if (asprintf(&full, "%s%s", ep->url.url, x->q.path) < 0) {
            full = NULL;
            return sm_error_set(err, ENOMEM, "out of memory");
        }
        url = full;
    }
    r = http_url_parse(x->r->http, &parsed, NULL, url, err);
    if (r < 0)
        return sm_error_wrap(err, "the URL for \"%s\" at %s", x->q.what, ep->name);
    http_url_done(&x->url);
    x->url = parsed;
    return 0;
}

/* Is what we send to that URL sent to whom we are logged in at? */
static bool is_at_home(const struct exchange *x)
{
    const struct endpoint *ep = endpoint_of(x);

    if (!x->q.token_for)
        return http_same_origin(&x->url, &ep->url);
    return !x->redirected; /* a token server's first URL is where credentials go; they stay there */
}

static int find_login(struct exchange *x, struct sm_error *err)
{
    if (!is_at_home(x))
        return 0;
    if (!x->q.token_for)
        return login_header(endpoint_of(x), &x->sent, err);
    x->sent = x->q.authorization ? strdup(x->q.authorization) : NULL;
    return x->q.authorization && !x->sent ? sm_error_set(err, ENOMEM, "out of memory") : 0;
}

static int send_request(struct exchange *x, struct sm_error *err)
{
    CLEANUP_FREE char *accept = NULL;
    const char *headers[4];
    char range[64];
    struct http_request q = {.method = x->q.method,
                             .url = &x->url,
                             .headers = headers,
                             .body = x->q.body,
                             .tls = tls_for(x),
                             .total_timeout_ms = x->q.total_timeout_ms,
                             .head = on_head,
                             .data = on_data,
                             .ctx = x};

    headers[q.n_headers++] = "Accept-Encoding: identity";
    if (x->q.accept) {
        if (asprintf(&accept, "Accept: %s", x->q.accept) < 0) {
            accept = NULL;
            return sm_error_set(err, ENOMEM, "out of memory");
        }
        headers[q.n_headers++] = accept;
    }
    if (x->sent)
        headers[q.n_headers++] = x->sent;
    if (x->from) {
        snprintf(range, sizeof(range), "Range: bytes=%llu-", (unsigned long long)x->from);
        headers[q.n_headers++] = range;
    }
    return http_start(&x->transfer, x->r->http, &q, err);
}

static void wait_for_login(struct exchange *x)
{
    struct endpoint *ep = endpoint_of(x);

    x->login_needed = ep->logins + 1;
    if (login_start(x->r, ep, &x->err) < 0)
        next_server(x);
    else
        x->state = LOGIN;
}

static void start(struct exchange *x)
{
    struct endpoint *ep = endpoint_of(x);

    if (ep->dead) { /* found so by another exchange; the last endpoint is no mirror, and never dead */
        next_server(x);
        return;
    }
    if (find_url(x, &x->err) < 0) {
        next_server(x);
        return;
    }
    if (!x->q.token_for && is_at_home(x) && login_wants_token(ep)) {
        wait_for_login(x);
        return;
    }
    x->wanted = false;
    x->from = x->q.ops->from(x->q.ctx);
    if (find_login(x, &x->err) < 0 || send_request(x, &x->err) < 0) {
        fail(x);
        return;
    }
    x->state = RUNNING;
}

/* Judging what came of it */

static void follow(struct exchange *x, const struct http_head *head)
{
    struct endpoint *ep = endpoint_of(x);
    struct http_url to;

    if (x->q.method == HTTP_POST || !head->location) {
        sm_error_set(&x->err, EPROTO, "%s answered with status %d, a redirect %s", x->url.where, head->status,
                     head->location ? "that must not be followed with a login: is the token server's URL right?"
                                    : "to nowhere");
        next_server(x);
        return;
    }
    if (++x->redirects > REGISTRY_REDIRECTS_MAX) {
        sm_error_set(&x->err, ELOOP, "%s redirects more than %d times for \"%s\"", ep->name, REGISTRY_REDIRECTS_MAX,
                     x->q.what);
        next_server(x);
        return;
    }
    if (http_url_parse(x->r->http, &to, x->url.url, head->location, &x->err) < 0) {
        sm_error_wrap(&x->err, "%s redirects for \"%s\", but to what cannot be followed", x->url.where, x->q.what);
        next_server(x);
        return;
    }
    if (endpoint_may_go(x->r, ep, &x->url, &to, &x->err) < 0) {
        http_url_done(&to);
        next_server(x);
        return;
    }
    http_url_done(&x->url);
    x->url = to;
    x->redirected = true;
    x->state = READY;
}

static void refused(struct exchange *x, const struct http_head *head)
{
    struct endpoint *ep = endpoint_of(x);
    const struct refusal f = {
        .registry = x->r,
        .endpoint = ep,
        .head = head,
        .where = x->url.where,
        .what = x->q.what,
        .body = x->refusal.data,
        .body_len = x->refusal.len,
        .sent = x->sent,
        .token_server = x->q.token_for != NULL,
        .elsewhere = x->redirected && !is_at_home(x),
    };
    int status = head->status;

    registry_refused(&f, &x->err);
    if (status == 408 || status == 425 || status == 429 || status == 500 || (status >= 502 && status <= 504) ||
        (f.elsewhere && (status == 401 || status == 403 || status == 404))) /* a signed URL grew old */
        try_again(x, head);
    else
        next_server(x);
}

static void challenged(struct exchange *x, const struct http_head *head)
{
    struct endpoint *ep = endpoint_of(x);
    bool had_login = x->sent != NULL;

    if (login_challenged(x->r, ep, head, &x->err) < 0) {
        next_server(x);
        return;
    }
    if (++x->refusals > REGISTRY_LOGINS_MAX || (had_login && ep->challenge.scheme == CHALLENGE_BASIC)) {
        refused(x, head);
        return;
    }
    x->state = READY;
    if (ep->challenge.scheme == CHALLENGE_BEARER) {
        /* What was sent is no good (any more): unless another exchange has got a newer one since, ask. */
        const char *value = x->sent ? strrchr(x->sent, ' ') : NULL;

        if (!ep->token.value || (value && !strcmp(value + 1, ep->token.value)))
            wait_for_login(x);
    }
}

static void complete(struct exchange *x, const struct http_head *head)
{
    int status = head->status, r;

    if (x->wanted) {
        x->refusals = 0;
        r = x->q.ops->finish(x->q.ctx, head, &x->err);
        if (r == 0)
            end(x, 0);
        else if (r == EXCHANGE_AGAIN)
            try_again(x, head);
        else if (r == EXCHANGE_WRONG)
            next_server(x);
        else
            fail(x);
    } else if (status == 301 || status == 302 || status == 303 || status == 307 || status == 308) {
        x->refusals = 0;
        follow(x, head);
    } else if (status == 401 && !x->q.token_for && is_at_home(x)) {
        challenged(x, head);
    } else {
        refused(x, head);
    }
}

static void stopped(struct exchange *x, const struct http_head *head)
{
    int code = http_transfer_stop_code(x->transfer);

    if (code == EXCHANGE_ENOUGH)
        complete(x, head);
    else if (code == EXCHANGE_AGAIN)
        try_again(x, head);
    else if (code == EXCHANGE_WRONG || !x->wanted) /* or a head that cannot be read */
        next_server(x);
    else
        fail(x);
}

static void no_answer(struct exchange *x, enum http_outcome outcome)
{
    struct endpoint *ep = endpoint_of(x);

    if (outcome == HTTP_NOT_TLS && http_same_origin(&x->url, &ep->url) && ep->probing) {
        if (endpoint_without_tls(x->r, ep, &x->err) < 0)
            fail(x);
        else
            begin_again(x);
        return;
    }
    if (outcome == HTTP_NOT_TLS && !x->redirected && !x->q.token_for && !ep->url.https) { /* known since */
        begin_again(x);
        return;
    }
    if (outcome == HTTP_CUT || (ep->reached && (outcome == HTTP_NO_HOST || outcome == HTTP_NO_CONNECT ||
                                                outcome == HTTP_PROXY || outcome == HTTP_TIMEOUT))) {
        try_again(x, NULL);
        return;
    }
    if (ep->mirror && !ep->reached)
        ep->dead = true;
    next_server(x);
}

static void judge(struct exchange *x)
{
    enum http_outcome outcome = http_transfer_outcome(x->transfer, &x->err);
    const struct http_head *head = http_transfer_head(x->transfer);

    if (outcome == HTTP_RUNNING)
        return;
    if (outcome == HTTP_COMPLETE)
        complete(x, head);
    else if (outcome == HTTP_STOPPED)
        stopped(x, head);
    else
        no_answer(x, outcome);
    drop_transfer(x);
}

static void look_for_login(struct exchange *x)
{
    struct endpoint *ep = endpoint_of(x);

    if (ep->logins >= x->login_needed) {
        x->state = READY;
    } else if (!ep->login) {
        x->err = ep->login_err;
        next_server(x);
    }
}

void exchange_step(struct exchange *x)
{
    if (x->state == RUNNING)
        judge(x);
    if (x->state == LOGIN)
        look_for_login(x);
    if (x->state == PAUSE && x->until_ns <= io_now_ns())
        x->state = READY;
    while (x->state == READY) /* again when a server is passed over */
        start(x);
}

unsigned exchanges_step(struct registry *r)
{
    unsigned ended = 0;

    LIST_FOREACH_SAFE(&r->exchanges, it, next)
    {
        struct exchange *x = LIST_ENTRY(it, struct exchange, node);

        if (x->state == ENDED)
            continue;
        exchange_step(x);
        ended += x->state == ENDED;
    }
    return ended;
}

uint64_t exchanges_timer(struct registry *r)
{
    uint64_t first = UINT64_MAX;

    LIST_FOREACH_SAFE(&r->exchanges, it, next)
    {
        uint64_t at = exchange_timer(LIST_ENTRY(it, struct exchange, node));

        first = at < first ? at : first;
    }
    return first;
}
