/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: the owner's side of the control protocol.
 *
 * worker_spawn() makes a SOCK_SEQPACKET pair, gives one end to the new process as CONTROL_FD and keeps the other
 * (non-blocking) on the loop. Requests are packets sent at once; a slot remembers each until its reply has come and was
 * awaited, so several can be under way and the start of a machine costs one round trip and not four.
 *
 * The end comes in one of three ways: EXITED tells the reason and brings the console's tail, then the socket closes;
 * the socket closes without it, then the wait status and the last line of the process' stderr tell; or the owner kills.
 * `ended` is called when the socket has closed, never before: EXITED is not yet the end of the process.
 *
 * Invariants: the worker gets three descriptors (0 and 1 /dev/null, 2 a pipe of ours), the socket, and what requests
 * carry; an empty environment (a worker that a guest has taken over shall find no secrets); a session of its own (the
 * terminal's Ctrl-C is for the owner); default signals. It is killed by its pidfd, so that no other process can be hit.
 *
 * Limits: WORKER_MAX_PENDING requests under way; one frame of CONTROL_MAX_FRAME bytes; 64 KiB of stderr (a pipe).
 * Threads: the loop's only.
 */
#include "lib/worker.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"

#define WORKER_MAX_PENDING     32
#define WORKER_SEND_TIMEOUT_MS 10000 /* a worker that reads nothing for so long is dead */
#define WORKER_EXIT_TIMEOUT_MS 2000  /* from the socket's closing to the process' end */
#define WORKER_STDERR_TAIL     512   /* bytes of its stderr that go into a sentence */
#define WORKER_CONSOLE_CHUNK   4096

struct pending {
    uint32_t id; /* 0: free */
    bool forget, done;
    struct control_report report;
};

struct worker {
    struct loop *loop;
    const struct worker_ops *ops;
    void *ctx;
    struct loop_source sock_src, console_src;
    int sock, console_fd, stderr_fd, pidfd;
    pid_t pid;
    bool reaped, ended;
    bool status_known;
    int status; /* as wait(2) gives it */
    uint32_t last_id;
    struct pending pending[WORKER_MAX_PENDING];
    char refusal[256];
    struct control_report exited; /* .type set once EXITED has come */
    struct sm_error broken;       /* .code set when the worker broke the protocol */
    uint8_t frame[CONTROL_MAX_FRAME];
};

/* ---- Its life ---- */

static int alloc_worker(struct worker **ret, struct loop *loop, const struct worker_ops *ops, void *ctx,
                        struct sm_error *err)
{
    struct worker *w = calloc(1, sizeof(*w));

    if (!w)
        return sm_error_sys(err, ENOMEM, "cannot start a machine");
    w->loop = loop;
    w->ops = ops;
    w->ctx = ctx;
    w->sock = w->console_fd = w->stderr_fd = w->pidfd = -1;
    w->sock_src.fd = w->console_src.fd = -1;
    *ret = w;
    return 0;
}

static void on_socket(struct loop_source *src, uint32_t events);

static int watch_socket(struct worker *w, struct sm_error *err)
{
    int r = io_set_nonblock(w->sock);

    if (r == 0)
        r = loop_add(w->loop, &w->sock_src, w->sock, EPOLLIN, on_socket, w);
    return r < 0 ? sm_error_sys(err, -r, "cannot watch the worker's control socket") : 0;
}

int worker_attach(struct worker **ret, struct loop *loop, int sock, const struct worker_ops *ops, void *ctx,
                  struct sm_error *err)
{
    struct worker *w = NULL;
    int r = alloc_worker(&w, loop, ops, ctx, err);

    if (r < 0) {
        close(sock);
        return r;
    }
    w->sock = sock;
    r = watch_socket(w, err);
    if (r < 0) {
        worker_free(w);
        return r;
    }
    *ret = w;
    return 0;
}

/* Descriptors for the child are above CONTROL_FD, so that no dup2 of the list hits one that is still needed. */
static int move_up(int *fd)
{
    int up = fcntl(*fd, F_DUPFD_CLOEXEC, CONTROL_FD + 1);

    if (up < 0)
        return -errno;
    close(*fd);
    *fd = up;
    return 0;
}

bool worker_traced(void)
{
    const char *value = secure_getenv("SUPERMACHINE_TRACE");

    return value && strcmp(value, "1") == 0;
}

static int add_actions(posix_spawn_file_actions_t *actions, int sock, int err_fd)
{
    int r = posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDWR, 0);

    if (r == 0)
        r = posix_spawn_file_actions_adddup2(actions, 0, 1);
    if (r == 0)
        r = posix_spawn_file_actions_adddup2(actions, err_fd, 2);
    if (r == 0)
        r = posix_spawn_file_actions_adddup2(actions, sock, CONTROL_FD);
    /* The owner may be any program: not all of its descriptors need be close-on-exec. */
    if (r == 0)
        r = posix_spawn_file_actions_addclosefrom_np(actions, CONTROL_FD + 1);
    return -r;
}

