/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP over libcurl: the one file that sees it.
 *
 * Theory of operation
 *
 * What: libcurl's multi interface carries all transfers of one client on the caller's thread. libcurl is opened when
 * the first client is made, not linked: the command line is a static program but for libc, and Debian's static libcurl
 * wants Kerberos and LDAP; a warm `run` has no use for it and should not load it either. Once open it stays so
 * (RTLD_NODELETE), because libraries behind it leave handlers that run at exit.
 *
 * Invariants: a transfer is in the multi handle from http_start() until http_transfer_free(). Its callbacks run inside
 * http_wait() only, never after one of them has stopped it. libcurl follows no redirect, keeps no cookies, reads no
 * .netrc, speaks http and https alone, and is never verbose: what is in a request's headers is seen by nobody else.
 *
 * Signals: none are used (CURLOPT_NOSIGNAL), and from 7.88 on libcurl writes with MSG_NOSIGNAL under TLS too.
 *
 * Proxies: as libcurl reads them from the environment (https_proxy, NO_PROXY, ...). Loopback is never asked through
 * one: to the proxy it would be another machine. HTTP_PROXY is read too, which libcurl leaves out for the sake of CGI.
 *
 * Limits: headers, see http_headers.h; bodies are for the callbacks to limit. Times: http_options.
 */
#include "oci/http.h"

#include <assert.h>
#include <ctype.h>
#include <curl/curl.h>
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "oci/text.h"

#define LIBRARY     "libcurl.so.4"
#define OLDEST      0x075800 /* 7.88: Debian 12 */
#define BUFFER_SIZE (256 * 1024L)

#define FUNCTIONS(X)                                                                                                   \
    X(global_init)                                                                                                     \
    X(global_cleanup)                                                                                                  \
    X(version_info)                                                                                                    \
    X(easy_init)                                                                                                       \
    X(easy_setopt)                                                                                                     \
    X(easy_getinfo)                                                                                                    \
    X(easy_cleanup)                                                                                                    \
    X(multi_init)                                                                                                      \
    X(multi_add_handle)                                                                                                \
    X(multi_remove_handle)                                                                                             \
    X(multi_perform)                                                                                                   \
    X(multi_poll)                                                                                                      \
    X(multi_info_read)                                                                                                 \
    X(multi_cleanup)                                                                                                   \
    X(multi_strerror)                                                                                                  \
    X(slist_append)                                                                                                    \
    X(slist_free_all)                                                                                                  \
    X(url)                                                                                                             \
    X(url_cleanup)                                                                                                     \
    X(url_set)                                                                                                         \
    X(url_get)                                                                                                         \
    X(free)

struct curl_functions {
#define MEMBER(name) __typeof__(curl_##name) *name;
    FUNCTIONS(MEMBER)
#undef MEMBER
};

struct http {
    struct curl_functions curl;
    struct http_options options;
    void *library;
    CURLM *multi;
    const char *system_ca;
    bool inited;
};

struct http_transfer {
    struct http *http;
    CURL *easy;
    struct curl_slist *headers;
    struct http_request request; /* only callbacks, ctx and method are looked at later */
    struct http_head head;
    bool added, head_given, proxied;
    char where[HTTP_HOST_MAX + 32], host[HTTP_HOST_MAX + 1];
    char detail[CURL_ERROR_SIZE];
    enum http_outcome outcome;
    int stop_code;
    struct sm_error err;
};

/* Opening */

static int open_library(struct http *h, struct sm_error *err)
{
    const curl_version_info_data *info;

    h->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!h->library)
        return sm_error_set(err, ENOSYS,
                            "images from registries need libcurl, and " LIBRARY
                            " cannot be loaded here: install it (Debian's package is libcurl4)");
