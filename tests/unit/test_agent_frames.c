/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames that break the protocol, in both directions: a raw host against the agent's server, a raw (hostile) guest
 * against the library's client. And the agent's decoders of the two large requests.
 */
#include "agent_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/io.h"
#include "request.h"

static void put_frame(struct buf *b, uint16_t type, const void *data, uint32_t len)
{
    buf_u32(b, len);
    buf_u16(b, type);
    buf_u16(b, 0);
    buf_bytes(b, data, len);
}

static void put_pair(struct buf *b, uint16_t type, uint32_t first, uint32_t second)
{
    uint32_t v[2] = {first, second}; /* little-endian hosts only, as all that we support */

    put_frame(b, type, v, sizeof(v));
}

static void put_hello(struct buf *b)
{
    put_pair(b, AGENT_HELLO, AGENT_MAGIC, AGENT_VERSION);
}

/* ---- A raw host ---- */

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

static ssize_t read_some(int fd, void *p, size_t len)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};

    assert_int_equal(poll(&pfd, 1, 30000), 1);
    return read(fd, p, len);
}

/* The type of the next frame, its payload in `data`; 0 at the end. */
static uint16_t next_frame(int fd, uint8_t data[AGENT_SMALL_MAX], uint32_t *ret_len)
{
    uint8_t head[AGENT_HEADER_SIZE];
    size_t got = 0;

    while (got < sizeof(head)) {
        ssize_t n = read_some(fd, head + got, sizeof(head) - got);

        if (n <= 0)
            return 0;
        got += (size_t)n;
    }
    struct reader r = reader_init(head, sizeof(head));
    *ret_len = reader_u32(&r);
    uint16_t type = reader_u16(&r);
    assert_int_equal(reader_u16(&r), 0);
    assert_true(*ret_len <= AGENT_SMALL_MAX);
    for (got = 0; got < *ret_len;) {
        ssize_t n = read_some(fd, data + got, *ret_len - got);

        assert_true(n > 0);
        got += (size_t)n;
    }
    return type;
}

/* Send bytes on connection `i`; the agent must answer HELLO (when it was greeted) and an ERROR with `text`, and close.
 */
static void expect_refused(struct harness *h, unsigned i, struct buf *b, bool hello, const char *text)
{
    uint8_t data[AGENT_SMALL_MAX + 1];
    uint32_t len = 0;
    int fd = h->conn[i].fd;

    assert_false(b->bad);
    assert_int_equal(io_write_full(fd, b->data, b->len), 0);
    if (hello)
        assert_int_equal(next_frame(fd, data, &len), AGENT_HELLO);
    assert_int_equal(next_frame(fd, data, &len), AGENT_ERROR);
    data[len] = '\0';
    assert_true(len > 8);
    if (!strstr((char *)data + 8, text))
        fail_msg("'%s' is not in '%s'", text, (char *)data + 8);
    assert_int_equal(next_frame(fd, data, &len), 0);
    buf_done(b);
}

