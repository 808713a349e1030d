/* SPDX-License-Identifier: Apache-2.0 */
/* Heads of HTTP answers, line by line; and hosts that are this machine. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/checked.h"
#include "oci/http.h"
#include "oci/http_headers.h"

#define NOW 784111770 /* seven seconds before the date of RFC 9110's example */

/* Lines of a head, until one is refused. */
static int feed(struct http_head *h, const char *const *lines, struct sm_error *err)
{
    int r = 0;

    *h = (struct http_head){0};
    for (; *lines && r >= 0; lines++)
        r = http_head_line(h, *lines, strlen(*lines), NOW, err);
    return r;
}

#define FEED(h, ...) feed(h, (const char *const[]){__VA_ARGS__, NULL}, &err)

static void test_good(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct http_head h;

    assert_int_equal(FEED(&h, "HTTP/1.1 200 OK\r\n", "content-LENGTH:  12 \r\n",
                          "Content-Type: Text/HTML; charset=x\r\n", "Docker-Content-Digest: sha256:ab\r\n",
                          "X-Other: \xff\r\n", "no colon here\r\n", "\r\n"),
                     0);
    assert_int_equal(h.status, 200);
    assert_true(h.has_length);
    assert_int_equal(h.length, 12);
    assert_string_equal(h.type, "text/html");
    assert_string_equal(h.digest, "sha256:ab");
    assert_false(h.has_range || h.has_retry || h.location || h.n_challenges);
    http_head_done(&h);

    /* The next answer forgets the one before. */
    assert_int_equal(FEED(&h, "HTTP/1.1 103 Hints\r\n", "Location: /x\r\n", "\r\n", "HTTP/2 206\r\n",
                          "Content-Range: bytes 5-9/*\r\n", "WWW-Authenticate: a\r\n", "www-authenticate: b\r\n"),
                     0);
    assert_int_equal(h.status, 206);
    assert_null(h.location);
    assert_true(h.has_range);
    assert_int_equal(h.range_first, 5);
    assert_int_equal(h.range_last, 9);
    assert_true(h.range_total == UINT64_MAX);
    assert_int_equal(h.n_challenges, 2);
    assert_string_equal(h.challenges[1], "b");
    http_head_done(&h);
}

static void test_retry_after(void **state)
{
    static const struct {
        const char *line;
        bool has;
        uint32_t seconds;
    } cases[] = {
        {"Retry-After: 120", true, 120},
        {"Retry-After: 0", true, 0},
        {"Retry-After: Sun, 06 Nov 1994 08:49:37 GMT", true, 7},
        {"Retry-After: Sun, 06 Nov 1994 08:49:00 GMT", true, 0},
        {"Retry-After: 99999999999", true, HTTP_RETRY_MAX_S},
        {"Retry-After: Tue, 01 Jan 9999 00:00:00 GMT", true, HTTP_RETRY_MAX_S},
        {"Retry-After: 99999999999999999999999", false, 0},
        {"Retry-After: -1", false, 0},
        {"Retry-After: 1.5", false, 0},
        {"Retry-After: soon", false, 0},
        {"Retry-After:", false, 0},
        {"Retry-After: Sun, 06 Nov 1994 08:49:37 PST", false, 0},
        {"Retry-After: Sun, 06 Nex 1994 08:49:37 GMT", false, 0},
        {"Retry-After: Sun, 06 ovD 1994 08:49:37 GMT", false, 0},
        {"Retry-After: Sun, 32 Nov 1994 08:49:37 GMT", false, 0},
        {"Retry-After: Sun, 06 Nov 1994 24:49:37 GMT", false, 0},
        {"Retry-After: Sunday, 06-Nov-94 08:49:37 GMT", false, 0},
    };
    struct sm_error err = SM_ERROR_INIT;
    struct http_head h;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(FEED(&h, "HTTP/1.1 429 Slow", cases[i].line), 0);
        if (h.has_retry != cases[i].has || h.retry_after_s != cases[i].seconds)
            fail_msg("%s: %d %u", cases[i].line, h.has_retry, h.retry_after_s);
        http_head_done(&h);
    }
}

