/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's server: see server.h.
 *
 * Theory of operation
 *
 * One thread, one loop. A connection starts with HELLO and takes control requests; an EXEC makes it that exec's, until
 * that has ended. What comes then waits (ga_conn_pause) until the exec has been freed.
 * Nothing is freed while events are being dispatched: after each round sweep() frees what has died or ended. A
 * connection that dies takes its exec with it, except the detached workload: that is kept by the server then, running
 * or ended, until ATTACH gives it to another connection or the next workload takes its place.
 *
 * Children: one signalfd; on SIGCHLD everything that can be reaped is: execs, helpers for SYNC, and orphans, which end
 * up here because this is PID 1. A control group that still has processes when its exec ends is kept on `leftovers` and
 * removed when they have gone; there are never more of those than processes.
 *
 * Limits: AGENT_MAX_CONNECTIONS, each with the limits of conn.h and exec.h.
 */
#include "server.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h> /* needs the one above */
#include <sys/wait.h>
#include <unistd.h>

#include "cgroup.h"
#include "exec.h"
#include "lifecycle_regs.h"
#include "put.h"

#define NS_PER_MS 1000000ull

struct peer {
    struct ga_conn conn;
    struct ga_server *s;
    struct peer *next;
    struct ga_exec *exec;
    pid_t helper; /* runs sync(); 0: none */
    struct ga_put put;
    bool hello;
    bool had_exec; /* frames for one that has ended may still come */
};

struct ga_server {
    struct ga_loop loop;
    const struct ga_server_ops *ops;
    void *ctx;
    bool ready;
    bool setup_tried; /* a set-up that failed half-way cannot be tried again */
    int cgroup, root;
    struct ga_life life;
    struct ga_source listener, sigchld;
    struct peer *peers;
    unsigned n_peers;
    struct ga_exec *workload; /* detached and nobody's; or NULL */
    uint64_t next_id;
    uint64_t *leftovers; /* ids of control groups to remove */
    size_t n_leftovers;
};

static struct peer *peer_of(struct ga_conn *c)
{
    return (struct peer *)(void *)((char *)c - offsetof(struct peer, conn));
}

/* ---- Execs ---- */

static void remove_leftovers(struct ga_server *s)
{
    size_t kept = 0;

    for (size_t i = 0; i < s->n_leftovers; i++)
        if (!ga_cgroup_remove(s->cgroup, s->leftovers[i]))
            s->leftovers[kept++] = s->leftovers[i];
    s->n_leftovers = kept;
}

static void free_exec(struct ga_server *s, struct ga_exec *x)
{
    uint64_t id = ga_exec_id(x);

    ga_exec_free(x);
    if (ga_cgroup_remove(s->cgroup, id))
        return;
    uint64_t *more = realloc(s->leftovers, (s->n_leftovers + 1) * sizeof(*more));
    if (!more)
        return; /* an empty directory stays behind */
    s->leftovers = more;
    s->leftovers[s->n_leftovers++] = id;
}

static bool exec_is_done(const struct peer *p)
{
    return p->exec && (p->conn.dead || p->conn.ending || ga_exec_ended(p->exec));
}

/* A detached workload whose connection is of no more use to it becomes the server's, in the place of an older one. */
static void take_over_workloads(struct ga_server *s)
{
    for (struct peer *p = s->peers; p; p = p->next) {
        if (!exec_is_done(p) || !ga_exec_is_detached(p->exec))
            continue;
        if (s->workload)
            free_exec(s, s->workload);
        s->workload = p->exec;
        p->exec = NULL;
        ga_exec_detach(s->workload);
    }
}

/* ---- Requests ---- */

