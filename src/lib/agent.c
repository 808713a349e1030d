/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host client of the agent protocol: see agent.h.
 *
 * Theory of operation
 *
 * Outgoing frames are appended to `out` and written as far as the socket takes them; what goes in is bounded: requests
 * by their limit, stdin by its credit, window sizes by keeping only the latest while much waits. A failed write is not
 * reported: the guest may have said why before it closed, so the reader decides.
 *
 * Incoming frames are taken one at a time from `in`, which has room for the largest the guest may send. take_frame() is
 * the door: it checks type, length, order and credit, then calls back. Text from the guest is made printable here,
 * since it ends on somebody's terminal.
 *
 * Callbacks run from the loop only, never from inside a request. agent_free() during one closes at once and frees when
 * the callback has returned (`busy`).
 */
#include "lib/agent.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/io.h"

/* Two of the largest requests, all of stdin's credit, and control frames enough for anything but a guest that is dead.
 */
#define OUT_MAX (2 * (size_t)AGENT_REQUEST_MAX + AGENT_WINDOW + (1u << 20))

/* While so much waits, a new window size replaces the one before. */
#define OUT_BUSY (16u << 10)

#define IN_SIZE (AGENT_HEADER_SIZE + AGENT_DATA_MAX)

/* Frames taken before the loop's other sources get their turn. */
#define FRAMES_PER_TURN 16

#define MAX_SIGNAL 64u /* _NSIG of Linux */

struct output {
    size_t unread; /* given to the callee, which is not done with it */
    size_t owed;   /* done with, not yet credited */
};

struct agent {
    struct loop *loop;
    struct loop_source src;
    struct loop_timer fail_timer; /* reports a failure that happened inside a request */
    int fd;
    const struct agent_ops *ops;
    void *ctx;
    struct buf out;
    size_t out_sent; /* bytes at the front of `out` that have gone */
    bool out_broken; /* writing failed: the reader will find out more */
    uint8_t *in;
    size_t in_len;
    bool hello;       /* the guest's HELLO has come */
    unsigned pending; /* control requests without an answer */
    bool exec, started, open_stdin, eof_sent;
    bool ended; /* the final callback has been called */
    size_t stdin_credit;
    bool want_room;
    struct output output[2];
    bool resize_waits;
    uint16_t rows, cols;
    bool busy, freed;
};

static void destroy(struct agent *a)
{
    buf_done(&a->out);
    free(a->in);
    free(a);
}

/* Close; nothing is called any more. */
static void stop(struct agent *a)
{
    loop_remove(a->loop, &a->src);
    loop_timer_cancel(&a->fail_timer);
    close_fd(&a->fd);
    a->ended = true;
}

void agent_free(struct agent *a)
{
    if (!a)
        return;
    stop(a);
    if (a->busy)
        a->freed = true;
    else
        destroy(a);
}

/* The final callback, unless it has been made. */
static void fail(struct agent *a, const struct sm_error *err)
{
    if (a->ended)
        return;
    stop(a);
    if (a->ops->on_error)
        a->ops->on_error(a, a->ctx, err);
}

static void fail_with(struct agent *a, int code, const char *text)
{
    struct sm_error err = SM_ERROR_INIT;

    sm_error_set(&err, code, "%s", text);
    fail(a, &err);
}

/* ---- Out ---- */

static size_t out_waiting(const struct agent *a)
{
    return a->out.len - a->out_sent;
}

static void flush(struct agent *a);

static void put_frame(struct agent *a, uint16_t type, const void *data, size_t len)
{
    buf_u32(&a->out, (uint32_t)len);
    buf_u16(&a->out, type);
    buf_u16(&a->out, 0);
    buf_bytes(&a->out, data, len);
}

/* Two frames of the same shape: CREDIT and SIGNAL. */
static void put_pair(struct agent *a, uint16_t type, uint32_t first, uint32_t second)
{
    buf_u32(&a->out, 8);
    buf_u16(&a->out, type);
    buf_u16(&a->out, 0);
    buf_u32(&a->out, first);
    buf_u32(&a->out, second);
}

