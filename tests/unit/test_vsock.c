/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-vsock: connections both ways, credit, half-close, slow peers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vsock_guest.h"

static void identity(void **state)
{
    struct env *e = *state;

    assert_int_equal(fake_read(&e->f, FAKE_DEVICE_ID), 19);
    assert_int_equal(virtio_mmio_read(e->f.t, FAKE_CONFIG, 8), CID);
    for (unsigned q = 0; q < 4; q++) {
        fake_write(&e->f, FAKE_QUEUE_SEL, q);
        assert_int_equal(fake_read(&e->f, FAKE_QUEUE_NUM_MAX), q < 3 ? 256 : 0);
    }
    /* Event buffers are taken and kept. */
    struct fake_buf b = {fake_alloc(&e->f, 8, 8), 8, true};
    uint16_t head;
    uint32_t len;
    fake_add(&e->f, EVENT, &b, 1, false);
    fake_kick(&e->f, EVENT);
    fake_settle(&e->f);
    assert_false(fake_used(&e->f, EVENT, &head, &len));
}

static void host_connects_and_bytes_go_both_ways(void **state)
{
    struct env *e = *state;
    struct packet p;
    struct guest_end g;
    int end, peer = peer_pair(&end);
    char buf[16];

    assert_int_equal(write(peer, "early", 5), 5); /* before the guest has accepted */
    assert_int_equal(vsock_connect(e->dev, 1000, end, NULL), 0);
    expect(e, &p, VSOCK_OP_REQUEST);
    expect_nothing(e);
    g = (struct guest_end){.guest_port = 1000, .host_port = p.h.src_port, .buf_alloc = GUEST_BUF};
    send_op(e, &g, VSOCK_OP_RESPONSE, 0);
    expect(e, &p, VSOCK_OP_RW);
    assert_int_equal(p.h.len, 5);
    assert_memory_equal(p.data, "early", 5);
    send_data(e, &g, "hello", 5);
    assert_int_equal(read(peer, buf, sizeof(buf)), 5);
    assert_memory_equal(buf, "hello", 5);
    assert_int_equal(write(peer, "world", 5), 5);
    expect(e, &p, VSOCK_OP_RW);
    assert_memory_equal(p.data, "world", 5);
    assert_int_equal(p.h.fwd_cnt, 5);
    assert_int_equal(p.h.buf_alloc, VSOCK_BUF_ALLOC);
    assert_true(fake_irqs(&e->f) > 0);
    close(peer);
}

static void guest_connects(void **state)
{
    struct env *e = *state;
    struct packet p;
    struct guest_end g;
    char buf[8];
    int peer = accepted(e, &g, 5000);

    send_data(e, &g, "abc", 3);
    assert_int_equal(read(peer, buf, sizeof(buf)), 3);
    assert_int_equal(write(peer, "de", 2), 2);
    expect(e, &p, VSOCK_OP_RW);
    assert_int_equal(p.h.len, 2);
    close(peer);
    expect(e, &p, VSOCK_OP_SHUTDOWN);
    assert_int_equal(p.h.flags, VSOCK_SHUT_BOTH);
    send_op(e, &g, VSOCK_OP_RST, 0);
    expect_nothing(e);
    /* The same ports again. */
    peer = accepted(e, &g, 5000);
    close(peer);
}

static void refusals(void **state)
{
    struct env *e = *state;
    struct packet p;
    struct guest_end g = {.guest_port = 7, .host_port = 81, .buf_alloc = GUEST_BUF};
    int end, peer;

    send_op(e, &g, VSOCK_OP_REQUEST, 0); /* the host does not listen */
    expect(e, &p, VSOCK_OP_RST);
    assert_int_equal(p.h.src_port, 81);
    assert_int_equal(p.h.dst_port, 7);
    peer = peer_pair(&end);
    assert_int_equal(vsock_connect(e->dev, 1000, end, NULL), 0);
    expect(e, &p, VSOCK_OP_REQUEST);
    g = (struct guest_end){.guest_port = 1000, .host_port = p.h.src_port};
    send_op(e, &g, VSOCK_OP_RST, 0); /* the guest does not listen */
    fake_settle(&e->f);
    assert_true(at_eof(peer));
    expect_nothing(e);
    close(peer);
}

static void connect_fails_without_a_driver(void **state)
{
    struct env *e = *state;
    struct sm_error err = SM_ERROR_INIT;
    int end, peer = peer_pair(&end);

    fake_reset(&e->f);
    assert_int_equal(vsock_connect(e->dev, 1000, end, &err), -ENOTCONN);
    assert_true(err.text[0]);
    assert_true(at_eof(peer));
    close(peer);
}

