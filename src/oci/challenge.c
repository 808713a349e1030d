/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Challenges: the values of WWW-Authenticate headers.
 *
 * Theory of operation
 *
 * What: RFC 9110, 11.6.1 has lists of challenges, each a scheme with either one token68 or a list of parameters. Both
 * lists are separated by commas, so a name begins a new challenge when no '=' follows it. Schemes and the names of
 * parameters are compared without regard to case; of a scheme that is there twice the first counts; unknown schemes and
 * unknown parameters are read and skipped. What does not follow the grammar is refused, whole: a guess would decide
 * where a password is sent.
 *
 * Limits: AUTH_HEADERS_MAX, AUTH_HEADER_MAX, AUTH_PARAMS_MAX.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/checked.h"
#include "oci/auth.h"

struct cursor {
    const char *p;
    char *value; /* room for any value of the header */
};

static bool is_token_char(char c) /* RFC 9110, 5.6.2 */
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_token68_char(char c) /* RFC 9110, 11.2 */
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("-._~+/", c));
}

static void skip_space(struct cursor *c)
{
    while (*c->p == ' ' || *c->p == '\t')
        c->p++;
}

/* Between elements; a list may have empty ones (RFC 9110, 5.6.1.2). */
static void skip_commas(struct cursor *c)
{
    while (*c->p == ' ' || *c->p == '\t' || *c->p == ',')
        c->p++;
}

static size_t token_len(const char *p)
{
    size_t n = 0;

    while (is_token_char(p[n]))
        n++;
    return n;
}

/* At the end of an element? Space before that is passed over. */
static bool at_end(struct cursor *c)
{
    skip_space(c);
    return !*c->p || *c->p == ',';
}

static bool take_quoted(struct cursor *c) /* RFC 9110, 5.6.4 */
{
    size_t n = 0;

    for (c->p++; *c->p != '"'; c->p++) {
        if (*c->p == '\\')
            c->p++;
        if (((unsigned char)*c->p < 0x20 && *c->p != '\t') || *c->p == 0x7f) /* the end of the header, too */
            return false;
        c->value[n++] = *c->p;
    }
    c->p++;
    c->value[n] = '\0';
    return true;
}

static bool take_value(struct cursor *c)
{
    size_t n;

    skip_space(c);
    if (*c->p == '"')
        return take_quoted(c) && at_end(c);
    n = token_len(c->p);
    memcpy(c->value, c->p, n);
    c->value[n] = '\0';
    c->p += n;
    return n > 0 && at_end(c);
}

static bool skip_token68(struct cursor *c)
{
    struct cursor at = *c;

    while (is_token68_char(*at.p))
        at.p++;
    if (at.p == c->p)
        return false;
    while (*at.p == '=')
        at.p++;
    if (!at_end(&at))
        return false;
    c->p = at.p;
    return true;
}

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory for a registry's challenge");
}

static int malformed(struct sm_error *err)
{
    return sm_error_set(err, EBADMSG, "the registry asks for a login in a way that is malformed (WWW-Authenticate)");
}

static bool is_name(const char *p, size_t len, const char *name)
{
    return len == strlen(name) && !strncasecmp(p, name, len);
}

static int keep(struct challenge *ch, const char *name, size_t len, const char *value, struct sm_error *err)
{
    const struct {
        const char *name;
        char **to;
    } params[] = {{"realm", &ch->realm}, {"service", &ch->service}, {"scope", &ch->scope}, {"error", &ch->error}};

    for (size_t i = 0; i < ARRAY_SIZE(params); i++) {
        if (!is_name(name, len, params[i].name))
            continue;
        if (*params[i].to) /* RFC 9110, 11.2: once a challenge */
            return malformed(err);
        *params[i].to = strdup(value);
        return *params[i].to ? 0 : no_memory(err);
    }
    return 0;
}

static int take_params(struct challenge *ch, struct cursor *c, struct sm_error *err)
{
    for (unsigned n = 0;; n++) {
        struct cursor at = *c;
        const char *name;
        size_t len;
        int r;

        skip_commas(&at);
        name = at.p;
        len = token_len(name);
        at.p += len;
        skip_space(&at);
        if (!len || *at.p != '=') /* the next challenge, or none */
            return 0;
        at.p++;
        if (n == AUTH_PARAMS_MAX)
            return sm_error_set(err, E2BIG, "the registry's challenge has more than %d parameters", AUTH_PARAMS_MAX);
        if (!take_value(&at))
            return malformed(err);
        r = keep(ch, name, len, at.value, err);
        if (r < 0)
            return r;
        c->p = at.p;
    }
}

static int take_challenge(struct challenge *ch, struct cursor *c, struct sm_error *err)
{
    size_t len = token_len(c->p);

    if (!len)
        return malformed(err);
    ch->scheme = is_name(c->p, len, "bearer")  ? CHALLENGE_BEARER
                 : is_name(c->p, len, "basic") ? CHALLENGE_BASIC
                                               : CHALLENGE_NONE;
    c->p += len;
    if (!*c->p || *c->p == ',')
        return 0;
    if (*c->p != ' ' && *c->p != '\t')
        return malformed(err);
    skip_space(c);
    return skip_token68(c) ? 0 : take_params(ch, c, err);
}

/* Every challenge of one header; the best goes to *best. */
static int take_header(struct challenge *best, struct cursor *c, struct sm_error *err)
{
    for (skip_commas(c); *c->p; skip_commas(c)) {
        struct challenge ch = {.scheme = CHALLENGE_NONE};
        int r = take_challenge(&ch, c, err);

        if (r >= 0 && !at_end(c))
            r = malformed(err);
        if (r >= 0 && ch.scheme == CHALLENGE_BEARER && (!ch.realm || !ch.realm[0]))
            r = sm_error_set(err, EBADMSG, "the registry asks for a token but does not say where to get one");
        if (r >= 0 && ch.scheme > best->scheme) {
            struct challenge worse = *best;

            *best = ch;
            ch = worse;
        }
        challenge_done(&ch);
        if (r < 0)
            return r;
    }
    return 0;
}

int challenge_parse(struct challenge *ret, const char *const *headers, size_t n, struct sm_error *err)
{
    struct challenge best = {.scheme = CHALLENGE_NONE};
    struct cursor c = {.value = NULL};
    int r = 0;

    if (n > AUTH_HEADERS_MAX)
        return sm_error_set(err, E2BIG, "the registry's answer has more than %d WWW-Authenticate headers",
                            AUTH_HEADERS_MAX);
    c.value = malloc(AUTH_HEADER_MAX + 1);
    if (!c.value)
        return no_memory(err);
    for (size_t i = 0; r >= 0 && i < n; i++) {
        c.p = headers[i];
        if (strlen(c.p) > AUTH_HEADER_MAX)
            r = sm_error_set(err, EFBIG, "the registry's challenge is longer than %u bytes", AUTH_HEADER_MAX);
        else
            r = take_header(&best, &c, err);
    }
    free(c.value);
    if (r < 0) {
        challenge_done(&best);
        return r;
    }
    *ret = best;
    return 0;
}

void challenge_done(struct challenge *c)
{
    free(c->realm);
    free(c->service);
    free(c->scope);
    free(c->error);
    *c = (struct challenge){.scheme = CHALLENGE_NONE};
}
