/* SPDX-License-Identifier: Apache-2.0 */
/* The registry client's documents, its refusals and retries, against a server that plays a script. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/io.h"
#include "oci/limits.h"
#include "registry_fixture.h"

/* One answer, to whatever is asked; `then` ones before it. */
struct script {
    const char *first, *first_headers; /* status of the first `times` answers */
    unsigned times;
    const char *type, *headers, *body;
    size_t len; /* 0: of the string */
};

static bool play(void *ctx, const struct server_request *q)
{
    const struct script *s = ctx;
    char headers[1024];

    if (q->number < s->times)
        return server_reply(q, s->first, s->first_headers, "{}", 2);
    snprintf(headers, sizeof(headers), "Content-Type: %s\r\n%s", s->type ? s->type : OCI_MANIFEST,
             s->headers ? s->headers : "");
    return server_reply(q, "200 OK", headers, s->body ? s->body : MANIFEST,
                        s->len ? s->len : strlen(s->body ? s->body : MANIFEST));
}

static void expect_script(struct script s, int code, const char *text, unsigned requests)
{
    struct http_server *server = server_start(play, &s);
    struct registry *r = fixture_open(server, NULL);
    const struct server_request *q;

    if (code)
        expect_failure(r, code, text);
    else
        expect_manifest(r);
    assert_int_equal(server_requests(server, &q), requests);
    registry_free(r);
    server_stop(server);
}

static void test_manifest(void **state)
{
    struct script s = {0};
    struct http_server *server = server_start(play, &s);
    struct registry *r = fixture_open(server, NULL);
    const struct server_request *q;

    expect_manifest(r);
    assert_int_equal(server_requests(server, &q), 1);
    assert_string_equal(q[0].method, "GET");
    assert_string_equal(q[0].target, "/v2/a/b/manifests/t");
    assert_string_equal(q[0].authorization, "");
    assert_non_null(strstr(q[0].accept, "application/vnd.oci.image.index.v1+json"));
    assert_non_null(strstr(q[0].accept, "application/vnd.docker.distribution.manifest.list.v2+json"));
    expect_manifest(r);
    assert_int_equal(server_connections(server), 1); /* kept for the next request */
    registry_free(r);
    server_stop(server);
}

static void test_resolve_is_one_head(void **state)
{
    struct digest want = digest_of_text(MANIFEST), got;
    char text[DIGEST_STR_SIZE], headers[256];
    struct script s = {.headers = headers};
    struct http_server *server = server_start(play, &s);
    struct registry *r = fixture_open(server, NULL);
    struct sm_error err = SM_ERROR_INIT;
    const struct server_request *q;

    digest_str(&want, text);
    snprintf(headers, sizeof(headers), "Docker-Content-Digest: %s\r\n", text);
    assert_int_equal(registry_resolve(r, "t", &got, &err), 0);
    assert_true(digest_equal(&got, &want));
    assert_int_equal(server_requests(server, &q), 1);
    assert_string_equal(q[0].method, "HEAD");
    headers[0] = '\0';
    assert_int_equal(registry_resolve(r, "t", &got, &err), -EOPNOTSUPP);
    registry_free(r);
    server_stop(server);
}

static void test_refusals(void **state)
{
    expect_script((struct script){.first = "404 Not Found", .times = 9}, ENOENT, "has no \"a/b:t\"", 1);
    expect_script((struct script){.first = "403 Forbidden", .times = 9}, EACCES, "docker login 127.0.0.1", 1);
    expect_script((struct script){.first = "400 Bad Request", .times = 9}, EPROTO, "is it a registry?", 1);
    expect_script((struct script){.first = "451 No", .first_headers = "Content-Type: text/html\r\n", .times = 9},
                  EPROTO, "web page", 1);
    expect_script((struct script){.first = "401 Unauthorized", .times = 9}, EACCES, "neither basic nor bearer", 1);
    expect_script((struct script){.first = "401 Unauthorized",
                                  .first_headers = "WWW-Authenticate: Basic realm=\"x\"\r\n",
                                  .times = 9},
                  EACCES, "docker login 127.0.0.1", 1);
}