static int set_attributes(posix_spawnattr_t *attr)
{
    sigset_t none, all;
    int r;

    sigemptyset(&none);
    sigfillset(&all);
    r = posix_spawnattr_setsigmask(attr, &none);
    if (r == 0)
        r = posix_spawnattr_setsigdefault(attr, &all);
    if (r == 0)
        r = posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
    return -r;
}

static int spawn(struct worker *w, const char *path, int sock, int err_fd)
{
    static char *const no_env[] = {NULL};
    char *const argv[] = {(char[]){"supermachine-vmm"}, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    int r = posix_spawn_file_actions_init(&actions);

    if (r)
        return -r;
    r = posix_spawnattr_init(&attr);
    if (r) {
        posix_spawn_file_actions_destroy(&actions);
        return -r;
    }
    r = add_actions(&actions, sock, err_fd);
    if (r == 0)
        r = set_attributes(&attr);
    if (r == 0)
        r = -posix_spawn(&w->pid, path, &actions, &attr, argv, no_env);
    if (r < 0)
        w->pid = 0;
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    return r;
}

int worker_spawn(struct worker **ret, struct loop *loop, const char *path, const struct worker_ops *ops, void *ctx,
                 struct sm_error *err)
{
    CLEANUP_FD int child_sock = -1;
    CLEANUP_FD int child_err = -1;
    struct worker *w = NULL;
    int sv[2], pv[2];
    int r = alloc_worker(&w, loop, ops, ctx, err);

    if (r < 0)
        return r;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0) {
        r = sm_error_sys(err, errno, "cannot make the worker's control socket");
        goto fail;
    }
    w->sock = sv[0];
    child_sock = sv[1];
    if (pipe2(pv, O_CLOEXEC) < 0) {
        r = sm_error_sys(err, errno, "cannot make a pipe for the worker");
        goto fail;
    }
    w->stderr_fd = pv[0];
    child_err = pv[1];
    if (worker_traced()) { /* more than a pipe holds that is read at the end */
        close(child_err);
        child_err = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    }
    r = move_up(&child_sock);
    if (r == 0)
        r = move_up(&child_err);
    if (r == 0)
        r = io_set_nonblock(w->stderr_fd);
    if (r == 0)
        r = spawn(w, path, child_sock, child_err);
    if (r < 0) {
        sm_error_sys(err, -r, "cannot start the worker '%s'", path);
        goto fail;
    }
    w->pidfd = (int)syscall(SYS_pidfd_open, w->pid, 0);
    r = watch_socket(w, err);
    if (r < 0)
        goto fail;
    *ret = w;
    return 0;

fail:
    worker_free(w);
    return r;
}

static void reap(struct worker *w, bool kill_it)
{
    pid_t r;

    if (w->pid == 0 || w->reaped)
        return;
    if (kill_it) {
        if (w->pidfd >= 0)
            syscall(SYS_pidfd_send_signal, w->pidfd, SIGKILL, NULL, 0);
        else
            kill(w->pid, SIGKILL); /* ours and not reaped: the number can't have been given to another */
    }
    do
        r = waitpid(w->pid, &w->status, 0);
    while (r < 0 && errno == EINTR);
    /* A program that ignores SIGCHLD has no status to get. */
    w->status_known = r == w->pid;
    w->reaped = true;
}

void worker_kill(struct worker *w)
{
    loop_remove(w->loop, &w->sock_src);
    reap(w, true);
    w->ended = true;
}

