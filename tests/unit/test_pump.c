/* SPDX-License-Identifier: Apache-2.0 */
/* A caller's descriptors on the loop: pipes, files, sockets, terminals; slow, closed, shared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/io.h"
#include "lib/pump.h"

struct fixture {
    struct loop *loop;
    size_t done;
    unsigned broke, eofs;
    char got[256 * 1024];
    size_t got_len, room; /* `room`: how much take() takes */
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    assert_int_equal(loop_new(&f->loop), 0);
    f->room = SIZE_MAX;
    signal(SIGPIPE, SIG_IGN);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    loop_free(f->loop);
    free(f);
    return 0;
}

static void on_done(struct sink *s, size_t n)
{
    ((struct fixture *)s->ctx)->done += n;
}

static void on_broke(struct sink *s)
{
    ((struct fixture *)s->ctx)->broke++;
}

static struct sink new_sink(struct fixture *f, int fd)
{
    struct sink s = {.done = on_done, .broke = on_broke, .ctx = f};

    assert_int_equal(sink_open(&s, f->loop, fd, NULL), 0);
    return s;
}

static size_t take(struct source *s, const void *data, size_t len)
{
    struct fixture *f = s->ctx;
    size_t n = len < f->room ? len : f->room;

    assert_true(f->got_len + n <= sizeof(f->got));
    memcpy(f->got + f->got_len, data, n);
    f->got_len += n;
    f->room -= n;
    return n;
}

static void on_eof(struct source *s)
{
    ((struct fixture *)s->ctx)->eofs++;
}

static void fill(char *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        data[i] = (char)(i * 7 + i / 251);
}

/* More than the pipe holds: kept, and written as the reader reads; never blocks, never out of order. */
static void slow_reader(struct fixture *f, struct sink *s, int reader)
{
    static char data[200 * 1024], back[sizeof(data)];
    size_t n = 0;

    fill(data, sizeof(data));
    sink_write(s, data, 150 * 1024);
    assert_true(f->done < 150 * 1024);
    assert_false(sink_empty(s));
    sink_write(s, data + 150 * 1024, 50 * 1024);
    while (n < sizeof(data)) {
        ssize_t r;

        loop_once(f->loop, 0);
        r = read(reader, back + n, sizeof(back) - n < 10000 ? sizeof(back) - n : 10000);
        assert_true(r > 0);
        n += (size_t)r;
    }
    assert_true(sink_empty(s));
    assert_int_equal(f->done, sizeof(data));
    assert_memory_equal(data, back, sizeof(data));
}

static void pipe_is_written_without_blocking(void **state)
{
    struct fixture *f = *state;
    int pv[2];

    assert_int_equal(pipe2(pv, O_CLOEXEC), 0);
    struct sink s = new_sink(f, pv[1]);
    assert_int_equal(s.kind, PUMP_NONBLOCK);
    slow_reader(f, &s, pv[0]);
    assert_int_equal(fcntl(pv[1], F_GETFL) & O_NONBLOCK, 0); /* the caller's is as it was */
    sink_close(&s);
    close(pv[0]);
    close(pv[1]);
}

/* As when /proc/self/fd can't be opened. */
static void pipe_that_blocks_is_written_in_pieces(void **state)
{
    struct fixture *f = *state;
    int pv[2];

    assert_int_equal(pipe2(pv, O_CLOEXEC), 0);
    struct sink s = new_sink(f, pv[1]);
    close(s.fd);
    s.fd = dup(pv[1]);
    s.kind = PUMP_BLOCKING;
    slow_reader(f, &s, pv[0]);
    sink_close(&s);
    close(pv[0]);
    close(pv[1]);
}

