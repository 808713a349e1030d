/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs into files: resumed after cuts, from servers that know ranges, or not, or lie. */
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

#include "base/checked.h"
#include "base/io.h"
#include "registry_fixture.h"

#define SIZE (1024 * 1024u + 7)

struct blob {
    uint8_t *data;
    struct digest digest;
    const size_t *cuts; /* of the answers, one after the other; then none is cut */
    unsigned n_cuts;
    bool ignore_range;
    const char *answer; /* instead of all that: the head, and then all bytes */
    size_t more, less;  /* bytes that the answer has too many, or too few */
    unsigned other;     /* port that is redirected to; 0: not */
};

static void blob_init(struct blob *b)
{
    *b = (struct blob){.data = malloc(SIZE + 64)};
    assert_non_null(b->data);
    for (size_t i = 0; i < SIZE + 64; i++)
        b->data[i] = (uint8_t)(i * 2654435761u >> 13);
    assert_int_equal(digest_of(&b->digest, b->data, SIZE, NULL), 0);
}

static bool serve_blob(void *ctx, const struct server_request *q)
{
    const struct blob *b = ctx;
    size_t cut = q->number < b->n_cuts ? b->cuts[q->number] : SIZE_MAX;
    char headers[128];

    if (b->answer)
        return server_send(q, b->answer, strlen(b->answer)) && server_send(q, b->data, SIZE + b->more - b->less) &&
               false;
    if (b->other) {
        snprintf(headers, sizeof(headers), "Location: http://127.0.0.1:%u/blob\r\n", b->other);
        return server_reply(q, "307 Go", headers, NULL, 0);
    }
    if (b->ignore_range)
        return server_reply_cut(q, "200 OK", NULL, b->data, SIZE, cut);
    return server_reply_range(q, b->data, SIZE, cut);
}

