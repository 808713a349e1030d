/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-vsock: forged packets, rings that run dry or are broken, limits, reset. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/checked.h"
#include "vsock_guest.h"

static void overrun_of_credit_is_reset(void **state)
{
    struct env *e = *state;
    static uint8_t chunk[65536];
    struct packet p;
    struct guest_end g;
    int peer = connected(e, &g);
    bool reset = false;

    for (unsigned i = 0; i < 100 && !reset; i++) {
        send_data(e, &g, chunk, sizeof(chunk));
        while (receive(e, &p))
            reset = p.h.op == VSOCK_OP_RST;
    }
    assert_true(reset);
    uint32_t len = 0;
    uint8_t b[4096];
    ssize_t n;
    while ((n = read(peer, b, sizeof(b))) > 0)
        len += (uint32_t)n;
    assert_int_equal(n, 0);
    assert_true(len < 50 * sizeof(chunk));
    close(peer);
    /* In one packet. */
    peer = connected(e, &g);
    static uint8_t huge[VSOCK_BUF_ALLOC + 1];
    send_data(e, &g, huge, sizeof(huge));
    expect(e, &p, VSOCK_OP_RST);
    assert_true(at_eof(peer));
    close(peer);
}

static void forged_packets(void **state)
{
    struct env *e = *state;
    struct packet p;
    struct guest_end g;
    struct vsock_packet h;
    char b[8];
    int peer = connected(e, &g);

    h = vsock_header(&g, VSOCK_OP_RW);
    h.src_cid = CID + 1; /* another's */
    h.len = 1;
    send_raw(e, &h, "x", 1);
    h.src_cid = CID | 1ull << 32;
    send_raw(e, &h, "x", 1);
    expect_nothing(e);
    assert_true(would_block(peer));
    h = vsock_header(&g, VSOCK_OP_REQUEST);
    h.dst_cid = 9; /* nobody there */
    send_raw(e, &h, NULL, 0);
    fake_settle(&e->f);
    uint16_t head;
    uint32_t len;
    assert_true(fake_used(&e->f, RX, &head, &len));
    vsock_packet_decode(&p.h, fake_ptr(&e->f, e->rx_gpa[head]));
    assert_int_equal(p.h.op, VSOCK_OP_RST);
    assert_int_equal(p.h.src_cid, 9);
    post_rx(e);
    h = vsock_header(&g, VSOCK_OP_RW);
    h.type = 2; /* a type we did not offer: RST for it, the stream lives */
    send_raw(e, &h, NULL, 0);
    expect(e, &p, VSOCK_OP_RST);
    assert_int_equal(p.h.type, 2);
    send_data(e, &g, "ok", 2);
    assert_int_equal(read(peer, b, sizeof(b)), 2);
    for (unsigned op = VSOCK_OP_RW; op <= VSOCK_OP_CREDIT_REQUEST; op++) {
        h = vsock_header(&(struct guest_end){.guest_port = 9, .host_port = 9}, op); /* no such connection */
        send_raw(e, &h, NULL, 0);
        expect(e, &p, VSOCK_OP_RST);
    }
    expect_nothing(e);
    h = vsock_header(&g, VSOCK_OP_RW); /* more than a packet needs: only `len` bytes count */
    h.len = 2;
    send_raw(e, &h, "abXX", 4);
    assert_int_equal(read(peer, b, sizeof(b)), 2);
    h.len = 0;
    send_raw(e, &h, NULL, 0);
    expect_nothing(e);

    /* What ends the connection. */
    static const struct {
        uint16_t op;
        uint32_t len; /* told, where 1 comes */
    } bad[] = {
        {VSOCK_OP_RW, 2}, {VSOCK_OP_RW, UINT32_MAX}, {VSOCK_OP_INVALID, 1},  {8, 1},
        {0xffff, 1},      {VSOCK_OP_REQUEST, 1},     {VSOCK_OP_RESPONSE, 1},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        h = vsock_header(&g, bad[i].op);
        h.len = bad[i].len;
        send_raw(e, &h, "x", 1);
        expect(e, &p, VSOCK_OP_RST);
        assert_int_equal(p.h.dst_port, g.guest_port);
        assert_true(at_eof(peer));
        close(peer);
        peer = connected(e, &g);
    }
    /* Data behind one's own SHUTDOWN. */
    send_op(e, &g, VSOCK_OP_SHUTDOWN, VSOCK_SHUT_SEND);
    send_data(e, &g, "x", 1);
    expect(e, &p, VSOCK_OP_RST);
    close(peer);
    /* An answer other than yes or no. */
    int end;
    peer = peer_pair(&end);
    assert_int_equal(vsock_connect(e->dev, 77, end, NULL), 0);
    expect(e, &p, VSOCK_OP_REQUEST);
    g = (struct guest_end){.guest_port = 77, .host_port = p.h.src_port};
    send_data(e, &g, "x", 1);
    expect(e, &p, VSOCK_OP_RST);
    assert_true(at_eof(peer));
    close(peer);
    assert_null(virtio_mmio_broken(e->f.t));
}