static void put_resize(struct agent *a)
{
    a->resize_waits = false;
    buf_u32(&a->out, 4);
    buf_u16(&a->out, AGENT_RESIZE);
    buf_u16(&a->out, 0);
    buf_u16(&a->out, a->rows);
    buf_u16(&a->out, a->cols);
}

static void on_fail_timer(struct loop_timer *timer)
{
    struct agent *a = timer->ctx;

    a->busy = true;
    fail_with(a, ENOBUFS, "the guest's agent does not read what it is sent; more than the limit waits for it");
    a->busy = false;
    if (a->freed)
        destroy(a);
}

static void flush(struct agent *a)
{
    if (a->ended)
        return;
    if (a->out.bad) {
        loop_timer_set(a->loop, &a->fail_timer, io_now_ns(), on_fail_timer, a);
        return;
    }
    while (!a->out_broken && out_waiting(a)) {
        ssize_t n = send(a->fd, a->out.data + a->out_sent, out_waiting(a), MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            a->out_broken = true;
        else
            a->out_sent += (size_t)n;
        if (!out_waiting(a) && a->resize_waits)
            put_resize(a);
    }
    /* Moving the rest to the front costs a copy: only when it is the smaller part. */
    if (a->out_broken)
        a->out_sent = a->out.len;
    if (a->out_sent > out_waiting(a)) {
        buf_consume(&a->out, a->out_sent);
        a->out_sent = 0;
    }
    if (a->out.len == 0 && a->out.cap > AGENT_DATA_MAX)
        buf_done(&a->out);
    loop_mod(a->loop, &a->src, EPOLLIN | (out_waiting(a) ? EPOLLOUT : 0));
}

/* ---- In ---- */

static bool bad_frame(struct agent *a, uint32_t type, size_t len)
{
    struct sm_error err = SM_ERROR_INIT;

    sm_error_set(&err, EPROTO, "the guest's agent broke the protocol: frame of type %u with %zu bytes", type, len);
    fail(a, &err);
    return false;
}

/* Bytes of the next UTF-8 sequence that is no control character; 0: there is none. */
static size_t printable(const uint8_t *p, size_t left)
{
    size_t n = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : p[0] >= 0xe0 && p[0] < 0xf0 ? 3 : 0;

    if (n == 1)
        return p[0] >= 0x20 && p[0] != 0x7f;
    if (n == 0 || n > left || (p[1] & 0xc0) != 0x80 || (n == 3 && (p[2] & 0xc0) != 0x80))
        return 0;
    if (p[0] == 0xc2 && p[1] < 0xa0)
        return 0; /* C1 controls */
    return n == 3 && p[0] == 0xe0 && p[1] < 0xa0 ? 0 : n;
}

/* What the guest says may hold escape sequences: what is not printable becomes '?'. */
static bool read_text(struct reader *r, struct sm_error *err, int code)
{
    uint32_t len = reader_u32(r);
    const uint8_t *p = len <= AGENT_MAX_TEXT ? reader_bytes(r, len) : NULL;
    char text[AGENT_MAX_TEXT + 1];
    size_t n = 0;

    if (!p)
        return false;
    while (len) {
        size_t k = printable(p, len), skip = k ? k : 1;

        if (k)
            memcpy(text + n, p, k);
        else
            text[n] = '?';
        n += skip;
        p += skip;
        len -= (uint32_t)skip;
    }
    text[n] = '\0';
    sm_error_set(err, code > 0 && code < 4096 ? code : EPROTO, "%s", n ? text : "the guest's agent gave no reason");
    return true;
}

static bool take_hello(struct agent *a, struct reader *r)
{
    struct sm_error err = SM_ERROR_INIT;
    uint32_t magic = reader_u32(r), version = reader_u32(r);

    if (r->bad || r->left || magic != AGENT_MAGIC)
        return false;
    a->hello = true;
    if (version != AGENT_VERSION) {
        sm_error_set(&err, EPROTONOSUPPORT, "the guest's agent speaks version %u of the protocol, this program %u",
                     version, AGENT_VERSION);
        fail(a, &err);
    }
    return true;
}

static bool take_error(struct agent *a, struct reader *r)
{
    struct sm_error err = SM_ERROR_INIT;
    uint32_t code = reader_u32(r);

    if (!read_text(r, &err, (int)code) || r->left)
        return false;
    fail(a, &err);
    return true;
}

static bool take_start_error(struct agent *a, struct reader *r)
{
    static const int exit_codes[] = {
        [AGENT_START_NOT_FOUND] = 127, [AGENT_START_NOT_EXECUTABLE] = 126, [AGENT_START_BAD_CWD] = 126,
        [AGENT_START_BAD_USER] = 125,  [AGENT_START_FAILED] = 125,
    };
    struct sm_error err = SM_ERROR_INIT;
    uint32_t reason = reader_u32(r), code = reader_u32(r);

    if (!read_text(r, &err, (int)code) || r->left || a->started || reason < AGENT_START_NOT_FOUND ||
        reason > AGENT_START_FAILED)
        return false;
    stop(a);
    if (a->ops->on_start_error)
        a->ops->on_start_error(a, a->ctx, exit_codes[reason], &err);
    return true;
}

static bool take_exited(struct agent *a, struct reader *r)
{
    uint32_t status = reader_u32(r), signo = reader_u32(r), flags = reader_u32(r);
    struct agent_exit end = {.duration_ns = reader_u64(r), .peak_rss_kib = reader_u64(r)};

    if (r->bad || r->left || status > 255 || signo > MAX_SIGNAL)
        return false;
    end.status = signo ? 128 + (int)signo : (int)status;
    end.signal = (int)signo;
    end.timed_out = flags & AGENT_EXITED_TIMED_OUT;
    end.core_dumped = flags & AGENT_EXITED_CORE;
    stop(a);
    if (a->ops->on_exit)
        a->ops->on_exit(a, a->ctx, &end);
    return true;
}

static bool take_output(struct agent *a, enum agent_stream stream, const void *data, size_t len)
{
    struct output *o = &a->output[stream - AGENT_STREAM_STDOUT];

    if (!a->started || len == 0 || len > AGENT_WINDOW - o->unread - o->owed)
        return false;
    o->unread += len;
    if (a->ops->on_output)
        a->ops->on_output(a, a->ctx, stream, data, len);
    else
        agent_output_done(a, stream, len);
    return true;
}

static bool take_credit(struct agent *a, struct reader *r)
{
    uint32_t stream = reader_u32(r), bytes = reader_u32(r);

    if (r->bad || r->left || stream != AGENT_STREAM_STDIN || bytes > AGENT_WINDOW - a->stdin_credit)
        return false;
    a->stdin_credit += bytes;
    if (a->want_room && a->stdin_credit) {
        a->want_room = false;
        if (a->ops->on_stdin_room)
            a->ops->on_stdin_room(a, a->ctx);
    }
    return true;
}

/* False: the frame breaks the protocol. */
static bool dispatch(struct agent *a, uint32_t type, const uint8_t *data, size_t len)
{
    struct reader r = reader_init(data, len);

    if (type == AGENT_ERROR)
        return take_error(a, &r);
    if (!a->hello)
        return type == AGENT_HELLO && take_hello(a, &r);
    if (type == AGENT_OK) {
        if (len || !a->pending)
            return false;
        a->pending--;
        if (a->ops->on_done)
            a->ops->on_done(a, a->ctx);
        return true;
    }
    /* Everything else belongs to an exec, and that to the time after the requests before it. */
    if (!a->exec || a->pending)
        return false;
    switch (type) {
    case AGENT_STARTED:
        if (len != 4 || a->started)
            return false;
        a->started = true;
        if (a->ops->on_started)
            a->ops->on_started(a, a->ctx, reader_u32(&r));
        return true;
    case AGENT_STDOUT:
        return take_output(a, AGENT_STREAM_STDOUT, data, len);
    case AGENT_STDERR:
        return take_output(a, AGENT_STREAM_STDERR, data, len);
    case AGENT_CREDIT:
        return take_credit(a, &r);
    case AGENT_EXITED:
        return take_exited(a, &r);
    case AGENT_START_ERROR:
        return take_start_error(a, &r);
    default:
        return false;
    }
}

/* Take one frame if a whole one is there. */
static bool take_frame(struct agent *a)
{
    struct reader r = reader_init(a->in, a->in_len);
    struct sm_error err = SM_ERROR_INIT;

    if (a->ended || a->in_len < AGENT_HEADER_SIZE)
        return false;
    uint32_t len = reader_u32(&r);
    uint16_t type = reader_u16(&r), zero = reader_u16(&r);
    /* Of the types with a larger limit the guest sends only streams, so a frame always fits `in`. */
    uint32_t limit = type == AGENT_STDOUT || type == AGENT_STDERR ? AGENT_DATA_MAX : AGENT_SMALL_MAX;
    if (zero)
        return bad_frame(a, type, len);
    if (len > limit) {
        sm_error_set(&err, EMSGSIZE, "agent frame over the limit: the guest sent type %u with %u bytes, at most %u",
                     type, len, limit);
        fail(a, &err);
        return false;
    }
    if (len > r.left)
        return false;
    if (!dispatch(a, type, r.p, len))
        return bad_frame(a, type, len);
    if (a->freed)
        return false;
    a->in_len -= AGENT_HEADER_SIZE + len;
    memmove(a->in, a->in + AGENT_HEADER_SIZE + len, a->in_len);
    return true;
}

static void read_frames(struct agent *a)
{
    struct sm_error err = SM_ERROR_INIT;

    for (int i = 0; i < FRAMES_PER_TURN && !a->ended; i++) {
        ssize_t n = recv(a->fd, a->in + a->in_len, IN_SIZE - a->in_len, MSG_DONTWAIT);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n < 0 && errno != ECONNRESET) {
            sm_error_sys(&err, errno, "reading from the guest's agent");
            fail(a, &err);
            break;
        }
        if (n <= 0) {
            fail_with(a, ECONNRESET, "the connection to the guest's agent was lost");
            break;
        }
        a->in_len += (size_t)n;
        while (take_frame(a))
            ;
    }
}

