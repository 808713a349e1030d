/* SPDX-License-Identifier: Apache-2.0 */
/* Agent and client: streams, credit, terminals, many execs at once. */
#include "agent_harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MEGA (1u << 20)

static int setup(void **state)
{
    struct harness *h = calloc(1, sizeof(*h));

    h_start(h, true);
    *state = h;
    return 0;
}

static int teardown(void **state)
{
    h_stop(*state);
    free(*state);
    return 0;
}

static const struct agent_exec with_stdin = {.open_stdin = true};

/* Offer all of it, waiting for room in between. */
static void send_all(struct h_conn *c, const void *data, size_t len)
{
    const uint8_t *p = data;

    while (len) {
        unsigned rooms = c->rooms;
        size_t n = agent_stdin(c->agent, p, len);

        p += n;
        len -= n;
        if (len)
            h_wait_count(c->h, &c->rooms, rooms + 1);
    }
}

static void cat_echoes_until_half_closed(void **state)
{
    struct h_conn *c = h_exec(*state, 1, &with_stdin, (const char *const[]){"cat", NULL});

    assert_int_equal(agent_stdin(c->agent, "hello", 5), 5);
    h_wait_bytes(*state, &c->out[0], 5);
    assert_false(c->exited);
    assert_int_equal(agent_stdin(c->agent, " again", 6), 6);
    agent_stdin_eof(c->agent);
    h_expect(c, 0, "hello again");
    assert_int_equal(agent_stdin(c->agent, "late", 4), 4); /* dropped */
}

static void stdin_is_empty_unless_opened(void **state)
{
    struct h_conn *c = h_exec(*state, 1, NULL, (const char *const[]){"cat", NULL});

    assert_int_equal(agent_stdin(c->agent, "x", 1), 1);
    h_expect(c, 0, "");
}

static void ten_megabytes_there_and_back(void **state)
{
    size_t len = 10 * MEGA;
    uint32_t *data = malloc(len), x = 1;
    struct h_conn *c = h_exec(*state, 1, &with_stdin, (const char *const[]){"cat", NULL});

    for (size_t i = 0; i < len / 4; i++)
        data[i] = x = x * 1664525u + 1013904223u;
    send_all(c, data, len);
    agent_stdin_eof(c->agent);
    h_expect(c, 0, NULL);
    assert_int_equal(c->out[0].len, len);
    assert_memory_equal(c->out[0].data, data, len);
    free(data);
}

static void both_streams_at_once(void **state)
{
    struct h_conn *c = h_sh(*state, 1, NULL, "head -c 3000000 /dev/zero & head -c 2000000 /dev/zero >&2; wait");

    h_expect(c, 0, NULL);
    assert_int_equal(c->out[0].len, 3000000);
    assert_int_equal(c->out[1].len, 2000000);
}

/* All that was written before the end comes, and comes before the end, whatever is still in pipes then. */
static void last_words(void **state)
{
    for (unsigned i = 1; i < H_CONNS; i++) {
        struct h_conn *c = h_sh(*state, i, NULL, "head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2; kill -9 $$");

        h_expect(c, 137, NULL);
        assert_int_equal(c->out[0].len, 60000);
        assert_int_equal(c->out[1].len, 60000);
    }
}

static void slow_reader_stops_its_own_exec_only(void **state)
{
    struct h_conn *slow = h_sh(*state, 1, NULL, "head -c 3000000 /dev/zero; echo err >&2"), *c;

    slow->hold = true;
    h_wait_bytes(*state, &slow->out[0], AGENT_WINDOW);
    for (unsigned i = 2; i < 6; i++) {
        c = h_sh(*state, i, NULL, "head -c 1000000 /dev/zero");
        h_expect(c, 0, NULL);
        assert_int_equal(c->out[0].len, 1000000);
    }
    assert_int_equal(slow->out[0].len, AGENT_WINDOW); /* the most that it may be given */
    assert_false(slow->exited);

    slow->hold = false;
    agent_output_done(slow->agent, AGENT_STREAM_STDOUT, slow->held[0]);
    h_expect(slow, 0, NULL);
    assert_int_equal(slow->out[0].len, 3000000);
    assert_string_equal(h_text(slow, 1), "err\n");
}