/* The driver takes buffers back when there is something else to tell, or when there are many of them. */
static void sent_packets_are_no_news(void **state)
{
    static const uint8_t data[8192];
    struct env *e = *state;
    struct packet p;
    struct guest_end g;
    unsigned n;
    int peer;

    fake_reset(&e->f);
    vsock_start(e, N_RX, FAKE_F_VERSION_1); /* without the event index every signal is an interrupt */
    peer = connected(e, &g);
    assert_int_equal(write(peer, "y", 1), 1); /* this tells of all before */
    expect(e, &p, VSOCK_OP_RW);
    fake_irqs(&e->f);
    send_data(e, &g, "x", 1);
    fake_settle(&e->f);
    assert_int_equal(fake_irqs(&e->f), 0);
    assert_int_equal(write(peer, "y", 1), 1);
    fake_settle(&e->f);
    assert_int_equal(fake_irqs(&e->f), 1); /* for both */
    expect(e, &p, VSOCK_OP_RW);
    fake_irqs(&e->f);

    for (n = 0; fake_irqs(&e->f) == 0; n++) {
        assert_true(n < 16);
        send_op(e, &g, VSOCK_OP_CREDIT_UPDATE, 0);
        fake_settle(&e->f);
    }
    assert_int_equal(n, 16);
    for (n = 0; fake_irqs(&e->f) == 0; n++) {
        assert_true(n < 8);
        send_data(e, &g, data, sizeof(data));
        fake_settle(&e->f);
    }
    assert_int_equal(n, 8);
    close(peer);
}