void worker_free(struct worker *w)
{
    if (!w)
        return;
    loop_remove(w->loop, &w->sock_src);
    loop_remove(w->loop, &w->console_src);
    reap(w, true);
    close_fd(&w->sock);
    close_fd(&w->console_fd);
    close_fd(&w->stderr_fd);
    close_fd(&w->pidfd);
    for (unsigned i = 0; i < WORKER_MAX_PENDING; i++)
        control_report_done(&w->pending[i].report);
    control_report_done(&w->exited);
    free(w);
}

int worker_pid(const struct worker *w)
{
    return w->pid;
}

bool worker_wait_gone(struct worker *w, int timeout_ms)
{
    struct pollfd p = {.fd = w->pidfd, .events = POLLIN};

    if (w->pid == 0 || w->reaped)
        return true;
    return w->pidfd >= 0 && poll(&p, 1, timeout_ms) == 1;
}

/* ---- Its console ---- */

static void on_console(struct loop_source *src, uint32_t events)
{
    struct worker *w = src->ctx;
    char data[WORKER_CONSOLE_CHUNK];
    ssize_t n = read(w->console_fd, data, sizeof(data));

    (void)events;
    if (n > 0)
        w->ops->console(w->ctx, data, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        loop_remove(w->loop, &w->console_src);
}

/* What the pipe still holds, once nobody writes any more. */
static void drain_console(struct worker *w)
{
    while (w->console_src.fd >= 0) {
        struct pollfd p = {.fd = w->console_fd, .events = POLLIN};

        if (poll(&p, 1, 0) != 1)
            break;
        on_console(&w->console_src, EPOLLIN);
    }
}

int worker_console_pipe(struct worker *w, int *ret_fd, struct sm_error *err)
{
    int pv[2];
    int r;

    if (pipe2(pv, O_CLOEXEC) < 0)
        return sm_error_sys(err, errno, "cannot make a pipe for the console");
    w->console_fd = pv[0];
    r = io_set_nonblock(pv[0]);
    if (r == 0)
        r = loop_add(w->loop, &w->console_src, pv[0], EPOLLIN, on_console, w);
    if (r < 0) {
        close(pv[1]);
        return sm_error_sys(err, -r, "cannot watch the console");
    }
    *ret_fd = pv[1];
    return 0;
}

/* ---- Requests and reports ---- */

static struct pending *find_pending(struct worker *w, uint32_t id)
{
    for (unsigned i = 0; i < WORKER_MAX_PENDING; i++)
        if (w->pending[i].id == id)
            return &w->pending[i];
    return NULL;
}

/* Room in the socket: unix(7) sockets queue few packets, and the worker may still be starting. */
static int send_packet(struct worker *w, const struct buf *b, const int *fds, unsigned n_fds)
{
    uint64_t deadline = io_now_ns() + WORKER_SEND_TIMEOUT_MS * 1000000ull;
    int r;

    while ((r = io_send_fds(w->sock, b->data, b->len, fds, n_fds)) == -EAGAIN) {
        struct pollfd p = {.fd = w->sock, .events = POLLOUT};

        if (io_now_ns() >= deadline)
            return -ETIMEDOUT;
        poll(&p, 1, WORKER_SEND_TIMEOUT_MS);
    }
    return r;
}

int worker_send(struct worker *w, struct control_request *req, const int *fds, unsigned n_fds, bool forget,
                uint32_t *ret_id, struct sm_error *err)
{
    struct buf b = buf_init(CONTROL_MAX_FRAME);
    struct pending *p = find_pending(w, 0);
    int r;

    if (w->ended)
        return worker_error(w, err);
    if (!p)
        return sm_error_set(err, EBUSY, "%d requests wait for the worker already", WORKER_MAX_PENDING);
    if (++w->last_id == 0)
        w->last_id = 1;
    req->id = w->last_id;
    r = control_request_encode(req, &b, err);
    if (r < 0)
        goto out;
    r = send_packet(w, &b, fds, n_fds);
    if (r == -EPIPE || r == -ECONNRESET) {
        /* It died: what its socket still holds, and its status, say more than "broken pipe". */
        while (!w->ended && loop_once(w->loop, WORKER_SEND_TIMEOUT_MS) > 0)
            ;
        r = w->ended ? worker_error(w, err) : sm_error_sys(err, EPIPE, "the machine's worker does not listen");
        goto out;
    }
    if (r < 0) {
        sm_error_sys(err, -r, "cannot send a request to the machine's worker");
        goto out;
    }
    *p = (struct pending){.id = req->id, .forget = forget};
    if (ret_id)
        *ret_id = req->id;
out:
    buf_done(&b);
    return r;
}

static void take_reply(struct worker *w, struct control_report *rep)
{
    struct pending *p = rep->id ? find_pending(w, rep->id) : NULL;

    if (!p || p->done) {
        sm_error_set(&w->broken, EPROTO, "the machine's worker answered a question nobody asked");
        control_report_done(rep);
        return;
    }
    if (!p->forget) {
        p->report = *rep;
        p->done = true;
        return;
    }
    if (rep->type == CONTROL_ERROR)
        snprintf(w->refusal, sizeof(w->refusal), "%s", rep->error.text);
    control_report_done(rep);
    *p = (struct pending){0};
}

static void take_report(struct worker *w, size_t len)
{
    struct control_report rep;

    if (control_report_decode(w->frame, len, &rep, &w->broken) < 0)
        return;
    if (rep.type == CONTROL_LIFECYCLE) {
        uint32_t kind = rep.lifecycle.kind;
        uint64_t arg = rep.lifecycle.arg;

        control_report_done(&rep);
        w->ops->lifecycle(w->ctx, kind, arg);
    } else if (rep.type == CONTROL_BAKED) {
        if (w->ops->baked)
            w->ops->baked(w->ctx, &rep.baked);
        control_report_done(&rep);
    } else if (rep.type == CONTROL_EXITED) {
        control_report_done(&w->exited);
        w->exited = rep;
    } else {
        take_reply(w, &rep);
    }
}

static void set_ended(struct worker *w)
{
    loop_remove(w->loop, &w->sock_src);
    /* It has closed the socket, so it is on its way out: unless it is hostile. */
    reap(w, w->broken.code != 0 || !worker_wait_gone(w, WORKER_EXIT_TIMEOUT_MS));
    drain_console(w);
    w->ended = true;
    w->ops->ended(w->ctx);
}

static void on_socket(struct loop_source *src, uint32_t events)
{
    struct worker *w = src->ctx;
    unsigned n_fds;
    ssize_t n = io_recv_fds(w->sock, w->frame, sizeof(w->frame), NULL, 0, &n_fds);

    (void)events;
    /* ECONNRESET: it ended with requests of ours unread. What it sent (EXITED) is still queued behind that, then EOF.
     */
    if (n == -EAGAIN || n == -ECONNRESET)
        return;
    if (n == -EMSGSIZE)
        sm_error_set(&w->broken, EPROTO, "the machine's worker sent a frame over %d bytes", CONTROL_MAX_FRAME);
    if (n > 0)
        take_report(w, (size_t)n);
    if (n <= 0 || w->broken.code)
        set_ended(w);
}

int worker_await(struct worker *w, uint32_t id, enum control_report_type want, struct control_report *ret,
                 struct sm_error *err)
{
    struct pending *p = find_pending(w, id);
    struct control_report rep;
    int r = 0;

    assert(id && p && !p->forget);
    while (!p->done && !w->ended) {
        r = loop_once(w->loop, -1);
        if (r < 0)
            return sm_error_sys(err, -r, "cannot wait for the machine's worker");
    }
    if (!p->done) {
        p->id = 0;
        return worker_error(w, err);
    }
    rep = p->report;
    *p = (struct pending){0};
    if (rep.type == CONTROL_ERROR)
        r = sm_error_set(err, rep.error.code, "%s", rep.error.text);
    else if (rep.type != want)
        r = sm_error_set(err, EPROTO, "the machine's worker gave an answer that does not fit the question");
    else if (ret) {
        *ret = rep;
        return 0;
    } else
        r = 0;
    control_report_done(&rep);
    return r;
}

const char *worker_last_refusal(const struct worker *w)
{
    return w->refusal;
}

/* ---- Its end ---- */

bool worker_ended(const struct worker *w)
{
    return w->ended;
}

const char *worker_console(const struct worker *w, size_t *ret_len)
{
    *ret_len = w->exited.type ? w->exited.exited.console_len : 0;
    return w->exited.type ? w->exited.exited.console : NULL;
}

void worker_tail_text(const char *console, size_t len, char *buf, size_t size)
{
    size_t n = 0;

    while (len && strchr(" \r\n\t", console[len - 1]))
        len--;
    if (len > size - 1) {
        console += len - (size - 1);
        len = size - 1;
        /* Begin with a whole line where there is one. */
        const char *nl = memchr(console, '\n', len);
        if (nl) {
            len -= (size_t)(nl + 1 - console);
            console = nl + 1;
        }
    }
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)console[i];

        if (c == '\n') {
            memcpy(buf + n, "|", 1);
            n++;
        } else if (c >= 0x20 && c < 0x7f) {
            buf[n++] = (char)c;
        } else if (c != '\r') {
            buf[n++] = '?';
        }
    }
    buf[n] = '\0';
}