static void agent_refuses_bad_frames(void **state)
{
    struct harness *h = *state;
    struct buf b = buf_init(1 << 20);

    put_frame(&b, AGENT_PING, NULL, 0);
    expect_refused(h, 1, &b, false, "the first frame is not HELLO");

    put_pair(&b, AGENT_HELLO, 0x12345678, AGENT_VERSION);
    expect_refused(h, 2, &b, false, "not the agent protocol");

    put_pair(&b, AGENT_HELLO, AGENT_MAGIC, AGENT_VERSION + 1);
    expect_refused(h, 3, &b, true, "the host version 4");

    /* The header alone is refused: nothing waits for, or makes room for, a payload that is too large. */
    put_hello(&b);
    buf_u32(&b, AGENT_REQUEST_MAX + 1);
    buf_u16(&b, AGENT_EXEC);
    buf_u16(&b, 0);
    expect_refused(h, 4, &b, true, "agent frame over the limit: type 32 with 2097153 bytes, at most 2097152");

    put_hello(&b);
    buf_u32(&b, 0);
    buf_u16(&b, AGENT_PING);
    buf_u16(&b, 1);
    expect_refused(h, 5, &b, true, "header's last two bytes");

    put_hello(&b);
    put_frame(&b, 999, NULL, 0);
    expect_refused(h, 6, &b, true, "unexpected agent frame: type 999");

    put_hello(&b);
    put_frame(&b, AGENT_EXEC, "x", 1);
    expect_refused(h, 7, &b, true, "malformed EXEC");

    put_hello(&b);
    put_frame(&b, AGENT_STDIN, "x", 1); /* no exec */
    expect_refused(h, 8, &b, true, "unexpected agent frame");

    put_hello(&b);
    put_hello(&b);
    expect_refused(h, 9, &b, true, "unexpected agent frame");

    /* One byte at a time is as good as all at once. */
    put_hello(&b);
    put_frame(&b, AGENT_PING, NULL, 0);
    for (size_t i = 0; i < b.len; i++)
        assert_int_equal(io_write_full(h->conn[10].fd, b.data + i, 1), 0);
    uint8_t data[AGENT_SMALL_MAX];
    uint32_t len;
    assert_int_equal(next_frame(h->conn[10].fd, data, &len), AGENT_HELLO);
    assert_int_equal(next_frame(h->conn[10].fd, data, &len), AGENT_OK);
    buf_done(&b);
}

static void put_exec(struct buf *b, const char *prog, const char *arg, uint32_t flags)
{
    struct buf p = buf_init(4096);

    buf_u32(&p, flags);
    buf_u64(&p, 0);
    buf_u16(&p, 0);
    buf_u16(&p, 0);
    buf_u32(&p, arg ? 2 : 1);
    buf_str(&p, prog);
    if (arg)
        buf_str(&p, arg);
    buf_u32(&p, 0);
    buf_str(&p, "/");
    buf_str(&p, "");
    buf_u32(&p, 0);
    put_frame(b, AGENT_EXEC, p.data, (uint32_t)p.len);
    buf_done(&p);
}

/* Read what the agent says until its ERROR, which must have `text`. */
static void expect_refused_later(int fd, const char *text)
{
    uint8_t data[AGENT_SMALL_MAX + 1];
    uint32_t len = 0;
    uint16_t type;

    while ((type = next_frame(fd, data, &len)) && type != AGENT_ERROR)
        ;
    assert_int_equal(type, AGENT_ERROR);
    data[len] = '\0';
    if (!strstr((char *)data + 8, text))
        fail_msg("'%s' is not in '%s'", text, (char *)data + 8);
    assert_int_equal(next_frame(fd, data, &len), 0);
}

static void agent_refuses_bad_frames_of_an_exec(void **state)
{
    struct harness *h = *state;
    static uint8_t zeros[AGENT_DATA_MAX];
    struct buf b = buf_init(1 << 20);

    put_hello(&b);
    put_exec(&b, "cat", NULL, 0x80000000u);
    expect_refused(h, 1, &b, true, "malformed EXEC");

    const struct {
        uint16_t type;
        uint32_t a, b;
        const char *text;
    } bad[] = {
        {AGENT_CREDIT, AGENT_STREAM_STDOUT, 1, "malformed agent frame: type 2"}, /* more than was ever taken */
        {AGENT_CREDIT, AGENT_STREAM_STDIN, 0, "malformed agent frame: type 2"},
        {AGENT_CREDIT, 77, 0, "malformed agent frame: type 2"},
        {AGENT_SIGNAL, 0, 0, "malformed agent frame: type 36"},
        {AGENT_SIGNAL, 65, 0, "malformed agent frame: type 36"},
        {AGENT_SIGNAL, 15, 3, "malformed agent frame: type 36"},
        {AGENT_RESIZE, 15, 3, "malformed agent frame: type 35"}, /* 8 bytes instead of 4 */
        {AGENT_SETUP, 15, 3, "not for an exec"},
    };
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        put_hello(&b);
        put_exec(&b, "cat", NULL, AGENT_EXEC_STDIN);
        put_pair(&b, bad[i].type, bad[i].a, bad[i].b);
        assert_int_equal(io_write_full(h->conn[i + 2].fd, b.data, b.len), 0);
        expect_refused_later(h->conn[i + 2].fd, bad[i].text);
        buf_done(&b);
    }

    /* More stdin than there is credit for. */
    put_hello(&b);
    put_exec(&b, "sleep", "1000", AGENT_EXEC_STDIN);
    for (unsigned i = 0; i < AGENT_WINDOW / AGENT_DATA_MAX + 2; i++)
        put_frame(&b, AGENT_STDIN, zeros, AGENT_DATA_MAX);
    assert_int_equal(fcntl(h->conn[10].fd, F_SETFL, 0), 0); /* more than a socket takes at once */
    assert_int_equal(io_write_full(h->conn[10].fd, b.data, b.len), 0);
    expect_refused_later(h->conn[10].fd, "the host sent 65536 bytes of stdin with a credit of");
    buf_done(&b);
    struct h_conn *c = h_exec(h, 11, &(struct agent_exec){.open_stdin = true}, (const char *const[]){"cat", NULL});
    agent_stdin(c->agent, zeros, 100);
    agent_stdin_eof(c->agent);
    h_expect(c, 0, NULL); /* the others' mistakes did not touch it */
    assert_int_equal(c->out[0].len, 100);
}

