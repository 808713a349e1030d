/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One vsock connection: see vsock_conn.h.
 *
 * Theory of operation
 *
 * A connection has two ends that come and go on their own. The guest end is a state (enum vsock_guest_end), the host
 * end a unix stream socket. It is over when the guest end is GONE and the socket closed.
 *
 * Guest to host: a payload goes straight from guest memory into the socket; what the socket does not take waits in a
 * ring of at most VSOCK_BUF_ALLOC bytes. Only bytes that the socket took count as forwarded, so a peer that does not
 * read stops the guest by credit and nobody else. A guest that sends over its credit is reset.
 * Host to guest: bytes are read from the socket straight into a receive buffer of the guest, and only when there is a
 * buffer and credit; otherwise they stay in the socket, whose other end then blocks.
 *
 * Half-close. The guest's SHUTDOWN(SEND) becomes shutdown(SHUT_WR) once the ring is empty, SHUTDOWN(RCV) becomes
 * shutdown(SHUT_RD). End of file on the socket becomes SHUTDOWN(SEND), a peer that does not take bytes any more
 * SHUTDOWN(RCV), one that is gone both. After both from the guest (its close) we answer RST at once; what is left in
 * the ring still goes to the socket ("linger"), because a slow reader must not lose the last bytes of a finished
 * program. After both from us the socket is closed and the guest owes a RST; the device's timer bounds the wait.
 * A RST from the guest without a SHUTDOWN(SEND) before drops what is buffered.
 *
 * The socket is watched edge-triggered: `readable` stays true until a read finds less than it asked for (and no end
 * of file is known to follow), so no system call is spent on switching it on and off. Writing is watched only while
 * the ring holds something.
 *
 * Nothing in a packet is believed but by these rules: credit is clamped (a forged fwd_cnt or buf_alloc can only stop
 * the guest's own stream), states that an operation does not fit are answered by RST.
 *
 * Threads: the device's lock is held; on the loop's thread only.
 * System calls: sendmsg, recvmsg, shutdown, close.
 */
#include "dev/vsock_conn.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "dev/vsock.h"

#define BUF_FIRST_CAP 4096u

void vsock_conn_init(struct vsock_conn *c, uint32_t guest_port, uint32_t host_port, int fd,
                     const struct vsock_packet *request)
{
    *c = (struct vsock_conn){.guest_port = guest_port, .host_port = host_port, .fd = fd};
    c->source.fd = -1;
    list_init(&c->in_table);
    list_init(&c->in_all);
    list_init(&c->in_ready);
    if (request) {
        c->guest_end = VSOCK_OPEN;
        c->owed = VSOCK_OWE_RESPONSE;
        c->peer_buf_alloc = request->buf_alloc;
        c->peer_fwd_cnt = request->fwd_cnt;
    } else {
        c->guest_end = VSOCK_REQUESTED;
        c->owed = VSOCK_OWE_REQUEST;
    }
}

static void drop_buffer(struct vsock_conn *c)
{
    free(c->buf);
    c->buf = NULL;
    c->buf_cap = c->buf_start = c->buf_len = 0;
}

void vsock_conn_done(struct vsock_conn *c)
{
    assert(c->source.fd < 0);
    close_fd(&c->fd);
    drop_buffer(c);
}

void vsock_conn_reset(struct vsock_conn *c)
{
    if (c->guest_end == VSOCK_GONE)
        return;
    c->guest_end = VSOCK_RESETTING;
    c->owed = VSOCK_OWE_RST;
    c->dead = true;
    drop_buffer(c);
}

bool vsock_conn_socket_done(const struct vsock_conn *c)
{
    return c->fd >= 0 && c->dead && c->buf_len == 0;
}

/* Bytes of payload that the guest has room for. A peer_fwd_cnt ahead of tx_cnt makes a huge difference: no room. */
static uint32_t credit(const struct vsock_conn *c)
{
    uint32_t in_flight = c->tx_cnt - c->peer_fwd_cnt;

    return in_flight < c->peer_buf_alloc ? c->peer_buf_alloc - in_flight : 0;
}

/* Tell the guest that the host end does `flags` no more; once both are told the socket has done its work. */
static void shut_host(struct vsock_conn *c, uint32_t flags)
{
    flags &= ~c->host_shut;
    if (!flags || c->guest_end != VSOCK_OPEN)
        return;
    c->host_shut |= flags;
    c->owed |= VSOCK_OWE_SHUTDOWN;
    if (c->host_shut == VSOCK_SHUT_BOTH) {
        c->guest_end = VSOCK_CLOSING;
        c->dead = true;
        drop_buffer(c);
    }
}

/* Nothing is left that either side could say to the other: the stream is over in both directions. */
static void finish_if_over(struct vsock_conn *c)
{
    if (c->buf_len > 0)
        return;
    if ((c->guest_shut & VSOCK_SHUT_SEND) && (c->host_shut & VSOCK_SHUT_SEND))
        shut_host(c, VSOCK_SHUT_BOTH);
}

/* The socket takes no more bytes: those that wait for it are lost, and the guest is told not to send. */
static void write_failed(struct vsock_conn *c)
{
    c->fwd_cnt += c->buf_len;
    drop_buffer(c);
    if (c->guest_end == VSOCK_OPEN)
        shut_host(c, VSOCK_SHUT_RCV);
    else
        c->dead = true; /* it lingered only to write */
}

/* Bytes taken (0 when there is no room), or -errno. */
static ssize_t socket_write(struct vsock_conn *c, struct iovec *iov, unsigned n)
{
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
    ssize_t done;

    do
        done = sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (done < 0 && errno == EINTR);
    if (done < 0)
        return errno == EAGAIN || errno == ENOBUFS ? 0 : -errno;
    return done;
}

/* Tell the guest of room when it may be about to run out of it, not for every byte. */
static void forwarded(struct vsock_conn *c, uint32_t n)
{
    c->fwd_cnt += n;
    if (c->fwd_cnt - c->fwd_told >= VSOCK_BUF_ALLOC / 2 && c->guest_end == VSOCK_OPEN)
        c->owed |= VSOCK_OWE_CREDIT_UPDATE;
}

static void flush(struct vsock_conn *c)
{
    while (c->buf_len > 0) {
        uint32_t first = c->buf_cap - c->buf_start;
        struct iovec iov[2] = {
            {.iov_base = c->buf + c->buf_start, .iov_len = first < c->buf_len ? first : c->buf_len},
            {.iov_base = c->buf, .iov_len = first < c->buf_len ? c->buf_len - first : 0},
        };
        ssize_t n = socket_write(c, iov, 2);

        if (n < 0) {
            write_failed(c);
            return;
        }
        if (n == 0)
            return;
        c->buf_start = (c->buf_start + (uint32_t)n) & (c->buf_cap - 1);
        c->buf_len -= (uint32_t)n;
        forwarded(c, (uint32_t)n);
    }
    drop_buffer(c);
    if (c->guest_end != VSOCK_OPEN) {
        c->dead = true;
        return;
    }
    if (c->guest_shut & VSOCK_SHUT_SEND)
        shutdown(c->fd, SHUT_WR);
    finish_if_over(c);
}

/* Make room for `more` bytes; the caller has seen that the sum is at most VSOCK_BUF_ALLOC. */
static bool grow(struct vsock_conn *c, uint32_t more)
{
    uint32_t cap = c->buf_cap ? c->buf_cap : BUF_FIRST_CAP;

    while (cap < c->buf_len + more)
        cap *= 2;
    if (cap == c->buf_cap)
        return true;
    uint8_t *buf = malloc(cap);
    if (!buf)
        return false;
    for (uint32_t i = 0; i < c->buf_len;) {
        uint32_t at = (c->buf_start + i) & (c->buf_cap - 1), n = c->buf_cap - at;

        if (n > c->buf_len - i)
            n = c->buf_len - i;
        memcpy(buf + i, c->buf + at, n);
        i += n;
    }
    free(c->buf);
    c->buf = buf;
    c->buf_cap = cap;
    c->buf_start = 0;
    return true;
}

/* Append all of `run`; false without memory. */
static bool keep(struct vsock_conn *c, struct iov_run *run)
{
    if (!grow(c, (uint32_t)run->len))
        return false;
    while (run->len > 0) {
        uint32_t at = (c->buf_start + c->buf_len) & (c->buf_cap - 1), n = c->buf_cap - at;

        if (n > run->len)
            n = (uint32_t)run->len;
        iov_take(run, c->buf + at, n);
        c->buf_len += n;
    }
    return true;
}

static void receive_data(struct vsock_conn *c, struct iov_run *payload)
{
    uint32_t len = (uint32_t)payload->len;

    if ((c->guest_shut & VSOCK_SHUT_SEND) || payload->len > VSOCK_BUF_ALLOC - (c->rx_cnt - c->fwd_cnt)) {
        vsock_conn_reset(c);
        return;
    }
    c->rx_cnt += len;
    if (c->host_shut & VSOCK_SHUT_RCV) {
        c->fwd_cnt += len; /* was under way when we told; nobody wants it */
        return;
    }
    if (len == 0)
        return;
    if (c->buf_len == 0) {
        ssize_t n = socket_write(c, payload->iov, payload->n);

        if (n < 0) {
            c->fwd_cnt += len;
            write_failed(c);
            return;
        }
        iov_skip(payload, (uint64_t)n);
        forwarded(c, (uint32_t)n);
    }
    if (payload->len > 0 && !keep(c, payload))
        vsock_conn_reset(c);
}

static void receive_shutdown(struct vsock_conn *c, uint32_t flags)
{
    flags &= VSOCK_SHUT_BOTH & ~c->guest_shut;
    c->guest_shut |= flags;
    if (c->guest_shut == VSOCK_SHUT_BOTH) {
        /* The guest has closed. Its answer is due at once; bytes in the ring go on to the socket. */
        c->guest_end = VSOCK_RESETTING;
        c->owed = VSOCK_OWE_RST;
        c->readable = false;
        if (c->buf_len == 0)
            c->dead = true;
        return;
    }
    if (flags & VSOCK_SHUT_RCV) {
        shutdown(c->fd, SHUT_RD);
        c->readable = false;
    }
    if ((flags & VSOCK_SHUT_SEND) && c->buf_len == 0)
        shutdown(c->fd, SHUT_WR);
    finish_if_over(c);
}

static void receive_rst(struct vsock_conn *c)
{
    c->guest_end = VSOCK_GONE;
    c->owed = 0;
    c->readable = false;
    if (!(c->guest_shut & VSOCK_SHUT_SEND))
        drop_buffer(c);
    if (c->buf_len == 0)
        c->dead = true;
}

static void receive_open(struct vsock_conn *c, const struct vsock_packet *p, struct iov_run *payload)
{
    switch (p->op) {
    case VSOCK_OP_RW:
        receive_data(c, payload);
        break;
    case VSOCK_OP_SHUTDOWN:
        receive_shutdown(c, p->flags);
        break;
    case VSOCK_OP_CREDIT_UPDATE:
        break; /* every header carries credit: done */
    case VSOCK_OP_CREDIT_REQUEST:
        c->owed |= VSOCK_OWE_CREDIT_UPDATE;
        break;
    default:
        vsock_conn_reset(c);
        break;
    }
}

void vsock_conn_receive(struct vsock_conn *c, const struct vsock_packet *p, struct iov_run *payload)
{
    assert(payload->len == p->len);
    if (p->op == VSOCK_OP_RST) {
        receive_rst(c);
        return;
    }
    c->peer_buf_alloc = p->buf_alloc;
    c->peer_fwd_cnt = p->fwd_cnt;
    switch (c->guest_end) {
    case VSOCK_REQUESTED:
        if (p->op == VSOCK_OP_RESPONSE && !(c->owed & VSOCK_OWE_REQUEST))
            c->guest_end = VSOCK_OPEN;
        else
            vsock_conn_reset(c);
        break;
    case VSOCK_OPEN:
        receive_open(c, p, payload);
        break;
    case VSOCK_CLOSING:
        /* Our SHUTDOWN crossed what it sent before; only its own close needs an answer. */
        if (p->op == VSOCK_OP_SHUTDOWN) {
            c->guest_shut |= p->flags & VSOCK_SHUT_BOTH;
            if (c->guest_shut == VSOCK_SHUT_BOTH)
                vsock_conn_reset(c);
        }
        break;
    case VSOCK_RESETTING:
    case VSOCK_GONE:
        break;
    }
}

void vsock_conn_socket(struct vsock_conn *c, uint32_t events)
{
    /* A peer that closes and one that stops sending both end in a read of 0; the bits only say how to read it. */
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        c->readable = true;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        c->hung_up = true;
    if (events & (EPOLLHUP | EPOLLERR))
        c->peer_gone = true;
    if (c->buf_len > 0 && (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)))
        flush(c);
    /* No read will find out any more that the peer is gone altogether: end of file was told, or nobody listens. */
    if (c->peer_gone && ((c->host_shut & VSOCK_SHUT_SEND) || (c->guest_shut & VSOCK_SHUT_RCV)))
        shut_host(c, VSOCK_SHUT_BOTH);
}

