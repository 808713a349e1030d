/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Logging in to a server.
 *
 * Theory of operation
 *
 * What: nothing is sent until a server answers 401. Its challenge says how (RFC 7617 basic; or the distribution
 * project's token scheme: ask `realm` for a token for `service` and `scope`, with the credentials as basic
 * authentication, or with an identity token as an OAuth2 refresh token, and send it as RFC 6750's bearer).
 * Credentials are looked up at the first challenge, because that may start a helper program.
 *
 * Invariants: one request for a token at a time for each endpoint; all exchanges that need it wait for it. Credentials
 * go to the endpoint they are for, or to the token server that it names; never over plain HTTP, unless both are on
 * loopback or the user asked for it. What is secret is wiped when it is not needed any more, and is in no sentence.
 *
 * Limits: REGISTRY_TOKEN_BYTES.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "oci/registry_private.h"
#include "oci/text.h"

void wipe_free(char *secret)
{
    if (secret)
        explicit_bzero(secret, strlen(secret));
    free(secret);
}

static void wipe_freep(char **secret)
{
    wipe_free(*secret);
}

#define CLEANUP_SECRET CLEANUP(wipe_freep)

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory");
}

/* RFC 4648, 4 */
static char *base64(const char *s)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t len = strlen(s);
    char *out = malloc((len + 2) / 3 * 4 + 1), *p = out;

    if (!out)
        return NULL;
    for (size_t i = 0; i < len; i += 3) {
        uint32_t v = (uint32_t)(unsigned char)s[i] << 16;

        if (i + 1 < len)
            v |= (uint32_t)(unsigned char)s[i + 1] << 8;
        if (i + 2 < len)
            v |= (unsigned char)s[i + 2];
        *p++ = digits[v >> 18];
        *p++ = digits[v >> 12 & 63];
        *p++ = i + 1 < len ? digits[v >> 6 & 63] : '=';
        *p++ = i + 2 < len ? digits[v & 63] : '=';
    }
    *p = '\0';
    return out;
}

static int basic_header(const struct credentials *c, char **ret, struct sm_error *err)
{
    CLEANUP_SECRET char *pair = NULL;
    CLEANUP_SECRET char *coded = NULL;

    if (asprintf(&pair, "%s:%s", c->username, c->password) < 0) {
        pair = NULL;
        return no_memory(err);
    }
    coded = base64(pair);
    if (!coded || asprintf(ret, "Authorization: Basic %s", coded) < 0)
        return no_memory(err);
    return 0;
}

static bool has_password(const struct credentials *c)
{
    return c->username && c->password;
}

int login_challenged(struct registry *r, struct endpoint *ep, const struct http_head *head, struct sm_error *err)
{
    struct challenge c = {0};
    int code = challenge_parse(&c, (const char *const *)head->challenges, head->n_challenges, err);

    if (code < 0)
        return sm_error_wrap(err, "%s asks for a login in a way that cannot be read", ep->name);
    if (c.scheme == CHALLENGE_NONE) {
        challenge_done(&c);
        return sm_error_set(err, EACCES,
                            "%s wants a login, but neither basic nor bearer authentication: it cannot be "
                            "logged in to",
                            ep->name);
    }
    challenge_done(&ep->challenge);
    ep->challenge = c;
    if (!ep->credentials_known) {
        code = auth_find(&ep->credentials, r->o.auth_file, ep->name, r->repository, err);
        if (code < 0)
            return sm_error_wrap(err, "%s wants a login", ep->name);
        ep->credentials_known = true;
    }
    if (c.scheme == CHALLENGE_BASIC && !has_password(&ep->credentials))
        return sm_error_set(
            err, EACCES,
            "%s wants a login to pull \"%s\", and none is stored for it: log in with \"docker login %s\" "
            "(podman and skopeo do as well), or name a file that has it with --auth-file",
            ep->name, r->repository, ep->name);
    return 0;
}

bool login_wants_token(const struct endpoint *ep)
{
    return ep->challenge.scheme == CHALLENGE_BEARER && (!ep->token.value || ep->token.expires_ns <= io_now_ns());
}

int login_header(const struct endpoint *ep, char **ret, struct sm_error *err)
{
    char *header = NULL;

    *ret = NULL;
    if (ep->challenge.scheme == CHALLENGE_BASIC)
        return basic_header(&ep->credentials, ret, err);
    if (ep->challenge.scheme != CHALLENGE_BEARER || !ep->token.value)
        return 0;
    if (asprintf(&header, "Authorization: Bearer %s", ep->token.value) < 0)
        return no_memory(err);
    *ret = header;
    return 0;
}

/* The token server's answer */

static uint64_t token_from(void *ctx)
{
    struct endpoint *ep = ctx;

    buf_done(&ep->login_body);
    ep->login_body = buf_init(REGISTRY_TOKEN_BYTES);
    return 0;
}

static int token_head(void *ctx, const struct http_head *head, struct sm_error *err)
{
    return 0;
}

static int token_data(void *ctx, const void *data, size_t len, struct sm_error *err)
{
    struct endpoint *ep = ctx;

    buf_bytes(&ep->login_body, data, len);
    if (ep->login_body.bad)
        return sm_error_set(err, EFBIG, "the token server of %s sent more than %u bytes", ep->name,
                            REGISTRY_TOKEN_BYTES);
    return 0;
}