/* Each direction ends on its own. */
static void half_close(void **state)
{
    struct env *e = *state;
    struct packet p;
    struct guest_end g;
    char buf[8];
    int peer = connected(e, &g);

    /* The host has sent all: the guest is told, and still sends. */
    assert_int_equal(write(peer, "in", 2), 2);
    shutdown(peer, SHUT_WR);
    expect(e, &p, VSOCK_OP_RW);
    expect(e, &p, VSOCK_OP_SHUTDOWN);
    assert_int_equal(p.h.flags, VSOCK_SHUT_SEND);
    expect_nothing(e);
    send_data(e, &g, "out", 3);
    assert_int_equal(read(peer, buf, sizeof(buf)), 3);
    assert_true(would_block(peer));
    /* The guest closes. */
    send_op(e, &g, VSOCK_OP_SHUTDOWN, VSOCK_SHUT_BOTH);
    expect(e, &p, VSOCK_OP_RST);
    assert_true(at_eof(peer));
    close(peer);

    /* The guest has sent all: the host sees the end of file and still sends. */
    peer = connected(e, &g);
    send_data(e, &g, "out", 3);
    send_op(e, &g, VSOCK_OP_SHUTDOWN, VSOCK_SHUT_SEND);
    assert_int_equal(read(peer, buf, sizeof(buf)), 3);
    assert_true(at_eof(peer));
    assert_int_equal(write(peer, "in", 2), 2);
    expect(e, &p, VSOCK_OP_RW);
    assert_int_equal(p.h.len, 2);
    close(peer);
    expect(e, &p, VSOCK_OP_SHUTDOWN);
    assert_int_equal(p.h.flags, VSOCK_SHUT_BOTH);
    send_op(e, &g, VSOCK_OP_RST, 0);
    expect_nothing(e);

    /* The guest will not receive: the host's writes fail. */
    peer = connected(e, &g);
    send_op(e, &g, VSOCK_OP_SHUTDOWN, VSOCK_SHUT_RCV);
    assert_true(send(peer, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
    send_data(e, &g, "out", 3);
    assert_int_equal(read(peer, buf, sizeof(buf)), 3);
    close(peer);
    expect(e, &p, VSOCK_OP_SHUTDOWN);
    assert_int_equal(p.h.flags, VSOCK_SHUT_BOTH);
    send_op(e, &g, VSOCK_OP_RST, 0);

    /* The host will not receive: the guest is told when it tries. */
    peer = connected(e, &g);
    shutdown(peer, SHUT_RD);
    send_data(e, &g, "out", 3);
    expect(e, &p, VSOCK_OP_SHUTDOWN);
    assert_int_equal(p.h.flags, VSOCK_SHUT_RCV);
    send_data(e, &g, "out", 3); /* was under way */
    expect_nothing(e);
    assert_int_equal(write(peer, "in", 2), 2);
    expect(e, &p, VSOCK_OP_RW);
    assert_int_equal(p.h.fwd_cnt, 6);
    close(peer);
    expect(e, &p, VSOCK_OP_SHUTDOWN);
    assert_int_equal(p.h.flags, VSOCK_SHUT_BOTH);
    send_op(e, &g, VSOCK_OP_SHUTDOWN, VSOCK_SHUT_BOTH); /* its close crossed ours */
    expect(e, &p, VSOCK_OP_RST);

    /* Both halves, one after the other, host first: then nothing is left to say. */
    peer = connected(e, &g);
    shutdown(peer, SHUT_WR);
    expect(e, &p, VSOCK_OP_SHUTDOWN);
    send_op(e, &g, VSOCK_OP_SHUTDOWN, VSOCK_SHUT_SEND);
    expect(e, &p, VSOCK_OP_SHUTDOWN);
    assert_int_equal(p.h.flags, VSOCK_SHUT_BOTH);
    assert_true(at_eof(peer));
    send_op(e, &g, VSOCK_OP_RST, 0);
    expect_nothing(e);
    close(peer);
}

static void reset_by_the_guest(void **state)
{
    struct env *e = *state;
    struct packet p;
    struct guest_end g;
    int peer = connected(e, &g);

    send_op(e, &g, VSOCK_OP_RST, 0);
    fake_settle(&e->f);
    assert_true(at_eof(peer));
    expect_nothing(e);
    send_data(e, &g, "x", 1); /* it is gone */
    expect(e, &p, VSOCK_OP_RST);
    send_op(e, &g, VSOCK_OP_RST, 0); /* not answered by another */
    expect_nothing(e);
    close(peer);
}

static uint8_t pattern(uint32_t i)
{
    return (uint8_t)(i * 31 + (i >> 8));
}

static size_t drain(int fd, uint32_t *at)
{
    uint8_t buf[65536];
    size_t sum = 0;
    ssize_t n;

    while ((n = read(fd, buf, sizeof(buf))) > 0) {
        for (ssize_t i = 0; i < n; i++)
            assert_int_equal(buf[i], pattern((*at)++));
        sum += (size_t)n;
    }
    return sum;
}

/* Guest to host, 4 MiB, the guest keeping to its credit, a peer that reads in bursts. */
static void large_stream_to_the_host(void **state)
{
    struct env *e = *state;
    static uint8_t chunk[65536];
    struct packet p;
    struct guest_end g;
    int peer = connected(e, &g);
    uint32_t sent = 0, forwarded = 0, got = 0, updates = 0;
    const uint32_t total = 4 << 20;
    bool blocked = false;

    while (got < total) {
        while (sent < total && VSOCK_BUF_ALLOC - (sent - forwarded) >= 1000) {
            uint32_t n = VSOCK_BUF_ALLOC - (sent - forwarded);

            n = n > sizeof(chunk) ? sizeof(chunk) : n;
            n = n > total - sent ? total - sent : n;
            for (uint32_t i = 0; i < n; i++)
                chunk[i] = pattern(sent + i);
            send_data(e, &g, chunk, n);
            sent += n;
            while (receive(e, &p)) {
                assert_int_equal(p.h.op, VSOCK_OP_CREDIT_UPDATE);
                forwarded = p.h.fwd_cnt;
                updates++;
            }
            assert_true(sent - forwarded <= VSOCK_BUF_ALLOC);
        }
        blocked |= sent < total;
        drain(peer, &got);
        fake_settle(&e->f);
        while (receive(e, &p)) {
            assert_int_equal(p.h.op, VSOCK_OP_CREDIT_UPDATE);
            forwarded = p.h.fwd_cnt;
            updates++;
        }
    }
    assert_true(blocked); /* credit did stop it */
    assert_in_range(updates, total / VSOCK_BUF_ALLOC, 4 * total / VSOCK_BUF_ALLOC);
    /* Asked for, credit comes at once. */
    send_op(e, &g, VSOCK_OP_CREDIT_REQUEST, 0);
    expect(e, &p, VSOCK_OP_CREDIT_UPDATE);
    assert_int_equal(p.h.fwd_cnt, total);
    expect_nothing(e);
    close(peer);
}

/* Host to guest: never more than the guest has room for, and all of it in the end. */
static void large_stream_to_the_guest(void **state)
{
    struct env *e = *state;
    struct packet p;
    struct guest_end g;
    int peer = connected(e, &g);
    uint32_t written = 0, got = 0, requests = 0;
    const uint32_t total = 2 << 20;

    while (got < total) {
        uint8_t buf[10000];

        for (;;) {
            uint32_t n = total - written < sizeof(buf) ? total - written : sizeof(buf);

            for (uint32_t i = 0; i < n; i++)
                buf[i] = pattern(written + i);
            ssize_t w = n ? write(peer, buf, n) : 0;
            if (w <= 0)
                break;
            written += (uint32_t)w;
            fake_settle(&e->f);
        }
        bool asked = false;
        while (receive(e, &p)) {
            if (p.h.op == VSOCK_OP_CREDIT_REQUEST) {
                assert_false(asked); /* once is enough */
                asked = true;
                requests++;
                continue;
            }
            assert_int_equal(p.h.op, VSOCK_OP_RW);
            for (uint32_t i = 0; i < p.h.len; i++)
                assert_int_equal(p.data[i], pattern(got++));
            assert_true(got - g.fwd_cnt <= GUEST_BUF);
        }
        assert_true(got == total || got - g.fwd_cnt == GUEST_BUF);
        expect_nothing(e);
        g.fwd_cnt = got;
        send_op(e, &g, VSOCK_OP_CREDIT_UPDATE, 0);
    }
    assert_true(requests > 0);
    shutdown(peer, SHUT_WR);
    expect(e, &p, VSOCK_OP_SHUTDOWN);
    close(peer);
}

/* Send until the guest's credit is used up and bytes wait in the device; returns how many were sent. */
static uint32_t fill_up(struct env *e, const struct guest_end *g)
{
    static uint8_t chunk[32768];
    struct packet p;
    uint32_t sent = 0, forwarded = 0;

    do {
        for (uint32_t i = 0; i < sizeof(chunk); i++)
            chunk[i] = pattern(sent + i);
        send_data(e, g, chunk, sizeof(chunk));
        sent += sizeof(chunk);
        send_op(e, g, VSOCK_OP_CREDIT_REQUEST, 0);
        while (receive(e, &p))
            forwarded = p.h.fwd_cnt;
    } while (sent - forwarded + sizeof(chunk) <= VSOCK_BUF_ALLOC);
    assert_true(sent > forwarded);
    return sent;
}

/* A peer that does not read: its bytes wait, nobody else's; they arrive even when the guest has closed meanwhile. */
static void slow_peer_loses_nothing(void **state)
{
    struct env *e = *state;
    struct packet p;
    struct guest_end g, other;
    int peer = connected(e, &g);
    uint32_t sent = fill_up(e, &g), got = 0;
    char b[8];

    int fast = connected(e, &other);
    send_data(e, &other, "quick", 5);
    assert_int_equal(read(fast, b, sizeof(b)), 5);
    send_op(e, &g, VSOCK_OP_SHUTDOWN, VSOCK_SHUT_BOTH);
    expect(e, &p, VSOCK_OP_RST); /* at once */
    expect_nothing(e);
    send_op(e, &g, VSOCK_OP_RST, 0);
    while (got < sent) {
        assert_true(drain(peer, &got) > 0);
        fake_settle(&e->f);
    }
    assert_true(at_eof(peer));
    close(peer);
    close(fast);
}

/* The same with a half-close: the end of file comes behind the last byte. */
static void half_close_waits_for_the_buffer(void **state)
{
    struct env *e = *state;
    struct packet p;
    struct guest_end g;
    int peer = connected(e, &g);
    uint32_t sent = fill_up(e, &g), got = 0;

    send_op(e, &g, VSOCK_OP_SHUTDOWN, VSOCK_SHUT_SEND);
    send_data(e, &(struct guest_end){1, 2, 0, 0}, "x", 1);
    expect(e, &p, VSOCK_OP_RST);
    while (got < sent) {
        assert_true(drain(peer, &got) > 0);
        fake_settle(&e->f);
    }
    assert_true(at_eof(peer));
    assert_int_equal(write(peer, "bye", 3), 3);
    do
        assert_true(receive(e, &p));
    while (p.h.op == VSOCK_OP_CREDIT_UPDATE);
    assert_int_equal(p.h.op, VSOCK_OP_RW);
    close(peer);
}

/* A reset behind the last byte takes nothing away; one in the middle of the stream does. */
static void reset_behind_the_end_loses_nothing(void **state)
{
    struct env *e = *state;
    struct guest_end g;

    for (unsigned orderly = 0; orderly < 2; orderly++) {
        int peer = connected(e, &g);
        uint32_t sent = fill_up(e, &g), got = 0;

        if (orderly)
            send_op(e, &g, VSOCK_OP_SHUTDOWN, VSOCK_SHUT_SEND);
        send_op(e, &g, VSOCK_OP_RST, 0);
        while (drain(peer, &got) > 0)
            fake_settle(&e->f);
        assert_true(at_eof(peer));
        assert_int_equal(got == sent, orderly);
        close(peer);
        expect_nothing(e);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, vsock_setup, vsock_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(identity),
        T(host_connects_and_bytes_go_both_ways),
        T(guest_connects),
        T(refusals),
        T(connect_fails_without_a_driver),
        T(sent_packets_are_no_news),
        T(half_close),
        T(reset_by_the_guest),
        T(large_stream_to_the_host),
        T(large_stream_to_the_guest),
        T(slow_peer_loses_nothing),
        T(half_close_waits_for_the_buffer),
        T(reset_behind_the_end_loses_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