static void on_ready(struct loop_source *src, uint32_t events)
{
    struct agent *a = src->ctx;

    a->busy = true;
    if (events & EPOLLOUT)
        flush(a);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        read_frames(a);
    a->busy = false;
    if (a->freed)
        destroy(a);
}

int agent_new(struct loop *loop, int fd, const struct agent_ops *ops, void *ctx, struct agent **ret_agent,
              struct sm_error *err)
{
    struct agent *a = calloc(1, sizeof(*a));
    int r = 0;

    if (a)
        a->in = malloc(IN_SIZE);
    if (!a || !a->in) {
        r = sm_error_set(err, ENOMEM, "no memory for a connection to the guest's agent");
    } else {
        a->src.fd = -1;
        a->fd = fd;
        a->loop = loop;
        a->ops = ops;
        a->ctx = ctx;
        a->out = buf_init(OUT_MAX);
        a->stdin_credit = AGENT_WINDOW;
        r = io_set_nonblock(fd);
        if (r == 0)
            r = loop_add(loop, &a->src, fd, EPOLLIN, on_ready, a);
        if (r < 0)
            sm_error_sys(err, -r, "watching the connection to the guest's agent");
    }
    if (r < 0) {
        close(fd);
        if (a)
            destroy(a);
        return r;
    }
    buf_u32(&a->out, 8);
    buf_u16(&a->out, AGENT_HELLO);
    buf_u16(&a->out, 0);
    buf_u32(&a->out, AGENT_MAGIC);
    buf_u32(&a->out, AGENT_VERSION); /* goes out with the first request */
    *ret_agent = a;
    return 0;
}