static void take_hello(struct peer *p, const uint8_t *data, size_t len)
{
    struct ga_reader r = {.p = data, .left = len};
    struct ga_error err = {0};
    uint8_t b[8];
    uint32_t magic = ga_read_u32(&r), version = ga_read_u32(&r);

    if (r.bad || r.left || magic != AGENT_MAGIC) {
        ga_conn_refuse(&p->conn, EPROTO, "this is not the agent protocol");
        return;
    }
    ga_put_u32(b, AGENT_MAGIC);
    ga_put_u32(b + 4, AGENT_VERSION);
    ga_conn_send(&p->conn, AGENT_HELLO, b, sizeof(b));
    p->hello = true;
    if (version != AGENT_VERSION) {
        ga_error_set(&err, EPROTONOSUPPORT, "the agent speaks version %u of its protocol, the host version %u",
                     AGENT_VERSION, version);
        ga_conn_refuse(&p->conn, err.code, err.text);
    }
}

static void take_setup(struct peer *p, const uint8_t *data, size_t len)
{
    struct ga_server *s = p->s;
    struct ga_setup setup;
    struct ga_error err = {0};
    int r = ga_setup_decode(data, len, &setup, &err);

    if (r == 0) {
        if (s->ready || s->setup_tried)
            r = ga_error_set(&err, EALREADY, "the guest has been set up before; that can be done once");
        else
            r = s->ops->setup(s->ctx, &setup, &s->cgroup, &s->root, &err);
        if (r == 0) {
            ga_life_catch_up(&s->life);
            ga_life_setup(&s->life, &setup, s->root, s->cgroup);
        }
        s->setup_tried = true;
        ga_setup_done(&setup);
    }
    if (r < 0) {
        ga_conn_refuse(&p->conn, err.code, err.text);
        return;
    }
    s->ready = true;
    ga_conn_send(&p->conn, AGENT_OK, NULL, 0);
}

/* The connection that has the workload, or NULL. One that is lost, but has not been looked at since, has none. */
static struct peer *workload_peer(struct ga_server *s)
{
    for (struct peer *p = s->peers; p; p = p->next)
        if (p->exec && ga_exec_is_workload(p->exec) && !ga_exec_ended(p->exec) && !p->conn.ending &&
            !ga_conn_lost(&p->conn))
            return p;
    return NULL;
}

static void take_exec(struct peer *p, const uint8_t *data, size_t len)
{
    struct ga_server *s = p->s;
    struct ga_exec_req req;
    struct ga_error err = {0};

    if (!s->ready) {
        ga_conn_refuse(&p->conn, EAGAIN, "the guest is not set up yet");
        return;
    }
    if (ga_exec_decode(data, len, &req, &err) < 0) {
        ga_conn_refuse(&p->conn, err.code, err.text);
        return;
    }
    if ((req.flags & AGENT_EXEC_WORKLOAD) && (workload_peer(s) || (s->workload && ga_exec_running(s->workload))))
        ga_conn_refuse(&p->conn, EBUSY, "the guest already runs a workload");
    else
        p->exec = ga_exec_start(&p->conn, &req, s->cgroup, s->next_id++);
    p->had_exec = true;
    ga_exec_req_done(&req);
}

static void take_attach(struct peer *p, const uint8_t *data, size_t len)
{
    struct ga_server *s = p->s;
    struct ga_reader r = {.p = data, .left = len};

    if (ga_read_u32(&r) != 0 || r.bad || r.left) {
        ga_conn_refuse(&p->conn, EPROTO, "malformed ATTACH frame");
        return;
    }
    if (workload_peer(s)) {
        ga_conn_refuse(&p->conn, EBUSY, "another connection has the guest's workload");
        return;
    }
    take_over_workloads(s); /* of connections just found lost */
    if (!s->workload) {
        ga_conn_refuse(&p->conn, ENOENT, "the guest has no detached workload");
        return;
    }
    p->exec = s->workload;
    p->had_exec = true;
    s->workload = NULL;
    ga_exec_attach(p->exec, &p->conn);
}