static void forged_credit_only_stops_its_own_stream(void **state)
{
    struct env *e = *state;
    struct packet p;
    struct guest_end g;
    int peer = connected(e, &g);

    g.fwd_cnt = 5; /* of bytes never sent */
    send_op(e, &g, VSOCK_OP_CREDIT_UPDATE, 0);
    assert_int_equal(write(peer, "x", 1), 1);
    expect(e, &p, VSOCK_OP_CREDIT_REQUEST);
    expect_nothing(e);
    g.fwd_cnt = 0;
    g.buf_alloc = 0;
    send_op(e, &g, VSOCK_OP_CREDIT_UPDATE, 0);
    expect_nothing(e);
    g.buf_alloc = UINT32_MAX;
    send_op(e, &g, VSOCK_OP_CREDIT_UPDATE, 0);
    expect(e, &p, VSOCK_OP_RW);
    close(peer);
}

static void bytes_waiting_in(int fd, int want)
{
    int n = -1;

    assert_int_equal(ioctl(fd, FIONREAD, &n), 0);
    assert_int_equal(n, want);
}

static void without_receive_buffers_sockets_are_not_read(void **state)
{
    struct env *e = *state;
    struct packet p;
    int end, peer = peer_pair(&end), spy = dup(end);

    fake_reset(&e->f);
    for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
        uint16_t head;
        uint32_t len;

        if (event_idx) {
            close(peer);
            close(spy);
            fake_reset(&e->f);
            peer = peer_pair(&end);
            spy = dup(end);
        }
        vsock_start(e, 1, event_idx ? ~0ull : 0);
        assert_int_equal(vsock_connect(e->dev, 1000, end, NULL), 0);
        fake_settle(&e->f);
        assert_true(fake_used(&e->f, RX, &head, &len));
        vsock_packet_decode(&p.h, fake_ptr(&e->f, e->rx_gpa[head]));
        struct guest_end g = {.guest_port = 1000, .host_port = p.h.src_port, .buf_alloc = GUEST_BUF};
        send_op(e, &g, VSOCK_OP_RESPONSE, 0);
        assert_int_equal(write(peer, "waits", 5), 5);
        fake_settle(&e->f);
        bytes_waiting_in(spy, 5);
        /* The guest's own packets are taken all the same, more of them than anybody could answer. */
        struct guest_end nobody = {.guest_port = 1, .host_port = 1};
        for (unsigned i = 0; i < 300; i++)
            send_op(e, &nobody, VSOCK_OP_CREDIT_REQUEST, 0);
        send_data(e, &g, "hi", 2);
        bytes_waiting_in(peer, 2);
        assert_true(fake_wants_kick(&e->f, RX, e->f.q[RX].avail_idx));
        unsigned rsts = 0;
        for (;;) {
            post_rx(e);
            fake_kick(&e->f, RX);
            fake_settle(&e->f);
            assert_true(fake_used(&e->f, RX, &head, &len));
            vsock_packet_decode(&p.h, fake_ptr(&e->f, e->rx_gpa[head]));
            if (p.h.op != VSOCK_OP_RST)
                break;
            rsts++;
        }
        assert_in_range(rsts, 1, 64);
        assert_int_equal(p.h.op, VSOCK_OP_RW);
        assert_int_equal(p.h.len, 5);
        bytes_waiting_in(spy, 0);
    }
    close(peer);
    close(spy);
}