/* ---- Requests ---- */

static int request(struct agent *a, uint16_t type, const struct buf *payload, struct sm_error *err)
{
    if (a->ended || a->exec)
        return sm_error_set(err, EPIPE,
                            a->ended ? "the connection to the guest's agent has ended"
                                     : "this connection to the guest's agent already runs an exec");
    if (payload && payload->bad)
        return sm_error_set(err, E2BIG, "the request to the guest's agent is over %u bytes; %s", AGENT_REQUEST_MAX,
                            type == AGENT_EXEC ? "pass fewer or shorter arguments and variables" : "shorten it");
    put_frame(a, type, payload ? payload->data : NULL, payload ? payload->len : 0);
    if (type == AGENT_EXEC)
        a->exec = true;
    else
        a->pending++;
    flush(a);
    return 0;
}

static int put_str(struct buf *b, const char *what, const char *s, size_t max, struct sm_error *err)
{
    if (s && strlen(s) > max)
        return sm_error_set(err, E2BIG, "%s has %zu bytes, at most %zu are possible", what, strlen(s), max);
    buf_str(b, s);
    return 0;
}

int agent_setup(struct agent *a, const struct agent_setup *s, struct sm_error *err)
{
    struct buf b = buf_init(AGENT_REQUEST_MAX);
    int r = put_str(&b, "the host name", s->hostname, AGENT_MAX_HOSTNAME, err);

    if (r == 0)
        r = put_str(&b, "the root device's path", s->root_device, AGENT_MAX_PATH, err);
    if (r == 0)
        r = put_str(&b, "the file system type", s->root_fstype, AGENT_MAX_HOSTNAME, err);
    buf_u64(&b, s->overlay_bytes);
    buf_u32(&b, s->read_only ? AGENT_SETUP_READ_ONLY : 0);
    if (r == 0)
        r = put_str(&b, "resolv.conf", s->resolv_conf, AGENT_MAX_FILE, err);
    if (r == 0)
        r = put_str(&b, "the hosts file", s->hosts, AGENT_MAX_FILE, err);
    if (r == 0)
        r = request(a, AGENT_SETUP, &b, err);
    buf_done(&b);
    return r;
}

