/* SPDX-License-Identifier: Apache-2.0 */
/* One connection from the host: see conn.h. */
#include "conn.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The least that is read at once: many small frames come in one read. */
#define READ_SIZE 16384u

static void kill_conn(struct ga_conn *c)
{
    if (c->dead)
        return;
    c->dead = true;
    ga_source_close(c->loop, &c->src);
}

static void update_events(struct ga_conn *c)
{
    uint32_t events = 0;

    if (c->dead)
        return;
    if (c->paused)
        events |= EPOLLRDHUP; /* the end of the connection must not wait until it is resumed */
    else if (ga_queue_size(&c->out) < GA_OUT_STOP)
        events |= EPOLLIN;
    if (ga_queue_size(&c->out) || c->starved)
        events |= EPOLLOUT;
    if (ga_source_want(c->loop, &c->src, events) < 0)
        kill_conn(c);
}

static void flush(struct ga_conn *c)
{
    while (!c->dead && ga_queue_size(&c->out)) {
        ssize_t n = send(c->src.fd, c->out.data + c->out.off, ga_queue_size(&c->out), MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            kill_conn(c);
            return;
        }
        ga_queue_consume(&c->out, (size_t)n);
    }
    if (!c->dead && c->ending && !c->shut && ga_queue_size(&c->out) == 0) {
        c->shut = true;
        shutdown(c->src.fd, SHUT_WR);
    }
    update_events(c);
}

bool ga_conn_has_room(struct ga_conn *c)
{
    if (c->dead || c->ending)
        return false;
    if (ga_queue_size(&c->out) < GA_OUT_HIGH)
        return true;
    c->starved = true;
    update_events(c);
    return false;
}

static uint8_t *begin_frame(struct ga_conn *c, size_t max)
{
    uint8_t *p;

    if (c->dead || c->ending)
        return NULL;
    p = ga_queue_reserve(&c->out, AGENT_HEADER_SIZE + max);
    if (!p)
        kill_conn(c);
    return p;
}

static void commit_frame(struct ga_conn *c, uint8_t *p, uint32_t type, size_t len)
{
    ga_put_u32(p, (uint32_t)len);
    ga_put_u16(p + 4, (uint16_t)type);
    ga_put_u16(p + 6, 0);
    ga_queue_commit(&c->out, AGENT_HEADER_SIZE + len);
}

bool ga_conn_put(struct ga_conn *c, uint32_t type, const void *data, size_t len)
{
    uint8_t *p = begin_frame(c, len);

    if (!p)
        return false;
    if (len)
        memcpy(p + AGENT_HEADER_SIZE, data, len);
    commit_frame(c, p, type, len);
    return true;
}

void ga_conn_send(struct ga_conn *c, uint32_t type, const void *data, size_t len)
{
    if (ga_conn_put(c, type, data, len))
        flush(c);
}

ssize_t ga_conn_send_from(struct ga_conn *c, uint32_t type, int fd, size_t max)
{
    uint8_t *p = begin_frame(c, max);
    ssize_t n;

    if (!p)
        return -EPIPE;
    do
        n = read(fd, p + AGENT_HEADER_SIZE, max);
    while (n < 0 && errno == EINTR);
    if (n > 0) {
        commit_frame(c, p, type, (size_t)n);
        flush(c);
    }
    return n < 0 ? -errno : n;
}

static void send_text(struct ga_conn *c, uint32_t type, uint32_t reason, int code, const char *text)
{
    uint8_t b[12 + AGENT_MAX_TEXT], *p = b;
    size_t len = strnlen(text, AGENT_MAX_TEXT);

    if (reason) {
        ga_put_u32(p, reason);
        p += 4;
    }
    ga_put_u32(p, (uint32_t)code);
    ga_put_u32(p + 4, (uint32_t)len);
    memcpy(p + 8, text, len);
    ga_conn_send(c, type, b, (size_t)(p - b) + 8 + len);
}

void ga_conn_refuse(struct ga_conn *c, int code, const char *text)
{
    send_text(c, AGENT_ERROR, 0, code, text);
    ga_conn_end(c);
}

void ga_conn_start_error(struct ga_conn *c, uint32_t reason, int code, const char *text)
{
    send_text(c, AGENT_START_ERROR, reason, code, text);
}