uint32_t vsock_conn_events(const struct vsock_conn *c)
{
    return EPOLLET | EPOLLIN | EPOLLRDHUP | (c->buf_len > 0 ? (uint32_t)EPOLLOUT : 0);
}

static bool may_read(const struct vsock_conn *c)
{
    return c->guest_end == VSOCK_OPEN && c->readable && !(c->host_shut & VSOCK_SHUT_SEND) &&
           !(c->guest_shut & VSOCK_SHUT_RCV);
}

static bool needs_credit(const struct vsock_conn *c)
{
    return may_read(c) && credit(c) == 0 && !c->credit_asked;
}

bool vsock_conn_has_packet(const struct vsock_conn *c)
{
    return c->owed || (may_read(c) && credit(c) > 0) || needs_credit(c);
}

/* The socket's data into `room`. False when there is none; its end becomes an owed SHUTDOWN. */
static bool read_socket(struct vsock_conn *c, struct vsock_packet *p, struct iov_run *room)
{
    struct msghdr msg = {.msg_iov = room->iov};
    ssize_t n;

    if (room->len > credit(c))
        iov_trim(room, credit(c));
    if (room->len == 0)
        return false;
    msg.msg_iovlen = room->n;
    do
        n = recvmsg(c->fd, &msg, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN) {
        c->readable = false;
        return false;
    }
    if (n <= 0) {
        c->readable = false;
        shut_host(c, n < 0 || c->peer_gone ? VSOCK_SHUT_BOTH : VSOCK_SHUT_SEND);
        finish_if_over(c);
        return false;
    }
    if ((uint64_t)n < room->len && !c->hung_up)
        c->readable = false; /* a stream gave less than asked: it is empty, and an edge will tell of more */
    c->tx_cnt += (uint32_t)n;
    c->credit_asked = false;
    p->op = VSOCK_OP_RW;
    p->len = (uint32_t)n;
    return true;
}

