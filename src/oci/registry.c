/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A registry's repository: opening it, its documents, waiting.
 *
 * Theory of operation
 *
 * What: whatever is asked becomes an exchange (registry_exchange.c) with callbacks that check what comes: here for
 * documents, which are kept in memory, in registry_fetch.c for blobs, which go to a file. All exchanges of a registry
 * move in registry_wait(), the one place where this client waits, on the caller's thread; a document's call just does
 * that until its own exchange has ended, and whatever else is under way moves too.
 *
 * Invariants: a document is handed out only whole, of the size and digest that were asked for, and, if it is a
 * manifest, under one of the media types of manifests. `exchanges` holds all but requests for tokens, which their
 * endpoint has.
 *
 * Limits: OCI_JSON_MAX_BYTES for documents; DEFAULT_* for times.
 */
#include "oci/registry.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "oci/limits.h"
#include "oci/registry_private.h"
#include "oci/text.h"

#define DEFAULT_CONNECT_MS        30000
#define DEFAULT_TOTAL_MS          60000
#define DEFAULT_LOW_SPEED_BYTES   1000
#define DEFAULT_LOW_SPEED_SECONDS 30
#define DEFAULT_BACKOFF_MS        500
#define DEFAULT_ATTEMPTS          5
#define ASK_MS                    200 /* between two questions whether to go on */
#define WAIT_MS                   10000

#define OCI_INDEX       "application/vnd.oci.image.index.v1+json"
#define OCI_MANIFEST    "application/vnd.oci.image.manifest.v1+json"
#define DOCKER_LIST     "application/vnd.docker.distribution.manifest.list.v2+json"
#define DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
#define DOCKER_V1       "application/vnd.docker.distribution.manifest.v1+"

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory");
}

/* Opening */

static uint32_t or_default(uint32_t v, uint32_t otherwise)
{
    return v ? v : otherwise;
}

static bool copy_string(const char **s)
{
    if (*s)
        *s = strdup(*s);
    else
        return true;
    return *s != NULL;
}

static int set_options(struct registry *r, const struct registry_options *o, struct sm_error *err)
{
    const char **const strings[] = {&r->o.ca_file, &r->o.cert_file, &r->o.key_file, &r->o.auth_file, &r->o.config_file};
    bool ok = true;

    r->o = o ? *o : (struct registry_options){0};
    r->o.connect_timeout_ms = or_default(r->o.connect_timeout_ms, DEFAULT_CONNECT_MS);
    r->o.total_timeout_ms = or_default(r->o.total_timeout_ms, DEFAULT_TOTAL_MS);
    r->o.low_speed_bytes = or_default(r->o.low_speed_bytes, DEFAULT_LOW_SPEED_BYTES);
    r->o.low_speed_seconds = or_default(r->o.low_speed_seconds, DEFAULT_LOW_SPEED_SECONDS);
    r->o.backoff_ms = or_default(r->o.backoff_ms, DEFAULT_BACKOFF_MS);
    r->o.attempts = or_default(r->o.attempts, DEFAULT_ATTEMPTS);
    for (size_t i = 0; i < ARRAY_SIZE(strings); i++) /* all, so that none is left that is not ours */
        ok = copy_string(strings[i]) && ok;
    return ok ? 0 : no_memory(err);
}

/* What goes into a URL's path as it is. The grammar proper is ref.c's. */
static int check_name(const char *s, const char *more, const char *what, struct sm_error *err)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    char shown[TEXT_SHOWN_SIZE];

    if (!s[0] || strlen(s) > OCI_REF_MAX || s[0] == '/' || s[0] == '.' || strstr(s, "/.") || strstr(s, "//"))
        goto bad;
    for (const char *p = s; *p; p++)
        if (!strchr(plain, *p) && !strchr(more, *p))
            goto bad;
    return 0;
bad:
    return sm_error_set(err, EINVAL, "\"%s\" is not a %s", text_shown(shown, s), what);
}

int registry_open(struct registry **ret, const struct registry_options *o, const char *host, const char *repository,
                  struct sm_error *err)
{
    struct registry *r = calloc(1, sizeof(*r));
    int code;