static void test_retries(void **state)
{
    expect_script((struct script){.first = "500 Oops", .times = 2}, 0, NULL, 3);
    expect_script((struct script){.first = "503 Busy", .times = 4}, 0, NULL, 5);
    expect_script((struct script){.first = "502 Bad", .times = 9}, EIO, "gave up after 5 attempts", 5);
    expect_script((struct script){.first = "429 Slow", .first_headers = "Retry-After: 0\r\n", .times = 3}, 0, NULL, 4);
    expect_script((struct script){.first = "429 Slow", .times = 9}, EBUSY, "try again in some minutes", 5);
    /* Not waited for: */
    expect_script((struct script){.first = "429 Slow", .first_headers = "Retry-After: 3600\r\n", .times = 9}, EBUSY,
                  "in 60 minutes", 1);
    expect_script((struct script){.first = "501 What", .times = 9}, EIO, "501", 1);
}

static void test_retry_after_is_waited_for(void **state)
{
    uint64_t before = io_now_ns();

    expect_script((struct script){.first = "429 Slow", .first_headers = "Retry-After: 1\r\n", .times = 1}, 0, NULL, 2);
    assert_true(io_now_ns() - before >= 1000000000u);
}

static void test_content_types(void **state)
{
    expect_script((struct script){.type = "text/html"}, EBADMSG, "web page instead of the manifest", 1);
    expect_script((struct script){.type = "application/vnd.docker.distribution.manifest.v1+prettyjws"}, EBADMSG,
                  "schema 1", 1);
    expect_script((struct script){.type = "application/octet-stream"}, EBADMSG, "content type", 1);
    expect_script((struct script){.type = ""}, EBADMSG, "(none)", 1);
}

#define ZEROS "sha256:0000000000000000000000000000000000000000000000000000000000000000"

static void test_digests(void **state)
{
    struct script s = {0};
    struct http_server *server = server_start(play, &s);
    struct registry *r = fixture_open(server, NULL);
    struct digest zero = {0}, got;
    struct sm_error err = SM_ERROR_INIT;
    char media[REGISTRY_MEDIA_SIZE];
    size_t len;
    void *data;

    expect_script((struct script){.headers = "Docker-Content-Digest: " ZEROS "\r\n"}, EBADMSG, "its headers say", 1);
    assert_int_equal(registry_manifest(r, "t", &zero, &data, &len, &got, media, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "it should be " ZEROS));
    assert_int_equal(registry_manifest(r, ZEROS, NULL, &data, &len, &got, media, &err), -EBADMSG);
    assert_int_equal(registry_manifest(r, "sha512:00", NULL, &data, &len, &got, media, &err), -ENOTSUP);
    assert_int_equal(registry_manifest(r, "../../x", NULL, &data, &len, &got, media, &err), -EINVAL);
    registry_free(r);
    server_stop(server);
}

static bool send_chunked(void *ctx, const struct server_request *q)
{
    static const char head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: " OCI_MANIFEST "\r\nTransfer-Encoding: chunked\r\n\r\n";
    static char chunk[65536];

    if (!server_send(q, head, sizeof(head) - 1))
        return false;
    for (;;) /* until the client has had enough of it */
        if (!server_send(q, "10000\r\n", 7) || !server_send(q, chunk, sizeof(chunk)) || !server_send(q, "\r\n", 2))
            return false;
}

static void test_too_large(void **state)
{
    struct http_server *server = server_start(send_chunked, NULL);
    struct registry *r = fixture_open(server, NULL);
    char *big = calloc(1, OCI_JSON_MAX_BYTES + 1);

    expect_failure(r, EFBIG, "larger than 4 MiB");
    registry_free(r);
    server_stop(server);
    expect_script((struct script){.body = big, .len = OCI_JSON_MAX_BYTES + 1}, EFBIG, "larger than 4 MiB", 1);
    free(big);
}