/* The last line that the process printed: an assertion that failed, or what the dynamic linker missed. */
static void stderr_line(const struct worker *w, char *buf, size_t size)
{
    char data[WORKER_STDERR_TAIL * 8];
    size_t len = 0;
    ssize_t n;

    while (w->stderr_fd >= 0 && (n = read(w->stderr_fd, data + len, sizeof(data) - len)) > 0) {
        len += (size_t)n;
        if (len == sizeof(data)) {
            memmove(data, data + sizeof(data) / 2, sizeof(data) / 2);
            len = sizeof(data) / 2;
        }
    }
    worker_tail_text(data, len, buf, size);
}

/* It went without a word: what its wait status tells. */
static int died_error(const struct worker *w, struct sm_error *err)
{
    char said[WORKER_STDERR_TAIL];
    const char *sep;

    stderr_line(w, said, sizeof(said));
    sep = said[0] ? "; it said: " : "";
    if (!w->status_known)
        return sm_error_set(err, EIO, "the machine's worker ended unexpectedly%s%s", sep, said);
    if (!WIFSIGNALED(w->status))
        return sm_error_set(err, EIO, "the machine's worker exited unexpectedly with status %d%s%s",
                            WEXITSTATUS(w->status), sep, said);
    int sig = WTERMSIG(w->status);
    if (sig == SIGSYS)
        return sm_error_set(err, EIO,
                            "the machine's worker was killed by its seccomp filter: it made a system call that it has "
                            "no right to (a hostile guest, or a bug of ours: please report it)%s%s",
                            sep, said);
    if (sig == SIGKILL)
        return sm_error_set(err, EIO,
                            "the machine's worker was killed (SIGKILL): by somebody, or by the kernel because memory "
                            "was short (see 'dmesg'; -m gives the machine less)%s%s",
                            sep, said);
    return sm_error_set(err, EIO, "the machine's worker was killed by signal %d (%s)%s%s", sig, strsignal(sig), sep,
                        said);
}