#define LOAD(name)                                                                                                     \
    *(void **)&h->curl.name = dlsym(h->library, "curl_" #name);                                                        \
    if (!h->curl.name)                                                                                                 \
        return sm_error_set(err, ENOSYS,                                                                               \
                            "this system's " LIBRARY " has no curl_" #name                                             \
                            ": install libcurl 7.88 or newer (Debian's package is libcurl4)");
    FUNCTIONS(LOAD)
#undef LOAD
    info = h->curl.version_info(CURLVERSION_NOW);
    if (info->version_num < OLDEST)
        return sm_error_set(err, ENOSYS,
                            "this system's libcurl is version %s, 7.88 or newer is needed (Debian's package is "
                            "libcurl4)",
                            info->version);
    if (!(info->features & CURL_VERSION_SSL))
        return sm_error_set(err, ENOSYS, "this system's libcurl was built without TLS: install another one");
    h->system_ca = info->cainfo && access(info->cainfo, R_OK) == 0 ? info->cainfo : NULL;
    return 0;
}

int http_new(struct http **ret, const struct http_options *o, struct sm_error *err)
{
    struct http *h = calloc(1, sizeof(*h));
    int r;

    if (!h)
        return sm_error_set(err, ENOMEM, "out of memory");
    h->options = *o;
    r = open_library(h, err);
    if (r < 0)
        goto fail;
    h->inited = h->curl.global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
    h->multi = h->inited ? h->curl.multi_init() : NULL;
    if (!h->multi) {
        r = sm_error_set(err, ENOMEM, "libcurl cannot be started: out of memory");
        goto fail;
    }
    *ret = h;
    return 0;
fail:
    http_free(h);
    return r;
}

void http_free(struct http *h)
{
    if (!h)
        return;
    if (h->multi)
        h->curl.multi_cleanup(h->multi);
    if (h->inited)
        h->curl.global_cleanup();
    if (h->library)
        dlclose(h->library);
    free(h);
}

const char *http_system_ca(struct http *h)
{
    return h->system_ca;
}

/* URLs */

static bool take_part(struct http *h, CURLU *u, CURLUPart part, unsigned flags, char **ret)
{
    char *s = NULL;

    if (h->curl.url_get(u, part, &s, flags) != CURLUE_OK || !s)
        return false;
    *ret = strdup(s);
    h->curl.free(s);
    return *ret != NULL;
}

