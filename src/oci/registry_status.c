/* SPDX-License-Identifier: Apache-2.0 */
/* Answers that are refusals, as sentences: what happened, to what, and what to do. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "oci/json.h"
#include "oci/registry_private.h"
#include "oci/text.h"

#define REASON_SIZE (TEXT_SHOWN_SIZE + 8)

/* The distribution specification's errors are {"errors":[{"code", "message"}]}; token servers have other names. */
static const char *find_reason(struct json *doc)
{
    static const char *const names[] = {"error_description", "details", "message"};
    struct json *list, *first;
    const char *s = NULL;
    size_t n = 0;

    if (json_get_array(doc, "errors", false, 64, &list, &n, NULL) >= 0 && n > 0 &&
        json_item_object(list, 0, "errors", &first, NULL) >= 0 &&
        ((json_get_string(first, "message", false, &s, NULL) >= 0 && s && s[0]) ||
         (json_get_string(first, "code", false, &s, NULL) >= 0 && s && s[0])))
        return s;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (json_get_string(doc, names[i], false, &s, NULL) >= 0 && s && s[0])
            return s;
    return NULL;
}

/* A server may send our own secret back to us; then it is no reason worth showing. */
static bool holds_secret(const struct refusal *f, const char *s)
{
    const struct endpoint *ep = f->endpoint;
    const char *const secrets[] = {f->sent ? strrchr(f->sent, ' ') + 1 : NULL, ep->credentials.password,
                                   ep->credentials.identity_token, ep->token.value};

    for (size_t i = 0; i < ARRAY_SIZE(secrets); i++)
        if (secrets[i] && secrets[i][0] && strstr(s, secrets[i]))
            return true;
    return false;
}

/* " (reason)", or "". */
static const char *reason(const struct refusal *f, char buf[REASON_SIZE])
{
    char shown[TEXT_SHOWN_SIZE];
    struct json *doc;
    const char *s;

    buf[0] = '\0';
    if (!strcmp(f->head->type, "text/html"))
        return " (it sent a web page: is a login page or a proxy in between?)";
    if (!f->body_len || json_parse(&doc, f->body, f->body_len, NULL) < 0)
        return buf;
    s = find_reason(doc);
    if (s && !holds_secret(f, s))
        snprintf(buf, REASON_SIZE, " (\"%s\")", text_shown(shown, s));
    json_free(doc);
    return buf;
}

static int rate_limit(const struct refusal *f, const char *why, struct sm_error *err)
{
    char when[64] = "in some minutes";

    if (f->head->has_retry && f->head->retry_after_s < 600)
        snprintf(when, sizeof(when), "in %u s", f->head->retry_after_s);
    else if (f->head->has_retry)
        snprintf(when, sizeof(when), "in %u minutes", (f->head->retry_after_s + 59) / 60);
    return sm_error_set(err, EBUSY, "%s limits how often it is asked%s: try again %s%s",
                        f->elsewhere || f->token_server ? f->where : f->endpoint->name, why, when,
                        f->endpoint->challenge.scheme == CHALLENGE_NONE || f->endpoint->credentials.username ||
                                f->endpoint->credentials.identity_token
                            ? ""
                            : "; who is logged in may often ask more");
}

static int not_allowed(const struct refusal *f, const char *why, struct sm_error *err)
{
    const struct credentials *c = &f->endpoint->credentials;
    const char *name = f->endpoint->name;
    bool known = c->username || c->identity_token;

    if (f->elsewhere)
        return sm_error_set(err, EACCES,
                            "%s, where %s sends us for \"%s\", does not let us have it (%d)%s: try again; who runs the "
                            "registry should know",
                            f->where, name, f->what, f->head->status, why);
    if (!known)
        return sm_error_set(err, EACCES,
                            "%s does not give \"%s\" to somebody who is not logged in, or has no such repository%s: "
                            "check the name; log in with \"docker login %s\" (podman and skopeo do as well), or name a "
                            "file with --auth-file",
                            name, f->what, why, name);
    if (f->head->status == 403)
        return sm_error_set(
            err, EACCES,
            "%s does not let the user who is logged in pull \"%s\"%s: ask who runs it for access, or log "
            "in as somebody else (\"docker login %s\")",
            name, f->what, why, name);
    return sm_error_set(err, EACCES,
                        "%s does not accept the login that is stored for it%s: log in again with \"docker login %s\"",
                        name, why, name);
}

int registry_refused(const struct refusal *f, struct sm_error *err)
{
    char buf[REASON_SIZE];
    const char *why = reason(f, buf);
    int status = f->head->status;

    if (status == 429)
        return rate_limit(f, why, err);
    if (status == 407) /* over TLS it is the tunnel that fails, in http.c */
        return sm_error_set(err, EPROTO,
                            "the proxy in this environment wants a login to reach %s: put user and password into the "
                            "proxy's URL (http_proxy)",
                            f->where);
    if (status == 401 || status == 403 || (f->token_server && status == 400))
        return not_allowed(f, why, err);
    if (status >= 500)
        return sm_error_set(err, EIO, "%s failed with status %d%s: try again later", f->where, status, why);
    if (f->token_server)
        return sm_error_set(err, EPROTO, "the token server of %s, %s, answered with status %d%s", f->endpoint->name,
                            f->where, status, why);
    if (status == 404 || status == 410)
        return sm_error_set(err, ENOENT, "%s has no \"%s\"%s: %s", f->endpoint->name, f->what, why,
                            strchr(f->what, '@') ? "it may have been deleted there" : "check the name and the tag");
    return sm_error_set(
        err, status == 405 ? EOPNOTSUPP : EPROTO, "%s answered with status %d%s: is it a registry?%s", f->where, status,
        why, status == 400 && !strncmp(f->where, "http:", 5) ? " Perhaps it wants TLS: leave --plain-http out" : "");
}
