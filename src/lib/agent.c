/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host client of the agent protocol, the connection: see agent.h. What is asked over it: agent_requests.c.
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
#include "lib/agent_private.h"

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

/* While less than so much waits, more of a file is put behind it. */
#define OUT_FILE (4 * AGENT_DATA_MAX)

#define IN_SIZE (AGENT_HEADER_SIZE + AGENT_DATA_MAX)

/* Frames taken before the loop's other sources get their turn. */
#define FRAMES_PER_TURN 16

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

size_t agent_out_waiting(const struct agent *a)
{
    return a->out.len - a->out_sent;
}

bool agent_idle(const struct agent *a)
{
    return !a->ended && !a->exec && !a->pending && !a->out_broken && !agent_out_waiting(a);
}

void agent_put_frame(struct agent *a, uint16_t type, const void *data, size_t len)
{
    buf_u32(&a->out, (uint32_t)len);
    buf_u16(&a->out, type);
    buf_u16(&a->out, 0);
    buf_bytes(&a->out, data, len);
}

void agent_put_pair(struct agent *a, uint16_t type, uint32_t first, uint32_t second)
{
    buf_u32(&a->out, 8);
    buf_u16(&a->out, type);
    buf_u16(&a->out, 0);
    buf_u32(&a->out, first);
    buf_u32(&a->out, second);
}

void agent_put_resize(struct agent *a)
{
    a->resize_waits = false;
    buf_u32(&a->out, 4);
    buf_u16(&a->out, AGENT_RESIZE);
    buf_u16(&a->out, 0);
    buf_u16(&a->out, a->rows);
    buf_u16(&a->out, a->cols);
}

/* As much of a file as may wait. */
static void put_file(struct agent *a)
{
    if (a->file_left && a->out_sent > agent_out_waiting(a)) {
        buf_consume(&a->out, a->out_sent);
        a->out_sent = 0;
    }
    while (a->file_left && agent_out_waiting(a) < OUT_FILE) {
        size_t n = a->file_left < AGENT_DATA_MAX ? a->file_left : AGENT_DATA_MAX;

        agent_put_frame(a, AGENT_PUT_DATA, a->file, n);
        a->file += n;
        a->file_left -= n;
    }
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

void agent_flush(struct agent *a)
{
    if (a->ended)
        return;
    if (a->out.bad) {
        loop_timer_set(a->loop, &a->fail_timer, io_now_ns(), on_fail_timer, a);
        return;
    }
    for (put_file(a); !a->out_broken && agent_out_waiting(a); put_file(a)) {
        ssize_t n = send(a->fd, a->out.data + a->out_sent, agent_out_waiting(a), MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            a->out_broken = true;
        else
            a->out_sent += (size_t)n;
        if (!agent_out_waiting(a) && a->resize_waits)
            agent_put_resize(a);
    }
    /* Moving the rest to the front costs a copy: only when it is the smaller part. */
    if (a->out_broken)
        a->out_sent = a->out.len;
    if (a->out_sent > agent_out_waiting(a)) {
        buf_consume(&a->out, a->out_sent);
        a->out_sent = 0;
    }
    if (a->out.len == 0 && a->out.cap > AGENT_DATA_MAX)
        buf_done(&a->out);
    loop_mod(a->loop, &a->src, EPOLLIN | (agent_out_waiting(a) ? EPOLLOUT : 0));
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

/* The connection is as it was before the exec; what the callee still holds of its output needs no credit. */
static void exec_over(struct agent *a)
{
    a->exec = a->started = a->open_stdin = a->eof_sent = a->want_room = a->resize_waits = false;
    a->stdin_credit = AGENT_WINDOW;
    memset(a->output, 0, sizeof(a->output));
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
    exec_over(a);
    if (a->ops->on_start_error)
        a->ops->on_start_error(a, a->ctx, exit_codes[reason], &err);
    return true;
}

static bool take_exited(struct agent *a, struct reader *r)
{
    uint32_t status = reader_u32(r), signo = reader_u32(r), flags = reader_u32(r);
    struct agent_exit end = {.duration_ns = reader_u64(r), .peak_rss_kib = reader_u64(r)};

    if (r->bad || r->left || status > 255 || signo > AGENT_MAX_SIGNAL)
        return false;
    end.status = signo ? 128 + (int)signo : (int)status;
    end.signal = (int)signo;
    end.timed_out = flags & AGENT_EXITED_TIMED_OUT;
    end.core_dumped = flags & AGENT_EXITED_CORE;
    exec_over(a);
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
        if (a->putting && !a->pending) {
            if (a->file_left)
                return false; /* done with what it has not got */
            a->putting = false;
        }
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
        agent_flush(a);
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