static void take_pre_exec(struct peer *p)
{
    if (!p->s->ready) {
        ga_conn_refuse(&p->conn, EAGAIN, "the guest is not set up yet");
        return;
    }
    ga_conn_send(&p->conn, AGENT_OK, NULL, 0);
    ga_life_tell(&p->s->life, SM_LC_EV_PRE_EXEC, 0);
}

static void take_renew(struct peer *p, const uint8_t *data, size_t len)
{
    struct ga_server *s = p->s;
    struct ga_error err = {0};
    int signo;

    if (ga_life_renew(&s->life, data, len, &signo, &err) < 0) {
        ga_conn_refuse(&p->conn, err.code, err.text);
        return;
    }
    for (struct peer *q = s->peers; q && signo; q = q->next)
        if (q->exec)
            ga_exec_signal(q->exec, signo);
    if (s->workload && signo)
        ga_exec_signal(s->workload, signo);
    ga_conn_send(&p->conn, AGENT_OK, NULL, 0);
}

static void take_put(struct peer *p, uint32_t type, const uint8_t *data, size_t len)
{
    struct ga_error err = {0};
    int r;

    if (!p->s->ready)
        r = ga_error_set(&err, EAGAIN, "the guest is not set up yet");
    else if (type == AGENT_PUT)
        r = ga_put_begin(&p->put, p->s->root, data, len, &err);
    else
        r = ga_put_data(&p->put, data, len, &err);
    if (r < 0)
        ga_conn_refuse(&p->conn, err.code, err.text);
    else if (r > 0)
        ga_conn_send(&p->conn, AGENT_OK, NULL, 0);
}

/* sync() may take long: a child waits for it. Frames behind it wait too, so that answers keep their order. */
static void take_sync(struct peer *p)
{
    pid_t pid = fork();

    if (pid == 0) {
        sync();
        _exit(0);
    }
    if (pid < 0) {
        ga_conn_refuse(&p->conn, errno, "the guest could not start a process for SYNC");
        return;
    }
    p->helper = pid;
    ga_conn_pause(&p->conn);
}

static void take_power(struct peer *p, const uint8_t *data, size_t len)
{
    struct ga_reader r = {.p = data, .left = len};
    struct ga_error err = {0};
    uint32_t how = ga_read_u32(&r);

    if (r.bad || r.left || (how != AGENT_POWER_OFF && how != AGENT_POWER_RESET)) {
        ga_conn_refuse(&p->conn, EPROTO, "malformed POWER frame");
        return;
    }
    ga_conn_send(&p->conn, AGENT_OK, NULL, 0);
    if (p->s->ops->power(p->s->ctx, how, &err) < 0)
        ga_conn_refuse(&p->conn, err.code, err.text);
}

/* Sent before the host knew that the exec has ended. */
static bool is_too_late(const struct peer *p, uint32_t type)
{
    return p->had_exec && (type == AGENT_CREDIT || type == AGENT_STDIN || type == AGENT_STDIN_EOF ||
                           type == AGENT_RESIZE || type == AGENT_SIGNAL);
}

