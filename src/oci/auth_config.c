/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Credentials files: see auth_config.h.
 *
 * Theory of operation
 *
 * What: three members of the document count. "credHelpers" names a helper program for a host; "credsStore" one for all
 * hosts; "auths" has the credentials themselves, base64 of "user:password" or an identity token. A helper for the host
 * goes before the one for all (as Docker has it); what "auths" says comes last, for a helper that knows nothing. The
 * empty name of a helper for a host means that there is none for it.
 *
 * Keys of "auths" are "host", "host/namespace", ... "host/whole/repository" (containers-auth.json(5)): the longest that
 * fits decides. Docker writes some as URLs, "https://index.docker.io/v1/": such a key stands for its host. Docker Hub
 * has several names, and all of them mean the same here.
 *
 * Only what is about the repository in question is looked at, so that trouble in another entry is no trouble.
 *
 * Limits: the caller's for the size, json.c's, AUTH_ENTRIES_MAX. Not done: "registrytoken", and the email of old.
 */
#include "oci/auth_config.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/checked.h"
#include "oci/base64.h"
#include "oci/json.h"

#define HUB_SERVER                                                                                                     \
    "https://index.docker.io/v1/" /* the name under which docker login keeps Docker Hub's credentials                  \
                                   */

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory for credentials");
}

static bool is_hub(const char *host, size_t len)
{
    static const char *const names[] = {"docker.io", "index.docker.io", "registry-1.docker.io"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (len == strlen(names[i]) && !strncasecmp(host, names[i], len))
            return true;
    }
    return false;
}

/* Does a key stand for the repository? How much of it, counting from 1 for the host alone; 0: not at all. */
static size_t key_fits(const char *key, const char *host, const char *repository)
{
    const char *p = key, *ns = "";
    size_t host_len, ns_len;

    if (!strncmp(p, "https://", 8))
        p += 8;
    else if (!strncmp(p, "http://", 7))
        p += 7;
    host_len = (size_t)(strchrnul(p, '/') - p);
    if (p == key && p[host_len])
        ns = p + host_len + 1;
    for (ns_len = strlen(ns); ns_len && ns[ns_len - 1] == '/';)
        ns_len--;
    if (!(host_len == strlen(host) && !strncasecmp(p, host, host_len)) &&
        !(is_hub(p, host_len) && is_hub(host, strlen(host))))
        return 0;
    if (ns_len && (strncmp(repository, ns, ns_len) || (repository[ns_len] && repository[ns_len] != '/')))
        return 0;
    return 1 + ns_len;
}

/* RFC 7617, 2: neither a user's name nor a password holds control characters. */
static bool is_plain(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
            return false;
    }
    return true;
}

static int copy_pair(struct credentials *ret, const char *user, size_t user_len, const char *password,
                     size_t password_len, struct sm_error *err)
{
    if (!user_len)
        return sm_error_set(err, EBADMSG, "its user name is empty");
    if (!is_plain(user, user_len) || !is_plain(password, password_len))
        return sm_error_set(err, EBADMSG, "its user name or password has a control character");
    ret->username = strndup(user, user_len);
    ret->password = strndup(password, password_len);
    return ret->username && ret->password ? 1 : no_memory(err);
}

static int take_auth(struct credentials *ret, const char *auth, struct sm_error *err)
{
    size_t cap = strlen(auth) + 1, len = 0;
    char *text = malloc(cap), *colon;
    int r;

    if (!text)
        return no_memory(err);
    if (!base64_decode(auth, (uint8_t *)text, &len)) {
        r = sm_error_set(err, EBADMSG, "its \"auth\" is not base64");
    } else if (!(colon = memchr(text, ':', len))) {
        r = sm_error_set(err, EBADMSG, "its \"auth\" is not USER:PASSWORD in base64");
    } else {
        while (len > (size_t)(colon + 1 - text) && !text[len - 1]) /* old Docker has padded passwords with zeros */
            len--;
        r = copy_pair(ret, text, (size_t)(colon - text), colon + 1, len - (size_t)(colon + 1 - text), err);
    }
    explicit_bzero(text, cap);
    free(text);
    return r;
}

