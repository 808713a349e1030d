/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: a caller's descriptors, used without blocking and without changing them.
 *
 * O_NONBLOCK belongs to the open file description, which a terminal or pipe shares with other processes: setting it
 * breaks them (a shell that reads the same terminal gets EAGAIN). So:
 * - sockets are written with MSG_DONTWAIT;
 * - pipes and terminals are opened anew through /proc/self/fd, which makes a description of our own. Where that is not
 *   allowed (the pipe of another user) they are written in pieces of PIPE_BUF, which pipe(7) takes whole once poll says
 *   that there is room;
 * - files and what else epoll refuses are always ready: writing there waits for the disk, as it does for everybody. To
 *   read them, an eventfd that is always readable stands in, so that the loop serves others between two chunks.
 * Reading needs no such care: once epoll says that there is something, read(2) returns it. (Another process that reads
 * the same terminal may be faster and leave us waiting: that is so for every program that shares one.)
 *
 * A descriptor is taken off the loop while it is not wanted: EPOLLHUP can't be masked and would spin. Each is
 * duplicated, so one number may be given twice and the caller may close its own.
 *
 * Limits: a sink keeps what it is given; its user gives at most AGENT_WINDOW bytes ahead of `done`.
 */
#include "lib/pump.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"

static void ignore_event(struct loop_source *src, uint32_t events)
{
    (void)src;
    (void)events;
}

/* Does epoll take it at all? */
static bool can_poll(struct loop *loop, int fd)
{
    struct loop_source probe;
    int r = loop_add(loop, &probe, fd, 0, ignore_event, NULL);

    if (r == 0)
        loop_remove(loop, &probe);
    return r == 0;
}

/* A description of our own for a pipe or a terminal; -1 when there is none to be had. */
static int reopen(int fd, const struct stat *st)
{
    char path[64];
    bool ptmx = S_ISCHR(st->st_mode) && st->st_rdev == makedev(5, 2); /* opening that makes another terminal */

    if (!S_ISFIFO(st->st_mode) && (ptmx || !isatty(fd)))
        return -1;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

/* ---- Sinks ---- */

int sink_open(struct sink *s, struct loop *loop, int fd, struct sm_error *err)
{
    struct stat st;
    int own;

    s->loop = loop;
    s->fd = s->src.fd = -1;
    if (fd < 0)
        return 0;
    if (fstat(fd, &st) < 0 || (s->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3)) < 0)
        return sm_error_sys(err, errno, "cannot use descriptor %d for output", fd);
    if (S_ISSOCK(st.st_mode)) {
        s->kind = PUMP_SOCKET;
    } else if (!can_poll(loop, s->fd)) {
        s->kind = PUMP_ALWAYS;
    } else if (fcntl(s->fd, F_GETFL) & O_NONBLOCK) {
        s->kind = PUMP_NONBLOCK;
    } else if ((own = reopen(s->fd, &st)) >= 0) {
        close(s->fd);
        s->fd = own;
        s->kind = PUMP_NONBLOCK;
    } else {
        s->kind = PUMP_BLOCKING;
    }
    return 0;
}

void sink_close(struct sink *s)
{
    if (!s->loop)
        return;
    loop_remove(s->loop, &s->src);
    close_fd(&s->fd);
    free(s->data);
    s->data = NULL;
    s->len = s->cap = 0;
}

static ssize_t put(struct sink *s, const void *data, size_t len)
{
    ssize_t n;

    do
        n = s->kind == PUMP_SOCKET ? send(s->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL)
                                   : write(s->fd, data, s->kind == PUMP_BLOCKING && len > PIPE_BUF ? PIPE_BUF : len);
    while (n < 0 && errno == EINTR);
    return n;
}

static void break_sink(struct sink *s)
{
    size_t dropped = s->len;

    loop_remove(s->loop, &s->src);
    s->broken = true;
    s->len = 0;
    s->broke(s);
    if (dropped)
        s->done(s, dropped);
}

static void on_writable(struct loop_source *src, uint32_t events)
{
    struct sink *s = src->ctx;
    ssize_t n = put(s, s->data + s->start, s->len);

    (void)events;
    if (n < 0 && errno == EAGAIN)
        return;
    if (n < 0) {
        break_sink(s);
        return;
    }
    s->start += (size_t)n;
    s->len -= (size_t)n;
    if (s->len == 0)
        loop_remove(s->loop, &s->src);
    s->done(s, (size_t)n);
}