static void on_frame(struct ga_conn *c, uint32_t type, const uint8_t *data, size_t len)
{
    struct peer *p = peer_of(c);
    struct ga_error err = {0};

    if (!p->hello && type != AGENT_HELLO) {
        ga_conn_refuse(c, EPROTO, "the first frame is not HELLO");
        return;
    }
    if (p->exec) {
        if (ga_exec_frame(p->exec, type, data, len, &err) < 0)
            ga_conn_refuse(c, err.code, err.text);
        return;
    }
    if (is_too_late(p, type))
        return;
    if (p->put.active != (type == AGENT_PUT_DATA)) {
        ga_error_set(&err, EPROTO, "a frame of type %u %s the bytes of a file", type,
                     p->put.active ? "comes between" : "has");
        ga_conn_refuse(c, err.code, err.text);
    } else if (type == AGENT_HELLO && !p->hello) {
        take_hello(p, data, len);
    } else if (type == AGENT_SETUP) {
        take_setup(p, data, len);
    } else if (type == AGENT_EXEC) {
        take_exec(p, data, len);
    } else if (type == AGENT_SYNC && len == 0) {
        take_sync(p);
    } else if (type == AGENT_PING && len == 0) {
        ga_conn_send(c, AGENT_OK, NULL, 0);
    } else if (type == AGENT_POWER) {
        take_power(p, data, len);
    } else if (type == AGENT_PRE_EXEC && len == 0) {
        take_pre_exec(p);
    } else if (type == AGENT_RENEW) {
        take_renew(p, data, len);
    } else if (type == AGENT_PUT || type == AGENT_PUT_DATA) {
        take_put(p, type, data, len);
    } else if (type == AGENT_ATTACH) {
        take_attach(p, data, len);
    } else {
        ga_error_set(&err, EPROTO, "unexpected agent frame: type %u with %zu bytes", type, len);
        ga_conn_refuse(c, err.code, err.text);
    }
}

static void on_room(struct ga_conn *c)
{
    struct peer *p = peer_of(c);

    if (p->exec)
        ga_exec_room(p->exec);
}

/* ---- Connections ---- */

int ga_server_adopt(struct ga_server *s, int fd)
{
    struct peer *p = s->n_peers < AGENT_MAX_CONNECTIONS ? calloc(1, sizeof(*p)) : NULL;

    if (!p) {
        close(fd);
        return -EMFILE;
    }
    p->s = s;
    p->conn.on_frame = on_frame;
    p->conn.on_room = on_room;
    int r = ga_conn_init(&p->conn, &s->loop, fd);
    if (r < 0) {
        free(p);
        return r;
    }
    p->next = s->peers;
    s->peers = p;
    s->n_peers++;
    return 0;
}

static void on_listener(struct ga_source *src, uint32_t events)
{
    struct sockaddr_vm from = {0};
    socklen_t len = sizeof(from);
    int fd = accept4(src->fd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    /* A process in the guest must not become root by way of the agent. */
    if (from.svm_family != AF_VSOCK || from.svm_cid != VMADDR_CID_HOST) {
        close(fd);
        return;
    }
    ga_server_adopt(src->ctx, fd);
}

int ga_server_listen(struct ga_server *s, int fd)
{
    ga_source_init(&s->listener, fd, on_listener, s);
    int r = ga_source_want(&s->loop, &s->listener, EPOLLIN);
    if (r < 0)
        ga_source_close(&s->loop, &s->listener);
    return r;
}

/* Free what has ended. The connection of an exec that has ended goes on with what the host asks next. */
static void sweep(struct ga_server *s)
{
    take_over_workloads(s);
    for (struct peer **at = &s->peers, *p; (p = *at);) {
        if (exec_is_done(p)) {
            free_exec(s, p->exec);
            p->exec = NULL;
        }
        if (!p->conn.dead) {
            at = &p->next;
            if (p->conn.paused && !p->exec && !p->helper)
                ga_conn_resume(&p->conn);
            continue;
        }
        *at = p->next;
        ga_put_done(&p->put);
        ga_conn_done(&p->conn);
        free(p);
        s->n_peers--;
    }
}

/* ---- Children ---- */

/* The process of `x`, which may be NULL, if it is that. */
static bool reap_exec(struct ga_server *s, struct ga_exec *x, pid_t pid, int status, const struct rusage *ru)
{
    if (!x || ga_exec_pid(x) != pid)
        return false;
    if (ga_exec_reaped(x, status, ru) && ga_exec_is_workload(x))
        ga_life_tell(&s->life, SM_LC_EV_WORKLOAD_PARKED, (uint32_t)status);
    return true;
}

static void reaped(struct ga_server *s, pid_t pid, int status, const struct rusage *ru)
{
    if (reap_exec(s, s->workload, pid, status, ru))
        return;
    for (struct peer *p = s->peers; p; p = p->next) {
        if (reap_exec(s, p->exec, pid, status, ru))
            return;
        if (p->helper == pid) {
            p->helper = 0;
            ga_conn_send(&p->conn, AGENT_OK, NULL, 0);
            ga_conn_resume(&p->conn);
            return;
        }
    }
}

static void on_sigchld(struct ga_source *src, uint32_t events)
{
    struct ga_server *s = src->ctx;
    struct signalfd_siginfo info;
    struct rusage ru;
    int status;
    pid_t pid;

    while (read(src->fd, &info, sizeof(info)) > 0)
        ;
    while ((pid = wait4(-1, &status, WNOHANG, &ru)) > 0)
        reaped(s, pid, status, &ru);
    remove_leftovers(s);
}

/* ---- The server ---- */

int ga_server_new(const struct ga_server_ops *ops, void *ctx, bool ready, struct ga_server **ret)
{
    struct ga_server *s = calloc(1, sizeof(*s));
    sigset_t set;
    int r;

    if (!s)
        return -ENOMEM;
    *s = (struct ga_server){.ops = ops, .ctx = ctx, .ready = ready, .cgroup = -1, .root = -1, .next_id = 1};
    ga_life_init(&s->life, &s->loop, ops, ctx);
    ga_source_init(&s->listener, -1, on_listener, s);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    ga_source_init(&s->sigchld, signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), on_sigchld, s);
    r = s->sigchld.fd < 0 ? -errno : ga_loop_init(&s->loop);
    if (r < 0) {
        if (s->sigchld.fd >= 0)
            close(s->sigchld.fd);
        free(s);
        return r;
    }
    r = ga_source_want(&s->loop, &s->sigchld, EPOLLIN);
    if (r < 0) {
        ga_server_free(s);
        return r;
    }
    *ret = s;
    return 0;
}

