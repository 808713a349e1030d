/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The servers that have a repository: the mirrors that the configuration names, in order, then the registry itself.
 *
 * Theory of operation
 *
 * What: each endpoint is made ready when the registry is opened: its URL, what it is trusted by, whether it may be
 * spoken to in plain. Afterwards only exchanges and logins change it. endpoint_may_go() is the one place that decides
 * whether a redirect or a token server may be followed to where bytes are not encrypted.
 *
 * Invariants: the last endpoint is no mirror. Whether plain HTTP is right for a loopback host is found out by trying
 * TLS first (`probing`); for all others it is the user's word, never the network's.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "oci/registry_private.h"
#include "oci/text.h"

/* What people call docker.io answers under another name. */
#define HUB      "docker.io"
#define HUB_HOST "registry-1.docker.io"

void endpoint_done(struct endpoint *ep)
{
    exchange_free(ep->login);
    if (ep->login_body.data)
        explicit_bzero(ep->login_body.data, ep->login_body.len);
    buf_done(&ep->login_body);
    challenge_done(&ep->challenge);
    credentials_done(&ep->credentials);
    token_done(&ep->token);
    registry_tls_done(&ep->tls);
    http_url_done(&ep->url);
    free(ep->name);
    *ep = (struct endpoint){0};
}

static int set_url(struct registry *r, struct endpoint *ep, const char *url, struct sm_error *err)
{
    struct http_url parsed;
    size_t n;
    int code = http_url_parse(r->http, &parsed, NULL, url, err);

    if (code < 0)
        return code;
    n = strlen(parsed.url);
    while (n > 0 && parsed.url[n - 1] == '/')
        parsed.url[--n] = '\0';
    if (strchr(parsed.url, '?')) {
        http_url_done(&parsed);
        return sm_error_set(err, EINVAL, "it has a query");
    }
    http_url_done(&ep->url);
    ep->url = parsed;
    return 0;
}

static int set_scheme(struct registry *r, struct endpoint *ep, const char *scheme, const char *host,
                      struct sm_error *err)
{
    CLEANUP_FREE char *url = NULL;
    char shown[TEXT_SHOWN_SIZE];

    if (asprintf(&url, "%s://%s/", scheme, host) < 0) {
        url = NULL;
        return sm_error_set(err, ENOMEM, "out of memory");
    }
    if (set_url(r, ep, url, err) < 0)
        return sm_error_set(err, EINVAL, "\"%s\" is not a registry's host, with or without a port",
                            text_shown(shown, host));
    return 0;
}

int endpoint_without_tls(struct registry *r, struct endpoint *ep, struct sm_error *err)
{
    ep->probing = false;
    return set_scheme(r, ep, "http", ep->name, err);
}

static int set_tls(struct registry *r, struct endpoint *ep, const struct host_config *config, struct sm_error *err)
{
    const struct tls_files files = {
        .ca_file = {r->o.ca_file, config->ca_file},
        .cert_file = {r->o.cert_file, config->cert_file},
        .key_file = {r->o.key_file, config->key_file},
    };

    return registry_tls_load(&ep->tls, r->http, ep->name, &files, err);
}

static int add_origin(struct registry *r, const struct host_config *config, struct sm_error *err)
{
    struct endpoint *ep = &r->endpoint[r->n_endpoints++];
    const char *host = strcmp(r->host, HUB) ? r->host : HUB_HOST;
    int code;

    ep->name = strdup(r->host);
    if (!ep->name)
        return sm_error_set(err, ENOMEM, "out of memory");
    ep->plain = r->o.plain_http || config->plain_http;
    ep->probing = !ep->plain && http_host_is_loopback(host);
    code = set_scheme(r, ep, ep->plain ? "http" : "https", host, err);
    return code < 0 ? code : set_tls(r, ep, config, err);
}

/* "https://mirror.example:5000/prefix", or a host alone. http:// in it is the user's own word that it may be plain. */
static int add_mirror(struct registry *r, struct registry_config *c, const char *mirror, struct sm_error *err)
{
    struct endpoint *ep = &r->endpoint[r->n_endpoints++];
    struct host_config config = {0};
    const char *host;
    int code;

    ep->mirror = true;
    code = strstr(mirror, "://") ? set_url(r, ep, mirror, err) : set_scheme(r, ep, "https", mirror, err);
    if (code < 0)
        return code;
    host = strstr(ep->url.where, "://") + 3;
    ep->name = strdup(host);
    if (!ep->name)
        return sm_error_set(err, ENOMEM, "out of memory");
    code = registry_config_host(c, ep->name, &config, err);
    if (code >= 0) {
        ep->plain = !ep->url.https || r->o.plain_http || config.plain_http;
        code = set_tls(r, ep, &config, err);
    }
    host_config_done(&config);
    return code;
}

int registry_endpoints(struct registry *r, struct sm_error *err)
{
    struct registry_config *c = NULL;
    struct host_config config = {0};
    const struct tls_files files = {.ca_file = {r->o.ca_file}};
    char shown[TEXT_SHOWN_SIZE];
    int code = registry_config_load(&c, r->o.config_file, err);

    if (code < 0)
        return code;
    code = registry_config_host(c, r->host, &config, err);
    for (char **m = config.mirrors; code >= 0 && m && *m; m++) {
        code = add_mirror(r, c, *m, err);
        if (code < 0)
            sm_error_wrap(err, "the mirror \"%s\" of %s", text_shown(shown, *m), r->host);
    }
    if (code >= 0)
        code = add_origin(r, &config, err);
    if (code >= 0)
        code = registry_tls_load(&r->tls, r->http, NULL, &files, err);
    host_config_done(&config);
    registry_config_free(c);
    return code;
}

int endpoint_may_go(const struct registry *r, const struct endpoint *ep, const struct http_url *from,
                    const struct http_url *url, struct sm_error *err)
{
    if (url->https || r->o.plain_http || ep->plain)
        return 0;
    if (from && from->https)
        return sm_error_set(err, EPROTO,
                            "%s redirects to %s, which is not encrypted: it should not; --plain-http would allow it",
                            from->where, url->where);
    if (http_host_is_loopback(url->host) && http_host_is_loopback(ep->url.host))
        return 0;
    return sm_error_set(err, EPROTO, "%s sends us to %s, which is not encrypted: --plain-http would allow it", ep->name,
                        url->where);
}
