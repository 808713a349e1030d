/* SPDX-License-Identifier: Apache-2.0 */
/* base: errors, buffers, descriptor passing, the loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "base/loop.h"

static void error_is_set_and_wrapped(void **state)
{
    struct sm_error err = SM_ERROR_INIT;

    assert_int_equal(sm_error_set(&err, ENOENT, "no file '%s'", "x"), -ENOENT);
    assert_string_equal(err.text, "no file 'x'");
    assert_int_equal(sm_error_wrap(&err, "opening %d", 7), -ENOENT);
    assert_string_equal(err.text, "opening 7: no file 'x'");
    assert_int_equal(err.code, ENOENT);
    assert_int_equal(sm_error_sys(&err, EACCES, "open"), -EACCES);
    assert_string_equal(err.text, "open: Permission denied");
    assert_int_equal(sm_error_set(NULL, EINVAL, "nobody listens"), -EINVAL);
}

static void error_cut_keeps_utf8_whole(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    char text[SM_ERROR_TEXT_MAX * 2];
    size_t n = 0;

    for (size_t i = 0; i + 3 < sizeof(text); i += 3, n += 3)
        memcpy(text + i, "\xe2\x82\xac", 3);
    text[n] = '\0';
    sm_error_set(&err, EINVAL, "%s", text);
    assert_int_equal(strlen(err.text) % 3, 0);
    assert_in_range(strlen(err.text), SM_ERROR_TEXT_MAX - 4, SM_ERROR_TEXT_MAX - 1);
    sm_error_wrap(&err, "ab");
    assert_int_equal((strlen(err.text) - strlen("ab: ")) % 3, 0);
}

static void buffers_round_trip(void **state)
{
    struct buf b = buf_init(1024);

    buf_u8(&b, 0x12);
    buf_u16(&b, 0x3456);
    buf_u32(&b, 0x789abcde);
    buf_u64(&b, 0x1122334455667788);
    buf_str(&b, "hello");
    buf_str(&b, NULL);
    buf_patch_u32(&b, 3, 7);
    assert_false(b.bad);

    struct reader r = reader_init(b.data, b.len);
    assert_int_equal(reader_u8(&r), 0x12);
    assert_int_equal(reader_u16(&r), 0x3456);
    assert_int_equal(reader_u32(&r), 7);
    assert_int_equal(reader_u64(&r), 0x1122334455667788);
    CLEANUP_FREE char *s = reader_str(&r, 5);
    assert_string_equal(s, "hello");
    CLEANUP_FREE char *e = reader_str(&r, 5);
    assert_string_equal(e, "");
    assert_int_equal(r.left, 0);
    assert_false(r.bad);
    assert_int_equal(reader_u8(&r), 0);
    assert_true(r.bad);
    buf_consume(&b, 3);
    assert_int_equal(b.data[0], 7);
    buf_done(&b);
}

static void reader_refuses_bad_strings(void **state)
{
    static const uint8_t with_nul[] = {3, 0, 0, 0, 'a', 0, 'b'};
    static const uint8_t too_long[] = {4, 0, 0, 0, 'a', 'b', 'c', 'd'};
    static const uint8_t cut[] = {255, 255, 255, 255, 'a'};
    struct reader r = reader_init(with_nul, sizeof(with_nul));

    assert_null(reader_str(&r, 10));
    assert_true(r.bad);
    r = reader_init(too_long, sizeof(too_long));
    assert_null(reader_str(&r, 3));
    assert_true(r.bad);
    r = reader_init(cut, sizeof(cut));
    assert_null(reader_str(&r, SIZE_MAX));
    assert_true(r.bad);
    assert_null(reader_bytes(&r, 0));
}

static void buf_keeps_its_cap(void **state)
{
    struct buf b = buf_init(100);

    buf_bytes(&b, (char[90]){0}, 90);
    assert_false(b.bad);
    assert_null(buf_reserve(&b, 11));
    assert_true(b.bad);
    assert_int_equal(b.len, 90);
    buf_done(&b);
}

static void arithmetic_is_checked(void **state)
{
    uint64_t v;

    assert_true(CHECKED_ADD(UINT64_MAX - 1, (uint64_t)1, &v));
    assert_false(CHECKED_ADD(UINT64_MAX, (uint64_t)1, &v));
    assert_false(CHECKED_MUL(UINT64_MAX, (uint64_t)2, &v));
    assert_true(range_within(10, 0, 10));
    assert_false(range_within(11, 0, 10));
    assert_false(range_within(1, UINT64_MAX, 10));
    assert_int_equal(align_up(4097, 4096), 8192);
}

static void descriptors_travel(void **state)
{
    int sv[2], got[2];
    unsigned n;
    char text[8];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
    assert_int_equal(io_send_fds(sv[0], "hi", 2, (int[]){sv[0], sv[1]}, 2), 0);
    assert_int_equal(io_recv_fds(sv[1], text, sizeof(text), got, 2, &n), 2);
    assert_int_equal(n, 2);
    assert_int_equal(fcntl(got[0], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    close(got[0]);
    close(got[1]);

    /* More than asked for: refused, and none of them stays open. */
    int before = dup(0);
    close(before);
    assert_int_equal(io_send_fds(sv[0], "hi", 2, (int[]){sv[0], sv[1]}, 2), 0);
    assert_int_equal(io_recv_fds(sv[1], text, sizeof(text), got, 1, &n), -EMSGSIZE);
    int after = dup(0);
    assert_int_equal(before, after);
    close(after);

    /* Data that does not fit: refused too. */
    assert_int_equal(io_send_fds(sv[0], "0123456789", 10, NULL, 0), 0);
    assert_int_equal(io_recv_fds(sv[1], text, sizeof(text), got, 1, &n), -EMSGSIZE);
    close(sv[0]);
    assert_int_equal(io_recv_fds(sv[1], text, sizeof(text), got, 1, &n), 0);
    close(sv[1]);
}

