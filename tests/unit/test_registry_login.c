/* SPDX-License-Identifier: Apache-2.0 */
/* Logging in to registries: what is sent to whom, and what happens when it is refused. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "registry_fixture.h"

#define USER_PASS "\"auth\":\"dXNlcjpzM2NyZXQ=\"" /* user:s3cret */
#define BASIC     "Basic dXNlcjpzM2NyZXQ="
#define LAYER     "0123456789abcdef0123456789abcdef"

/* A registry, with a token server at /token. Tokens are "T1", "T2", ...: one that is given, or that runs out. */
struct tokens {
    unsigned port;            /* of the token server */
    unsigned given;           /* tokens, so far */
    unsigned good;            /* the one that is accepted; 0: none ever */
    unsigned uses;            /* of the good one that are left; then the next is the good one */
    const char *token_status; /* NULL: 200 */
    const char *token_body;   /* with token_status */
    const char *extra;        /* of the challenge */
    bool no_scope;
    unsigned elsewhere; /* port that /token is redirected to; 0: not */
};

static bool give_token(struct tokens *t, const struct server_request *q)
{
    char body[256];

    if (t->elsewhere) {
        snprintf(body, sizeof(body), "Location: http://127.0.0.1:%u/token\r\n", t->elsewhere);
        return server_reply(q, "307 Go", body, NULL, 0);
    }
    if (t->token_status)
        return server_reply(q, t->token_status, NULL, t->token_body, strlen(t->token_body));
    snprintf(body, sizeof(body), "{\"token\":\"T%u\",\"expires_in\":300}", ++t->given);
    return server_reply(q, "200 OK", "Content-Type: application/json\r\n", body, strlen(body));
}

static bool token_registry(void *ctx, const struct server_request *q)
{
    struct tokens *t = ctx;
    char want[64], headers[512];

    if (!strncmp(q->target, "/token", 6))
        return give_token(t, q);
    snprintf(want, sizeof(want), "Bearer T%u", t->good);
    if (t->good && !strcmp(q->authorization, want)) {
        if (t->uses && !--t->uses)
            t->good++;
        if (strstr(q->target, "/blobs/"))
            return server_reply_range(q, LAYER, strlen(LAYER), SIZE_MAX);
        return reply_manifest(q);
    }
    snprintf(headers, sizeof(headers),
             "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:%u/token\",service=\"the reg\"%s%s\r\n", t->port,
             t->no_scope ? "" : ",scope=\"repository:a/b:pull,x\"", t->extra ? t->extra : "");
    return server_reply(q, "401 Unauthorized", headers, "{}", 2);
}

static void write_login(void **state, const struct http_server *s, const char *what)
{
    char text[512];

    snprintf(text, sizeof(text), "{\"auths\":{\"127.0.0.1:%u\":{%s}}}", server_port(s), what);
    fixture_write(state, "auth.json", text);
}

static struct registry *open_with_login(void **state, const struct http_server *s, const char *what)
{
    struct registry_options o = fixture_options();
    char *file = fixture_path(state, "auth.json");
    struct registry *r;

    if (what) {
        write_login(state, s, what);
        o.auth_file = file;
    }
    r = fixture_open(s, &o);
    free(file);
    return r;
}

static void test_token(void **state)
{
    struct tokens t = {.good = 1};
    struct http_server *server = server_start(token_registry, &t);
    struct registry *r = open_with_login(state, server, NULL);
    const struct server_request *q;

    t.port = server_port(server);
    expect_manifest(r);
    expect_manifest(r); /* with the same token */
    assert_int_equal(server_requests(server, &q), 4);
    assert_string_equal(q[0].authorization, "");
    assert_string_equal(q[1].target, "/token?service=the%20reg&scope=repository%3Aa%2Fb%3Apull%2Cx");
    assert_string_equal(q[1].authorization, "");
    assert_string_equal(q[2].authorization, "Bearer T1");
    assert_string_equal(q[3].authorization, "Bearer T1");
    registry_free(r);

    t = (struct tokens){.port = t.port, .good = 1, .no_scope = true};
    r = open_with_login(state, server, USER_PASS);
    expect_manifest(r);
    unsigned n = server_requests(server, &q);
    assert_string_equal(q[n - 2].target, "/token?service=the%20reg&scope=repository%3Aa%2Fb%3Apull&account=user");
    assert_string_equal(q[n - 2].authorization, BASIC);
    registry_free(r);
    server_stop(server);
}

