/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file about registries.
 *
 * Theory of operation
 *
 * What: one JSON document, {"registries": {HOST: {...}}}, read whole when a registry is opened. Only the entries of
 * hosts that are asked are looked into; those strictly, down to keys that are not known, because a misspelt "mirrors"
 * or "plain_http" that is passed over does the opposite of what its writer wanted.
 *
 * Invariants: strings of a struct host_config live as long as the config they came from.
 *
 * Limits: CONFIG_MAX_BYTES, REGISTRY_MIRRORS_MAX, and those of json.h.
 */
#include "oci/registry_config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "oci/json.h"
#include "oci/text.h"

#define CONFIG_MAX_BYTES MIB
#define KEYS_MAX         64 /* of one host; there are five */

struct registry_config {
    char *path;
    struct json *doc; /* NULL: no file */
    struct json *hosts;
};

static int usual_path(char **ret, struct sm_error *err)
{
    const char *dir = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    int n = 0;

    *ret = NULL;
    if (dir && dir[0] == '/')
        n = asprintf(ret, "%s/supermachine/registries.json", dir);
    else if (home && home[0])
        n = asprintf(ret, "%s/.config/supermachine/registries.json", home);
    return n < 0 ? sm_error_set(err, ENOMEM, "out of memory") : 0;
}

static int read_config(struct registry_config *c, bool required, struct sm_error *err)
{
    CLEANUP_FD int fd = open(c->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    CLEANUP_FREE char *data = NULL;
    ssize_t n;
    int r;

    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR) && !required)
        return 0;
    if (fd < 0)
        return sm_error_sys(err, errno, "cannot open the registries' configuration \"%s\"", c->path);
    data = malloc(CONFIG_MAX_BYTES + 1);
    if (!data)
        return sm_error_set(err, ENOMEM, "out of memory");
    n = io_read_full(fd, data, CONFIG_MAX_BYTES + 1);
    if (n < 0)
        return sm_error_sys(err, (int)-n, "cannot read the registries' configuration \"%s\"", c->path);
    if ((uint64_t)n > CONFIG_MAX_BYTES)
        return sm_error_set(err, EFBIG, "the registries' configuration \"%s\" is larger than 1 MiB", c->path);
    r = json_parse(&c->doc, data, (size_t)n, err);
    if (r >= 0)
        r = json_get_object(c->doc, "registries", true, &c->hosts, err);
    return r < 0 ? sm_error_wrap(err, "the registries' configuration \"%s\"", c->path) : 0;
}

int registry_config_load(struct registry_config **ret, const char *path, struct sm_error *err)
{
    struct registry_config *c = calloc(1, sizeof(*c));
    const char *given = path ? path : getenv("SUPERMACHINE_CONFIG");
    int r = 0;

    if (!c)
        return sm_error_set(err, ENOMEM, "out of memory");
    if (given && given[0]) {
        c->path = strdup(given);
        if (!c->path)
            r = sm_error_set(err, ENOMEM, "out of memory");
    } else {
        given = NULL;
        r = usual_path(&c->path, err);
    }
    if (r >= 0 && c->path)
        r = read_config(c, given != NULL, err);
    if (r < 0) {
        registry_config_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

void registry_config_free(struct registry_config *c)
{
    if (!c)
        return;
    if (c->doc)
        json_free(c->doc);
    free(c->path);
    free(c);
}

/* A misspelt key must not be passed over: somebody relies on what it was to say. */
static int check_keys(struct registry_config *c, const char *host, struct sm_error *err)
{
    static const char *const known[] = {"mirrors", "plain_http", "ca_file", "cert_file", "key_file"};
    char shown[TEXT_SHOWN_SIZE];
    char **keys;
    int r = json_get_keys(c->hosts, host, KEYS_MAX, &keys, err);

    if (r < 0)
        return r;
    for (char **k = keys; *k && r >= 0; k++) {
        bool ok = false;

        for (size_t i = 0; i < ARRAY_SIZE(known); i++)
            ok = ok || !strcmp(*k, known[i]);
        if (!ok)
            r = sm_error_set(err, EINVAL, "\"%s\" is not a key that is known here", text_shown(shown, *k));
    }
    strings_free(keys);
    return r;
}

static int read_host(struct json *obj, struct host_config *h, struct sm_error *err)
{
    int r = json_get_strings(obj, "mirrors", REGISTRY_MIRRORS_MAX, &h->mirrors, err);

    if (r >= 0)
        r = json_get_bool(obj, "plain_http", &h->plain_http, err);
    if (r >= 0)
        r = json_get_string(obj, "ca_file", false, &h->ca_file, err);
    if (r >= 0)
        r = json_get_string(obj, "cert_file", false, &h->cert_file, err);
    if (r >= 0)
        r = json_get_string(obj, "key_file", false, &h->key_file, err);
    return r;
}

int registry_config_host(struct registry_config *c, const char *host, struct host_config *ret, struct sm_error *err)
{
    struct host_config h = {0};
    struct json *obj = NULL;
    int r = c->hosts ? json_get_object(c->hosts, host, false, &obj, err) : 0;

    if (r >= 0 && obj)
        r = check_keys(c, host, err);
    if (r >= 0 && obj)
        r = read_host(obj, &h, err);
    if (r < 0) {
        host_config_done(&h);
        return sm_error_wrap(err, "the registries' configuration \"%s\", for \"%s\"", c->path, host);
    }
    *ret = h;
    return 0;
}

void host_config_done(struct host_config *h)
{
    strings_free(h->mirrors);
    *h = (struct host_config){0};
}
