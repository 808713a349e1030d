/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host client of the agent protocol, what it asks of the guest: see agent.h. The connection itself is agent.c.
 *
 * Every request is checked against the limits of proto.h and encoded here, in one piece: what is refused leaves the
 * connection as it was. The bytes of a file (PUT) are the exception: they stay the caller's and are cut into frames as
 * the socket takes them, so nothing may be asked behind them until the guest has answered.
 */
#include "lib/agent_private.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* While so much waits, a new window size replaces the one before. */
#define OUT_BUSY (16u << 10)

/* ---- Requests ---- */

static int request(struct agent *a, uint16_t type, const struct buf *payload, struct sm_error *err)
{
    if (a->putting && !a->ended)
        return sm_error_set(err, EBUSY, "a file is on its way to the guest; ask again when that is done");
    if (a->ended || a->exec)
        return sm_error_set(err, EPIPE,
                            a->ended ? "the connection to the guest's agent has ended"
                                     : "this connection to the guest's agent already runs an exec");
    if (payload && payload->bad)
        return sm_error_set(err, E2BIG, "the request to the guest's agent is over %u bytes; %s", AGENT_REQUEST_MAX,
                            type == AGENT_EXEC ? "pass fewer or shorter arguments and variables" : "shorten it");
    agent_put_frame(a, type, payload ? payload->data : NULL, payload ? payload->len : 0);
    if (type == AGENT_EXEC || type == AGENT_ATTACH)
        a->exec = true;
    else
        a->pending++;
    agent_flush(a);
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
    buf_u32(&b, (s->read_only ? AGENT_SETUP_READ_ONLY : 0) | (s->heartbeat ? AGENT_SETUP_HEARTBEAT : 0) |
                    (s->listeners ? AGENT_SETUP_LISTENERS : 0));
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

int agent_pre_exec(struct agent *a, struct sm_error *err)
{
    return request(a, AGENT_PRE_EXEC, NULL, err);
}

int agent_renew(struct agent *a, const uint8_t generation[AGENT_GENERATION_SIZE], const char *hostname, int signo,
                struct sm_error *err)
{
    struct buf b = buf_init(AGENT_SMALL_MAX);
    int r;

    if (signo < 0 || signo > (int)AGENT_MAX_SIGNAL)
        return sm_error_set(err, EINVAL, "there is no signal %d", signo);
    buf_bytes(&b, generation, AGENT_GENERATION_SIZE);
    r = put_str(&b, "the host name", hostname, AGENT_MAX_HOSTNAME, err);
    buf_u32(&b, (uint32_t)signo);
    if (r == 0)
        r = request(a, AGENT_RENEW, &b, err);
    buf_done(&b);
    return r;
}

int agent_put(struct agent *a, const char *path, uint32_t mode, uint32_t uid, uint32_t gid, const void *data,
              size_t len, struct sm_error *err)
{
    struct buf b = buf_init(AGENT_DATA_MAX);
    int r;

    if (path[0] != '/' || !path[1])
        return sm_error_set(err, EINVAL, "'%s' is no absolute path of a file in the guest", path);
    if (len > AGENT_MAX_PUT)
        return sm_error_set(err, EFBIG, "'%s' has %zu bytes; at most %llu can be put into the guest", path, len,
                            AGENT_MAX_PUT);
    r = put_str(&b, "the path", path, AGENT_MAX_PATH, err);
    buf_u32(&b, mode & 07777);
    buf_u32(&b, uid);
    buf_u32(&b, gid);
    buf_u64(&b, len);
    if (r == 0)
        r = request(a, AGENT_PUT, &b, err);
    buf_done(&b);
    if (r < 0)
        return r;
    a->putting = true;
    a->file = data;
    a->file_left = len;
    agent_flush(a);
    return 0;
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
                     (x->no_new_privs ? AGENT_EXEC_NO_NEW_PRIVS : 0) | (x->detached ? AGENT_EXEC_DETACHED : 0) |
                     (x->late_start ? AGENT_EXEC_LATE_START : 0);
    int r;

    if (!x->argv || !x->argv[0])
        return sm_error_set(err, EINVAL, "there is no command to run; give one, or an image with an entry point");
    if (x->detached && !x->workload)
        return sm_error_set(err, EINVAL, "only the workload can be detached from its connection");
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

int agent_attach(struct agent *a, struct sm_error *err)
{
    struct buf b = buf_init(AGENT_SMALL_MAX);

    buf_u32(&b, 0);
    int r = request(a, AGENT_ATTACH, &b, err);
    buf_done(&b);
    if (r == 0)
        a->open_stdin = true; /* the guest drops what the workload has no stdin for */
    return r;
}

/* ---- A running exec ---- */

size_t agent_stdin(struct agent *a, const void *data, size_t len)
{
    const uint8_t *p = data;
    size_t left = len;

    if (a->ended || a->eof_sent || !a->open_stdin)
        return len;
    if (a->resize_waits && left && a->stdin_credit)
        agent_put_resize(a); /* what is typed after a resize comes after it */
    while (left && a->stdin_credit) {
        size_t n = left < a->stdin_credit ? left : a->stdin_credit;

        if (n > AGENT_DATA_MAX)
            n = AGENT_DATA_MAX;
        agent_put_frame(a, AGENT_STDIN, p, n);
        a->stdin_credit -= n;
        p += n;
        left -= n;
    }
    if (left)
        a->want_room = true;
    agent_flush(a);
    return len - left;
}

void agent_stdin_eof(struct agent *a)
{
    if (a->ended || a->eof_sent || !a->open_stdin)
        return;
    a->eof_sent = true;
    agent_put_frame(a, AGENT_STDIN_EOF, NULL, 0);
    agent_flush(a);
}

void agent_output_done(struct agent *a, enum agent_stream stream, size_t len)
{
    assert(stream == AGENT_STREAM_STDOUT || stream == AGENT_STREAM_STDERR);
    struct output *o = &a->output[stream - AGENT_STREAM_STDOUT];

    if (!a->exec)
        return;
    assert(len <= o->unread);
    o->unread -= len;
    o->owed += len;
    /* Few credits for many bytes; the guest cannot be waiting while less than this is owed and nothing is unread. */
    if (a->ended || o->owed < AGENT_WINDOW / 4)
        return;
    agent_put_pair(a, AGENT_CREDIT, stream, (uint32_t)o->owed);
    o->owed = 0;
    agent_flush(a);
}

void agent_resize(struct agent *a, uint16_t rows, uint16_t cols)
{
    if (a->ended || !a->exec)
        return;
    a->rows = rows;
    a->cols = cols;
    if (agent_out_waiting(a) > OUT_BUSY) {
        a->resize_waits = true;
        return;
    }
    agent_put_resize(a);
    agent_flush(a);
}

void agent_signal(struct agent *a, int signo, uint32_t target)
{
    if (a->ended || !a->exec || signo < 1 || signo > (int)AGENT_MAX_SIGNAL)
        return;
    agent_put_pair(a, AGENT_SIGNAL, (uint32_t)signo, target);
    agent_flush(a);
}
