/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One exec: see exec.h, and docs/guest-protocol.md for what the host sees.
 *
 * Theory of operation
 *
 * States: STARTING until the child's report pipe says how execve went; RUNNING until the process has been reaped;
 * DRAINING until what it had written has gone out; ENDED, with a last frame that was sent or waits for a connection.
 *
 * Connection. An exec has one, until it is lost; only a detached exec goes on without. Its output then stays in its
 * pipes, and nothing is read. What the connection had taken and not yet delivered, either way, is lost with it. The
 * next connection starts with full windows and, where all is over, gets the last frame.
 *
 * Output. A stream is read only while the host has given credit for it and the connection has room; otherwise its
 * descriptor is out of the epoll set, the pipe fills and the process waits: its own fault, nobody else's. When the
 * process has ended, exactly what is in its pipes at that moment still goes out. So a daemon that keeps a pipe open
 * does not keep the exec open, and nothing that the process itself wrote is lost. A terminal hangs up when its session
 * leader exits, so it is read until it has nothing more to say.
 *
 * Input. The host sends at most AGENT_WINDOW bytes ahead; what the pipe does not take waits in `pending`. When the
 * process has closed its stdin, bytes are dropped and credited, so that the host never hangs on them.
 *
 * Death. The timeout kills everything in the exec's control group, so does losing the connection, so does the end of
 * the workload. Children that an ordinary exec left behind live on, as with Docker; they are PID 1's to reap.
 *
 * Limits: AGENT_WINDOW of stdin, GA_OUT_HIGH and a frame per stream of output (in the connection).
 */
#include "exec.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "cgroup.h"
#include "spawn.h"
#include "streams.h"

#define NS_PER_MS 1000000ull

/* A terminal's rest is read in this many bytes at most: it cannot hold so much unless somebody still writes. */
#define TTY_DRAIN (1u << 20)

enum exec_state { STARTING, RUNNING, DRAINING, ENDED };

struct output {
    struct ga_source src;
    struct ga_exec *x;
    uint32_t frame;
    size_t credit; /* bytes that the host still takes */
    size_t drain;  /* when DRAINING: bytes still to be read */
};

struct ga_exec {
    struct ga_loop *loop;
    struct ga_conn *conn; /* NULL: detached, and nobody has it */
    enum exec_state state;
    uint32_t flags;
    pid_t pid;         /* 0: reaped */
    uint32_t told_pid; /* what STARTED says */
    int cgroup_parent;
    uint64_t id;
    bool in_cgroup;
    struct ga_source report, in;
    struct output out[2];
    int slave; /* kept open while the process lives, so that the master does not report an end before */
    struct ga_queue pending;
    bool in_eof;
    uint8_t last_in;  /* the last byte written to a terminal */
    size_t in_window; /* bytes the host may send */
    size_t in_owed;   /* bytes done with and not yet credited */
    uint64_t start_ns, end_ns, deadline_ns;
    bool timed_out;
    bool starts_late; /* nobody waits for STARTED */
    int status;
    long peak_rss_kib;
    struct ga_start_record failed; /* `reason` 0: it did start */
};

/* ---- The end ---- */

static void kill_tree(struct ga_exec *x)
{
    if (x->in_cgroup && ga_cgroup_kill(x->cgroup_parent, x->id))
        return;
    if (x->pid > 0) {
        kill(-x->pid, SIGKILL); /* not there yet when the child has not made its session */
        kill(x->pid, SIGKILL);
    }
}

static void close_all(struct ga_exec *x)
{
    ga_source_close(x->loop, &x->report);
    ga_source_close(x->loop, &x->in);
    ga_source_close(x->loop, &x->out[0].src);
    ga_source_close(x->loop, &x->out[1].src);
    if (x->slave >= 0)
        close(x->slave);
    x->slave = -1;
    ga_queue_done(&x->pending);
}

static void send_exited(struct ga_exec *x)
{
    uint8_t b[28];
    uint32_t flags = 0, status = 0, signo = 0;

    if (WIFSIGNALED(x->status)) {
        signo = (uint32_t)WTERMSIG(x->status);
        if (WCOREDUMP(x->status))
            flags |= AGENT_EXITED_CORE;
    } else {
        status = (uint32_t)WEXITSTATUS(x->status);
    }
    if (x->timed_out)
        flags |= AGENT_EXITED_TIMED_OUT;
    ga_put_u32(b, status);
    ga_put_u32(b + 4, signo);
    ga_put_u32(b + 8, flags);
    ga_put_u64(b + 12, x->end_ns - x->start_ns);
    ga_put_u64(b + 20, (uint64_t)x->peak_rss_kib);
    ga_conn_send(x->conn, AGENT_EXITED, b, sizeof(b));
}

