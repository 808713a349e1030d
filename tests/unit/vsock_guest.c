/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's side of vsock for tests: see vsock_guest.h. */
#include "vsock_guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/io.h"

uint64_t clock_ahead_ns;

uint64_t __real_io_now_ns(void);
uint64_t __wrap_io_now_ns(void);

uint64_t __wrap_io_now_ns(void)
{
    return __real_io_now_ns() + clock_ahead_ns;
}

static int guest_connect(void *ctx, uint32_t port)
{
    struct env *e = ctx;
    int fd = e->accept_fd;

    e->accepts++;
    e->accept_port = port;
    e->accept_fd = -ECONNREFUSED;
    return fd;
}

void post_rx(struct env *e)
{
    uint64_t gpa = fake_alloc(&e->f, HEADER + RX_BYTES, 8);
    struct fake_buf b[2] = {{gpa, HEADER, true}, {gpa + HEADER, RX_BYTES, true}};

    e->rx_gpa[fake_add(&e->f, RX, b, 2, false)] = gpa;
    e->posted++;
}

void vsock_start(struct env *e, unsigned n_rx, uint64_t features)
{
    fake_start(&e->f, features);
    e->tx_gpa = fake_alloc(&e->f, HEADER + (512 << 10), 8);
    e->posted = 0;
    while (e->posted < n_rx)
        post_rx(e);
}

int vsock_setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));
    struct vsock_config config = {.guest_cid = CID, .guest_connect = guest_connect, .ctx = e};

    fake_open(&e->f);
    config.loop = e->f.loop;
    e->accept_fd = -ECONNREFUSED;
    assert_int_equal(vsock_new(&e->dev, &config, NULL), 0);
    fake_attach(&e->f, e->dev);
    vsock_start(e, N_RX, ~0ull);
    *state = e;
    return 0;
}

int vsock_teardown(void **state)
{
    struct env *e = *state;

    fake_close(&e->f);
    if (e->accept_fd >= 0)
        close(e->accept_fd);
    free(e);
    return 0;
}

/* The next packet for the guest, its buffer posted again; false when none comes though the loop has settled. */
bool receive(struct env *e, struct packet *p)
{
    uint16_t head;
    uint32_t len;

    fake_settle(&e->f);
    if (!fake_used(&e->f, RX, &head, &len))
        return false;
    const uint8_t *raw = fake_ptr(&e->f, e->rx_gpa[head]);
    vsock_packet_decode(&p->h, raw);
    assert_int_equal(len, HEADER + p->h.len);
    memcpy(p->data, raw + HEADER, p->h.len);
    assert_int_equal(p->h.src_cid, VSOCK_HOST_CID);
    assert_int_equal(p->h.dst_cid, CID);
    /* Post the same memory again. */
    struct fake_buf b[2] = {{e->rx_gpa[head], HEADER, true}, {e->rx_gpa[head] + HEADER, RX_BYTES, true}};
    uint64_t gpa = e->rx_gpa[head];
    bool wants = fake_wants_kick(&e->f, RX, e->f.q[RX].avail_idx);
    e->rx_gpa[fake_add(&e->f, RX, b, 2, false)] = gpa;
    if (wants)
        fake_kick(&e->f, RX);
    return true;
}

void expect(struct env *e, struct packet *p, unsigned op)
{
    assert_true(receive(e, p));
    assert_int_equal(p->h.op, op);
    if (op != VSOCK_OP_RW)
        assert_int_equal(p->h.len, 0);
}

void expect_nothing(struct env *e)
{
    struct packet p;

    assert_false(receive(e, &p));
}

void send_raw(struct env *e, const struct vsock_packet *h, const void *data, uint32_t len)
{
    uint8_t *raw = fake_ptr(&e->f, e->tx_gpa);
    struct fake_buf b[2] = {{e->tx_gpa, HEADER, false}, {e->tx_gpa + HEADER, len, false}};

    vsock_packet_encode(h, raw);
    if (len)
        memcpy(raw + HEADER, data, len);
    uint16_t head = fake_add(&e->f, TX, b, len ? 2 : 1, false);
    fake_kick(&e->f, TX);
    assert_int_equal(fake_wait(&e->f, TX, head), 0);
}

struct vsock_packet vsock_header(const struct guest_end *g, unsigned op)
{
    return (struct vsock_packet){.src_cid = CID,
                                 .dst_cid = VSOCK_HOST_CID,
                                 .src_port = g->guest_port,
                                 .dst_port = g->host_port,
                                 .type = VSOCK_TYPE_STREAM,
                                 .op = (uint16_t)op,
                                 .buf_alloc = g->buf_alloc,
                                 .fwd_cnt = g->fwd_cnt};
}

void send_op(struct env *e, const struct guest_end *g, unsigned op, uint32_t flags)
{
    struct vsock_packet h = vsock_header(g, op);

    h.flags = flags;
    send_raw(e, &h, NULL, 0);
}

void send_data(struct env *e, const struct guest_end *g, const void *data, uint32_t len)
{
    struct vsock_packet h = vsock_header(g, VSOCK_OP_RW);

    h.len = len;
    send_raw(e, &h, data, len);
}

int peer_pair(int *ret_device_end)
{
    int sv[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
    *ret_device_end = sv[1];
    assert_int_equal(io_set_nonblock(sv[0]), 0);
    return sv[0];
}

struct guest_end answer_request(struct env *e, uint32_t port)
{
    struct packet p;

    expect(e, &p, VSOCK_OP_REQUEST);
    assert_int_equal(p.h.dst_port, port);
    assert_int_equal(p.h.type, VSOCK_TYPE_STREAM);
    assert_int_equal(p.h.buf_alloc, VSOCK_BUF_ALLOC);
    struct guest_end g = {.guest_port = port, .host_port = p.h.src_port, .buf_alloc = GUEST_BUF};
    send_op(e, &g, VSOCK_OP_RESPONSE, 0);
    return g;
}

/* Host connects, guest accepts; returns the far end of the socket. */
int connected(struct env *e, struct guest_end *g)
{
    int end, peer = peer_pair(&end);

    assert_int_equal(vsock_connect(e->dev, 1000, end, NULL), 0);
    *g = answer_request(e, 1000);
    return peer;
}

/* Guest connects, host accepts. */
int accepted(struct env *e, struct guest_end *g, uint32_t guest_port)
{
    struct packet p;
    int peer = peer_pair(&e->accept_fd);

    *g = (struct guest_end){.guest_port = guest_port, .host_port = 80, .buf_alloc = GUEST_BUF};
    send_op(e, g, VSOCK_OP_REQUEST, 0);
    expect(e, &p, VSOCK_OP_RESPONSE);
    assert_int_equal(e->accept_port, 80);
    assert_int_equal(p.h.src_port, 80);
    assert_int_equal(p.h.dst_port, guest_port);
    return peer;
}

bool at_eof(int fd)
{
    char b;

    return read(fd, &b, 1) == 0;
}

/* The other end is closed, perhaps with bytes of ours unread. */
bool hung_up(int fd)
{
    char b;
    ssize_t n = read(fd, &b, 1);

    return n == 0 || (n < 0 && errno == ECONNRESET);
}

bool would_block(int fd)
{
    char b;

    return recv(fd, &b, 1, MSG_PEEK) < 0 && errno == EAGAIN;
}