/* What is secret must not be said, whatever a server says. */
static void expect_refusal(struct registry *r, int code, const char *text)
{
    struct sm_error err = SM_ERROR_INIT;
    char media[REGISTRY_MEDIA_SIZE];
    struct digest d;
    size_t len;
    void *data;

    assert_int_equal(registry_manifest(r, "t", NULL, &data, &len, &d, media, &err), -code);
    assert_null(strstr(err.text, "s3cret"));
    assert_null(strstr(err.text, "dXNlcjpzM2NyZXQ="));
    assert_null(strstr(err.text, "T1"));
    if (!strstr(err.text, text))
        fail_msg("\"%s\" is not in: %s", text, err.text);
}

/* Credentials are for the token server that the registry named, and not for whom that one sends us to. */
static void test_token_server_redirects(void **state)
{
    struct tokens t = {.good = 1}, other = {0};
    struct http_server *server = server_start(token_registry, &t), *second = server_start(token_registry, &other);
    struct registry *r = open_with_login(state, server, USER_PASS);
    const struct server_request *q;

    t.port = server_port(server);
    t.elsewhere = server_port(second);
    expect_manifest(r);
    assert_int_equal(server_requests(second, &q), 1);
    assert_string_equal(q[0].authorization, "");
    registry_free(r);

    r = open_with_login(state, server, "\"identitytoken\":\"s3cret\"");
    expect_refusal(r, EPROTO, "must not be followed");
    assert_int_equal(server_requests(second, &q), 1);
    registry_free(r);
    server_stop(server);
    server_stop(second);
}

static void test_identity_token(void **state)
{
    struct tokens t = {.good = 1};
    struct http_server *server = server_start(token_registry, &t);
    struct registry *r = open_with_login(state, server, "\"identitytoken\":\"se/cret\"");
    const struct server_request *q;

    t.port = server_port(server);
    expect_manifest(r);
    assert_int_equal(server_requests(server, &q), 3);
    assert_string_equal(q[1].method, "POST");
    assert_string_equal(q[1].target, "/token");
    assert_string_equal(q[1].body, "grant_type=refresh_token&service=the%20reg&scope=repository%3Aa%2Fb%3Apull%2Cx"
                                   "&client_id=supermachine&refresh_token=se%2Fcret");
    assert_string_equal(q[1].authorization, "");
    registry_free(r);
    server_stop(server);
}

static void test_token_runs_out(void **state)
{
    struct tokens t = {.good = 1, .uses = 2};
    struct http_server *server = server_start(token_registry, &t);
    struct registry *r = open_with_login(state, server, NULL);

    t.port = server_port(server);
    expect_manifest(r);
    expect_manifest(r); /* its last */
    expect_manifest(r);
    assert_int_equal(t.given, 2);
    registry_free(r);
    server_stop(server);
}

static int file_of(const char *text, size_t len)
{
    int fd = memfd_create("blob", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, len), (ssize_t)len);
    return fd;
}

/* Several blobs at once, all refused at once: one request for a token serves them all. */
static void test_parallel_blobs_share_a_token(void **state)
{
    struct tokens t = {.good = 1, .uses = 1};
    struct http_server *server = server_start(token_registry, &t);
    struct registry *r = open_with_login(state, server, NULL);
    struct digest d = digest_of_text(LAYER);
    struct registry_fetch *f[4];
    struct sm_error err = SM_ERROR_INIT;
    bool done, all = false;
    uint64_t have;
    int fd[4];

    t.port = server_port(server);
    expect_manifest(r); /* after this one T1 is worth nothing */
    for (unsigned i = 0; i < 4; i++) {
        fd[i] = file_of("", 0);
        assert_int_equal(registry_fetch_start(&f[i], r, &d, strlen(LAYER), fd[i], 0, &err), 0);
    }
    while (!all) {
        assert_true(registry_wait(r, NULL, 0, -1, &err) >= 0);
        all = true;
        for (unsigned i = 0; i < 4; i++) {
            if (registry_fetch_state(f[i], &have, &done, &err) < 0)
                fail_msg("%s", err.text);
            all = all && done;
        }
    }
    assert_int_equal(t.given, 2);
    assert_int_equal(t.good, 2);
    for (unsigned i = 0; i < 4; i++) {
        registry_fetch_free(f[i]);
        close(fd[i]);
    }
    registry_free(r);
    server_stop(server);
}