int agent_sync(struct agent *a, struct sm_error *err)
{
    return request(a, AGENT_SYNC, NULL, err);
}

int agent_ping(struct agent *a, struct sm_error *err)
{
    return request(a, AGENT_PING, NULL, err);
}

int agent_power(struct agent *a, uint32_t how, struct sm_error *err)
{
    struct buf b = buf_init(AGENT_SMALL_MAX);

    buf_u32(&b, how);
    int r = request(a, AGENT_POWER, &b, err);
    buf_done(&b);
    return r;
}

static int put_list(struct buf *b, const char *what, const char *const *list, struct sm_error *err)
{
    size_t n = 0;

    while (list && list[n])
        n++;
    if (n > AGENT_MAX_ARGS)
        return sm_error_set(err, E2BIG, "%zu %ss, at most %u are possible", n, what, AGENT_MAX_ARGS);
    buf_u32(b, (uint32_t)n);
    for (size_t i = 0; i < n; i++) {
        int r = put_str(b, what, list[i], AGENT_MAX_ARG, err);

        if (r < 0)
            return r;
    }
    return 0;
}

int agent_exec(struct agent *a, const struct agent_exec *x, struct sm_error *err)
{
    struct buf b = buf_init(AGENT_REQUEST_MAX);
    uint32_t flags = (x->tty ? AGENT_EXEC_TTY : 0) | (x->open_stdin ? AGENT_EXEC_STDIN : 0) |
                     (x->workload ? AGENT_EXEC_WORKLOAD : 0) | (x->create_cwd ? AGENT_EXEC_CREATE_CWD : 0) |
                     (x->no_new_privs ? AGENT_EXEC_NO_NEW_PRIVS : 0);
    int r;

    if (!x->argv || !x->argv[0])
        return sm_error_set(err, EINVAL, "there is no command to run; give one, or an image with an entry point");
    if (x->timeout_ms > AGENT_MAX_TIMEOUT_MS || x->n_rlimits > AGENT_MAX_RLIMITS)
        return sm_error_set(err, EINVAL, "a timeout of %llu ms or %zu resource limits are more than is possible",
                            (unsigned long long)x->timeout_ms, x->n_rlimits);
    buf_u32(&b, flags);
    buf_u64(&b, x->timeout_ms);
    buf_u16(&b, x->rows);
    buf_u16(&b, x->cols);
    r = put_list(&b, "argument", x->argv, err);
    if (r == 0)
        r = put_list(&b, "environment variable", x->env, err);
    if (r == 0)
        r = put_str(&b, "the working directory", x->cwd, AGENT_MAX_PATH, err);
    if (r == 0)
        r = put_str(&b, "the user", x->user, AGENT_MAX_USER, err);
    buf_u32(&b, (uint32_t)x->n_rlimits);
    for (size_t i = 0; i < x->n_rlimits; i++) {
        buf_u32(&b, x->rlimits[i].resource);
        buf_u64(&b, x->rlimits[i].soft);
        buf_u64(&b, x->rlimits[i].hard);
    }
    a->open_stdin = x->open_stdin;
    if (r == 0)
        r = request(a, AGENT_EXEC, &b, err);
    buf_done(&b);
    return r;
}