/* 1 when there is something in it: `docker login` with a helper leaves empty ones. */
static int take_entry(struct credentials *ret, struct json *entry, struct sm_error *err)
{
    const char *auth, *token, *user, *password;
    int r = json_get_string(entry, "auth", false, &auth, err);

    if (r >= 0)
        r = json_get_string(entry, "identitytoken", false, &token, err);
    if (r >= 0)
        r = json_get_string(entry, "username", false, &user, err);
    if (r >= 0)
        r = json_get_string(entry, "password", false, &password, err);
    if (r < 0)
        return r;
    if (token && token[0]) {
        if (!is_plain(token, strlen(token)))
            return sm_error_set(err, EBADMSG, "its \"identitytoken\" has a control character");
        ret->identity_token = strdup(token);
        return ret->identity_token ? 1 : no_memory(err);
    }
    if (auth && auth[0])
        return take_auth(ret, auth, err);
    if (!user || !user[0])
        return 0;
    if (!password)
        password = "";
    return copy_pair(ret, user, strlen(user), password, strlen(password), err);
}

/* The longest key that fits and has something in it. */
static int find_auths(struct credentials *ret, struct json *doc, const char *host, const char *repository,
                      struct sm_error *err)
{
    struct json *auths, *entry;
    char **keys = NULL;
    size_t below = SIZE_MAX;
    int r = json_get_object(doc, "auths", false, &auths, err);

    if (r < 0 || !auths)
        return r;
    r = json_get_keys(doc, "auths", AUTH_ENTRIES_MAX, &keys, err);
    while (r == 0) {
        size_t longest = 0;

        for (char **k = keys; *k; k++) {
            size_t fits = key_fits(*k, host, repository);

            if (fits < below && fits > longest)
                longest = fits;
        }
        if (!longest)
            break;
        for (char **k = keys; *k && r == 0; k++) {
            if (key_fits(*k, host, repository) != longest)
                continue;
            r = json_get_object(auths, *k, false, &entry, err);
            if (r >= 0 && entry)
                r = take_entry(ret, entry, err);
            if (r < 0)
                sm_error_wrap(err, "the entry for %s", host);
        }
        below = longest;
    }
    strings_free(keys);
    return r < 0 ? r : 0;
}

static int set_helper(struct auth_found *ret, const char *helper, const char *server, struct sm_error *err)
{
    ret->helper = strdup(helper);
    ret->server = strdup(server);
    return ret->helper && ret->server ? 0 : no_memory(err);
}

/* 1 when the host has a helper of its own, be it none. */
static int find_own_helper(struct auth_found *ret, struct json *doc, const char *host, struct sm_error *err)
{
    struct json *map;
    const char *name;
    char **keys;
    int r = json_get_object(doc, "credHelpers", false, &map, err);

    if (r < 0 || !map)
        return r;
    r = json_get_keys(doc, "credHelpers", AUTH_ENTRIES_MAX, &keys, err);
    if (r < 0)
        return r;
    for (char **k = keys; *k && r == 0; k++) {
        if (key_fits(*k, host, "") != 1)
            continue;
        r = json_get_string(map, *k, true, &name, err);
        if (r >= 0 && name[0])
            r = set_helper(ret, name, *k, err);
        if (r >= 0)
            r = 1;
    }
    strings_free(keys);
    return r;
}

static int find_helper(struct auth_found *ret, struct json *doc, const char *host, struct sm_error *err)
{
    const char *name;
    int r = find_own_helper(ret, doc, host, err);

    if (r != 0)
        return r;
    r = json_get_string(doc, "credsStore", false, &name, err);
    if (r < 0 || !name || !name[0])
        return r;
    return set_helper(ret, name, is_hub(host, strlen(host)) ? HUB_SERVER : host, err);
}

int auth_config_parse(struct auth_found *ret, const void *data, size_t len, const char *host, const char *repository,
                      struct sm_error *err)
{
    struct auth_found found = {.helper = NULL};
    struct json *doc;
    int r = json_parse(&doc, data, len, err);

    if (r < 0)
        return r;
    r = find_helper(&found, doc, host, err);
    if (r >= 0)
        r = find_auths(&found.stored, doc, host, repository, err);
    json_free_secret(doc);
    if (r < 0) {
        auth_found_done(&found);
        return r;
    }
    *ret = found;
    return 0;
}

void auth_found_done(struct auth_found *f)
{
    free(f->helper);
    free(f->server);
    credentials_done(&f->stored);
    *f = (struct auth_found){.helper = NULL};
}