static void test_token_is_not_accepted(void **state)
{
    struct tokens t = {.extra = ",error=\"invalid_token\""};
    struct http_server *server = server_start(token_registry, &t);
    struct registry *r = open_with_login(state, server, USER_PASS);

    t.port = server_port(server);
    expect_refusal(r, EACCES, "does not accept the login that is stored");
    assert_int_equal(t.given, 1); /* the fresh one was refused: no use in a third */
    registry_free(r);

    r = open_with_login(state, server, NULL);
    expect_refusal(r, EACCES, "docker login 127.0.0.1:");
    registry_free(r);
    server_stop(server);
}

static void test_token_server_fails(void **state)
{
    static const struct {
        const char *status, *body;
        int code;
        const char *text;
    } cases[] = {
        {"401 Unauthorized", "{\"details\":\"bad " BASIC " s3cret\"}", EACCES, "does not accept the login"},
        {"403 Forbidden", "{}", EACCES, "ask who runs it"},
        {"404 Not Found", "{}", EPROTO, "the token server of"},
        {"302 Found", "", EPROTO, "redirect to nowhere"},
        {"500 Oops", "{\"errors\":[{\"message\":\"out of order\"}]}", EIO, "out of order"},
        {"200 OK", "{}", EBADMSG, "the token server of"},
        {"200 OK", "T1 is not JSON", EBADMSG, "the token server of"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct tokens t = {.token_status = cases[i].status, .token_body = cases[i].body};
        struct http_server *server = server_start(token_registry, &t);
        struct registry *r = open_with_login(state, server, USER_PASS);

        t.port = server_port(server);
        expect_refusal(r, cases[i].code, cases[i].text);
        registry_free(r);
        server_stop(server);
    }
}

/* The token server may be anywhere, but what is sent to it must not be read on the way. */
static bool realm_in_plain(void *ctx, const struct server_request *q)
{
    return server_reply(q, "401 No", "WWW-Authenticate: Bearer realm=\"http://192.0.2.1/token\"\r\n", NULL, 0);
}

static void test_token_server_in_plain(void **state)
{
    struct http_server *server = server_start(realm_in_plain, NULL);
    struct registry_options o = fixture_options();
    struct registry *r;

    o.plain_http = false;
    r = fixture_open(server, &o);
    expect_refusal(r, EPROTO, "not encrypted");
    registry_free(r);
    server_stop(server);
}

static bool basic_registry(void *ctx, const struct server_request *q)
{
    static const char body[] = "{\"errors\":[{\"message\":\"dXNlcjpzM2NyZXQ= is wrong\"}]}";
    bool *refuse = ctx;

    if (!*refuse && !strcmp(q->authorization, BASIC))
        return reply_manifest(q);
    return server_reply(q, "401 No", "WWW-Authenticate: Basic realm=\"x\"\r\n", body, strlen(body));
}

static void test_basic(void **state)
{
    bool refuse = false;
    struct http_server *server = server_start(basic_registry, &refuse);
    struct registry *r = open_with_login(state, server, USER_PASS);
    const struct server_request *q;

    expect_manifest(r);
    expect_manifest(r);
    assert_int_equal(server_requests(server, &q), 3); /* it is known after the first time */
    registry_free(r);

    refuse = true;
    r = open_with_login(state, server, USER_PASS);
    expect_refusal(r, EACCES, "does not accept the login that is stored");
    registry_free(r);
    r = open_with_login(state, server, NULL);
    expect_refusal(r, EACCES, "docker login 127.0.0.1:");
    registry_free(r);
    server_stop(server);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, registry_fixture_setup, registry_fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_token),
        TEST(test_token_server_redirects),
        TEST(test_identity_token),
        TEST(test_token_runs_out),
        TEST(test_parallel_blobs_share_a_token),
        TEST(test_token_is_not_accepted),
        TEST(test_token_server_fails),
        TEST(test_token_server_in_plain),
        TEST(test_basic),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