bool ga_conn_lost(struct ga_conn *c)
{
    struct pollfd p = {.fd = c->src.fd, .events = POLLRDHUP};

    if (!c->dead && poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)))
        kill_conn(c);
    return c->dead;
}

void ga_conn_end(struct ga_conn *c)
{
    c->ending = true;
    flush(c);
}

/* What the host still sends to a connection that is at its end is of no use. */
static void discard(struct ga_conn *c)
{
    uint8_t scratch[4096];
    ssize_t n = recv(c->src.fd, scratch, sizeof(scratch), MSG_DONTWAIT);

    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        kill_conn(c);
}

/* The size of the frame whose header is at the front of the queue, 0 when the header is not whole. -1: refused. */
static ssize_t frame_size(struct ga_conn *c)
{
    char text[128];

    if (ga_queue_size(&c->in) < AGENT_HEADER_SIZE)
        return 0;
    struct ga_reader r = {.p = c->in.data + c->in.off, .left = AGENT_HEADER_SIZE};
    uint32_t len = ga_read_u32(&r);
    uint16_t type = ga_read_u16(&r), zero = ga_read_u16(&r);
    if (zero) {
        ga_conn_refuse(c, EPROTO, "malformed agent frame: the header's last two bytes are not zero");
        return -1;
    }
    if (len > agent_frame_limit(type)) {
        snprintf(text, sizeof(text), "agent frame over the limit: type %u with %u bytes, at most %u", type, len,
                 agent_frame_limit(type));
        ga_conn_refuse(c, EMSGSIZE, text);
        return -1;
    }
    return (ssize_t)(AGENT_HEADER_SIZE + len);
}

static void take_frames(struct ga_conn *c)
{
    while (!c->dead && !c->ending && !c->paused) {
        ssize_t size = frame_size(c);

        if (size <= 0 || ga_queue_size(&c->in) < (size_t)size)
            break;
        const uint8_t *p = c->in.data + c->in.off;
        c->on_frame(c, (uint32_t)p[4] | (uint32_t)p[5] << 8, p + AGENT_HEADER_SIZE, (size_t)size - AGENT_HEADER_SIZE);
        ga_queue_consume(&c->in, (size_t)size);
    }
    if (c->dead || c->ending)
        ga_queue_done(&c->in);
}

static void read_some(struct ga_conn *c)
{
    if (c->ending) {
        discard(c);
        return;
    }
    size_t have = ga_queue_size(&c->in);
    ssize_t size = frame_size(c);
    size_t want = size > 0 && (size_t)size - have > READ_SIZE ? (size_t)size - have : READ_SIZE;
    uint8_t *p = ga_queue_reserve(&c->in, want);
    if (!p) {
        ga_conn_refuse(c, ENOMEM, "the guest has no memory for a frame");
        return;
    }
    ssize_t n = recv(c->src.fd, p, want, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        kill_conn(c);
        return;
    }
    ga_queue_commit(&c->in, (size_t)n);
    take_frames(c);
}

static void on_ready(struct ga_source *src, uint32_t events)
{
    struct ga_conn *c = src->ctx;

    if (events & EPOLLOUT)
        flush(c);
    if (c->paused && (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
        kill_conn(c);
    else if (!c->dead && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        read_some(c);
    if (c->starved && ga_queue_size(&c->out) < GA_OUT_HIGH) {
        c->starved = false;
        c->on_room(c);
    }
    update_events(c);
}

int ga_conn_init(struct ga_conn *c, struct ga_loop *loop, int fd)
{
    c->loop = loop;
    ga_source_init(&c->src, fd, on_ready, c);
    int r = ga_source_want(loop, &c->src, EPOLLIN);
    if (r < 0)
        kill_conn(c);
    return r;
}

void ga_conn_done(struct ga_conn *c)
{
    kill_conn(c);
    ga_queue_done(&c->in);
    ga_queue_done(&c->out);
}

void ga_conn_pause(struct ga_conn *c)
{
    c->paused = true;
}

void ga_conn_resume(struct ga_conn *c)
{
    c->paused = false;
    take_frames(c);
    update_events(c);
}