struct pair {
    struct loop *loop;
    struct loop_source a, b;
    int hits;
};

/* Whoever runs first removes the other, which is ready too: it must not run. */
static void remove_other(struct loop_source *src, uint32_t events)
{
    struct pair *p = src->ctx;

    p->hits++;
    loop_remove(p->loop, src == &p->a ? &p->b : &p->a);
}

static void removed_source_is_not_run(void **state)
{
    struct pair p = {0};
    int a = eventfd(1, EFD_CLOEXEC), b = eventfd(1, EFD_CLOEXEC);

    assert_int_equal(loop_new(&p.loop), 0);
    assert_int_equal(loop_add(p.loop, &p.a, a, EPOLLIN, remove_other, &p), 0);
    assert_int_equal(loop_add(p.loop, &p.b, b, EPOLLIN, remove_other, &p), 0);
    assert_int_equal(loop_once(p.loop, 1000), 1);
    assert_int_equal(p.hits, 1);
    loop_remove(p.loop, &p.a);
    loop_remove(p.loop, &p.b);
    loop_free(p.loop);
    close(a);
    close(b);
}

static void stop_loop(struct loop_timer *timer)
{
    struct pair *p = timer->ctx;

    p->hits++;
    loop_stop(p->loop);
}

static void timers_fire_in_order_and_once(void **state)
{
    struct pair p = {0};
    struct loop_timer first = {0}, second = {0}, never = {0};
    uint64_t now = io_now_ns();

    assert_int_equal(loop_new(&p.loop), 0);
    loop_timer_set(p.loop, &second, now + 2000000, stop_loop, &p);
    loop_timer_set(p.loop, &first, now + 1000000, stop_loop, &p);
    loop_timer_set(p.loop, &never, now + 1000, stop_loop, &p);
    loop_timer_cancel(&never);
    assert_int_equal(loop_run(p.loop), 0);
    assert_true(first.at_ns == 0);
    if (p.hits == 1) {
        assert_true(second.at_ns != 0);
        assert_int_equal(loop_run(p.loop), 0);
    }
    assert_int_equal(p.hits, 2);
    assert_true(io_now_ns() >= now + 2000000);
    loop_free(p.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_is_set_and_wrapped),
        cmocka_unit_test(error_cut_keeps_utf8_whole),
        cmocka_unit_test(buffers_round_trip),
        cmocka_unit_test(reader_refuses_bad_strings),
        cmocka_unit_test(buf_keeps_its_cap),
        cmocka_unit_test(arithmetic_is_checked),
        cmocka_unit_test(descriptors_travel),
        cmocka_unit_test(removed_source_is_not_run),
        cmocka_unit_test(timers_fire_in_order_and_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