/* What the host sent before it knew of the end is passed over; what was never of an exec is not. */
static void frames_after_the_end_are_passed_over(void **state)
{
    struct harness *h = *state;
    struct buf b = buf_init(1 << 20);
    uint8_t data[AGENT_SMALL_MAX];
    uint32_t len, size = 24 | 80 << 16;
    int fd = h->conn[1].fd;

    put_hello(&b);
    put_exec(&b, "true", NULL, AGENT_EXEC_STDIN);
    assert_int_equal(io_write_full(fd, b.data, b.len), 0);
    buf_done(&b);
    assert_int_equal(next_frame(fd, data, &len), AGENT_HELLO);
    assert_int_equal(next_frame(fd, data, &len), AGENT_STARTED);
    assert_int_equal(next_frame(fd, data, &len), AGENT_EXITED);
    put_pair(&b, AGENT_CREDIT, AGENT_STREAM_STDOUT, 100);
    put_pair(&b, AGENT_SIGNAL, 9, AGENT_TARGET_TREE);
    put_frame(&b, AGENT_RESIZE, &size, sizeof(size));
    put_frame(&b, AGENT_STDIN, "late", 4);
    put_frame(&b, AGENT_STDIN_EOF, NULL, 0);
    put_frame(&b, AGENT_PING, NULL, 0);
    put_exec(&b, "false", NULL, 0);
    assert_int_equal(io_write_full(fd, b.data, b.len), 0);
    buf_done(&b);
    assert_int_equal(next_frame(fd, data, &len), AGENT_OK);
    assert_int_equal(next_frame(fd, data, &len), AGENT_STARTED);
    assert_int_equal(next_frame(fd, data, &len), AGENT_EXITED);
    assert_int_equal(data[0], 1);

    put_hello(&b);
    put_frame(&b, AGENT_STDIN, "early", 5);
    expect_refused(h, 2, &b, true, "unexpected agent frame: type 33 with 5 bytes");
}

/* ---- A raw guest ---- */

struct guest {
    struct harness h; /* only its loop and first connection */
    int fd;
    struct buf b;
};

static struct h_conn *guest_start(struct guest *g, bool exec)
{
    static const char *const argv[] = {"true", NULL};
    const struct agent_exec x = {.argv = argv, .open_stdin = true};
    int sv[2];