/*
 * The last frame, which can be sent more than once: to who comes when all is over. What the host asks next waits until
 * this exec is out of the way.
 */
static void send_end(struct ga_exec *x)
{
    if (x->failed.reason)
        ga_conn_start_error(x->conn, x->failed.reason, (int)x->failed.code, x->failed.text);
    else
        send_exited(x);
    ga_conn_pause(x->conn);
}

static void send_started(struct ga_exec *x)
{
    uint8_t pid[4];

    ga_put_u32(pid, x->told_pid);
    if (x->starts_late)
        ga_conn_put(x->conn, AGENT_STARTED, pid, sizeof(pid));
    else
        ga_conn_send(x->conn, AGENT_STARTED, pid, sizeof(pid));
}

static void end(struct ga_exec *x)
{
    x->state = ENDED;
    x->deadline_ns = 0;
    close_all(x);
    if (x->conn)
        send_end(x);
}

/* ---- Output ---- */

/*
 * One read. A level-triggered loop comes back for more, after the others have had their turn. But once the process has
 * ended, all that is there: where a child of it keeps the terminal open, the loop has no reason to come back for the
 * end.
 */
static void pump_out(struct output *o)
{
    struct ga_exec *x = o->x;
    bool draining = x->state == DRAINING;

    if (o->src.fd < 0)
        return;
    do {
        size_t max = o->credit < AGENT_DATA_MAX ? o->credit : AGENT_DATA_MAX;

        if (draining && o->drain == 0) {
            ga_source_close(x->loop, &o->src);
            return;
        }
        if (!x->conn) {
            ga_source_want(x->loop, &o->src, 0);
            return;
        }
        if (x->conn->dead)
            return;
        if (draining && o->drain < max)
            max = o->drain;
        if (!max || !ga_conn_has_room(x->conn))
            break;
        ssize_t n = ga_conn_send_from(x->conn, o->frame, o->src.fd, max);
        if (n > 0) {
            o->credit -= (size_t)n;
            if (draining)
                o->drain -= (size_t)n;
        } else if (n != -EAGAIN || draining) {
            /* End of file; or EIO: a terminal that has been hung up. */
            ga_source_close(x->loop, &o->src);
            return;
        }
    } while (draining);
    ga_source_want(x->loop, &o->src, o->credit && ga_conn_has_room(x->conn) ? EPOLLIN : 0);
}

static void pump_outputs(struct ga_exec *x)
{
    pump_out(&x->out[0]);
    pump_out(&x->out[1]);
    if (x->state == DRAINING && x->out[0].src.fd < 0 && x->out[1].src.fd < 0)
        end(x);
}

static void on_report(struct ga_source *src, uint32_t events);

static void on_output(struct ga_source *src, uint32_t events)
{
    struct output *o = src->ctx;

    if (o->x->state == STARTING) {
        on_report(&o->x->report, EPOLLIN);
        return;
    }
    pump_out(o);
    if (o->x->state == DRAINING)
        pump_outputs(o->x);
}

void ga_exec_room(struct ga_exec *x)
{
    if (x->state == RUNNING || x->state == DRAINING)
        pump_outputs(x);
}

/* ---- Input ---- */

static void consumed(struct ga_exec *x, size_t n)
{
    uint8_t b[8];

    x->in_owed += n;
    if (!x->conn || x->in_owed < AGENT_WINDOW / 4)
        return;
    ga_put_u32(b, AGENT_STREAM_STDIN);
    ga_put_u32(b + 4, (uint32_t)x->in_owed);
    ga_conn_send(x->conn, AGENT_CREDIT, b, sizeof(b));
    x->in_window += x->in_owed;
    x->in_owed = 0;
}