static void test_document(void **state)
{
    struct script s = {.type = "application/octet-stream", .body = "{\"os\":1}"};
    struct http_server *server = server_start(play, &s);
    struct registry *r = fixture_open(server, NULL);
    struct digest d = digest_of_text(s.body), other = {0};
    struct sm_error err = SM_ERROR_INIT;
    const struct server_request *q;
    void *data;

    assert_int_equal(registry_document(r, &d, 8, &data, &err), 0);
    assert_string_equal(data, s.body);
    free(data);
    assert_int_equal(server_requests(server, &q), 1);
    assert_int_equal(strncmp(q[0].target, "/v2/a/b/blobs/sha256:", 21), 0);
    assert_int_equal(registry_document(r, &other, 8, &data, &err), -EBADMSG);
    assert_int_equal(registry_document(r, &d, 7, &data, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "more bytes"));
    assert_int_equal(registry_document(r, &d, 9, &data, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "only 8 of the 9 bytes"));
    assert_int_equal(registry_document(r, &d, OCI_JSON_MAX_BYTES + 1, &data, &err), -EFBIG);
    registry_free(r);
    server_stop(server);
}

/* Heads that are no use */
static bool send_text(void *ctx, const struct server_request *q)
{
    server_send(q, ctx, strlen(ctx));
    return false;
}

static void test_bad_heads(void **state)
{
    static const struct {
        const char *answer;
        int code;
        const char *text;
    } cases[] = {
        {"HTTP/1.1 200 OK\r\nContent-Range: bytes 5-1/2\r\n\r\n", EBADMSG, "Content-Range"},
        {"HTTP/1.1 200 OK\r\nDocker-Content-Digest: a\r\nDocker-Content-Digest: b\r\n\r\n", EBADMSG, "unlike"},
        {"SSH-2.0-OpenSSH\r\n", EPROTO, "cannot be understood"},
        {"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", EPROTO, "redirect to nowhere"},
        {"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: file:///etc/passwd\r\n\r\n", EBADMSG,
         "cannot be followed"},
        {"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://u:p@127.0.0.1/\r\n\r\n", EBADMSG,
         "cannot be followed"},
        {"", ECONNRESET, "gave up after 5 attempts"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct http_server *server = server_start(send_text, (void *)(uintptr_t)cases[i].answer);
        struct registry *r = fixture_open(server, NULL);

        expect_failure(r, cases[i].code, cases[i].text);
        registry_free(r);
        server_stop(server);
    }
}

static bool say_nothing(void *ctx, const struct server_request *q)
{
    return true;
}

static int stop_at_3(void *ctx, struct sm_error *err)
{
    unsigned *n = ctx;

    return ++*n < 3 ? 0 : (err->code = ECANCELED, -ECANCELED);
}

static void test_silence(void **state)
{
    struct http_server *server = server_start(say_nothing, NULL);
    struct registry_options o = fixture_options();
    struct registry *r;
    unsigned asked = 0;

    o.total_timeout_ms = 100;
    o.attempts = 1;
    r = fixture_open(server, &o);
    expect_failure(r, ETIMEDOUT, "took too long to answer");
    registry_free(r);

    o.total_timeout_ms = 0;
    o.keep_going = stop_at_3;
    o.ctx = &asked;
    r = fixture_open(server, &o);
    expect_failure(r, ECANCELED, "");
    assert_int_equal(asked, 3);
    registry_free(r);
    server_stop(server);
}

/* A port whose queue is full: the kernel drops whoever comes next. */
static void test_no_connection(void **state)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct registry_options o = fixture_options();
    struct sm_error err = SM_ERROR_INIT;
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), waiting[2];
    struct registry *r;
    char host[64];

    assert_int_equal(bind(fd, (struct sockaddr *)&addr, len), 0);
    assert_int_equal(listen(fd, 0), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    for (unsigned i = 0; i < 2; i++) {
        waiting[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        connect(waiting[i], (struct sockaddr *)&addr, len);
    }
    snprintf(host, sizeof(host), "127.0.0.1:%u", ntohs(addr.sin_port));
    o.connect_timeout_ms = 300;
    assert_int_equal(registry_open(&r, &o, host, "a/b", &err), 0);
    expect_failure(r, ETIMEDOUT, "did not answer within 0.3 s");
    registry_free(r);
    for (unsigned i = 0; i < 2; i++)
        close(waiting[i]);
    close(fd);
}

static void on_alarm(int sig)
{
}

static void test_signals_do_not_end_a_wait(void **state)
{
    struct http_server *server = server_start(say_nothing, NULL);
    struct registry_options o = fixture_options();
    struct itimerval often = {{0, 20000}, {0, 20000}}, never = {0};
    struct sigaction action = {.sa_handler = on_alarm}, before;
    struct registry *r;

    assert_int_equal(sigaction(SIGALRM, &action, &before), 0);
    o.total_timeout_ms = 300;
    o.attempts = 1;
    r = fixture_open(server, &o);
    setitimer(ITIMER_REAL, &often, NULL);
    expect_failure(r, ETIMEDOUT, "took too long to answer");
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &before, NULL);
    registry_free(r);
    server_stop(server);
}