static int empty_file(void)
{
    int fd = memfd_create("blob", MFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

/* 0, or -errno. What may be read is checked all the time. */
static int fetch(struct registry *r, const struct blob *b, int fd, uint64_t have, struct sm_error *err)
{
    struct registry_fetch *f;
    uint64_t available = have, before;
    bool done = false;
    int code = registry_fetch_start(&f, r, &b->digest, SIZE, fd, have, err);

    assert_int_equal(code, 0);
    while (code >= 0 && !done) {
        before = available;
        code = registry_fetch_state(f, &available, &done, err);
        assert_true(available >= before);
        if (code >= 0 && !done)
            code = registry_wait(r, NULL, 0, -1, err);
    }
    registry_fetch_free(f);
    return code < 0 ? code : 0;
}

static void expect_whole(const struct blob *b, int fd)
{
    uint8_t *got = malloc(SIZE + 1);

    assert_int_equal(io_pread_full(fd, got, SIZE + 1, 0), SIZE);
    assert_memory_equal(got, b->data, SIZE);
    free(got);
    close(fd);
}

static void expect_fetch(struct blob *b, uint64_t have, unsigned requests)
{
    struct http_server *server = server_start(serve_blob, b);
    struct registry *r = fixture_open(server, NULL);
    struct sm_error err = SM_ERROR_INIT;
    const struct server_request *q;
    int fd = empty_file();

    assert_int_equal(io_pwrite_full(fd, b->data, have, 0), 0);
    if (fetch(r, b, fd, have, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(server_requests(server, &q), requests);
    expect_whole(b, fd);
    registry_free(r);
    server_stop(server);
}

static void expect_no_fetch(struct blob *b, uint64_t have, int code, const char *text)
{
    struct http_server *server = server_start(serve_blob, b);
    struct registry *r = fixture_open(server, NULL);
    struct sm_error err = SM_ERROR_INIT;
    uint8_t last;
    int fd = empty_file();

    assert_int_equal(io_pwrite_full(fd, b->data, have, 0), 0);
    assert_int_equal(fetch(r, b, fd, have, &err), -code);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" is not in: %s", text, err.text);
    assert_int_equal(pread(fd, &last, 1, SIZE), 0); /* never written past the size */
    close(fd);
    registry_free(r);
    server_stop(server);
}

static void test_whole_and_rest(void **state)
{
    struct blob b;

    blob_init(&b);
    expect_fetch(&b, 0, 1);
    expect_fetch(&b, 1, 1);
    expect_fetch(&b, SIZE - 1, 1);
    expect_fetch(&b, SIZE, 0);
    b.ignore_range = true;
    expect_fetch(&b, 0, 1);
    expect_fetch(&b, 12345, 1);
    free(b.data);
}

static void test_resume(void **state)
{
    static const size_t at_places[] = {0, 1, 70000, 300000, 5, 0, 200000, 3};
    static const size_t progress[] = {70000, 70000, 70000, 70000, 70000, 70000, 70000, 70000};
    static const size_t none[] = {0, 0, 0, 0, 0};
    static const size_t little[] = {100, 100, 100, 100, 100};
    struct blob b;

    blob_init(&b);
    b.cuts = at_places;
    b.n_cuts = ARRAY_SIZE(at_places);
    expect_fetch(&b, 0, 9);
    b.cuts = progress; /* more cuts than attempts: each of them got something */
    b.n_cuts = ARRAY_SIZE(progress);
    expect_fetch(&b, 0, 9);
    b.cuts = none;
    b.n_cuts = ARRAY_SIZE(none);
    expect_no_fetch(&b, 0, ECONNRESET, "gave up after 5 attempts");
    b.cuts = little;
    expect_no_fetch(&b, 0, ECONNRESET, "gave up after 5 attempts");
    b.ignore_range = true;
    b.cuts = (const size_t[]){100000, 300000, 400000};
    b.n_cuts = 3;
    expect_fetch(&b, 0, 4);
    free(b.data);
}

static bool serve_416(void *ctx, const struct server_request *q)
{
    const struct blob *b = ctx;

    if (q->range[0])
        return server_reply(q, "416 No", "Content-Range: bytes */1\r\n", NULL, 0);
    return server_reply(q, "200 OK", NULL, b->data, SIZE);
}

static void test_range_refused(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct http_server *server;
    struct registry *r;
    struct blob b;
    int fd = empty_file();

    blob_init(&b);
    server = server_start(serve_416, &b);
    r = fixture_open(server, NULL);
    assert_int_equal(io_pwrite_full(fd, b.data, 1000, 0), 0);
    if (fetch(r, &b, fd, 1000, &err) < 0)
        fail_msg("%s", err.text);
    expect_whole(&b, fd);
    registry_free(r);
    server_stop(server);
    free(b.data);
}

static void test_lies(void **state)
{
    struct blob b;

    blob_init(&b);
    b.answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    expect_no_fetch(&b, 0, EBADMSG, "has 5 bytes");
    b.answer = "HTTP/1.1 200 OK\r\nContent-Length: 9999999999999\r\n\r\n";
    expect_no_fetch(&b, 0, EBADMSG, "the manifest promises 1048583");
    b.answer = "HTTP/1.1 200 OK\r\n\r\n";
    b.more = 1;
    expect_no_fetch(&b, 0, EBADMSG, "sends more");
    b.more = 0;
    b.less = 1;
    expect_no_fetch(&b, SIZE - 1, EBADMSG, "gave up after 5 attempts");
    b.less = 0;
    b.answer = "HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-1048582/1048583\r\n\r\n";
    expect_no_fetch(&b, 1, EBADMSG, "other bytes");
    b.answer = "HTTP/1.1 206 Partial\r\nContent-Range: bytes 2-1048582/1048583\r\n\r\n";
    expect_no_fetch(&b, 1, EBADMSG, "other bytes");
    b.answer = "HTTP/1.1 206 Partial\r\nContent-Range: bytes 1-1048583/1048584\r\n\r\n";
    expect_no_fetch(&b, 1, EBADMSG, "other bytes");
    b.answer = "HTTP/1.1 206 Partial\r\nContent-Range: bytes 1-5/6\r\n\r\n";
    expect_no_fetch(&b, 1, EBADMSG, "has 6 bytes");
    b.answer = "HTTP/1.1 206 Partial\r\nContent-Range: bytes 1-1048582/*\r\n\r\n";
    expect_no_fetch(&b, 1, EBADMSG, "sends more");
    b.answer = "HTTP/1.1 206 Partial\r\n\r\n";
    expect_no_fetch(&b, 1, EBADMSG, "other bytes");
    b.answer = "HTTP/1.1 404 None\r\nContent-Length: 0\r\n\r\n";
    expect_no_fetch(&b, 1, ENOENT, "it may have been deleted");
    b.answer = "HTTP/1.1 416 What\r\nContent-Length: 0\r\n\r\n";
    expect_no_fetch(&b, 0, EPROTO, "status 416");
    free(b.data);
}

static void test_disk_full(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct http_server *server;
    struct registry *r;
    struct blob b;
    int fd = open("/dev/full", O_RDWR | O_CLOEXEC);
    const struct server_request *q;

    blob_init(&b);
    server = server_start(serve_blob, &b);
    r = fixture_open(server, NULL);
    assert_int_equal(fetch(r, &b, fd, 0, &err), -ENOSPC);
    assert_int_equal(server_requests(server, &q), 1); /* no use in another attempt */
    close(fd);
    registry_free(r);
    server_stop(server);
    free(b.data);
}

/* The registry sends on to signed URLs; those get old, so after a cut it is asked again. */
static bool refuse_once(void *ctx, const struct server_request *q)
{
    static const size_t cuts[] = {0, 200000};

    if (q->number == 0)
        return server_reply(q, "403 Old", NULL, NULL, 0);
    return server_reply_range(q, ((struct blob *)ctx)->data, SIZE, q->number < 2 ? cuts[q->number] : SIZE_MAX);
}

static void test_redirected(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct http_server *server, *other;
    const struct server_request *q;
    struct registry *r;
    struct blob b, o;
    int fd = empty_file();

    blob_init(&b);
    o = b;
    other = server_start(refuse_once, &o);
    b.other = server_port(other);
    server = server_start(serve_blob, &b);
    r = fixture_open(server, NULL);
    if (fetch(r, &b, fd, 0, &err) < 0)
        fail_msg("%s", err.text);
    expect_whole(&b, fd);
    assert_int_equal(server_requests(server, &q), 3);
    assert_int_equal(server_requests(other, &q), 3);
    assert_string_equal(q[2].range, "bytes=200000-");
    registry_free(r);
    server_stop(server);
    server_stop(other);
    free(b.data);
}

static void test_mirror_ends_in_the_middle(void **state)
{
    static const size_t cuts[] = {500000, 0, 0, 0, 0, 0};
    struct sm_error err = SM_ERROR_INIT;
    struct registry_options opt = fixture_options();
    struct http_server *mirror, *origin;
    const struct server_request *q;
    char text[256], *file = fixture_path(state, "registries.json");
    struct registry *r;
    struct blob b, m;
    int fd = empty_file();

    blob_init(&b);
    m = b;
    m.cuts = cuts;
    m.n_cuts = ARRAY_SIZE(cuts);
    mirror = server_start(serve_blob, &m);
    origin = server_start(serve_blob, &b);
    snprintf(text, sizeof(text), "{\"registries\":{\"127.0.0.1:%u\":{\"mirrors\":[\"http://127.0.0.1:%u\"]}}}",
             server_port(origin), server_port(mirror));
    fixture_write(state, "registries.json", text);
    opt.config_file = file;
    r = fixture_open(origin, &opt);
    if (fetch(r, &b, fd, 0, &err) < 0)
        fail_msg("%s", err.text);
    expect_whole(&b, fd);
    assert_int_equal(server_requests(origin, &q), 1);
    assert_string_equal(q[0].range, "bytes=500000-");
    registry_free(r);
    server_stop(origin);
    server_stop(mirror);
    free(file);
    free(b.data);
}

/* A server that stops sending without closing. */
static bool stall(void *ctx, const struct server_request *q)
{
    const struct blob *b = ctx;
    char head[128];

    if (q->number)
        return server_reply_range(q, b->data, SIZE, SIZE_MAX);
    snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %u\r\n\r\n", SIZE);
    return server_send(q, head, strlen(head)) && server_send(q, b->data, 1000);
}

static void test_stall(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct registry_options opt = fixture_options();
    struct http_server *server;
    const struct server_request *q;
    struct registry *r;
    struct blob b;
    int fd = empty_file();

    blob_init(&b);
    server = server_start(stall, &b);
    opt.low_speed_seconds = 1;
    r = fixture_open(server, &opt);
    if (fetch(r, &b, fd, 0, &err) < 0)
        fail_msg("%s", err.text);
    expect_whole(&b, fd);
    assert_int_equal(server_requests(server, &q), 2);
    assert_string_equal(q[1].range, "bytes=1000-");
    registry_free(r);
    server_stop(server);
    free(b.data);
}

static void test_stopped_and_waited(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct http_server *server;
    struct registry_fetch *f[2];
    struct registry *r;
    struct blob b;
    struct pollfd fds[2];
    uint64_t have;
    bool done = false;
    int fd = empty_file(), p[2];

    blob_init(&b);
    server = server_start(serve_blob, &b);
    r = fixture_open(server, NULL);
    assert_int_equal(pipe(p), 0);
    fds[0] = (struct pollfd){.fd = p[0], .events = POLLIN};
    fds[1] = (struct pollfd){.fd = -1};
    assert_int_equal(registry_wait(r, fds, 2, 0, &err), 0);
    assert_int_equal(write(p[1], "x", 1), 1);
    assert_int_equal(registry_wait(r, fds, 2, -1, &err), 1);
    assert_int_equal(fds[0].revents, POLLIN);
    assert_int_equal(read(p[0], &have, 1), 1);
    close(p[1]);
    assert_int_equal(registry_wait(r, fds, 2, -1, &err), 1); /* a hang-up is something, too */
    assert_int_equal(fds[0].revents, POLLHUP);

    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(registry_fetch_start(&f[i], r, &b.digest, SIZE, fd, 0, &err), 0);
    do {
        assert_true(registry_wait(r, NULL, 0, -1, &err) >= 0);
        assert_int_equal(registry_fetch_state(f[0], &have, &done, &err), 0);
    } while (!have);
    registry_fetch_free(f[0]); /* in the middle, perhaps */
    do {
        assert_int_equal(registry_fetch_state(f[1], &have, &done, &err), 0);
        assert_true(done || registry_wait(r, NULL, 0, -1, &err) >= 0);
    } while (!done);
    registry_fetch_free(f[1]);
    expect_whole(&b, fd);
    close(p[0]);
    registry_free(r);
    server_stop(server);
    free(b.data);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, registry_fixture_setup, registry_fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_whole_and_rest),
        TEST(test_resume),
        TEST(test_range_refused),
        TEST(test_lies),
        TEST(test_disk_full),
        TEST(test_redirected),
        TEST(test_mirror_ends_in_the_middle),
        TEST(test_stall),
        TEST(test_stopped_and_waited),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
