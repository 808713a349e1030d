/* SPDX-License-Identifier: Apache-2.0 */
/* Both ends of the agent protocol for unit tests: see agent_harness.h. */
#include "agent_harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/close_range.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "kernel/lifecycle_abi.h"
#include "server.h"

#define OUT_MAX (64u << 20)

static const char *const cgroup_roots[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};

/*
 * The server's control groups, made by it in a directory that its parent has named before: not by a process id, which
 * comes again.
 */
static char cgroup_dir[64];

/* A directory for groups, or -1. */
static int open_cgroup(void)
{
    char name[128];

    for (size_t i = 0; i < 2; i++) {
        snprintf(name, sizeof(name), "%s/cgroup.procs", cgroup_roots[i]);
        if (access(name, W_OK) < 0)
            continue;
        snprintf(name, sizeof(name), "%s/%s", cgroup_roots[i], cgroup_dir);
        if (mkdir(name, 0755) == 0)
            return open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
    return -1;
}

/* Kill what tests have left running on purpose, and remove the groups. */
static void remove_cgroup(const char *root)
{
    char name[128], events[256] = "populated 1";
    struct dirent *e;

    snprintf(name, sizeof(name), "%s/%s", root, cgroup_dir);
    int dir = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return;
    int kill_fd = openat(dir, "cgroup.kill", O_WRONLY | O_CLOEXEC);
    int events_fd = openat(dir, "cgroup.events", O_RDONLY | O_CLOEXEC);
    assert_true(kill_fd >= 0 && events_fd >= 0);
    assert_int_equal(write(kill_fd, "1", 1), 1);
    for (;;) {
        struct pollfd p = {.fd = events_fd, .events = POLLPRI};
        ssize_t n = pread(events_fd, events, sizeof(events) - 1, 0);

        assert_true(n > 0);
        events[n] = '\0';
        if (strstr(events, "populated 0"))
            break;
        assert_int_equal(poll(&p, 1, (int)(H_DEADLINE_NS / 1000000)), 1);
    }
    close(kill_fd);
    close(events_fd);
    DIR *d = fdopendir(dir);
    assert_non_null(d);
    while ((e = readdir(d)))
        if (e->d_name[0] >= '0' && e->d_name[0] <= '9')
            assert_int_equal(unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR), 0);
    closedir(d);
    assert_int_equal(rmdir(name), 0);
}

/* What the server's process knows of its harness. */
struct fake {
    const char *root;
    int events;
};

static int fake_setup(void *ctx, const struct ga_setup *setup, int *ret_cgroup, int *ret_root, struct ga_error *err)
{
    const struct fake *f = ctx;

    if (strcmp(setup->root_fstype, "bad") == 0)
        return ga_error_set(err, ENODEV, "mounting \x1b[31m%s", setup->root_device);
    *ret_cgroup = open_cgroup();
    *ret_root = open(f->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return *ret_root < 0 ? ga_error_sys(err, errno, "opening %s", f->root) : 0;
}

static void fake_event(void *ctx, uint32_t kind, uint64_t arg)
{
    const struct fake *f = ctx;
    struct h_event e = {kind, arg};

    if (send(f->events, &e, sizeof(e), MSG_NOSIGNAL) != (ssize_t)sizeof(e))
        _exit(104);
}

/* The kernel's host name, which is a file here. */
static int fake_set_hostname(void *ctx, const char *name)
{
    const struct fake *f = ctx;
    char path[128];

    if (strcmp(name, "refused") == 0)
        return -EPERM;
    snprintf(path, sizeof(path), "%s/" H_HOSTNAME, f->root);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, name, strlen(name)) < 0)
        return -errno;
    close(fd);
    return 0;
}

static int fake_power(void *ctx, uint32_t how, struct ga_error *err)
{
    return ga_error_set(err, ENOSYS, "no power switch here");
}

static _Noreturn void serve(const struct harness *h, const int fds[H_CONNS], int events, int notices)
{
    static const struct ga_server_ops ops = {
        .setup = fake_setup, .power = fake_power, .event = fake_event, .set_hostname = fake_set_hostname};
    struct fake fake = {h->root, events};
    struct ga_server *s;

    /* What the test was started with must not be mistaken for a leak of the agent. */
    close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (ga_server_new(&ops, &fake, false, &s) < 0 || ga_server_watch(s, notices) < 0)
        _exit(101);
    for (int i = 0; i < H_CONNS; i++)
        if (ga_server_adopt(s, fds[i]) < 0)
            _exit(102);
    int r = ga_server_run(s, true);
    ga_server_free(s);
    _exit(r == 0 ? 0 : 103);
}