    if (!r)
        return no_memory(err);
    list_init(&r->exchanges);
    code = set_options(r, o, err);
    if (code < 0)
        goto fail;
    code = check_name(repository, "/", "repository's name", err);
    if (code < 0)
        goto fail;
    code = http_new(&r->http,
                    &(struct http_options){.connect_timeout_ms = r->o.connect_timeout_ms,
                                           .low_speed_bytes = r->o.low_speed_bytes,
                                           .low_speed_seconds = r->o.low_speed_seconds},
                    err);
    if (code < 0)
        goto fail;
    r->host = strdup(host);
    r->repository = strdup(repository);
    code = r->host && r->repository ? registry_endpoints(r, err) : no_memory(err);
    if (code < 0)
        goto fail;
    *ret = r;
    return 0;
fail:
    registry_free(r);
    return code;
}

void registry_free(struct registry *r)
{
    if (!r)
        return;
    assert(list_empty(&r->exchanges));
    for (unsigned i = 0; i < r->n_endpoints; i++)
        endpoint_done(&r->endpoint[i]);
    registry_tls_done(&r->tls);
    http_free(r->http);
    free((char *)(uintptr_t)r->o.ca_file);
    free((char *)(uintptr_t)r->o.cert_file);
    free((char *)(uintptr_t)r->o.key_file);
    free((char *)(uintptr_t)r->o.auth_file);
    free((char *)(uintptr_t)r->o.config_file);
    free(r->host);
    free(r->repository);
    free(r);
}

/* Waiting */

static unsigned step_all(struct registry *r)
{
    unsigned ended;

    for (unsigned i = 0; i < r->n_endpoints; i++)
        login_step(&r->endpoint[i]);
    ended = exchanges_step(r);
    for (unsigned i = 0; i < r->n_endpoints; i++) /* logins that were found to be needed */
        login_step(&r->endpoint[i]);
    return ended;
}

static int next_timeout(struct registry *r, int timeout_ms)
{
    uint64_t now = io_now_ns(), first = exchanges_timer(r);
    int ms = timeout_ms < 0 || timeout_ms > WAIT_MS ? WAIT_MS : timeout_ms;

    if (r->o.keep_going && ms > ASK_MS)
        ms = ASK_MS;
    for (unsigned i = 0; i < r->n_endpoints; i++) {
        uint64_t at = r->endpoint[i].login ? exchange_timer(r->endpoint[i].login) : UINT64_MAX;

        first = at < first ? at : first;
    }
    if (first <= now)
        return 0;
    return (first - now) / 1000000 >= (uint64_t)ms ? ms : (int)((first - now) / 1000000) + 1;
}

int registry_wait(struct registry *r, struct pollfd *fds, unsigned n, int timeout_ms, struct sm_error *err)
{
    int ready, code;

    if (r->o.keep_going) {
        code = r->o.keep_going(r->o.ctx, err);
        if (code < 0)
            return code;
    }
    ready = http_wait(r->http, fds, n, step_all(r) ? 0 : next_timeout(r, timeout_ms), err);
    if (ready >= 0)
        step_all(r);
    return ready;
}

/* Wait for an exchange and free it. */
static int finish(struct registry *r, struct exchange *x, struct sm_error *err)
{
    int code = 0;

    while (code >= 0 && !exchange_ended(x, &code, err))
        code = registry_wait(r, NULL, 0, -1, err);
    exchange_free(x);
    return code;
}

int registry_path(const struct registry *r, const char *kind, const char *name, char **ret_path, char **ret_what,
                  struct sm_error *err)
{
    char *path = NULL, *what = NULL;
    int n;

    if (asprintf(&path, "/v2/%s/%s/%s", r->repository, kind, name) < 0)
        return no_memory(err);
    n = asprintf(&what, "%s%c%s", r->repository, strchr(name, ':') ? '@' : ':', name);
    if (n < 0) {
        free(path);
        return no_memory(err);
    }
    *ret_path = path;
    *ret_what = what;
    return 0;
}

/* Documents */

struct document {
    const struct registry *r;
    const char *what;
    bool manifest, head_only;
    const struct digest *want; /* may be NULL */
    bool exact;
    uint64_t max; /* exact: what it must be */
    struct buf body;
    struct digest digest;
    char media[REGISTRY_MEDIA_SIZE];
};