    memset(g, 0, sizeof(*g));
    g->b = buf_init(1 << 20);
    assert_int_equal(loop_new(&g->h.loop), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
    g->fd = sv[1];
    g->h.conn[0] = (struct h_conn){.h = &g->h, .fd = sv[0], .out = {buf_init(1 << 24), buf_init(1 << 24)}};
    struct h_conn *c = h_agent(&g->h, 0);
    if (exec)
        assert_int_equal(agent_exec(c->agent, &x, NULL), 0);
    else
        assert_int_equal(agent_ping(c->agent, NULL), 0);
    return c;
}

static void guest_send(struct guest *g)
{
    assert_false(g->b.bad);
    assert_int_equal(io_write_full(g->fd, g->b.data, g->b.len), 0);
    buf_done(&g->b);
}

static void guest_stop(struct guest *g)
{
    struct h_conn *c = &g->h.conn[0];

    agent_free(c->agent);
    buf_done(&c->out[0]);
    buf_done(&c->out[1]);
    buf_done(&g->b);
    close(g->fd);
    loop_free(g->h.loop);
}

static void expect_broken(struct guest *g, const char *text)
{
    struct h_conn *c = &g->h.conn[0];

    guest_send(g);
    h_wait(&g->h, &c->failed);
    if (!strstr(c->err.text, text))
        fail_msg("'%s' is not in '%s'", text, c->err.text);
    guest_stop(g);
}

static void put_started(struct guest *g)
{
    uint32_t pid = 7;

    put_hello(&g->b);
    put_frame(&g->b, AGENT_STARTED, &pid, 4);
}

static void client_refuses_bad_frames(void **state)
{
    static uint8_t zeros[AGENT_DATA_MAX + 1];
    struct guest g;

    guest_start(&g, true);
    put_frame(&g.b, AGENT_STARTED, zeros, 4);
    expect_broken(&g, "broke the protocol: frame of type 66"); /* before HELLO */

    guest_start(&g, true);
    put_pair(&g.b, AGENT_HELLO, AGENT_MAGIC, 9);
    expect_broken(&g, "speaks version 9");

    guest_start(&g, true);
    put_hello(&g.b);
    buf_u32(&g.b, 0xffffffff);
    buf_u16(&g.b, AGENT_STDOUT);
    buf_u16(&g.b, 0);
    expect_broken(&g, "agent frame over the limit: the guest sent type 67 with 4294967295 bytes, at most 65536");

    guest_start(&g, true);
    put_hello(&g.b);
    put_frame(&g.b, AGENT_EXEC, zeros, AGENT_SMALL_MAX + 1); /* large only from the host */
    expect_broken(&g, "agent frame over the limit");

    const uint16_t unexpected[] = {AGENT_OK, AGENT_STDOUT, AGENT_STDERR, AGENT_HELLO, AGENT_STDIN, 0, 0xffff};
    for (size_t i = 0; i < sizeof(unexpected) / sizeof(unexpected[0]); i++) {
        guest_start(&g, true);
        put_hello(&g.b);
        put_frame(&g.b, unexpected[i], zeros, 8); /* not started, or not asked for */
        expect_broken(&g, "broke the protocol");
    }
    const uint16_t no_exec[] = {AGENT_STARTED, AGENT_EXITED, AGENT_START_ERROR, AGENT_CREDIT};
    for (size_t i = 0; i < sizeof(no_exec) / sizeof(no_exec[0]); i++) {
        guest_start(&g, false);
        put_hello(&g.b);
        put_frame(&g.b, no_exec[i], zeros, no_exec[i] == AGENT_STARTED ? 4 : 28);
        expect_broken(&g, "broke the protocol");
    }

    guest_start(&g, true);
    put_started(&g);
    put_frame(&g.b, AGENT_STARTED, zeros, 4);
    expect_broken(&g, "frame of type 66"); /* twice */

    guest_start(&g, true);
    put_started(&g);
    put_frame(&g.b, AGENT_EXITED, zeros, 28);
    guest_send(&g);
    h_wait(&g.h, &g.h.conn[0].exited);
    h_again(&g.h.conn[0]);
    put_frame(&g.b, AGENT_STDOUT, zeros, 1);
    expect_broken(&g, "frame of type 67"); /* after the end */

    guest_start(&g, true);
    put_started(&g);
    put_pair(&g.b, AGENT_CREDIT, AGENT_STREAM_STDIN, 1); /* nothing was sent */
    expect_broken(&g, "frame of type 2");

    guest_start(&g, true);
    put_started(&g);
    put_frame(&g.b, AGENT_STDOUT, zeros, 0);
    expect_broken(&g, "frame of type 67");

    guest_start(&g, true);
    put_started(&g);
    put_pair(&g.b, AGENT_START_ERROR, AGENT_START_FAILED, 0);
    expect_broken(&g, "frame of type 70");
}

/* The client never holds more of a stream than the window, however fast the guest is. */
static void client_holds_the_guest_to_its_window(void **state)
{
    static uint8_t zeros[AGENT_DATA_MAX];
    struct guest g;
    struct h_conn *c = guest_start(&g, true);

    c->hold = true;
    put_started(&g);
    guest_send(&g);
    for (unsigned i = 0; i < AGENT_WINDOW / AGENT_DATA_MAX; i++) {
        put_frame(&g.b, AGENT_STDOUT, zeros, AGENT_DATA_MAX);
        guest_send(&g);
        h_wait_bytes(&g.h, &c->out[0], (size_t)(i + 1) * AGENT_DATA_MAX);
    }
    assert_false(c->failed);
    put_frame(&g.b, AGENT_STDOUT, zeros, 1);
    expect_broken(&g, "frame of type 67 with 1 bytes");
}

static void client_makes_text_printable(void **state)
{
    static const char text[] = "a\x1b[0m\n\xc3\xa9\xc2\x9b\xff\xe2\x82\xac\xe2\x82";
    struct guest g;
    struct buf p = buf_init(256);
    struct h_conn *c = guest_start(&g, true);

    put_hello(&g.b);
    buf_u32(&p, AGENT_START_BAD_USER);
    buf_u32(&p, ENOENT);
    buf_str(&p, text);
    put_frame(&g.b, AGENT_START_ERROR, p.data, (uint32_t)p.len);
    guest_send(&g);
    h_wait(&g.h, &c->start_failed);
    assert_string_equal(c->err.text, "a?[0m?\xc3\xa9???\xe2\x82\xac??");
    assert_int_equal(c->exit_code, 125);
    buf_done(&p);
    guest_stop(&g);
}

static void client_sees_a_lost_connection(void **state)
{
    struct guest g;
    struct h_conn *c = guest_start(&g, true);

    put_started(&g);
    guest_send(&g);
    h_wait(&g.h, &c->started);
    shutdown(g.fd, SHUT_RDWR);
    h_wait(&g.h, &c->failed);
    assert_string_equal(c->err.text, "the connection to the guest's agent was lost");
    assert_int_equal(agent_stdin(c->agent, "x", 1), 1); /* dropped */
    agent_resize(c->agent, 1, 1);
    agent_signal(c->agent, 1, 0);
    guest_stop(&g);
}

/* A guest that does not read cannot make the client grow: at the limit the connection fails. */
static void client_does_not_grow_for_a_deaf_guest(void **state)
{
    struct guest g;
    struct h_conn *c = guest_start(&g, true);

    for (unsigned i = 0; i < 2000000 && !c->failed; i++) {
        agent_resize(c->agent, (uint16_t)i, 1); /* these replace each other */
        agent_signal(c->agent, 1, AGENT_TARGET_PROCESS);
        if (i % 100000 == 0)
            loop_once(g.h.loop, 0);
    }
    h_wait(&g.h, &c->failed);
    assert_non_null(strstr(c->err.text, "does not read"));
    guest_stop(&g);
}

/* ---- Decoders ---- */

static void exec_survives_the_wire(void **state)
{
    struct buf b = buf_init(65536);
    struct ga_exec_req q;
    struct ga_error err = {0};

    buf_u32(&b, AGENT_EXEC_TTY | AGENT_EXEC_WORKLOAD);
    buf_u64(&b, 1234567);
    buf_u16(&b, 40);
    buf_u16(&b, 100);
    buf_u32(&b, 3);
    buf_str(&b, "prog");
    buf_str(&b, "");
    buf_str(&b, "three words here");
    buf_u32(&b, 1);
    buf_str(&b, "A=B");
    buf_str(&b, "/work");
    buf_str(&b, "user:group");
    buf_u32(&b, 1);
    buf_u32(&b, 7);
    buf_u64(&b, 10);
    buf_u64(&b, UINT64_MAX);
    assert_int_equal(ga_exec_decode(b.data, b.len, &q, &err), 0);
    assert_int_equal(q.flags, AGENT_EXEC_TTY | AGENT_EXEC_WORKLOAD);
    assert_int_equal(q.timeout_ms, 1234567);
    assert_int_equal(q.rows, 40);
    assert_int_equal(q.cols, 100);
    assert_string_equal(q.argv[0], "prog");
    assert_string_equal(q.argv[1], "");
    assert_string_equal(q.argv[2], "three words here");
    assert_null(q.argv[3]);
    assert_int_equal(q.n_env, 1);
    assert_string_equal(q.env[0], "A=B");
    for (int i = 1; i <= GA_ENV_ROOM; i++)
        assert_null(q.env[i]);
    assert_string_equal(q.cwd, "/work");
    assert_string_equal(q.user, "user:group");
    assert_int_equal(q.n_rlimits, 1);
    assert_int_equal(q.rlimits[0].resource, 7);
    assert_true(q.rlimits[0].hard == UINT64_MAX);
    ga_exec_req_done(&q);

    /* Cut anywhere, or with a byte too many, it is refused. */
    for (size_t n = 0; n < b.len; n++) {
        uint8_t *cut = malloc(n + 1);

        memcpy(cut, b.data, n);
        assert_int_equal(ga_exec_decode(cut, n, &q, &err), -EPROTO);
        free(cut);
    }
    buf_u8(&b, 0);
    assert_int_equal(ga_exec_decode(b.data, b.len, &q, &err), -EPROTO);
    buf_done(&b);
}

static void setup_survives_the_wire(void **state)
{
    struct buf b = buf_init(65536);
    struct ga_setup s;
    struct ga_error err = {0};

    buf_str(&b, "host");
    buf_str(&b, "/dev/vda");
    buf_str(&b, "erofs");
    buf_u64(&b, 1u << 30);
    buf_u32(&b, AGENT_SETUP_READ_ONLY);
    buf_str(&b, "nameserver 1.2.3.4\n");
    buf_str(&b, "");
    assert_int_equal(ga_setup_decode(b.data, b.len, &s, &err), 0);
    assert_string_equal(s.hostname, "host");
    assert_string_equal(s.root_device, "/dev/vda");
    assert_string_equal(s.root_fstype, "erofs");
    assert_int_equal(s.overlay_bytes, 1u << 30);
    assert_int_equal(s.flags, AGENT_SETUP_READ_ONLY);
    assert_string_equal(s.resolv_conf, "nameserver 1.2.3.4\n");
    assert_string_equal(s.hosts, "");
    ga_setup_done(&s);
    for (size_t n = 0; n < b.len; n++)
        assert_int_equal(ga_setup_decode(b.data, n, &s, &err), -EPROTO);
    b.data[4] = '\0'; /* a NUL inside a string */
    assert_int_equal(ga_setup_decode(b.data, b.len, &s, &err), -EPROTO);
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(agent_refuses_bad_frames, setup, teardown),
        cmocka_unit_test_setup_teardown(agent_refuses_bad_frames_of_an_exec, setup, teardown),
        cmocka_unit_test_setup_teardown(frames_after_the_end_are_passed_over, setup, teardown),
        cmocka_unit_test(client_refuses_bad_frames),
        cmocka_unit_test(client_holds_the_guest_to_its_window),
        cmocka_unit_test(client_makes_text_printable),
        cmocka_unit_test(client_sees_a_lost_connection),
        cmocka_unit_test(client_does_not_grow_for_a_deaf_guest),
        cmocka_unit_test(exec_survives_the_wire),
        cmocka_unit_test(setup_survives_the_wire),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