/* ---- Callbacks of the client ---- */

static void on_done(struct agent *a, void *ctx)
{
    ((struct h_conn *)ctx)->done++;
}

static void on_started(struct agent *a, void *ctx, uint32_t pid)
{
    struct h_conn *c = ctx;

    assert_false(c->started);
    c->started = true;
    c->pid = pid;
}

static void on_output(struct agent *a, void *ctx, enum agent_stream stream, const void *data, size_t len)
{
    struct h_conn *c = ctx;
    int i = stream == AGENT_STREAM_STDERR;

    assert_true(len > 0 && len <= AGENT_DATA_MAX);
    buf_bytes(&c->out[i], data, len);
    assert_false(c->out[i].bad);
    if (c->hold)
        c->held[i] += len;
    else
        agent_output_done(a, stream, len);
}

static void on_stdin_room(struct agent *a, void *ctx)
{
    ((struct h_conn *)ctx)->rooms++;
}

static void on_exit_(struct agent *a, void *ctx, const struct agent_exit *end)
{
    struct h_conn *c = ctx;

    assert_false(c->exited || c->start_failed || c->failed);
    c->exited = true;
    c->end = *end;
}

static void on_start_error(struct agent *a, void *ctx, int exit_code, const struct sm_error *err)
{
    struct h_conn *c = ctx;

    assert_false(c->exited || c->start_failed || c->failed);
    c->start_failed = true;
    c->exit_code = exit_code;
    c->err = *err;
}

static void on_error(struct agent *a, void *ctx, const struct sm_error *err)
{
    struct h_conn *c = ctx;

    assert_false(c->exited || c->start_failed || c->failed);
    c->failed = true;
    c->err = *err;
}

static const struct agent_ops ops = {.on_done = on_done,
                                     .on_started = on_started,
                                     .on_output = on_output,
                                     .on_stdin_room = on_stdin_room,
                                     .on_exit = on_exit_,
                                     .on_start_error = on_start_error,
                                     .on_error = on_error};

/* ---- The harness ---- */

void h_start(struct harness *h, bool setup)
{
    int theirs[H_CONNS], subreaper, events[2], notices[2];

    memset(h, 0, sizeof(*h));
    h->adopts_orphans = prctl(PR_GET_CHILD_SUBREAPER, &subreaper) == 0; /* not under user-mode emulation */
    assert_int_equal(loop_new(&h->loop), 0);
    for (int i = 0; i < H_CONNS; i++) {
        int sv[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
        h->conn[i] = (struct h_conn){.h = h, .fd = sv[0], .out = {buf_init(OUT_MAX), buf_init(OUT_MAX)}};
        theirs[i] = sv[1];
    }
    snprintf(h->root, sizeof(h->root), "/tmp/sm-agent-XXXXXX");
    assert_non_null(mkdtemp(h->root));
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, events), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, notices), 0);
    h->events = events[0];
    h->notices = notices[0];
    fflush(NULL);
    snprintf(cgroup_dir, sizeof(cgroup_dir), "sm-test-%d-%llx", getpid(), (unsigned long long)io_now_ns());
    h->server = fork();
    assert_true(h->server >= 0);
    if (h->server == 0) {
        for (int i = 0; i < H_CONNS; i++)
            close(h->conn[i].fd);
        close(h->events);
        close(h->notices);
        serve(h, theirs, events[1], notices[1]);
    }
    close(events[1]);
    close(notices[1]);
    for (int i = 0; i < H_CONNS; i++)
        close(theirs[i]);
    if (setup)
        h_setup(h, &(struct agent_setup){0});
}