static bool split_url(struct http *h, CURLU *u, struct http_url *ret)
{
    CLEANUP_FREE char *scheme = NULL, *port = NULL;
    char *s = NULL;

    if (!take_part(h, u, CURLUPART_SCHEME, 0, &scheme) || !take_part(h, u, CURLUPART_PORT, CURLU_DEFAULT_PORT, &port) ||
        !take_part(h, u, CURLUPART_HOST, 0, &ret->host))
        return false;
    ret->https = !strcmp(scheme, "https");
    if ((!ret->https && strcmp(scheme, "http")) || strlen(ret->host) > HTTP_HOST_MAX)
        return false;
    if (h->curl.url_get(u, CURLUPART_USER, &s, 0) == CURLUE_OK ||
        h->curl.url_get(u, CURLUPART_PASSWORD, &s, 0) == CURLUE_OK) {
        h->curl.free(s);
        return false;
    }
    for (char *p = ret->host; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    ret->port = (uint16_t)strtoul(port, NULL, 10);
    h->curl.url_set(u, CURLUPART_FRAGMENT, NULL, 0);
    if (!take_part(h, u, CURLUPART_URL, 0, &ret->url))
        return false;
    if (ret->port == (ret->https ? 443 : 80))
        return asprintf(&ret->where, "%s://%s", scheme, ret->host) >= 0;
    return asprintf(&ret->where, "%s://%s:%u", scheme, ret->host, ret->port) >= 0;
}

int http_url_parse(struct http *h, struct http_url *ret, const char *base, const char *url, struct sm_error *err)
{
    struct http_url split = {0};
    CURLU *u = h->curl.url();
    int r = 0;

    if (!u)
        return sm_error_set(err, ENOMEM, "out of memory");
    if (strlen(url) > HTTP_URL_MAX || (base && h->curl.url_set(u, CURLUPART_URL, base, 0) != CURLUE_OK) ||
        h->curl.url_set(u, CURLUPART_URL, url, 0) != CURLUE_OK || !split_url(h, u, &split)) {
        http_url_done(&split);
        r = sm_error_set(err, EBADMSG, "it is not a URL with http or https, a host, and no user or password in it");
    } else {
        *ret = split;
    }
    h->curl.url_cleanup(u);
    return r;
}

/* What went wrong */

static bool says(const struct http_transfer *t, const char *text)
{
    return strcasestr(t->detail, text) != NULL;
}

static int failed(struct http_transfer *t, enum http_outcome outcome)
{
    t->outcome = outcome;
    return 0;
}

static bool peer_failed(struct http_transfer *t)
{
    struct http *h = t->http;
    long verify = 0;
    const char *why, *hint;
    char shown[TEXT_SHOWN_SIZE];

    h->curl.easy_getinfo(t->easy, CURLINFO_SSL_VERIFYRESULT, &verify);
    /* OpenSSL's numbers (x509_vfy.h), and the words of other backends. */
    if (verify == 10 || says(t, "expired")) {
        why = "its certificate has expired";
        hint = "check this machine's clock, and tell who runs it";
    } else if (verify == 9 || says(t, "not yet valid")) {
        why = "its certificate is not valid yet";
        hint = "check this machine's clock";
    } else if (says(t, "subject name") || says(t, "does not match")) {
        why = "its certificate is for another host name";
        hint = "use the name that the certificate has";
    } else if (verify == 23 || says(t, "revoked")) {
        why = "its certificate was revoked";
        hint = "tell who runs it";
    } else if (verify == 2 || (verify >= 18 && verify <= 21) || says(t, "issuer") || says(t, "self")) {
        why = "its certificate is signed by nobody this system trusts";
        hint = h->system_ca
                   ? "if you trust it, give the CA's certificate with --ca-file"
                   : "this system has no CA certificates: install them (ca-certificates), or give the one that "
                     "it needs with --ca-file";
    } else {
        sm_error_set(&t->err, EPROTO,
                     "%s: its TLS certificate cannot be verified (%s): if you trust it, give the CA's "
                     "certificate with --ca-file",
                     t->where, text_shown(shown, t->detail));
        return failed(t, HTTP_TLS);
    }
    sm_error_set(&t->err, EPROTO, "%s cannot be trusted: %s; %s", t->where, why, hint);
    return failed(t, HTTP_TLS);
}

static void proxy_failed(struct http_transfer *t, long connect_code)
{
    char shown[TEXT_SHOWN_SIZE];

    if (connect_code == 407)
        sm_error_set(&t->err, EPROTO,
                     "the proxy in this environment wants a login to reach %s: put user and password into the proxy's "
                     "URL (https_proxy, http_proxy)",
                     t->where);
    else if (connect_code >= 300)
        sm_error_set(
            &t->err, EPROTO,
            "the proxy in this environment refuses to connect to %s (it answered %ld): ask who runs it, or list "
            "the host in NO_PROXY",
            t->where, connect_code);
    else
        sm_error_set(
            &t->err, EPROTO,
            "%s cannot be reached through the proxy in this environment (%s): check https_proxy, http_proxy and "
            "NO_PROXY",
            t->where, text_shown(shown, t->detail[0] ? t->detail : "no reason given"));
    failed(t, HTTP_PROXY);
}

static void timed_out(struct http_transfer *t)
{
    struct http *h = t->http;
    curl_off_t connected = 0;

    h->curl.easy_getinfo(t->easy, CURLINFO_PRETRANSFER_TIME_T, &connected);
    if (!connected)
        sm_error_set(&t->err, ETIMEDOUT,
                     "%s did not answer within %g s: is there a connection to it, or a proxy needed?", t->where,
                     h->options.connect_timeout_ms / 1000.0);
    else if (says(t, "too slow"))
        sm_error_set(&t->err, ETIMEDOUT, "%s sent fewer than %u bytes a second for %u s: try again later", t->where,
                     h->options.low_speed_bytes, h->options.low_speed_seconds);
    else
        sm_error_set(&t->err, ETIMEDOUT, "%s took too long to answer: try again later", t->where);
    failed(t, HTTP_TIMEOUT);
}

static void connect_failed(struct http_transfer *t)
{
    long code = 0;

    t->http->curl.easy_getinfo(t->easy, CURLINFO_OS_ERRNO, &code);
    if (t->proxied && !says(t, t->host)) { /* libcurl's words name whom it could not connect to */
        proxy_failed(t, 0);
        return;
    }
    if (code == 0)
        code = ECONNREFUSED;
    sm_error_set(&t->err, (int)code, "cannot connect to %s: %s; is the name right, and a server running there?",
                 t->where, code == ECONNREFUSED ? "connection refused" : strerror((int)code));
    failed(t, HTTP_NO_CONNECT);
}

/* Certificates that the server wanted and did not get are told by an alert, under several codes. */
static bool alert_failed(struct http_transfer *t)
{
    char shown[TEXT_SHOWN_SIZE];

    if (says(t, "certificate required") || says(t, "bad certificate"))
        sm_error_set(&t->err, EACCES,
                     "%s wants a client certificate that it accepts: give it with --cert-file and --key-file",
                     t->where);
    else if (says(t, "alert"))
        sm_error_set(&t->err, EPROTO, "%s refuses to speak TLS with us (%s)", t->where, text_shown(shown, t->detail));
    else
        return false;
    failed(t, HTTP_TLS);
    return true;
}

static void tls_failed(struct http_transfer *t)
{
    char shown[TEXT_SHOWN_SIZE];

    if (alert_failed(t))
        return;
    sm_error_set(&t->err, EPROTO, "%s does not speak TLS (%s): if it is meant to be plain HTTP, use --plain-http",
                 t->where, text_shown(shown, t->detail[0] ? t->detail : "the handshake was cut off"));
    failed(t, HTTP_NOT_TLS);
}

static void judge(struct http_transfer *t, CURLcode code)
{
    char shown[TEXT_SHOWN_SIZE];
    long connect_code = 0;

    if (t->outcome != HTTP_RUNNING)
        return; /* stopped by a callback, which libcurl calls a write error */
    t->http->curl.easy_getinfo(t->easy, CURLINFO_HTTP_CONNECTCODE, &connect_code);
    if (code != CURLE_OK && connect_code >= 300) {
        proxy_failed(t, connect_code);
        return;
    }
    /* Every code that is not one of the known is "broken": libcurl adds to them. */
    switch ((int)code) {
    case CURLE_OK:
        t->outcome = HTTP_COMPLETE;
        return;
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_PROXY:
        proxy_failed(t, 0);
        return;
    case CURLE_COULDNT_RESOLVE_HOST:
        sm_error_set(&t->err, EHOSTUNREACH, "the host of %s is not known: check its spelling, and this machine's DNS",
                     t->where);
        failed(t, HTTP_NO_HOST);
        return;
    case CURLE_COULDNT_CONNECT:
        connect_failed(t);
        return;
    case CURLE_OPERATION_TIMEDOUT:
        timed_out(t);
        return;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_ISSUER_ERROR:
        peer_failed(t);
        return;
    case CURLE_SSL_CONNECT_ERROR:
        tls_failed(t);
        return;
    case CURLE_SSL_CACERT_BADFILE:
        sm_error_set(&t->err, EINVAL,
                     "the CA certificates for %s cannot be used (%s): --ca-file wants a file in PEM form", t->where,
                     text_shown(shown, t->detail));
        failed(t, HTTP_TLS);
        return;
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CLIENTCERT:
        sm_error_set(&t->err, EINVAL,
                     "the client certificate for %s cannot be used (%s): --cert-file and --key-file want files in PEM "
                     "form that belong together",
                     t->where, text_shown(shown, t->detail));
        failed(t, HTTP_TLS);
        return;
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
        if (alert_failed(t))
            return;
        sm_error_set(&t->err, ECONNRESET, "%s cut the connection before its answer was complete", t->where);
        failed(t, HTTP_CUT);
        return;
    case CURLE_OUT_OF_MEMORY:
        sm_error_set(&t->err, ENOMEM, "out of memory while talking to %s", t->where);
        failed(t, HTTP_BROKEN);
        return;
    default:
        sm_error_set(&t->err, EPROTO, "the answer of %s cannot be understood (%s)", t->where,
                     text_shown(shown, t->detail[0] ? t->detail : "no reason given"));
        failed(t, HTTP_BROKEN);
        return;
    }
}

/* Callbacks of libcurl. What is returned short of the size stops the transfer. */

static bool stop(struct http_transfer *t, int code)
{
    t->outcome = HTTP_STOPPED;
    t->stop_code = code;
    return false;
}

static size_t on_header(char *line, size_t one, size_t len, void *ctx)
{
    struct http_transfer *t = ctx;
    int r;

    if (t->outcome != HTTP_RUNNING)
        return 0;
    if (t->head_given) /* trailers */
        return len;
    if (len <= 2 && (len == 0 || line[0] == '\r' || line[0] == '\n')) {
        if (t->head.status < 200)
            return len;
        t->head_given = true;
        r = t->request.head(t->request.ctx, &t->head, &t->err);
    } else {
        r = http_head_line(&t->head, line, len, time(NULL), &t->err);
        if (r < 0)
            sm_error_wrap(&t->err, "%s", t->where);
    }
    return r == 0 || stop(t, r) ? len : 0;
}

static size_t on_data(char *data, size_t one, size_t len, void *ctx)
{
    struct http_transfer *t = ctx;
    int r;

    if (t->outcome != HTTP_RUNNING)
        return 0;
    r = t->request.data(t->request.ctx, data, len, &t->err);
    return r == 0 || stop(t, r) ? len : 0;
}

/* Transfers */

static void wipe_headers(struct http_transfer *t)
{
    for (struct curl_slist *it = t->headers; it; it = it->next)
        explicit_bzero(it->data, strlen(it->data));
    t->http->curl.slist_free_all(t->headers);
}

void http_transfer_free(struct http_transfer *t)
{
    if (!t)
        return;
    if (t->added)
        t->http->curl.multi_remove_handle(t->http->multi, t->easy);
    if (t->easy)
        t->http->curl.easy_cleanup(t->easy);
    if (t->headers)
        wipe_headers(t);
    http_head_done(&t->head);
    free(t);
}

#define SET(option, value) ok = ok && h->curl.easy_setopt(t->easy, option, value) == CURLE_OK

static const char *environment(const char *lower, const char *upper)
{
    const char *s = getenv(lower);

    if (!s || !*s)
        s = getenv(upper);
    return s && *s ? s : NULL;
}

static bool set_proxy(struct http_transfer *t, const struct http_url *url)
{
    struct http *h = t->http;
    const char *proxy =
        url->https ? environment("https_proxy", "HTTPS_PROXY") : environment("http_proxy", "HTTP_PROXY");
    bool ok = true;

    if (http_host_is_loopback(url->host)) {
        SET(CURLOPT_PROXY, "");
        return ok;
    }
    t->proxied = proxy || environment("all_proxy", "ALL_PROXY"); /* or not: NO_PROXY is libcurl's to read */
    if (!url->https && proxy)
        SET(CURLOPT_PROXY, proxy);
    return ok;
}

static bool set_tls(struct http_transfer *t, const struct http_tls *tls)
{
    struct http *h = t->http;
    bool ok = true;

    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    if (tls && tls->ca_pem) {
        struct curl_blob blob = {.data = tls->ca_pem, .len = tls->ca_len, .flags = CURL_BLOB_NOCOPY};

        SET(CURLOPT_CAINFO_BLOB, &blob);
    } else if (!h->system_ca) {
        SET(CURLOPT_CAINFO, (char *)NULL); /* a file that is not there would fail even where nobody speaks TLS */
    }
    if (tls && tls->cert_file) {
        SET(CURLOPT_SSLCERT, tls->cert_file);
        SET(CURLOPT_SSLKEY, tls->key_file ? tls->key_file : tls->cert_file);
    }
    return ok;
}

static bool set_request(struct http_transfer *t, const struct http_request *q)
{
    struct http *h = t->http;
    bool ok = true;

    SET(CURLOPT_URL, q->url->url);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    SET(CURLOPT_USERAGENT, "supermachine");
    SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    SET(CURLOPT_BUFFERSIZE, BUFFER_SIZE);
    SET(CURLOPT_ERRORBUFFER, t->detail);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, t);
    SET(CURLOPT_WRITEFUNCTION, on_data);
    SET(CURLOPT_WRITEDATA, t);
    SET(CURLOPT_PRIVATE, t);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)h->options.connect_timeout_ms);
    SET(CURLOPT_TIMEOUT_MS, (long)q->total_timeout_ms);
    SET(CURLOPT_LOW_SPEED_LIMIT, (long)h->options.low_speed_bytes);
    SET(CURLOPT_LOW_SPEED_TIME, (long)h->options.low_speed_seconds);
    if (q->method == HTTP_HEAD)
        SET(CURLOPT_NOBODY, 1L);
    if (q->method == HTTP_POST)
        SET(CURLOPT_POSTFIELDS, q->body);
    for (size_t i = 0; ok && i < q->n_headers; i++) {
        struct curl_slist *longer = h->curl.slist_append(t->headers, q->headers[i]);

        ok = longer != NULL;
        t->headers = ok ? longer : t->headers;
    }
    SET(CURLOPT_HTTPHEADER, t->headers);
    return ok && set_proxy(t, q->url) && set_tls(t, q->tls);
}