int worker_error(const struct worker *w, struct sm_error *err)
{
    char tail[768], text[512];
    const char *sep;

    if (w->broken.code) {
        if (err)
            *err = w->broken;
        return -w->broken.code;
    }
    if (!w->exited.type)
        return died_error(w, err);
    worker_tail_text(w->exited.exited.console, w->exited.exited.console_len, tail, sizeof(tail));
    worker_tail_text(w->exited.exited.text, strlen(w->exited.exited.text), text, sizeof(text));
    sep = tail[0] ? "; its console said last: " : "";
    switch (w->exited.exited.reason) {
    case CONTROL_EXIT_STOPPED:
        return sm_error_set(err, EIO, "the machine was stopped");
    case CONTROL_EXIT_POWER_OFF:
        return sm_error_set(err, EIO, "the guest powered itself off%s%s", sep, tail);
    case CONTROL_EXIT_RESET:
        return sm_error_set(err, EIO, "the guest reset itself%s%s", sep, tail);
    case CONTROL_EXIT_PANIC:
        return sm_error_set(err, EIO, "the guest's kernel panicked: %s%s%s", text, sep, tail);
    case CONTROL_EXIT_TRIPLE_FAULT:
        return sm_error_set(err, EIO, "the guest's processor gave up (triple fault): its kernel is broken%s%s", sep,
                            tail);
    case CONTROL_EXIT_VCPU_ERROR:
        return sm_error_set(err, EIO, "KVM cannot run the guest any further: %.512s%s%s", w->exited.exited.text, sep,
                            tail);
    }
    return sm_error_set(err, EIO, "the machine ended");
}