/* ---- A running exec ---- */

size_t agent_stdin(struct agent *a, const void *data, size_t len)
{
    const uint8_t *p = data;
    size_t left = len;

    assert(a->exec || a->ended);
    if (a->ended || a->eof_sent || !a->open_stdin)
        return len;
    if (a->resize_waits && left && a->stdin_credit)
        put_resize(a); /* what is typed after a resize comes after it */
    while (left && a->stdin_credit) {
        size_t n = left < a->stdin_credit ? left : a->stdin_credit;

        if (n > AGENT_DATA_MAX)
            n = AGENT_DATA_MAX;
        put_frame(a, AGENT_STDIN, p, n);
        a->stdin_credit -= n;
        p += n;
        left -= n;
    }
    if (left)
        a->want_room = true;
    flush(a);
    return len - left;
}

void agent_stdin_eof(struct agent *a)
{
    if (a->ended || a->eof_sent || !a->open_stdin)
        return;
    a->eof_sent = true;
    put_frame(a, AGENT_STDIN_EOF, NULL, 0);
    flush(a);
}

void agent_output_done(struct agent *a, enum agent_stream stream, size_t len)
{
    assert(stream == AGENT_STREAM_STDOUT || stream == AGENT_STREAM_STDERR);
    struct output *o = &a->output[stream - AGENT_STREAM_STDOUT];

    assert(len <= o->unread);
    o->unread -= len;
    o->owed += len;
    /* Few credits for many bytes; the guest cannot be waiting while less than this is owed and nothing is unread. */
    if (a->ended || o->owed < AGENT_WINDOW / 4)
        return;
    put_pair(a, AGENT_CREDIT, stream, (uint32_t)o->owed);
    o->owed = 0;
    flush(a);
}

void agent_resize(struct agent *a, uint16_t rows, uint16_t cols)
{
    if (a->ended || !a->exec)
        return;
    a->rows = rows;
    a->cols = cols;
    if (out_waiting(a) > OUT_BUSY) {
        a->resize_waits = true;
        return;
    }
    put_resize(a);
    flush(a);
}

void agent_signal(struct agent *a, int signo, uint32_t target)
{
    if (a->ended || !a->exec || signo < 1 || signo > (int)MAX_SIGNAL)
        return;
    put_pair(a, AGENT_SIGNAL, (uint32_t)signo, target);
    flush(a);
}