/* One stream that nobody reads does not hold the other, nor a signal, nor the end. */
static void streams_are_independent(void **state)
{
    struct h_conn *c =
        h_sh(*state, 1, NULL,
             "head -c 3000000 /dev/zero & while echo line; do :; done | head -c 3000000 >&2; kill $!; wait");

    c->hold = true;
    while (c->out[0].len < AGENT_WINDOW || c->out[1].len < 3000000) {
        size_t n = c->held[1];

        c->held[1] = 0;
        agent_output_done(c->agent, AGENT_STREAM_STDERR, n);
        assert_true(loop_once(((struct harness *)*state)->loop, 30000) > 0);
    }
    assert_int_equal(c->out[0].len, AGENT_WINDOW);
    agent_output_done(c->agent, AGENT_STREAM_STDOUT, c->held[0]);
    c->hold = false;
    h_expect(c, 0, NULL);
}

/* A process that does not read stdin can still be signalled, however much was sent to it. */
static void signal_overtakes_stdin(void **state)
{
    struct h_conn *c = h_exec(*state, 1, &with_stdin, (const char *const[]){"sleep", "1000", NULL});
    static uint8_t zeros[2 * AGENT_WINDOW];

    assert_int_equal(agent_stdin(c->agent, zeros, sizeof(zeros)), AGENT_WINDOW);
    h_wait(*state, &c->started);
    assert_in_range(agent_stdin(c->agent, zeros, sizeof(zeros)), 0, 65536); /* what the pipe took */
    agent_signal(c->agent, SIGTERM, AGENT_TARGET_PROCESS);
    h_expect(c, 143, "");
}

/* What a process does not want is taken all the same: nothing hangs on a stdin that was left open or closed early. */
static void stdin_that_nobody_reads(void **state)
{
    static uint8_t zeros[MEGA];
    struct h_conn *c =
        h_sh(*state, 1, &with_stdin, "exec <&-; echo closed; while [ ! -e /tmp/sm-never ]; do kill $$; done");

    h_wait_bytes(*state, &c->out[0], 7);
    h_expect(c, 143, "closed\n");

    c = h_sh(*state, 2, &with_stdin, "exec <&-; echo closed; sleep 1000 & wait");
    h_wait_bytes(*state, &c->out[0], 7);
    /* sleep has stdin from /dev/null (a background job), so nobody has the pipe any more. */
    send_all(c, zeros, sizeof(zeros));
    agent_signal(c->agent, SIGKILL, AGENT_TARGET_TREE);
    h_expect(c, 137, NULL);

    c = h_sh(*state, 3, &with_stdin, "exit 9"); /* stdin never ends */
    h_expect(c, 9, "");
}

static struct h_conn *tty_sh(struct harness *h, unsigned i, const char *script)
{
    struct agent_exec x = {.tty = true, .open_stdin = true, .rows = 33, .cols = 101};
    struct h_conn *c;

    if (access("/dev/ptmx", R_OK | W_OK) < 0) {
        print_message("no /dev/ptmx that this user may open: terminals cannot be tested\n");
        skip();
    }
    c = h_sh(h, i, &x, script);
    while (!c->started && !c->start_failed)
        assert_true(loop_once(h->loop, 30000) > 0);
    if (c->start_failed) {
        print_message("no terminal here: %s\n", c->err.text);
        skip();
    }
    return c;
}

static void terminal_has_size_and_control(void **state)
{
    struct h_conn *c =
        tty_sh(*state, 1, "stty size; tty >/dev/null && echo tty; echo $TERM; echo err >&2; : </dev/tty && echo ctty");

    h_expect(c, 0, "33 101\r\ntty\r\nxterm\r\nerr\r\nctty\r\n");
    c = tty_sh(*state, 2, "trap 'stty size; exit 3' WINCH; echo ready; sleep 1000 & wait");
    h_wait_bytes(*state, &c->out[0], 7);
    agent_resize(c->agent, 50, 132);
    h_expect(c, 3, "ready\r\n50 132\r\n");
}