int http_start(struct http_transfer **ret, struct http *h, const struct http_request *request, struct sm_error *err)
{
    struct http_transfer *t = calloc(1, sizeof(*t));

    if (!t)
        return sm_error_set(err, ENOMEM, "out of memory");
    t->http = h;
    t->request = *request;
    snprintf(t->where, sizeof(t->where), "%s", request->url->where);
    snprintf(t->host, sizeof(t->host), "%s", request->url->host);
    t->easy = h->curl.easy_init();
    if (!t->easy || !set_request(t, request) || h->curl.multi_add_handle(h->multi, t->easy) != CURLM_OK) {
        http_transfer_free(t);
        return sm_error_set(err, ENOMEM, "libcurl cannot start a request: out of memory");
    }
    t->added = true;
    *ret = t;
    return 0;
}

enum http_outcome http_transfer_outcome(const struct http_transfer *t, struct sm_error *err)
{
    if (err && t->outcome != HTTP_RUNNING && t->outcome != HTTP_COMPLETE)
        *err = t->err;
    return t->outcome;
}

const struct http_head *http_transfer_head(const struct http_transfer *t)
{
    return &t->head;
}

int http_transfer_stop_code(const struct http_transfer *t)
{
    return t->stop_code;
}

/* Waiting */

/* Returns how many have ended. */
static int move_transfers(struct http *h, struct sm_error *err)
{
    int running, left, ended = 0;
    CURLMcode code = h->curl.multi_perform(h->multi, &running);
    CURLMsg *msg;

    if (code != CURLM_OK)
        return sm_error_set(err, EIO, "libcurl failed: %s", h->curl.multi_strerror(code));
    while ((msg = h->curl.multi_info_read(h->multi, &left))) {
        struct http_transfer *t = NULL;

        if (msg->msg != CURLMSG_DONE)
            continue;
        h->curl.easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &t);
        judge(t, msg->data.result);
        ended++;
    }
    return ended;
}

int http_wait(struct http *h, struct pollfd *fds, unsigned n, int timeout_ms, struct sm_error *err)
{
    struct curl_waitfd extra[HTTP_WAIT_FDS];
    unsigned n_extra = 0;
    CURLMcode code;
    int r = move_transfers(h, err); /* what was started since */

    assert(n <= HTTP_WAIT_FDS && timeout_ms >= 0);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < n; i++)
        if (fds[i].fd >= 0) /* CURL_WAIT_POLL* have poll(2)'s values */
            extra[n_extra++] = (struct curl_waitfd){.fd = fds[i].fd, .events = fds[i].events};
    code = h->curl.multi_poll(h->multi, extra, n_extra, r > 0 ? 0 : timeout_ms, NULL);
    if (code != CURLM_OK)
        return sm_error_set(err, EIO, "libcurl failed: %s", h->curl.multi_strerror(code));
    r = move_transfers(h, err);
    if (r < 0)
        return r;
    /* Asked anew: libcurl does not tell of hang-ups. */
    do
        r = n ? poll(fds, n, 0) : 0;
    while (r < 0 && errno == EINTR);
    return r < 0 ? sm_error_sys(err, errno, "cannot wait for input") : r;
}