/* Behind what is kept already. */
static int keep(struct sink *s, const void *data, size_t len)
{
    if (s->start + s->len + len > s->cap) {
        if (s->len)
            memmove(s->data, s->data + s->start, s->len);
        s->start = 0;
    }
    if (s->len + len > s->cap) {
        size_t cap = s->cap ? s->cap : 64 * 1024;

        while (cap < s->len + len)
            cap *= 2;
        uint8_t *p = realloc(s->data, cap);
        if (!p)
            return -ENOMEM;
        s->data = p;
        s->cap = cap;
    }
    memcpy(s->data + s->start + s->len, data, len);
    s->len += len;
    return 0;
}

void sink_write(struct sink *s, const void *data, size_t len)
{
    size_t done = 0;

    if (s->kind == PUMP_NONE || s->broken) {
        s->done(s, len);
        return;
    }
    /* A blocking one is written only when the poll has said so. */
    while (s->len == 0 && done < len && s->kind != PUMP_BLOCKING) {
        ssize_t n = put(s, (const char *)data + done, len - done);

        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            break_sink(s);
            s->done(s, len);
            return;
        }
        done += (size_t)n;
    }
    if (done < len) {
        bool waiting = s->len > 0;

        if (keep(s, (const char *)data + done, len - done) < 0) {
            break_sink(s);
            done = len;
        } else if (!waiting && loop_add(s->loop, &s->src, s->fd, EPOLLOUT, on_writable, s) < 0) {
            break_sink(s); /* says `done` for what was kept */
        }
    }
    if (done)
        s->done(s, done);
}

/* ---- Sources ---- */

static void on_readable(struct loop_source *src, uint32_t events);

static int watch(struct source *s)
{
    int fd = s->kind == PUMP_ALWAYS ? s->ready_fd : s->fd;

    return s->src.fd >= 0 ? 0 : loop_add(s->loop, &s->src, fd, EPOLLIN, on_readable, s);
}

/* Give on what was read; watch for more when all of it was taken. */
static void offer(struct source *s)
{
    if (s->len) {
        size_t n = s->take(s, s->data + s->start, s->len);

        s->start += n;
        s->len -= n;
    }
    if (s->len) {
        loop_remove(s->loop, &s->src);
        return;
    }
    if (!s->ended && watch(s) < 0)
        s->ended = true;
    if (s->ended && s->eof) {
        void (*eof)(struct source *) = s->eof;

        s->eof = NULL;
        eof(s);
    }
}

static void on_readable(struct loop_source *src, uint32_t events)
{
    struct source *s = src->ctx;
    ssize_t n = read(s->fd, s->data, SOURCE_CHUNK);

    (void)events;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    /* A failing read (a terminal that hung up, for one) is an end as well. */
    if (n <= 0) {
        source_end(s);
        return;
    }
    s->start = 0;
    s->len = (size_t)n;
    offer(s);
}

int source_open(struct source *s, struct loop *loop, int fd, struct sm_error *err)
{
    s->loop = loop;
    s->fd = s->ready_fd = s->src.fd = -1;
    if (fd < 0) {
        s->ended = true;
        return 0;
    }
    s->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (s->fd < 0)
        return sm_error_sys(err, errno, "cannot use descriptor %d for input", fd);
    s->data = malloc(SOURCE_CHUNK);
    if (!s->data)
        return sm_error_sys(err, ENOMEM, "cannot use descriptor %d for input", fd);
    s->kind = can_poll(loop, s->fd) ? PUMP_BLOCKING : PUMP_ALWAYS;
    if (s->kind == PUMP_ALWAYS) {
        s->ready_fd = eventfd(1, EFD_CLOEXEC);
        if (s->ready_fd < 0)
            return sm_error_sys(err, errno, "cannot use descriptor %d for input", fd);
    }
    int r = watch(s);
    return r < 0 ? sm_error_sys(err, -r, "cannot use descriptor %d for input", fd) : 0;
}

void source_resume(struct source *s)
{
    if (s->loop)
        offer(s);
}

void source_end(struct source *s)
{
    if (!s->loop || s->ended)
        return;
    loop_remove(s->loop, &s->src);
    s->ended = true;
    offer(s);
}

void source_close(struct source *s)
{
    if (!s->loop)
        return;
    loop_remove(s->loop, &s->src);
    close_fd(&s->fd);
    close_fd(&s->ready_fd);
    free(s->data);
    s->data = NULL;
    s->len = 0;
    s->ended = true;
    s->eof = NULL;
}