static void terminal_takes_keys(void **state)
{
    struct h_conn *c = tty_sh(*state, 1, "stty -echo; trap 'echo int; exit 4' INT; echo ready; sleep 1000 & wait");

    h_wait_bytes(*state, &c->out[0], 7);
    agent_stdin(c->agent, "\x03", 1);
    h_expect(c, 4, "ready\r\nint\r\n");

    c = tty_sh(*state, 2, "stty -echo; echo ready; cat; echo end");
    h_wait_bytes(*state, &c->out[0], 7);
    agent_stdin(c->agent, "one\ntwo", 7);
    agent_stdin_eof(c->agent);
    h_expect(c, 0, "ready\r\none\r\ntwoend\r\n");
}

static void terminal_says_all_before_the_end(void **state)
{
    struct h_conn *c = tty_sh(*state, 1, "stty -opost; head -c 500000 /dev/zero; printf x");

    h_expect(c, 0, NULL);
    assert_int_equal(c->out[0].len, 500001);
    /* A child that keeps the terminal open does not hold the exec. */
    c = tty_sh(*state, 2, "trap '' HUP; sleep 1000 & echo $!");
    h_expect(c, 0, NULL);
    kill((pid_t)atoi(h_text(c, 0)), SIGKILL);
}

static void resize_storm(void **state)
{
    struct h_conn *c = tty_sh(*state, 1, "read x; stty size");

    for (unsigned i = 1; i <= 50000; i++)
        agent_resize(c->agent, (uint16_t)(i % 500 + 1), (uint16_t)(i % 300 + 1));
    agent_resize(c->agent, 44, 55);
    agent_stdin(c->agent, "\n", 1);
    h_expect(c, 0, "\r\n44 55\r\n");
}

static unsigned count_fds(pid_t pid)
{
    char path[64];
    unsigned n = 0;

    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    DIR *d = opendir(path);
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void many_execs_leave_nothing(void **state)
{
    struct harness *h = *state;
    unsigned before = count_fds(h->server), pings = 0;

    for (unsigned i = 1; i < H_CONNS; i++)
        h_sh(h, i, i % 2 ? &with_stdin : NULL, i % 3 ? "exit 1" : "head -c 100000 /dev/zero; exit 1");
    for (unsigned i = 1; i < H_CONNS; i++)
        h_expect(&h->conn[i], 1, NULL);
    /* What came of them has been put away when another request has been answered. */
    agent_ping(h->conn[0].agent, NULL);
    h_wait_count(h, &h->conn[0].done, ++pings + 1);
    assert_int_equal(count_fds(h->server), before);
    /* Connections are closed by the server when it sees that the client has closed them. */
    for (unsigned i = 1; i < H_CONNS; i++)
        h_drop(&h->conn[i]);
    while (count_fds(h->server) > before - (H_CONNS - 1) && pings < 10000) {
        agent_ping(h->conn[0].agent, NULL);
        h_wait_count(h, &h->conn[0].done, ++pings + 1);
    }
    assert_int_equal(count_fds(h->server), before - (H_CONNS - 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(cat_echoes_until_half_closed, setup, teardown),
        cmocka_unit_test_setup_teardown(stdin_is_empty_unless_opened, setup, teardown),
        cmocka_unit_test_setup_teardown(ten_megabytes_there_and_back, setup, teardown),
        cmocka_unit_test_setup_teardown(both_streams_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(last_words, setup, teardown),
        cmocka_unit_test_setup_teardown(slow_reader_stops_its_own_exec_only, setup, teardown),
        cmocka_unit_test_setup_teardown(streams_are_independent, setup, teardown),
        cmocka_unit_test_setup_teardown(signal_overtakes_stdin, setup, teardown),
        cmocka_unit_test_setup_teardown(stdin_that_nobody_reads, setup, teardown),
        cmocka_unit_test_setup_teardown(terminal_has_size_and_control, setup, teardown),
        cmocka_unit_test_setup_teardown(terminal_takes_keys, setup, teardown),
        cmocka_unit_test_setup_teardown(terminal_says_all_before_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(resize_storm, setup, teardown),
        cmocka_unit_test_setup_teardown(many_execs_leave_nothing, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