static uint64_t document_from(void *ctx)
{
    struct document *d = ctx;

    buf_done(&d->body);
    d->body = buf_init((size_t)d->max + 1); /* for the NUL */
    return 0;
}

static int check_media(const struct document *d, const char *type, struct sm_error *err)
{
    static const char *const known[] = {OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST};
    char shown[TEXT_SHOWN_SIZE];

    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        if (!strcmp(type, known[i]))
            return 0;
    if (!strcmp(type, "text/html"))
        sm_error_set(err, EBADMSG,
                     "%s answered with a web page instead of the manifest of \"%s\": is a login page or a proxy in "
                     "between, or is it no registry?",
                     d->r->host, d->what);
    else if (!strncmp(type, DOCKER_V1, sizeof(DOCKER_V1) - 1))
        sm_error_set(
            err, EBADMSG,
            "%s has \"%s\" only in Docker's old form (schema 1), which is not supported: ask who made it to push "
            "it anew",
            d->r->host, d->what);
    else
        sm_error_set(err, EBADMSG, "%s sent \"%s\" as \"%s\", which is no content type of an image's manifest",
                     d->r->host, d->what, type[0] ? text_shown(shown, type) : "(none)");
    return EXCHANGE_WRONG;
}

static int too_large(const struct document *d, struct sm_error *err)
{
    if (d->exact)
        sm_error_set(err, EBADMSG, "%s has more bytes for \"%s\" than the %llu that the manifest promises", d->r->host,
                     d->what, (unsigned long long)d->max);
    else
        sm_error_set(err, EFBIG, "the manifest of \"%s\" is larger than %llu MiB", d->what,
                     (unsigned long long)(d->max / MIB));
    return EXCHANGE_WRONG;
}

static int document_head(void *ctx, const struct http_head *head, struct sm_error *err)
{
    struct document *d = ctx;
    /* Of a HEAD only what is surely no registry's answer: what matters is looked at when the manifest itself comes. */
    bool look = d->manifest && (!d->head_only || !strcmp(head->type, "text/html"));
    int r = look ? check_media(d, head->type, err) : 0;

    if (r != 0)
        return r;
    snprintf(d->media, sizeof(d->media), "%s", head->type);
    if (head->status != 200) {
        sm_error_set(err, EBADMSG, "%s answered with status %d to a request for all of \"%s\"", d->r->host,
                     head->status, d->what);
        return EXCHANGE_WRONG;
    }
    return head->has_length && head->length > d->max ? too_large(d, err) : 0;
}

static int document_data(void *ctx, const void *data, size_t len, struct sm_error *err)
{
    struct document *d = ctx;

    if (len > d->max - d->body.len)
        return too_large(d, err);
    buf_bytes(&d->body, data, len);
    return d->body.bad ? no_memory(err) : 0;
}

/* -EOPNOTSUPP is for the caller of registry_resolve(), which can ask for the manifest itself instead. */
static int head_digest(struct document *d, const struct http_head *head, struct sm_error *err)
{
    if (!head->digest || digest_parse(&d->digest, head->digest, "Docker-Content-Digest", NULL) < 0)
        return sm_error_set(err, EOPNOTSUPP, "%s does not say which digest \"%s\" has", d->r->host, d->what);
    return 0;
}

static int check_digest(struct document *d, const struct digest *want, const char *who, struct sm_error *err)
{
    char got[DIGEST_STR_SIZE], wanted[DIGEST_STR_SIZE];

    if (digest_equal(&d->digest, want))
        return 0;
    digest_str(&d->digest, got);
    digest_str(want, wanted);
    sm_error_set(err, EBADMSG,
                 "what %s sent for \"%s\" has the digest %s, but %s %s: it was damaged or changed on its way, or the "
                 "registry is at fault",
                 d->r->host, d->what, got, who, wanted);
    return EXCHANGE_WRONG;
}