static void test_nobody_there(void **state)
{
    struct http_server *server = server_start(say_nothing, NULL);
    struct registry *r = fixture_open(server, NULL);

    server_stop(server); /* its port is now closed */
    expect_failure(r, ECONNREFUSED, "connection refused");
    registry_free(r);
}

static void test_loopback_without_tls(void **state)
{
    struct script s = {0};
    struct http_server *server = server_start(play, &s);
    struct registry_options o = fixture_options();
    struct registry *r;
    struct sm_error err = SM_ERROR_INIT;

    o.plain_http = false;
    r = fixture_open(server, &o);
    expect_manifest(r);
    registry_free(r);
    server_stop(server);

    assert_int_equal(registry_open(&r, &o, "no host", "a/b", &err), -EINVAL);
    assert_int_equal(registry_open(&r, &o, "user@127.0.0.1", "a/b", &err), -EINVAL);
    assert_int_equal(registry_open(&r, &o, "127.0.0.1/x?y", "a/b", &err), -EINVAL);
    assert_int_equal(registry_open(&r, &o, "127.0.0.1", "../b", &err), -EINVAL);
    assert_int_equal(registry_open(&r, &o, "127.0.0.1", "a?b", &err), -EINVAL);
}

/* Redirects: one server sends on to another. */

struct to {
    unsigned port;
    const char *status, *host, *path; /* no host: on the same server */
};

static bool redirect(void *ctx, const struct server_request *q)
{
    const struct to *to = ctx;
    char headers[256];

    if (!strcmp(q->target, "/here"))
        return reply_manifest(q);
    if (!q->authorization[0])
        return server_reply(q, "401 No", "WWW-Authenticate: Basic realm=\"x\"\r\n", NULL, 0);
    if (to->host)
        snprintf(headers, sizeof(headers), "Location: http://%s:%u%s\r\n", to->host, to->port, to->path);
    else
        snprintf(headers, sizeof(headers), "Location: %s\r\n", to->path);
    return server_reply(q, to->status, headers, NULL, 0);
}

static bool answer(void *ctx, const struct server_request *q)
{
    return reply_manifest(q);
}

static void write_login(void **state, const char *name, const struct http_server *s, const char *what)
{
    char text[512];

    snprintf(text, sizeof(text), "{\"auths\":{\"127.0.0.1:%u\":{%s}}}", server_port(s), what);
    fixture_write(state, name, text);
}

#define USER_PASS "\"auth\":\"dXNlcjpzM2NyZXQ=\"" /* user:s3cret */

static void test_redirects(void **state)
{
    struct to to = {0};
    struct http_server *other = server_start(answer, NULL), *server = server_start(redirect, &to);
    struct registry_options o = fixture_options();
    char *file = fixture_path(state, "auth.json");
    const struct server_request *q;
    struct registry *r;

    o.auth_file = file;
    write_login(state, "auth.json", server, USER_PASS);

    to = (struct to){server_port(other), "307 Go", "127.0.0.1", "/there"};
    r = fixture_open(server, &o);
    expect_manifest(r);
    assert_int_equal(server_requests(other, &q), 1);
    assert_string_equal(q[0].target, "/there");
    assert_string_equal(q[0].authorization, ""); /* another port is another origin */
    registry_free(r);

    to = (struct to){server_port(server), "302 Go", NULL, "/here"};
    r = fixture_open(server, &o);
    expect_manifest(r);
    unsigned n = server_requests(server, &q);
    assert_string_equal(q[n - 1].target, "/here");
    assert_string_equal(q[n - 1].authorization, "Basic dXNlcjpzM2NyZXQ=");
    registry_free(r);

    /* The same host under another name is somebody else, too. */
    to = (struct to){server_port(server), "302 Go", "localhost", "/here"};
    r = fixture_open(server, &o);
    expect_manifest(r);
    n = server_requests(server, &q);
    assert_string_equal(q[n - 1].authorization, "");
    registry_free(r);

    to = (struct to){server_port(server), "301 Go", NULL, "/again"};
    r = fixture_open(server, &o);
    n = server_requests(server, &q);
    expect_failure(r, ELOOP, "redirects more than 5 times");
    assert_int_equal(server_requests(server, &q) - n, 1 + 1 + 5); /* without and with login, then those redirected to */
    registry_free(r);

    /* From loopback to where bytes leave the machine: not without TLS. */
    o.plain_http = false;
    to = (struct to){1, "302 Go", "192.0.2.1", "/"};
    r = fixture_open(server, &o);
    expect_failure(r, EPROTO, "not encrypted");
    registry_free(r);

    server_stop(server);
    server_stop(other);
    free(file);
}