/* Many connections with much to say share the ring fairly. */
static void connections_take_turns(void **state)
{
    struct env *e = *state;
    static uint8_t chunk[40960];
    struct guest_end g[4];
    struct packet p;
    int peer[4];

    for (unsigned i = 0; i < 4; i++)
        peer[i] = connected(e, &g[i]);
    /* Fill the ring with something else first, so that all four wait. */
    for (unsigned n = 0; n < N_RX; n++)
        send_op(e, &(struct guest_end){.guest_port = 1, .host_port = 1}, VSOCK_OP_CREDIT_REQUEST, 0);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(write(peer[i], chunk, sizeof(chunk)), sizeof(chunk));
        fake_settle(&e->f);
    }
    for (unsigned n = 0; n < N_RX; n++)
        expect(e, &p, VSOCK_OP_RST);
    unsigned count[4] = {0};
    for (unsigned n = 0; n < N_RX; n++) {
        expect(e, &p, VSOCK_OP_RW);
        for (unsigned i = 0; i < 4; i++)
            count[i] += p.h.src_port == g[i].host_port;
    }
    for (unsigned i = 0; i < 4; i++) {
        assert_in_range(count[i], N_RX / 4 - 2, N_RX / 4 + 2);
        close(peer[i]);
    }
}

static void connections_are_limited(void **state)
{
    struct env *e = *state;
    struct sm_error err = SM_ERROR_INIT;
    static int peer[VSOCK_MAX_CONNS];
    struct packet p;
    int end, extra;
    unsigned n = 0;

    for (; n < VSOCK_MAX_CONNS; n++) {
        int sv[2];

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
            break; /* fewer descriptors than connections allowed here */
        peer[n] = sv[0];
        assert_int_equal(vsock_connect(e->dev, 1000, sv[1], NULL), 0);
        assert_true(receive(e, &p));
    }
    if (n == VSOCK_MAX_CONNS) {
        struct guest_end g = {.guest_port = 1, .host_port = 80};

        extra = peer_pair(&end);
        assert_int_equal(vsock_connect(e->dev, 1000, end, &err), -EMFILE);
        assert_true(at_eof(extra));
        close(extra);
        extra = peer_pair(&e->accept_fd);
        send_op(e, &g, VSOCK_OP_REQUEST, 0);
        expect(e, &p, VSOCK_OP_RST);
        assert_int_equal(e->accepts, 0);
        close(extra);
    }
    fake_reset(&e->f);
    fake_settle(&e->f);
    for (unsigned i = 0; i < n; i++) {
        assert_true(at_eof(peer[i]));
        close(peer[i]);
    }
    if (n < VSOCK_MAX_CONNS) {
        print_message("left out: only %u connections fit into the descriptors allowed here\n", n);
        skip();
    }
}

static void reset_drops_every_connection(void **state)
{
    struct env *e = *state;
    struct packet p;
    struct guest_end g, h;
    int a = connected(e, &g), end, b = peer_pair(&end);

    assert_int_equal(vsock_connect(e->dev, 2000, end, NULL), 0);
    assert_int_equal(write(a, "lost", 4), 4); /* its event is under way when the reset comes */
    fake_reset(&e->f);
    fake_negotiate(&e->f, ~0ull);
    fake_queues(&e->f, 0);
    e->tx_gpa = fake_alloc(&e->f, 4096, 8);
    for (unsigned i = 0; i < N_RX; i++)
        post_rx(e); /* room for a packet of the dead, if one came */
    fake_driver_ok(&e->f);
    fake_settle(&e->f);
    assert_true(hung_up(a));
    assert_true(at_eof(b));
    expect_nothing(e);
    send_data(e, &g, "x", 1);
    expect(e, &p, VSOCK_OP_RST);
    int c = connected(e, &h);
    assert_int_equal(write(c, "new", 3), 3);
    expect(e, &p, VSOCK_OP_RW);
    close(a);
    close(b);
    close(c);
}

