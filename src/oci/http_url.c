/* SPDX-License-Identifier: Apache-2.0 */
/* What can be said of URLs and hosts without libcurl: see http.h. */
#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "oci/http.h"

void http_url_done(struct http_url *u)
{
    free(u->url);
    free(u->host);
    free(u->where);
    *u = (struct http_url){0};
}

bool http_same_origin(const struct http_url *a, const struct http_url *b)
{
    return a->https == b->https && a->port == b->port && !strcmp(a->host, b->host);
}

bool http_host_is_loopback(const char *host)
{
    char name[HTTP_HOST_MAX + 1];
    size_t n;
    struct in_addr v4;
    struct in6_addr v6;

    if (host[0] == '[') {
        host++;
        n = strcspn(host, "]");
    } else {
        n = strcspn(host, ":");
        if (strchr(host + n, ':') != strrchr(host, ':')) /* IPv6 without brackets */
            n = strlen(host);
    }
    if (n == 0 || n > HTTP_HOST_MAX)
        return false;
    memcpy(name, host, n);
    name[n] = '\0';
    if (!strcasecmp(name, "localhost"))
        return true;
    if (inet_pton(AF_INET, name, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, name, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

char *http_escape(const char *s)
{
    char *out = malloc(strlen(s) * 3 + 1), *p = out;

    if (!out)
        return NULL;
    for (; *s; s++) {
        if (isalnum((unsigned char)*s) || strchr("-._~", *s))
            *p++ = *s;
        else
            p += sprintf(p, "%%%02X", (unsigned char)*s);
    }
    *p = '\0';
    return out;
}