/* A terminal has no half-close: its end-of-file character says the same to who reads lines. */
static void send_tty_eof(struct ga_exec *x)
{
    struct termios t;
    uint8_t eof[2];

    if (tcgetattr(x->in.fd, &t) < 0 || !(t.c_lflag & ICANON))
        return;
    /* In the middle of a line the first one only ends the read. */
    eof[0] = eof[1] = t.c_cc[VEOF];
    (void)!write(x->in.fd, eof, x->last_in == '\n' ? 1 : 2);
}

static void close_in(struct ga_exec *x)
{
    size_t left = ga_queue_size(&x->pending);

    ga_source_close(x->loop, &x->in);
    ga_queue_done(&x->pending);
    if (left)
        consumed(x, left);
}

/* 0, or -EAGAIN when the process does not take more now. */
static ssize_t write_in(struct ga_exec *x, const uint8_t *p, size_t len)
{
    ssize_t n;

    do
        n = write(x->in.fd, p, len);
    while (n < 0 && errno == EINTR);
    if (n > 0) {
        x->last_in = p[n - 1];
        return n;
    }
    return n < 0 ? -errno : 0;
}

static void pump_in(struct ga_exec *x)
{
    while (x->in.fd >= 0 && ga_queue_size(&x->pending)) {
        ssize_t n = write_in(x, x->pending.data + x->pending.off, ga_queue_size(&x->pending));

        if (n == -EAGAIN)
            break;
        if (n <= 0) {
            close_in(x);
            return;
        }
        ga_queue_consume(&x->pending, (size_t)n);
        consumed(x, (size_t)n);
    }
    if (x->in.fd >= 0 && x->in_eof && ga_queue_size(&x->pending) == 0) {
        if (x->flags & AGENT_EXEC_TTY)
            send_tty_eof(x);
        close_in(x);
        return;
    }
    ga_source_want(x->loop, &x->in, ga_queue_size(&x->pending) ? EPOLLOUT : 0);
}

static void on_input(struct ga_source *src, uint32_t events)
{
    pump_in(src->ctx);
}

static int take_stdin(struct ga_exec *x, const uint8_t *data, size_t len, struct ga_error *err)
{
    if (len > x->in_window)
        return ga_error_set(err, EPROTO, "the host sent %zu bytes of stdin with a credit of %zu", len, x->in_window);
    x->in_window -= len;
    if (x->in.fd < 0 || x->in_eof || !(x->flags & AGENT_EXEC_STDIN)) {
        consumed(x, len);
        return 0;
    }
    /* Straight into the pipe as far as it goes, if nothing waits before. */
    while (len && ga_queue_size(&x->pending) == 0) {
        ssize_t n = write_in(x, data, len);

        if (n <= 0)
            break;
        consumed(x, (size_t)n);
        data += n;
        len -= (size_t)n;
    }
    if (len) {
        uint8_t *p = ga_queue_reserve(&x->pending, len);

        if (!p)
            return ga_error_set(err, ENOMEM, "the guest has no memory for stdin");
        memcpy(p, data, len);
        ga_queue_commit(&x->pending, len);
        pump_in(x);
    }
    return 0;
}

/* ---- Start ---- */

/*
 * How execve went: a record, or nothing, since the pipe closes by itself. All of that has happened when there is output
 * or when the child has ended, so where nobody waits for STARTED those are soon enough to look.
 */
static void on_report(struct ga_source *src, uint32_t events)
{
    struct ga_exec *x = src->ctx;
    struct ga_start_record rec;
    ssize_t n;

    do
        n = read(src->fd, &rec, sizeof(rec));
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN)
        return;
    ga_source_close(x->loop, src);
    if (n == (ssize_t)sizeof(rec)) {
        rec.text[sizeof(rec.text) - 1] = '\0';
        x->failed = rec;
        end(x);
        return;
    }
    x->state = RUNNING;
    if (x->conn)
        send_started(x);
    pump_outputs(x);
}

static int watch_outputs(struct ga_exec *x)
{
    int r = ga_source_want(x->loop, &x->out[0].src, EPOLLIN);

    return r < 0 ? r : ga_source_want(x->loop, &x->out[1].src, EPOLLIN);
}

struct ga_exec *ga_exec_start(struct ga_conn *conn, const struct ga_exec_req *req, int cgroup_parent, uint64_t id)
{
    struct ga_exec *x = calloc(1, sizeof(*x));
    struct ga_streams st = GA_STREAMS_INIT;
    struct ga_spawn sp = {.req = req, .cgroup = -1, .report = -1};
    struct ga_error err = {0};
    int r, report = -1;