static void bad_rings_break_the_device_and_free_the_peers(void **state)
{
    struct env *e = *state;
    struct guest_end g;

    for (unsigned i = 0; i < 4; i++) {
        int peer = connected(e, &g);
        struct fake_buf small = {e->tx_gpa, i == 1 ? HEADER - 1 : HEADER, i == 2};

        if (i == 0) {
            fake_publish(&e->f, TX, 4000);
            fake_kick(&e->f, TX);
        } else if (i == 1) {
            fake_add(&e->f, TX, &small, 1, false);
            fake_kick(&e->f, TX);
        } else if (i == 2) {
            fake_reset(&e->f); /* a receive buffer without room for data */
            fake_settle(&e->f);
            close(peer);
            vsock_start(e, 0, 0);
            fake_add(&e->f, RX, &small, 1, false);
            int end;
            peer = peer_pair(&end);
            assert_int_equal(vsock_connect(e->dev, 5, end, NULL), 0);
        } else {
            fake_set_avail_idx(&e->f, RX, (uint16_t)(e->f.q[RX].avail_idx + 300));
            assert_int_equal(write(peer, "x", 1), 1);
        }
        fake_settle(&e->f);
        assert_true(fake_read(&e->f, FAKE_STATUS) & FAKE_S_NEEDS_RESET);
        assert_true(hung_up(peer));
        close(peer);
        fake_reset(&e->f);
        e->f.next = 0;
        vsock_start(e, N_RX, ~0ull);
    }
    close(connected(e, &g));
}

static void a_guest_that_does_not_answer_is_not_waited_for(void **state)
{
    struct env *e = *state;
    struct packet p;
    struct guest_end g;
    int end, peer = peer_pair(&end);

    /* Neither yes nor no to a request. */
    assert_int_equal(vsock_connect(e->dev, 1000, end, NULL), 0);
    expect(e, &p, VSOCK_OP_REQUEST);
    g = (struct guest_end){.guest_port = 1000, .host_port = p.h.src_port, .buf_alloc = GUEST_BUF};
    clock_ahead_ns += 29ull * 1000000000;
    expect_nothing(e);
    assert_true(would_block(peer));
    clock_ahead_ns += 2ull * 1000000000;
    expect(e, &p, VSOCK_OP_RST);
    assert_true(at_eof(peer));
    close(peer);
    send_op(e, &g, VSOCK_OP_RESPONSE, 0); /* too late */
    expect(e, &p, VSOCK_OP_RST);

    /* No RST for our close. */
    peer = connected(e, &g);
    close(peer);
    expect(e, &p, VSOCK_OP_SHUTDOWN);
    clock_ahead_ns += 7ull * 1000000000;
    expect_nothing(e);
    clock_ahead_ns += 2ull * 1000000000;
    expect(e, &p, VSOCK_OP_RST);
    expect_nothing(e);

    /* The host's end does not wait for room in the ring to tell the guest. */
    fake_reset(&e->f);
    e->f.next = 0;
    vsock_start(e, 1, ~0ull);
    peer = peer_pair(&end);
    assert_int_equal(vsock_connect(e->dev, 1000, end, NULL), 0);
    fake_settle(&e->f);
    clock_ahead_ns += 31ull * 1000000000;
    fake_settle(&e->f);
    assert_true(at_eof(peer));
    close(peer);
    fake_reset(&e->f);
    e->f.next = 0;
    vsock_start(e, N_RX, ~0ull);

    /* One that did answer has all the time. */
    peer = connected(e, &g);
    clock_ahead_ns += 3600ull * 1000000000;
    expect_nothing(e);
    assert_int_equal(write(peer, "x", 1), 1);
    expect(e, &p, VSOCK_OP_RW);
    close(peer);
}

struct resetter {
    struct env *e;
    atomic_bool done;
};