void ga_server_free(struct ga_server *s)
{
    if (!s)
        return;
    for (struct peer *p = s->peers; p; p = p->next)
        ga_conn_done(&p->conn);
    sweep(s);
    if (s->workload)
        free_exec(s, s->workload);
    ga_life_done(&s->life);
    ga_source_close(&s->loop, &s->listener);
    ga_source_close(&s->loop, &s->sigchld);
    ga_loop_done(&s->loop);
    if (s->cgroup >= 0)
        close(s->cgroup);
    if (s->root >= 0)
        close(s->root);
    free(s->leftovers);
    free(s);
}

int ga_server_watch(struct ga_server *s, int fd)
{
    return ga_life_watch(&s->life, fd);
}

/* The earlier of *next (0: none) and the exec's own deadline, after firing it if it is due. */
static void tick_exec(struct ga_exec *x, uint64_t now, uint64_t *next)
{
    if (!x)
        return;
    ga_exec_tick(x, now);
    uint64_t at = ga_exec_deadline(x);
    if (at && (!*next || at < *next))
        *next = at;
}

/* Fire the timeouts that are due. Returns how long to wait for the next one, in ms; -1: there is none. */
static int tick(struct ga_server *s)
{
    uint64_t now = ga_now_ns(), next = 0;

    tick_exec(s->workload, now, &next);
    for (struct peer *p = s->peers; p; p = p->next)
        tick_exec(p->exec, now, &next);
    if (!next)
        return -1;
    uint64_t ms = next <= now ? 0 : (next - now + NS_PER_MS - 1) / NS_PER_MS;
    return ms > INT32_MAX ? INT32_MAX : (int)ms;
}

int ga_server_run(struct ga_server *s, bool until_idle)
{
    do {
        tick(s);
        sweep(s); /* a timeout may have ended an exec, and another one waited behind it */
        int r = ga_loop_once(&s->loop, tick(s));
        if (r < 0)
            return r;
        sweep(s);
    } while (!until_idle || s->peers);
    return 0;
}