static void socket_is_written_without_blocking(void **state)
{
    struct fixture *f = *state;
    int sv[2], size = 16 * 1024;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
    setsockopt(sv[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    struct sink s = new_sink(f, sv[0]);
    assert_int_equal(s.kind, PUMP_SOCKET);
    slow_reader(f, &s, sv[1]);
    sink_close(&s);
    close(sv[0]);
    close(sv[1]);
}

static void files_and_null_take_all_at_once(void **state)
{
    struct fixture *f = *state;
    FILE *tmp = tmpfile();
    char back[8] = {0};
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

    assert_non_null(tmp);
    struct sink s = new_sink(f, fileno(tmp)), t = new_sink(f, null), none = new_sink(f, -1);
    sink_write(&s, "hello", 5);
    sink_write(&t, "hello", 5);
    sink_write(&none, "hello", 5);
    assert_int_equal(f->done, 15);
    assert_int_equal(pread(fileno(tmp), back, 8, 0), 5);
    assert_string_equal(back, "hello");
    sink_close(&s);
    sink_close(&t);
    sink_close(&none);
    close(null);
    fclose(tmp);
}

static void reader_that_goes_breaks_it_once(void **state)
{
    static char data[100 * 1024];
    struct fixture *f = *state;
    int pv[2];

    assert_int_equal(pipe2(pv, O_CLOEXEC), 0);
    struct sink s = new_sink(f, pv[1]);
    sink_write(&s, data, sizeof(data));
    assert_false(sink_empty(&s));
    close(pv[0]);
    while (!sink_empty(&s))
        assert_true(loop_once(f->loop, 1000) > 0);
    assert_int_equal(f->broke, 1);
    assert_int_equal(f->done, sizeof(data));
    /* Everything later is dropped, and said to be done with. */
    sink_write(&s, data, 10);
    assert_int_equal(f->done, sizeof(data) + 10);
    assert_int_equal(f->broke, 1);
    sink_close(&s);
    close(pv[1]);
}

static void full_disk_breaks_it(void **state)
{
    struct fixture *f = *state;
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);

    struct sink s = new_sink(f, full);
    sink_write(&s, "hello", 5);
    assert_int_equal(f->broke, 1);
    assert_int_equal(f->done, 5);
    sink_close(&s);
    close(full);
}

static void one_descriptor_serves_two(void **state)
{
    struct fixture *f = *state;
    char back[16] = {0};
    int pv[2];

    assert_int_equal(pipe2(pv, O_CLOEXEC), 0);
    struct sink a = new_sink(f, pv[1]), b = new_sink(f, pv[1]);
    close(pv[1]); /* ours are our own */
    sink_write(&a, "one", 3);
    sink_write(&b, "two", 3);
    assert_int_equal(read(pv[0], back, sizeof(back)), 6);
    assert_string_equal(back, "onetwo");
    sink_close(&a);
    sink_close(&b);
    assert_int_equal(read(pv[0], back, sizeof(back)), 0);
    close(pv[0]);
}

static struct source new_source(struct fixture *f)
{
    return (struct source){.take = take, .eof = on_eof, .ctx = f};
}

static void run_source(struct fixture *f, struct source *s, int fd)
{
    assert_int_equal(source_open(s, f->loop, fd, NULL), 0);
}

static void source_pauses_and_resumes(void **state)
{
    struct fixture *f = *state;
    struct source s = new_source(f);
    int pv[2];

    assert_int_equal(pipe2(pv, O_CLOEXEC), 0);
    run_source(f, &s, pv[0]);
    f->room = 3;
    assert_int_equal(write(pv[1], "abcdef", 6), 6);
    assert_true(loop_once(f->loop, 1000) > 0);
    assert_int_equal(f->got_len, 3);
    close(pv[1]);
    /* Paused: neither data nor the end of the pipe wakes the loop. */
    assert_int_equal(loop_once(f->loop, 0), 0);
    f->room = 1;
    source_resume(&s);
    assert_int_equal(f->got_len, 4);
    f->room = 100;
    source_resume(&s);
    assert_int_equal(f->got_len, 6);
    while (!f->eofs)
        assert_true(loop_once(f->loop, 1000) > 0);
    assert_memory_equal(f->got, "abcdef", 6);
    source_resume(&s);
    assert_int_equal(f->eofs, 1);
    source_close(&s);
    close(pv[0]);
}

static void ending_gives_what_was_read_first(void **state)
{
    struct fixture *f = *state;
    struct source s = new_source(f);
    int pv[2];

    assert_int_equal(pipe2(pv, O_CLOEXEC), 0);
    run_source(f, &s, pv[0]);
    f->room = 2;
    assert_int_equal(write(pv[1], "abcd", 4), 4);
    assert_true(loop_once(f->loop, 1000) > 0);
    source_end(&s);
    assert_int_equal(f->eofs, 0);
    f->room = 10;
    source_resume(&s);
    assert_int_equal(f->got_len, 4);
    assert_int_equal(f->eofs, 1);
    source_end(&s);
    assert_int_equal(f->eofs, 1);
    source_close(&s);
    close(pv[0]);
    close(pv[1]);
}

static void file_is_read_in_chunks(void **state)
{
    static char data[150 * 1024];
    struct fixture *f = *state;
    struct source s = new_source(f);
    FILE *tmp = tmpfile();
    unsigned rounds = 0;

    assert_non_null(tmp);
    fill(data, sizeof(data));
    assert_int_equal(pwrite(fileno(tmp), data, sizeof(data), 0), sizeof(data));
    run_source(f, &s, fileno(tmp));
    for (; !f->eofs; rounds++)
        assert_true(loop_once(f->loop, 1000) > 0);
    assert_int_equal(rounds, 4); /* three chunks and the end: the loop serves others in between */
    assert_int_equal(f->got_len, sizeof(data));
    assert_memory_equal(f->got, data, sizeof(data));
    source_close(&s);
    fclose(tmp);
}

static void terminal_works_both_ways(void **state)
{
    struct fixture *f = *state;
    struct source src = new_source(f);
    char back[16] = {0};
    int master, slave;

    assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
    struct sink s = new_sink(f, slave), m = new_sink(f, master);
    assert_int_equal(s.kind, PUMP_NONBLOCK);
    assert_int_equal(m.kind, PUMP_BLOCKING); /* opening it anew would make another terminal */
    sink_write(&s, "out", 3);
    assert_int_equal(read(master, back, sizeof(back)), 3);
    assert_string_equal(back, "out");
    run_source(f, &src, slave);
    sink_write(&m, "in\n", 3);
    while (f->got_len < 3)
        assert_true(loop_once(f->loop, 1000) > 0);
    assert_memory_equal(f->got, "in\n", 3);
    assert_int_equal(fcntl(slave, F_GETFL) & O_NONBLOCK, 0);
    sink_close(&s);
    sink_close(&m);
    close(master);
    /* A terminal that hung up is at its end. */
    while (!f->eofs)
        assert_true(loop_once(f->loop, 1000) > 0);
    source_close(&src);
    close(slave);
}

static void bad_descriptors_are_named(void **state)
{
    struct fixture *f = *state;
    struct sm_error err = SM_ERROR_INIT;
    struct sink s = {.done = on_done, .broke = on_broke, .ctx = f};
    struct source t = new_source(f);

    assert_int_equal(sink_open(&s, f->loop, 999, &err), -EBADF);
    assert_non_null(strstr(err.text, "999"));
    sink_close(&s);
    assert_int_equal(source_open(&t, f->loop, 999, &err), -EBADF);
    source_close(&t);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(pipe_is_written_without_blocking),   TEST(pipe_that_blocks_is_written_in_pieces),
        TEST(socket_is_written_without_blocking), TEST(files_and_null_take_all_at_once),
        TEST(reader_that_goes_breaks_it_once),    TEST(full_disk_breaks_it),
        TEST(one_descriptor_serves_two),          TEST(source_pauses_and_resumes),
        TEST(ending_gives_what_was_read_first),   TEST(file_is_read_in_chunks),
        TEST(terminal_works_both_ways),           TEST(bad_descriptors_are_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