    if (!x) {
        ga_conn_start_error(conn, AGENT_START_FAILED, ENOMEM, "the guest has no memory for another exec");
        return NULL;
    }
    *x = (struct ga_exec){.loop = conn->loop,
                          .conn = conn,
                          .flags = req->flags,
                          .cgroup_parent = cgroup_parent,
                          .id = id,
                          .in_window = AGENT_WINDOW,
                          .last_in = '\n',
                          .start_ns = ga_now_ns()};
    if (req->timeout_ms)
        x->deadline_ns = x->start_ns + req->timeout_ms * NS_PER_MS;

    r = ga_streams_open(&st, req);
    if (r == 0)
        r = ga_pipe(&report, &sp.report, true);
    ga_source_init(&x->report, report, on_report, x);
    ga_source_init(&x->in, st.in, on_input, x);
    for (int i = 0; i < 2; i++) {
        x->out[i] = (struct output){.x = x, .frame = i ? AGENT_STDERR : AGENT_STDOUT, .credit = AGENT_WINDOW};
        ga_source_init(&x->out[i].src, st.out[i], on_output, &x->out[i]);
        sp.stdio[i] = st.stdio[i];
    }
    sp.stdio[2] = st.stdio[2];
    x->slave = st.slave;
    if (r < 0) {
        ga_error_sys(&err, -r, req->flags & AGENT_EXEC_TTY ? "making a terminal" : "making pipes");
        goto out;
    }
    if (cgroup_parent >= 0) {
        r = sp.cgroup = ga_cgroup_make(cgroup_parent, id);
        if (r < 0) {
            ga_error_sys(&err, -r, "making a control group");
            goto out;
        }
        x->in_cgroup = true;
    }
    x->starts_late = (req->flags & AGENT_EXEC_LATE_START) && !(req->flags & AGENT_EXEC_WORKLOAD);
    if (x->starts_late)
        r = watch_outputs(x);
    else
        r = ga_source_want(x->loop, &x->report, EPOLLIN);
    if (r == 0)
        r = x->pid = ga_spawn(&sp);
    if (r < 0)
        ga_error_sys(&err, -r, "starting a process");
    x->told_pid = (uint32_t)x->pid;
out:
    if (sp.cgroup >= 0)
        close(sp.cgroup);
    ga_streams_close_stdio(&st);
    if (sp.report >= 0)
        close(sp.report);
    if (r >= 0)
        return x;
    x->pid = 0;
    ga_conn_start_error(conn, AGENT_START_FAILED, err.code, err.text);
    ga_exec_free(x);
    return NULL;
}

/* ---- What happens to it ---- */

static void send_signal(struct ga_exec *x, uint32_t signo, uint32_t target)
{
    if (target == AGENT_TARGET_TREE) {
        if (signo == SIGKILL)
            kill_tree(x);
        else if (!(x->in_cgroup && ga_cgroup_signal(x->cgroup_parent, x->id, (int)signo)) && x->pid > 0)
            kill(-x->pid, (int)signo);
    } else if (x->pid > 0) {
        kill(target == AGENT_TARGET_GROUP ? -x->pid : x->pid, (int)signo);
    }
}

int ga_exec_frame(struct ga_exec *x, uint32_t type, const uint8_t *data, size_t len, struct ga_error *err)
{
    struct ga_reader r = {.p = data, .left = len};
    struct winsize ws = {0};
    uint32_t a, b;

    switch (type) {
    case AGENT_STDIN:
        return take_stdin(x, data, len, err);
    case AGENT_STDIN_EOF:
        if (len)
            break;
        x->in_eof = true;
        pump_in(x);
        return 0;
    case AGENT_RESIZE:
        ws.ws_row = ga_read_u16(&r);
        ws.ws_col = ga_read_u16(&r);
        if (r.bad || r.left)
            break;
        if ((x->flags & AGENT_EXEC_TTY) && x->out[0].src.fd >= 0)
            ioctl(x->out[0].src.fd, TIOCSWINSZ, &ws);
        return 0;
    case AGENT_SIGNAL:
        a = ga_read_u32(&r);
        b = ga_read_u32(&r);
        if (r.bad || r.left || a == 0 || a > GA_MAX_SIGNAL || b > AGENT_TARGET_TREE)
            break;
        send_signal(x, a, b);
        return 0;
    case AGENT_CREDIT:
        a = ga_read_u32(&r);
        b = ga_read_u32(&r);
        if (r.bad || r.left || (a != AGENT_STREAM_STDOUT && a != AGENT_STREAM_STDERR) ||
            b > AGENT_WINDOW - x->out[a - AGENT_STREAM_STDOUT].credit)
            break;
        x->out[a - AGENT_STREAM_STDOUT].credit += b;
        ga_exec_room(x);
        return 0;
    default:
        return ga_error_set(err, EPROTO, "a frame of type %u is not for an exec", type);
    }
    return ga_error_set(err, EPROTO, "malformed agent frame: type %u with %zu bytes", type, len);
}