void h_setup(struct harness *h, const struct agent_setup *setup)
{
    struct agent_setup s = *setup;
    struct h_conn *c = h_agent(h, 0);
    unsigned before = c->done;

    s.root_device = "/dev/null";
    s.root_fstype = "none";
    assert_int_equal(agent_setup(c->agent, &s, NULL), 0);
    h_wait_count(h, &c->done, before + 1);
    for (size_t i = 0; i < 2; i++) {
        char name[128];

        snprintf(name, sizeof(name), "%s/%s", cgroup_roots[i], cgroup_dir);
        h->has_cgroup |= access(name, F_OK) == 0;
    }
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

void h_stop(struct harness *h)
{
    int status;

    for (int i = 0; i < H_CONNS; i++) {
        struct h_conn *c = &h->conn[i];

        agent_free(c->agent);
        if (c->fd >= 0)
            close(c->fd);
        buf_done(&c->out[0]);
        buf_done(&c->out[1]);
    }
    loop_free(h->loop);
    assert_int_equal(waitpid(h->server, &status, 0), h->server);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    for (size_t i = 0; i < 2; i++)
        remove_cgroup(cgroup_roots[i]);
    close(h->events);
    close(h->notices);
    assert_int_equal(nftw(h->root, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

struct h_event h_event(struct harness *h)
{
    struct pollfd p = {.fd = h->events, .events = POLLIN};
    struct h_event e;

    assert_int_equal(poll(&p, 1, (int)(H_DEADLINE_NS / 1000000)), 1);
    assert_int_equal(recv(h->events, &e, sizeof(e), 0), sizeof(e));
    return e;
}

bool h_has_event(struct harness *h)
{
    struct pollfd p = {.fd = h->events, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

void h_notice(struct harness *h, uint32_t bits, const uint8_t generation[AGENT_GENERATION_SIZE])
{
    struct sm_lc_notice n = {.bits = bits};

    memcpy(n.generation, generation, sizeof(n.generation));
    assert_int_equal(send(h->notices, &n, sizeof(n), 0), sizeof(n));
}

void h_drop(struct h_conn *c)
{
    agent_free(c->agent);
    c->agent = NULL;
}

static void on_late(struct loop_timer *t)
{
    *(bool *)t->ctx = true;
}

/* One way to wait for all three: `n` behind the pointer that is not NULL. */
static void wait_for(struct harness *h, const bool *flag, const unsigned *count, const struct buf *b, size_t n)
{
    struct loop_timer t = {0};

    h->late = false;
    loop_timer_set(h->loop, &t, io_now_ns() + H_DEADLINE_NS, on_late, &h->late);
    while (!(flag && *flag) && !(count && *count >= n) && !(b && b->len >= n)) {
        assert_true(loop_once(h->loop, -1) >= 0);
        if (h->late)
            fail_msg("waited too long");
    }
    loop_timer_cancel(&t);
}

void h_wait(struct harness *h, const bool *flag)
{
    wait_for(h, flag, NULL, NULL, 0);
}

void h_wait_count(struct harness *h, const unsigned *count, unsigned at_least)
{
    wait_for(h, NULL, count, NULL, at_least);
}

void h_wait_bytes(struct harness *h, const struct buf *b, size_t at_least)
{
    wait_for(h, NULL, NULL, b, at_least);
}

struct h_conn *h_agent(struct harness *h, unsigned i)
{
    struct h_conn *c = &h->conn[i];

    assert_true(i < H_CONNS);
    if (!c->agent) {
        assert_int_equal(agent_new(h->loop, c->fd, &ops, c, &c->agent, NULL), 0);
        c->fd = -1;
    }
    return c;
}

struct h_conn *h_exec(struct harness *h, unsigned i, const struct agent_exec *spec, const char *const *argv)
{
    struct h_conn *c = h_agent(h, i);
    struct agent_exec x = spec ? *spec : (struct agent_exec){0};
    struct sm_error err = SM_ERROR_INIT;

    x.argv = argv;
    if (agent_exec(c->agent, &x, &err) < 0)
        fail_msg("%s", err.text);
    return c;
}

struct h_conn *h_sh(struct harness *h, unsigned i, const struct agent_exec *spec, const char *script)
{
    return h_exec(h, i, spec, (const char *const[]){"sh", "-c", script, NULL});
}

void h_expect(struct h_conn *c, int status, const char *out)
{
    while (!c->exited) {
        if (c->start_failed || c->failed)
            fail_msg("no exit but: %s", c->err.text);
        assert_true(loop_once(c->h->loop, (int)(H_DEADLINE_NS / 1000000)) > 0);
    }
    if (c->end.status != status)
        fail_msg("exit status %d instead of %d, stderr: %s", c->end.status, status, h_text(c, 1));
    if (out)
        assert_string_equal(h_text(c, 0), out);
}

void h_again(struct h_conn *c)
{
    assert_true(c->exited || c->start_failed);
    c->started = c->exited = c->start_failed = false;
    c->held[0] = c->held[1] = c->out[0].len = c->out[1].len = 0;
}

const char *h_text(struct h_conn *c, int stream)
{
    struct buf *b = &c->out[stream];

    /* An end behind the bytes that does not count. */
    assert_non_null(buf_reserve(b, 1));
    b->len--;
    return (const char *)b->data;
}