static void test_bad(void **state)
{
    static const char *const bad[] = {
        "HTTP/1.1",
        "HTTP/1.1 20",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 600 OK",
        "HTTP/1.1 abc",
        "Content-Range: bytes 5-4/10",
        "Content-Range: bytes 0-10/10",
        "Content-Range: bytes 0-9/10x",
        "Content-Range: bytes 0-9",
        "Content-Range: bytes -9/10",
        "Content-Range: bytes 0-99999999999999999999/*",
        "Content-Range: lines 0-9/10",
        "Content-Range: ",
        "Location: a\x01z",
        "X: a\x7f",
    };
    struct sm_error err = SM_ERROR_INIT;
    struct http_head h;
    char *line = malloc(HTTP_LINE_MAX + 2);
    int r = 0;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (FEED(&h, "HTTP/1.1 206 OK", bad[i]) != -EBADMSG)
            fail_msg("%s", bad[i]);
        http_head_done(&h);
    }
    assert_int_equal(FEED(&h, "HTTP/1.1 206 OK", "Content-Range: bytes 0-1/2", "Content-Range: bytes 0-1/2"), -EBADMSG);
    http_head_done(&h);
    assert_int_equal(FEED(&h, "HTTP/1.1 302 Go", "Location: /a", "Location: /a", "Location: /b"), -EBADMSG);
    http_head_done(&h);
    assert_int_equal(http_head_line(&h, "Location: a\0b", 13, NOW, &err), -EBADMSG);
    http_head_done(&h);

    /* Limits */
    memset(line, 'a', HTTP_LINE_MAX + 1);
    assert_int_equal(http_head_line(&h, line, HTTP_LINE_MAX + 1, NOW, &err), -EFBIG);
    for (unsigned i = 0; i < HTTP_HEAD_MAX / HTTP_LINE_MAX; i++)
        assert_int_equal(http_head_line(&h, line, HTTP_LINE_MAX, NOW, &err), 0);
    assert_int_equal(http_head_line(&h, line, 1, NOW, &err), -EFBIG);
    http_head_done(&h);
    for (unsigned i = 0; i <= HTTP_CHALLENGES_MAX && r >= 0; i++)
        r = http_head_line(&h, "WWW-Authenticate: x", 19, NOW, &err);
    assert_int_equal(r, -EBADMSG);
    assert_int_equal(h.n_challenges, HTTP_CHALLENGES_MAX);
    http_head_done(&h);
    memcpy(line, "Docker-Content-Digest: ", 23);
    assert_int_equal(http_head_line(&h, line, 23 + HTTP_DIGEST_MAX + 1, NOW, &err), -EBADMSG);
    memset(line, 'a', HTTP_LINE_MAX + 1);
    memcpy(line, "Content-Type: ", 14);
    assert_int_equal(http_head_line(&h, line, 1000, NOW, &err), 0);
    assert_string_equal(h.type, "");
    http_head_done(&h);
    free(line);
}

static void test_loopback(void **state)
{
    static const char *const here[] = {"localhost", "LOCALHOST:5000", "127.0.0.1", "127.1.2.3:80",
                                       "[::1]",     "[::1]:5000",     "::1",       "localhost:"};
    static const char *const there[] = {"",           "localhost.example", "127.0.0.1.example", "128.0.0.1",
                                        "[::2]",      "0.0.0.0",           "example:5000",      "127.1",
                                        "xlocalhost", "[::ffff:1]"};

    for (size_t i = 0; i < ARRAY_SIZE(here); i++)
        if (!http_host_is_loopback(here[i]))
            fail_msg("%s", here[i]);
    for (size_t i = 0; i < ARRAY_SIZE(there); i++)
        if (http_host_is_loopback(there[i]))
            fail_msg("%s", there[i]);
}

static void test_urls(void **state)
{
    static const struct {
        const char *base, *url, *want, *where;
    } cases[] = {
        {NULL, "https://Reg.Example/v2/", "https://Reg.Example/v2/", "https://reg.example"},
        {NULL, "http://[::1]:5000/a?b#c", "http://[::1]:5000/a?b", "http://[::1]:5000"},
        {"https://a.example:444/x/y?z", "/p", "https://a.example:444/p", "https://a.example:444"},
        {"https://a.example/x/y?z", "p?q", "https://a.example/x/p?q", "https://a.example"},
        {"https://a.example/x", "//b.example/c", "https://b.example/c", "https://b.example"},
        {"https://a.example/x", "http://a.example:443/", "http://a.example:443/", "http://a.example:443"},
    };
    static const char *const bad[] = {"",
                                      "x",
                                      "ftp://a/",
                                      "file:///etc",
                                      "https://",
                                      "//a/b",
                                      "https://a b",
                                      "https://u@a/",
                                      "https://u:p@a/",
                                      "https://a:99999/",
                                      "javascript:alert(1)",
                                      "https://a/\nb"};
    const struct http_options o = {1000, 1, 1};
    struct sm_error err = SM_ERROR_INIT;
    struct http_url u, v;
    struct http *h;
    char *s;

    assert_int_equal(http_new(&h, &o, &err), 0);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        if (http_url_parse(h, &u, cases[i].base, cases[i].url, &err) < 0)
            fail_msg("%s", cases[i].url);
        assert_string_equal(u.url, cases[i].want);
        assert_string_equal(u.where, cases[i].where);
        http_url_done(&u);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (http_url_parse(h, &u, NULL, bad[i], &err) != -EBADMSG)
            fail_msg("%s", bad[i]);
    assert_int_equal(http_url_parse(h, &u, NULL, "https://a.example:443/x", &err), 0);
    assert_int_equal(http_url_parse(h, &v, NULL, "https://A.example/y", &err), 0);
    assert_true(http_same_origin(&u, &v));
    http_url_done(&v);
    assert_int_equal(http_url_parse(h, &v, NULL, "http://a.example:443/x", &err), 0);
    assert_false(http_same_origin(&u, &v));
    http_url_done(&v);
    http_url_done(&u);
    s = http_escape("a b/c:\xc3\xa9~");
    assert_string_equal(s, "a%20b%2Fc%3A%C3%A9~");
    free(s);
    http_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),     cmocka_unit_test(test_retry_after), cmocka_unit_test(test_bad),
        cmocka_unit_test(test_loopback), cmocka_unit_test(test_urls),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