void ga_exec_signal(struct ga_exec *x, int signo)
{
    if (x->state == STARTING)
        on_report(&x->report, EPOLLIN);
    if (x->pid > 0 && x->state == RUNNING)
        kill(x->pid, signo);
}

pid_t ga_exec_pid(const struct ga_exec *x)
{
    return x->pid;
}

uint64_t ga_exec_id(const struct ga_exec *x)
{
    return x->id;
}

bool ga_exec_is_workload(const struct ga_exec *x)
{
    return x->flags & AGENT_EXEC_WORKLOAD;
}

bool ga_exec_is_detached(const struct ga_exec *x)
{
    return x->flags & AGENT_EXEC_DETACHED;
}

bool ga_exec_running(const struct ga_exec *x)
{
    return x->state == STARTING || x->state == RUNNING;
}

/* What is in the pipes when their process has ended still goes out. */
static void start_draining(struct ga_exec *x)
{
    x->state = DRAINING;
    x->deadline_ns = 0;
    x->end_ns = ga_now_ns();
    close_in(x);
    if (x->slave >= 0)
        close(x->slave);
    x->slave = -1;
}

bool ga_exec_reaped(struct ga_exec *x, int status, const struct rusage *ru)
{
    /* The child has ended, so its report is complete: it must come first. */
    if (x->state == STARTING)
        on_report(&x->report, EPOLLIN);
    x->pid = 0;
    if (x->state != RUNNING)
        return false;
    x->status = status;
    x->peak_rss_kib = ru->ru_maxrss;
    if ((x->flags & AGENT_EXEC_WORKLOAD) || x->timed_out)
        kill_tree(x);
    start_draining(x);
    for (int i = 0; i < 2; i++) {
        int n = 0;

        if (x->flags & AGENT_EXEC_TTY)
            n = (int)TTY_DRAIN;
        else if (x->out[i].src.fd >= 0 && ioctl(x->out[i].src.fd, FIONREAD, &n) < 0)
            n = 0;
        x->out[i].drain = n > 0 ? (size_t)n : 0;
    }
    pump_outputs(x);
    return true;
}

uint64_t ga_exec_deadline(const struct ga_exec *x)
{
    return x->deadline_ns;
}

void ga_exec_tick(struct ga_exec *x, uint64_t now)
{
    if (!x->deadline_ns || now < x->deadline_ns)
        return;
    if (!x->timed_out) {
        x->timed_out = true;
        x->deadline_ns = now + GA_KILL_GRACE_NS;
        kill_tree(x);
        return;
    }
    /* It hangs in the kernel. The host's timeout fires all the same. */
    x->status = SIGKILL;
    start_draining(x);
    end(x);
}

void ga_exec_detach(struct ga_exec *x)
{
    x->conn = NULL;
    ga_queue_done(&x->pending);
    pump_outputs(x);
    pump_in(x);
}

void ga_exec_attach(struct ga_exec *x, struct ga_conn *conn)
{
    x->conn = conn;
    x->in_window = AGENT_WINDOW;
    x->in_owed = 0;
    x->out[0].credit = x->out[1].credit = AGENT_WINDOW;
    if (x->state == STARTING)
        return;
    if (!x->failed.reason)
        send_started(x);
    if (x->state == ENDED)
        send_end(x);
    else
        pump_outputs(x);
}

bool ga_exec_ended(const struct ga_exec *x)
{
    return x->state == ENDED;
}

void ga_exec_free(struct ga_exec *x)
{
    if (!x)
        return;
    if (x->state != ENDED)
        kill_tree(x);
    close_all(x);
    free(x);
}