static int document_finish(void *ctx, const struct http_head *head, struct sm_error *err)
{
    struct document *d = ctx;
    struct digest told;
    int r;

    if (d->head_only)
        return head_digest(d, head, err);
    if (d->exact && d->body.len != d->max) {
        sm_error_set(err, EBADMSG, "%s sent only %zu of the %llu bytes of \"%s\"", d->r->host, d->body.len,
                     (unsigned long long)d->max, d->what);
        return EXCHANGE_AGAIN;
    }
    r = digest_of(&d->digest, d->body.data, d->body.len, err);
    if (r >= 0 && d->want)
        r = check_digest(d, d->want, "it should be", err);
    if (r == 0 && d->manifest && head->digest && digest_parse(&told, head->digest, "", NULL) >= 0)
        r = check_digest(d, &told, "its headers say", err);
    return r;
}

static int get_document(struct registry *r, struct document *d, const char *kind, const char *name,
                        struct sm_error *err)
{
    static const struct exchange_ops ops = {document_from, document_head, document_data, document_finish};
    CLEANUP_FREE char *path = NULL, *what = NULL;
    struct exchange *x;
    int code = registry_path(r, kind, name, &path, &what, err);

    if (code < 0)
        return code;
    d->r = r;
    d->what = what;
    code = exchange_start(
        &x, r,
        &(struct exchange_request){
            .method = d->head_only ? HTTP_HEAD : HTTP_GET,
            .path = path,
            .what = what,
            .accept = d->manifest ? OCI_INDEX ", " OCI_MANIFEST ", " DOCKER_LIST ", " DOCKER_MANIFEST : NULL,
            .total_timeout_ms = r->o.total_timeout_ms,
            .ops = &ops,
            .ctx = d,
        },
        err);
    if (code >= 0)
        code = finish(r, x, err);
    d->what = NULL;
    if (code < 0)
        buf_done(&d->body);
    return code;
}

int registry_resolve(struct registry *r, const char *tag_or_digest, struct digest *ret, struct sm_error *err)
{
    struct document d = {.manifest = true, .head_only = true, .max = OCI_JSON_MAX_BYTES};
    int code = check_name(tag_or_digest, ":", "tag or digest", err);

    if (code >= 0)
        code = get_document(r, &d, "manifests", tag_or_digest, err);
    buf_done(&d.body);
    if (code < 0)
        return code;
    *ret = d.digest;
    return 0;
}

int registry_manifest(struct registry *r, const char *tag_or_digest, const struct digest *want, void **ret,
                      size_t *ret_len, struct digest *ret_digest, char ret_media[REGISTRY_MEDIA_SIZE],
                      struct sm_error *err)
{
    struct document d = {.manifest = true, .want = want, .max = OCI_JSON_MAX_BYTES};
    struct digest named;
    int code = check_name(tag_or_digest, ":", "tag or digest", err);

    if (code >= 0 && strchr(tag_or_digest, ':')) {
        code = digest_parse(&named, tag_or_digest, "the digest", err);
        if (code >= 0 && want && !digest_equal(want, &named))
            code = sm_error_set(err, EINVAL, "two unlike digests are asked for at once");
        d.want = &named;
    }
    if (code >= 0)
        code = get_document(r, &d, "manifests", tag_or_digest, err);
    if (code < 0)
        return code;
    *ret_len = d.body.len;
    buf_u8(&d.body, 0);
    if (d.body.bad) {
        buf_done(&d.body);
        return no_memory(err);
    }
    *ret = d.body.data;
    *ret_digest = d.digest;
    memcpy(ret_media, d.media, REGISTRY_MEDIA_SIZE);
    return 0;
}

int registry_document(struct registry *r, const struct digest *digest, uint64_t size, void **ret, struct sm_error *err)
{
    struct document d = {.want = digest, .exact = true, .max = size};
    char name[DIGEST_STR_SIZE];
    int code;

    digest_str(digest, name);
    if (size > OCI_JSON_MAX_BYTES)
        return sm_error_set(err, EFBIG, "the document %s is %llu bytes large, the limit is %llu", name,
                            (unsigned long long)size, (unsigned long long)OCI_JSON_MAX_BYTES);
    code = get_document(r, &d, "blobs", name, err);
    if (code < 0)
        return code;
    buf_u8(&d.body, 0);
    if (d.body.bad) {
        buf_done(&d.body);
        return no_memory(err);
    }
    *ret = d.body.data;
    return 0;
}