/* A vCPU that sets the device up, sends, and resets it in the middle of everything. */
static void *reset_again_and_again(void *arg)
{
    struct resetter *r = arg;
    struct env *e = r->e;

    for (unsigned i = 0; i < 300; i++) {
        fake_reset(&e->f);
        e->f.next = 0;
        fake_negotiate(&e->f, i & 1 ? ~0ull : 0);
        fake_queues(&e->f, 0);
        e->tx_gpa = fake_alloc(&e->f, 4096, 8);
        for (unsigned k = 0; k < 16; k++)
            post_rx(e);
        fake_driver_ok(&e->f);
        fake_kick(&e->f, RX);
        struct guest_end g = {.guest_port = i, .host_port = 80, .buf_alloc = GUEST_BUF};
        struct vsock_packet h = vsock_header(&g, VSOCK_OP_REQUEST);
        struct fake_buf b = {e->tx_gpa, HEADER, false};
        uint16_t head;
        uint32_t len;

        vsock_packet_encode(&h, fake_ptr(&e->f, e->tx_gpa));
        fake_add(&e->f, TX, &b, 1, false);
        fake_kick(&e->f, TX);
        /* Every other time wait for the device to have taken it. */
        while (i % 2 && !fake_used(&e->f, TX, &head, &len))
            sched_yield();
        fake_read(&e->f, FAKE_INTERRUPT_STATUS);
        fake_write(&e->f, FAKE_INTERRUPT_ACK, 3);
    }
    r->done = true;
    return NULL;
}

static void resets_race_with_the_loop(void **state)
{
    struct env *e = *state;
    struct resetter r = {.e = e};
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, reset_again_and_again, &r), 0);
    while (!r.done) {
        int end, peer = peer_pair(&end);

        if (e->accept_fd < 0) {
            int extra = peer_pair(&e->accept_fd);

            assert_int_equal(write(extra, "to nobody", 9), 9);
            close(extra);
        }
        vsock_connect(e->dev, 1000, end, NULL);
        assert_true(loop_once(e->f.loop, 1) >= 0);
        close(peer);
        loop_once(e->f.loop, 0);
    }
    pthread_join(thread, NULL);
    fake_reset(&e->f);
    e->f.next = 0;
    vsock_start(e, N_RX, ~0ull);
    struct guest_end g;
    close(connected(e, &g));
}

static unsigned count_fds(void)
{
    unsigned n = 0;

    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void nothing_is_left_behind(void **state)
{
    struct env *e = *state;
    struct packet p;
    struct guest_end g;
    unsigned before = count_fds();

    for (unsigned i = 0; i < 300; i++) {
        int peer = i & 1 ? connected(e, &g) : accepted(e, &g, i);

        if (i % 3 == 0) {
            close(peer);
            expect(e, &p, VSOCK_OP_SHUTDOWN);
            send_op(e, &g, VSOCK_OP_RST, 0);
        } else if (i % 3 == 1) {
            send_op(e, &g, VSOCK_OP_SHUTDOWN, VSOCK_SHUT_BOTH);
            expect(e, &p, VSOCK_OP_RST);
            close(peer);
        } else {
            send_op(e, &g, VSOCK_OP_RST, 0);
            close(peer);
        }
        expect_nothing(e);
    }
    assert_int_equal(count_fds(), before);
}

static void bad_configurations_are_refused(void **state)
{
    struct env *e = *state;
    struct sm_error err = SM_ERROR_INIT;
    struct virtio_dev *dev;
    struct vsock_config config = {.loop = e->f.loop, .guest_cid = 2};

    assert_int_equal(vsock_new(&dev, &config, &err), -EINVAL);
    config.guest_cid = UINT32_MAX;
    assert_int_equal(vsock_new(&dev, &config, &err), -EINVAL);
}

#define T(name) cmocka_unit_test_setup_teardown(name, vsock_setup, vsock_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(overrun_of_credit_is_reset),
        T(forged_packets),
        T(forged_credit_only_stops_its_own_stream),
        T(without_receive_buffers_sockets_are_not_read),
        T(connections_take_turns),
        T(connections_are_limited),
        T(reset_drops_every_connection),
        T(a_guest_that_does_not_answer_is_not_waited_for),
        T(resets_race_with_the_loop),
        T(bad_rings_break_the_device_and_free_the_peers),
        T(nothing_is_left_behind),
        T(bad_configurations_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