static const struct {
    unsigned bit;
    enum vsock_op op;
} owed_ops[] = {
    {VSOCK_OWE_REQUEST, VSOCK_OP_REQUEST},
    {VSOCK_OWE_RESPONSE, VSOCK_OP_RESPONSE},
    {VSOCK_OWE_RST, VSOCK_OP_RST},
    {VSOCK_OWE_SHUTDOWN, VSOCK_OP_SHUTDOWN},
    {VSOCK_OWE_CREDIT_UPDATE, VSOCK_OP_CREDIT_UPDATE},
    {VSOCK_OWE_CREDIT_REQUEST, VSOCK_OP_CREDIT_REQUEST},
};

static bool owed_packet(struct vsock_conn *c, struct vsock_packet *p)
{
    if (needs_credit(c)) {
        c->owed |= VSOCK_OWE_CREDIT_REQUEST;
        c->credit_asked = true;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(owed_ops); i++) {
        if (!(c->owed & owed_ops[i].bit))
            continue;
        c->owed &= ~owed_ops[i].bit;
        p->op = (uint16_t)owed_ops[i].op;
        if (p->op == VSOCK_OP_SHUTDOWN)
            p->flags = c->host_shut;
        if (p->op == VSOCK_OP_RST)
            c->guest_end = VSOCK_GONE;
        return true;
    }
    return false;
}

bool vsock_conn_packet(struct vsock_conn *c, struct vsock_packet *p, struct iov_run *room)
{
    bool made = false;

    p->len = 0;
    p->flags = 0;
    /* Data carries credit along; but an answer to the handshake, and a RST, come before any. */
    if (!(c->owed & ~VSOCK_OWE_CREDIT_UPDATE) && may_read(c) && credit(c) > 0)
        made = read_socket(c, p, room);
    if (!made)
        made = owed_packet(c, p);
    if (!made)
        return false;
    p->buf_alloc = VSOCK_BUF_ALLOC;
    p->fwd_cnt = c->fwd_told = c->fwd_cnt;
    c->owed &= ~VSOCK_OWE_CREDIT_UPDATE;
    return true;
}