/* Mirrors */

static bool only_404(void *ctx, const struct server_request *q)
{
    return reply_404(q);
}

static bool wrong_bytes(void *ctx, const struct server_request *q)
{
    return server_reply(q, "200 OK", "Content-Type: " OCI_MANIFEST "\r\nDocker-Content-Digest: " ZEROS "\r\n", "x", 1);
}

static void test_mirrors(void **state)
{
    struct http_server *gone = server_start(answer, NULL), *empty = server_start(only_404, NULL),
                       *bad = server_start(wrong_bytes, NULL), *good = server_start(answer, NULL),
                       *origin = server_start(answer, NULL);
    struct registry_options o = fixture_options();
    char *file = fixture_path(state, "registries.json"), text[512];
    const struct server_request *q;
    struct registry *r;
    unsigned port = server_port(gone);

    server_stop(gone);
    o.config_file = file;
    snprintf(text, sizeof(text),
             "{\"registries\":{\"127.0.0.1:%u\":{\"plain_http\":true,\"mirrors\":[\"http://127.0.0.1:%u\","
             "\"http://127.0.0.1:%u/\",\"http://127.0.0.1:%u\",\"http://127.0.0.1:%u/pre/fix\"]}}}",
             server_port(origin), port, server_port(empty), server_port(bad), server_port(good));
    fixture_write(state, "registries.json", text);
    r = fixture_open(origin, &o);
    expect_manifest(r);
    assert_int_equal(server_requests(empty, &q), 1);
    assert_int_equal(server_requests(bad, &q), 1);
    assert_int_equal(server_requests(good, &q), 1);
    assert_string_equal(q[0].target, "/pre/fix/v2/a/b/manifests/t");
    assert_int_equal(server_requests(origin, &q), 0);
    registry_free(r);

    server_stop(good); /* then it is the registry's turn */
    r = fixture_open(origin, &o);
    expect_manifest(r);
    assert_int_equal(server_requests(origin, &q), 1);
    registry_free(r);

    /* The file where it is looked for, and what is wrong with it. */
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"{", "registries.json"},
        {"{}", "\"registries\" is missing"},
        {"{\"registries\":{\"%s\":{\"mirror\":[]}}}", "\"mirror\" is not a key"},
        {"{\"registries\":{\"%s\":{\"plain_http\":1}}}", "\"plain_http\" is not true or false"},
        {"{\"registries\":{\"%s\":{\"mirrors\":[\"ftp://x\"]}}}", "the mirror \"ftp://x\""},
        {"{\"registries\":{\"%s\":{\"mirrors\":[\"https://a\",\"https://a\",\"https://a\",\"https://a\",\"https://a\","
         "\"https://a\",\"https://a\",\"https://a\",\"https://a\"]}}}",
         "the limit is 8"},
        {"{\"registries\":{\"%s\":{\"ca_file\":\"/nowhere\"}}}", "/nowhere"},
        {"{\"registries\":{\"%s\":{\"key_file\":\"/nowhere\"}}}", "needs its client certificate"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct sm_error err = SM_ERROR_INIT;
        const char *place = strstr(cases[i].text, "%s");

        snprintf(text, sizeof(text), "%.*s%s%s", place ? (int)(place - cases[i].text) : 512, cases[i].text,
                 place ? "127.0.0.1" : "", place ? place + 2 : "");
        fixture_write(state, "registries.json", text);
        if (i % 2) {
            setenv("SUPERMACHINE_CONFIG", file, 1);
            o.config_file = NULL;
        } else {
            o.config_file = file;
        }
        assert_true(registry_open(&r, &o, "127.0.0.1", "a/b", &err) < 0);
        if (!strstr(err.text, cases[i].part))
            fail_msg("\"%s\" is not in: %s", cases[i].part, err.text);
    }
    unsetenv("SUPERMACHINE_CONFIG");
    server_stop(origin);
    server_stop(empty);
    server_stop(bad);
    free(file);
}

