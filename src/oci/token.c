/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A token server's answer (the distribution project's token specification, and OAuth2): the token under one of two
 * names, and its life in seconds. When it was issued is not looked at: the two clocks need not agree.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "oci/auth.h"
#include "oci/json.h"

#define DEFAULT_LIFE_S 60 /* "Token Authentication Specification", expires_in */
#define MAX_LIFE_S     (24 * 60 * 60)
#define MAX_MARGIN_S   30 /* an answer takes its time; of a short life it is a tenth */
#define NS_PER_S       1000000000ull

/* It goes into a header as it is: visible ASCII only. */
static bool is_header_safe(const char *s)
{
    for (; *s; s++) {
        if (*s < 0x21 || *s > 0x7e)
            return false;
    }
    return true;
}

static int take(struct token *ret, struct json *doc, uint64_t now_ns, struct sm_error *err)
{
    const char *value, *other;
    uint64_t life_s, life_ns, margin_ns;
    int r = json_get_string(doc, "token", false, &value, err);

    if (r >= 0)
        r = json_get_string(doc, "access_token", false, &other, err);
    if (r >= 0)
        r = json_get_u64(doc, "expires_in", false, &life_s, err);
    if (r < 0)
        return r;
    if (!value || !value[0])
        value = other;
    if (!value || !value[0])
        return sm_error_set(err, EBADMSG, "there is no token in it");
    if (strlen(value) > AUTH_TOKEN_MAX)
        return sm_error_set(err, EBADMSG, "its token is longer than %u KiB, which is the limit", AUTH_TOKEN_MAX / 1024);
    if (!is_header_safe(value))
        return sm_error_set(err, EBADMSG, "its token has a space, a control character or what is not ASCII");
    if (!life_s)
        life_s = DEFAULT_LIFE_S;
    if (life_s > MAX_LIFE_S)
        life_s = MAX_LIFE_S;
    life_ns = life_s * NS_PER_S;
    margin_ns = life_ns / 10 < MAX_MARGIN_S * NS_PER_S ? life_ns / 10 : MAX_MARGIN_S * NS_PER_S;
    ret->value = strdup(value);
    ret->expires_ns = now_ns + life_ns - margin_ns;
    return ret->value ? 0 : sm_error_set(err, ENOMEM, "out of memory for a token");
}

int token_parse(struct token *ret, const void *json, size_t len, uint64_t now_ns, struct sm_error *err)
{
    struct token t = {NULL, 0};
    struct json *doc;
    int r;

    if (len > AUTH_TOKEN_ANSWER_MAX)
        return sm_error_set(err, EFBIG, "it is larger than %u KiB, which is the limit", AUTH_TOKEN_ANSWER_MAX / 1024);
    r = json_parse(&doc, json, len, err);
    if (r < 0)
        return r;
    r = take(&t, doc, now_ns, err);
    json_free_secret(doc);
    if (r >= 0)
        *ret = t;
    return r;
}

void token_done(struct token *t)
{
    if (t->value)
        explicit_bzero(t->value, strlen(t->value));
    free(t->value);
    *t = (struct token){NULL, 0};
}
