/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP requests, one by one, several at a time: each is sent once, to the URL it names. Redirects, logins and retries
 * are the caller's (registry_exchange.c), so that it decides what is sent to whom.
 */
#ifndef SM_OCI_HTTP_H
#define SM_OCI_HTTP_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/http_headers.h"

#define HTTP_URL_MAX  (16 * 1024u)
#define HTTP_HOST_MAX 255 /* RFC 1035, 2.3.4 */
#define HTTP_WAIT_FDS 64

struct http;

struct http_options {
    uint32_t connect_timeout_ms, low_speed_bytes, low_speed_seconds;
};

/* Opens libcurl; -ENOSYS with a sentence when there is none, or one too old. */
int http_new(struct http **ret, const struct http_options *o, struct sm_error *err);
void http_free(struct http *h); /* its transfers must be freed before */

/* A URL taken apart. */
struct http_url {
    char *url;   /* absolute, normalised, without fragment */
    char *host;  /* lower case; IPv6 in brackets */
    char *where; /* "https://host:port", for sentences: the rest of a URL may hold a signature */
    uint16_t port;
    bool https;
};

/* `base` may be NULL: `url` must then be absolute. http and https only, no user or password in it. */
int http_url_parse(struct http *h, struct http_url *ret, const char *base, const char *url, struct sm_error *err);
void http_url_done(struct http_url *u); /* takes a zeroed one */
bool http_same_origin(const struct http_url *a, const struct http_url *b);
bool http_host_is_loopback(const char *host); /* "localhost", 127.0.0.0/8, [::1]; with or without brackets or port */

/* `s` with all but RFC 3986's unreserved characters as %XX, to be freed; NULL without memory. */
char *http_escape(const char *s);

/* What a server is checked against. All NULL: the system's CAs and no client certificate. */
struct http_tls {
    void *ca_pem; /* PEM, the system's among them */
    size_t ca_len;
    char *cert_file, *key_file;
};

/* Where this libcurl has the system's CAs in one file; NULL when it has none. */
const char *http_system_ca(struct http *h);

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_POST };

struct http_request {
    enum http_method method;
    const struct http_url *url;
    const char *const *headers; /* "Name: value"; copied, and the copies wiped */
    size_t n_headers;
    const char *body; /* of POST; lives as long as the transfer, as do tls and ctx */
    const struct http_tls *tls;
    uint32_t total_timeout_ms; /* 0: none */

    /* The final answer's head is there; then its body, piece by piece. Anything but 0 stops the transfer. */
    int (*head)(void *ctx, const struct http_head *head, struct sm_error *err);
    int (*data)(void *ctx, const void *data, size_t len, struct sm_error *err);
    void *ctx;
};

enum http_outcome {
    HTTP_RUNNING,
    HTTP_COMPLETE,   /* an answer, whole */
    HTTP_STOPPED,    /* by head() or data(), with their code and sentence */
    HTTP_NO_HOST,    /* the rest are failures: the name is not known */
    HTTP_NO_CONNECT, /* refused, unreachable */
    HTTP_NOT_TLS,    /* something answered, but not with TLS */
    HTTP_TLS,        /* certificates, ours or theirs */
    HTTP_PROXY,
    HTTP_TIMEOUT,
    HTTP_CUT,    /* the connection ended before the answer did */
    HTTP_BROKEN, /* anything else */
};

struct http_transfer;
int http_start(struct http_transfer **ret, struct http *h, const struct http_request *request, struct sm_error *err);
void http_transfer_free(struct http_transfer *t); /* stops it */

/* `err` (code and sentence) is set for what is neither HTTP_RUNNING nor HTTP_COMPLETE. */
enum http_outcome http_transfer_outcome(const struct http_transfer *t, struct sm_error *err);
const struct http_head *http_transfer_head(const struct http_transfer *t);
int http_transfer_stop_code(const struct http_transfer *t); /* HTTP_STOPPED: what the callback returned */

/* One round: wait for transfers and `fds` (n <= HTTP_WAIT_FDS), at most `timeout_ms` >= 0. Returns how many fds are
 * ready. */
int http_wait(struct http *h, struct pollfd *fds, unsigned n, int timeout_ms, struct sm_error *err);

#endif