static void test_certificate_files(void **state)
{
    struct registry_options o = {0};
    struct sm_error err = SM_ERROR_INIT;
    struct registry *r;
    char *file = fixture_path(state, "ca.pem");

    fixture_write(state, "ca.pem", "hello");
    o.ca_file = file;
    assert_int_equal(registry_open(&r, &o, "reg.example", "a/b", &err), -EINVAL);
    assert_non_null(strstr(err.text, "no certificate in PEM form"));
    o.ca_file = NULL;
    o.cert_file = "/nowhere/cert.pem";
    assert_int_equal(registry_open(&r, &o, "reg.example", "a/b", &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nowhere/cert.pem"));

    /* Where Docker and Podman have them, for this host and port only. */
    o.cert_file = NULL;
    fixture_write(state, ".config/containers/certs.d/reg.example:5000/some.crt", "hello");
    fixture_write(state, ".config/docker/certs.d/other.example/me.cert", "hello");
    assert_int_equal(registry_open(&r, &o, "reg.example:5000", "a/b", &err), -EINVAL);
    assert_non_null(strstr(err.text, "reg.example:5000/some.crt\" holds no certificate"));
    assert_int_equal(registry_open(&r, &o, "other.example", "a/b", &err), -EINVAL);
    assert_non_null(strstr(err.text, "me.cert\" is a client certificate without its key"));
    assert_int_equal(registry_open(&r, &o, "reg.example", "a/b", &err), 0);
    registry_free(r);
    free(file);
}

static void test_proxy(void **state)
{
    struct http_server *proxy = server_start(answer, NULL), *server = server_start(answer, NULL);
    struct registry_options o = fixture_options();
    struct sm_error err = SM_ERROR_INIT;
    const struct server_request *q;
    struct registry *r;
    char url[64];

    snprintf(url, sizeof(url), "http://127.0.0.1:%u", server_port(proxy));
    setenv("http_proxy", url, 1);
    r = fixture_open(server, NULL); /* loopback: not through it */
    expect_manifest(r);
    assert_int_equal(server_requests(proxy, &q), 0);
    registry_free(r);

    assert_int_equal(registry_open(&r, &o, "registry.invalid", "a/b", &err), 0);
    expect_manifest(r);
    assert_int_equal(server_requests(proxy, &q), 1);
    assert_string_equal(q[0].target, "http://registry.invalid/v2/a/b/manifests/t");
    setenv("NO_PROXY", "registry.invalid", 1);
    registry_free(r);
    assert_int_equal(registry_open(&r, &o, "registry.invalid", "a/b", &err), 0);
    expect_failure(r, EHOSTUNREACH, "is not known");
    unsetenv("NO_PROXY");
    registry_free(r);

    server_stop(proxy);
    assert_int_equal(registry_open(&r, &o, "registry.invalid", "a/b", &err), 0);
    expect_failure(r, EPROTO, "proxy");
    unsetenv("http_proxy");
    registry_free(r);
    server_stop(server);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, registry_fixture_setup, registry_fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_manifest),
        TEST(test_resolve_is_one_head),
        TEST(test_refusals),
        TEST(test_retries),
        TEST(test_retry_after_is_waited_for),
        TEST(test_content_types),
        TEST(test_digests),
        TEST(test_too_large),
        TEST(test_document),
        TEST(test_bad_heads),
        TEST(test_silence),
        TEST(test_no_connection),
        TEST(test_signals_do_not_end_a_wait),
        TEST(test_nobody_there),
        TEST(test_loopback_without_tls),
        TEST(test_redirects),
        TEST(test_mirrors),
        TEST(test_certificate_files),
        TEST(test_proxy),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