static int token_finish(void *ctx, const struct http_head *head, struct sm_error *err)
{
    struct endpoint *ep = ctx;
    struct token token;
    int code = token_parse(&token, ep->login_body.data, ep->login_body.len, io_now_ns(), err);

    if (ep->login_body.data)
        explicit_bzero(ep->login_body.data, ep->login_body.len);
    buf_done(&ep->login_body);
    if (code < 0)
        return sm_error_wrap(err, "the token server of %s%s", ep->name,
                             strcmp(head->type, "text/html") ? ""
                                                             : " answered with a web page (is a login page or proxy "
                                                               "in between?)");
    token_done(&ep->token);
    ep->token = token;
    ep->logins++;
    return 0;
}

static const struct exchange_ops token_ops = {token_from, token_head, token_data, token_finish};

/* Asking it */

struct query {
    char *service, *scope, *user, *identity; /* escaped; the last is secret */
};

static void query_done(struct query *q)
{
    free(q->service);
    free(q->scope);
    free(q->user);
    wipe_free(q->identity);
}

static int query_make(struct query *q, const struct registry *r, const struct endpoint *ep, struct sm_error *err)
{
    CLEANUP_FREE char *own = NULL;
    const char *scope = ep->challenge.scope;

    if (!scope) {
        if (asprintf(&own, "repository:%s:pull", r->repository) < 0) {
            own = NULL;
            return no_memory(err);
        }
        scope = own;
    }
    q->scope = http_escape(scope);
    q->service = http_escape(ep->challenge.service ? ep->challenge.service : "");
    q->user = http_escape(ep->credentials.username ? ep->credentials.username : "");
    q->identity = http_escape(ep->credentials.identity_token ? ep->credentials.identity_token : "");
    return q->scope && q->service && q->user && q->identity ? 0 : no_memory(err);
}

static int check_realm(struct registry *r, const struct endpoint *ep, struct sm_error *err)
{
    struct http_url url;
    int code = http_url_parse(r->http, &url, NULL, ep->challenge.realm, err);
    char shown[TEXT_SHOWN_SIZE];

    if (code < 0)
        return sm_error_wrap(err, "%s names a token server \"%s\"", ep->name, text_shown(shown, ep->challenge.realm));
    code = endpoint_may_go(r, ep, NULL, &url, err);
    http_url_done(&url);
    return code;
}

/* GET with basic authentication, or with none. */
static int ask_by_get(struct registry *r, struct endpoint *ep, const struct query *q, struct sm_error *err)
{
    const char *realm = ep->challenge.realm;
    CLEANUP_FREE char *url = NULL;
    CLEANUP_SECRET char *header = NULL;
    bool user = has_password(&ep->credentials);
    int code = user ? basic_header(&ep->credentials, &header, err) : 0;

    if (code < 0)
        return code;
    if (asprintf(&url, "%s%c%s%s%sscope=%s%s%s", realm, strchr(realm, '?') ? '&' : '?', q->service[0] ? "service=" : "",
                 q->service, q->service[0] ? "&" : "", q->scope, user ? "&account=" : "", user ? q->user : "") < 0) {
        url = NULL;
        return no_memory(err);
    }
    return exchange_start(&ep->login, r,
                          &(struct exchange_request){.method = HTTP_GET,
                                                     .url = url,
                                                     .token_for = ep,
                                                     .what = r->repository,
                                                     .accept = "application/json",
                                                     .authorization = header,
                                                     .total_timeout_ms = r->o.total_timeout_ms,
                                                     .ops = &token_ops,
                                                     .ctx = ep},
                          err);
}

/* The OAuth2 way: the identity token is a refresh token (RFC 6749, 6). */
static int ask_by_post(struct registry *r, struct endpoint *ep, const struct query *q, struct sm_error *err)
{
    CLEANUP_SECRET char *body = NULL;

    if (asprintf(&body, "grant_type=refresh_token&service=%s&scope=%s&client_id=supermachine&refresh_token=%s",
                 q->service, q->scope, q->identity) < 0) {
        body = NULL;
        return no_memory(err);
    }
    return exchange_start(&ep->login, r,
                          &(struct exchange_request){.method = HTTP_POST,
                                                     .url = ep->challenge.realm,
                                                     .token_for = ep,
                                                     .what = r->repository,
                                                     .accept = "application/json",
                                                     .body = body,
                                                     .total_timeout_ms = r->o.total_timeout_ms,
                                                     .ops = &token_ops,
                                                     .ctx = ep},
                          err);
}

int login_start(struct registry *r, struct endpoint *ep, struct sm_error *err)
{
    struct query q = {0};
    int code = 0;

    if (ep->login) /* somebody else's is as good */
        return 0;
    code = check_realm(r, ep, err);
    if (code >= 0)
        code = query_make(&q, r, ep, err);
    if (code >= 0)
        code = ep->credentials.identity_token ? ask_by_post(r, ep, &q, err) : ask_by_get(r, ep, &q, err);
    query_done(&q);
    return code;
}

void login_step(struct endpoint *ep)
{
    int code;

    if (!ep->login)
        return;
    exchange_step(ep->login);
    if (exchange_ended(ep->login, &code, &ep->login_err)) {
        exchange_free(ep->login);
        ep->login = NULL;
    }
}
