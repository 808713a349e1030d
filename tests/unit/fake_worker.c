/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker without a machine, for test_vm and test_bake_lib: it speaks the control protocol, and each connection to
 * "the guest" gets a real agent in a process of its own, which runs commands right here. What else it does is in the
 * kernel's file, and goes into the snapshots that it writes and out of them again:
 *     ok      all goes well                      refuse  CONFIG is refused
 *     hang    the guest never comes up           panic   it panics instead of coming up
 *     die     the worker exits with 9 at START   lose    connections close at once, then the machine panics
 *     mute    connections are taken and never answered
 *     full    a bake finds no space              never   a bake's trigger never comes
 *     attach  the guest is a few lines of this file, which know one workload: it says "from the workload" and ends
 *             with 5; all other commands end with 6
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "lifecycle_regs.h"
#include "proto.h"
#include "proto/control.h"
#include "server.h"
#include "snap/file.h"
#include "snap/runs.h"

#define MODE_TAG SNAP_TAG('M', 'O', 'D', 'E')

static char mode[16];
static unsigned connections;
static uint32_t memory_mib;
static bool profiles;
static int mute_fd = -1;
static int events[2];  /* from the agents to us: kinds, as uint32_t */
static bool is_set_up; /* the guest was, when it was saved */
static struct {
    bool on;
    uint32_t flags;
    int fds[3];
    unsigned n_fds;
} armed;

static void reply(const struct control_report *rep)
{
    struct buf b = buf_init(CONTROL_MAX_FRAME);

    if (control_report_encode(rep, &b, NULL) < 0 || io_send_fds(CONTROL_FD, b.data, b.len, NULL, 0) < 0)
        _exit(90);
    buf_done(&b);
}

static bool is(const char *name)
{
    return strcmp(mode, name) == 0;
}

static _Noreturn void end(enum control_exit_reason reason, const char *text)
{
    char console[] = "fake console\nthe end\n";
    char said[64];

    strncpy(said, text, sizeof(said) - 1);
    said[sizeof(said) - 1] = '\0';
    reply(&(struct control_report){.type = CONTROL_EXITED, .exited = {reason, said, console, sizeof(console) - 1}});
    _exit(0);
}

/* ---- The guest ---- */

static int set_up(void *ctx, const struct ga_setup *setup, int *ret_cgroup, int *ret_root, struct ga_error *err)
{
    (void)ctx;
    (void)err;
    *ret_cgroup = *ret_root = -1;
    return strcmp(setup->root_fstype, "erofs") == 0 ? 0 : -EINVAL;
}

static int power(void *ctx, uint32_t how, struct ga_error *err)
{
    (void)ctx;
    (void)how;
    (void)err;
    return -ENOSYS;
}

static void ring(void *ctx, uint32_t kind, uint64_t arg)
{
    (void)ctx;
    (void)arg;
    if (write(events[1], &kind, sizeof(kind)) < 0)
        _exit(94);
}

static _Noreturn void serve(int fd, bool first)
{
    static const struct ga_server_ops ops = {.setup = set_up, .power = power, .event = ring};
    struct ga_server *s;

    if (ga_server_new(&ops, NULL, !first, &s) < 0 || ga_server_adopt(s, fd) < 0)
        _exit(91);
    ga_server_run(s, true);
    ga_server_free(s);
    _exit(0);
}

static void frame(int fd, uint16_t type, const void *payload, uint32_t len)
{
    uint8_t head[AGENT_HEADER_SIZE] = {(uint8_t)len, 0, 0, 0, (uint8_t)type};

    if (io_write_full(fd, head, sizeof(head)) < 0 || io_write_full(fd, payload, len) < 0)
        _exit(0);
}

static void exited(int fd, uint8_t code)
{
    uint8_t status[28] = {code};

    frame(fd, AGENT_EXITED, status, sizeof(status));
}

/* An agent that knows how to answer, and one workload. */
static _Noreturn void serve_workload(int fd)
{
    static uint8_t payload[AGENT_REQUEST_MAX];
    uint32_t hello[2] = {AGENT_MAGIC, AGENT_VERSION}, pid = 1;
    uint8_t head[AGENT_HEADER_SIZE];

    frame(fd, AGENT_HELLO, hello, sizeof(hello));
    while (io_read_full(fd, head, sizeof(head)) == sizeof(head)) {
        uint32_t len = head[0] | head[1] << 8 | head[2] << 16;

        if (len > sizeof(payload) || io_read_full(fd, payload, len) != (ssize_t)len)
            _exit(95);
        if (head[4] == AGENT_EXEC || head[4] == AGENT_ATTACH) {
            bool detached = head[4] == AGENT_EXEC && payload[0] & AGENT_EXEC_DETACHED;

            frame(fd, AGENT_STARTED, &pid, sizeof(pid));
            if (detached)
                ring(NULL, SM_LC_EV_LISTENER, 80);
            if (head[4] == AGENT_ATTACH)
                frame(fd, AGENT_STDOUT, "from the workload\n", 18);
            if (!detached)
                exited(fd, head[4] == AGENT_ATTACH ? 5 : 6);
        } else if (head[4] != AGENT_HELLO && head[4] != AGENT_CREDIT) {
            frame(fd, AGENT_OK, "", 0);
        }
    }
    _exit(0);
}

static void connect_agent(int fd)
{
    bool first = connections++ == 0 && !is_set_up;

    if (is("mute")) {
        mute_fd = dup(fd);
    } else if (!is("lose") && fork() == 0) {
        close(CONTROL_FD);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        prctl(PR_SET_CHILD_SUBREAPER, 1);
        signal(SIGCHLD, SIG_DFL);
        if (is("attach"))
            serve_workload(fd);
        serve(fd, first);
    }
    close(fd);
}

/* ---- Snapshots ---- */

static void mode_section(struct snap_stream *s)
{
    snap_begin(s, MODE_TAG, 0, 1, "mode");
    snap_bytes(s, "mode", mode, sizeof(mode));
    snap_bool(s, "set up", &is_set_up);
    snap_end(s);
}

static int write_list(enum snap_runs_kind kind, int fd)
{
    struct snap_run run = {.first = 0, .count = 1};
    const struct snap_runs runs = {.run = &run, .n = 1, .pages = memory_mib * 256};

    return snap_runs_write(&runs, kind, fd, NULL);
}

/* `fds` as SAVE has them. */
static void write_snapshot(const int *fds, unsigned n_fds)
{
    static struct snap_stream s;

    is_set_up = connections != 0;
    snap_stream_init(&s);
    mode_section(&s);
    if (snap_file_write(&s, fds[0], NULL) < 0 || ftruncate(fds[1], (off_t)memory_mib << 20) < 0 ||
        pwrite(fds[1], mode, sizeof(mode), 0) < 0 || (n_fds > 2 && write_list(SNAP_RUNS_DIFF, fds[2]) < 0))
        _exit(96);
    snap_stream_clear(&s);
}

static int read_snapshot(int state_fd, struct sm_error *err)
{
    static struct snap_stream s;
    int r = snap_file_read(&s, state_fd, err);

    if (r < 0)
        return r;
    mode_section(&s);
    r = snap_done(&s, err);
    snap_stream_clear(&s);
    return r;
}

static const struct control_saved figures = {.total_ns = 3000, .pause_ns = 2000, .data_pages = 1, .devices = 3};

static void fire(enum control_trigger trigger)
{
    char line[] = "the trigger has come: 1 line", full[] = "cannot write 'memory': No space left on device";
    struct control_report rep = {.type = CONTROL_BAKED,
                                 .baked = {CONTROL_BAKE_SNAPSHOT_SAVED, trigger, 0, line, figures}};

    if (is("full"))
        rep.baked = (struct control_baked){CONTROL_BAKE_CANCELED, trigger, ENOSPC, full, {0}};
    else
        write_snapshot(armed.fds, armed.n_fds);
    armed.on = false;
    reply(&rep);
}

static bool listened;

static void on_event(void)
{
    uint32_t kind;

    if (read(events[0], &kind, sizeof(kind)) != sizeof(kind))
        return;
    listened = listened || kind == SM_LC_EV_LISTENER; /* a state, which may be there before the bake is armed */
    if (!armed.on || is("never"))
        return;
    if (kind == SM_LC_EV_PRE_EXEC && armed.flags & CONTROL_BAKE_PRE_EXEC)
        fire(CONTROL_TRIGGER_PRE_EXEC);
    if (kind == SM_LC_EV_LISTENER && armed.flags & CONTROL_BAKE_LISTENER)
        fire(CONTROL_TRIGGER_LISTENER);
}

static void arm(const struct control_request *req, const int *fds, unsigned n_fds)
{
    armed.on = true;
    armed.flags = req->bake.flags;
    armed.n_fds = n_fds;
    for (unsigned i = 0; i < n_fds; i++)
        armed.fds[i] = dup(fds[i]);
}

/* Once its owner knows that it is armed. */
static void first_look(void)
{
    if (armed.on && listened && armed.flags & CONTROL_BAKE_LISTENER && !is("never"))
        fire(CONTROL_TRIGGER_LISTENER);
}

/* ---- Control ---- */

static void restore(const struct control_request *req, const int *fds)
{
    struct control_report no = {.type = CONTROL_ERROR, .id = req->id};
    struct sm_error err = SM_ERROR_INIT;

    if (read_snapshot(fds[0], &err) < 0) {
        no.error.code = err.code;
        no.error.text = err.text;
        reply(&no);
        return;
    }
    reply(&(struct control_report){.type = CONTROL_OK, .id = req->id});
}

static void use_fds(const struct control_request *req, const int *fds, unsigned n_fds)
{
    if (req->type == CONTROL_CONFIG) {
        memory_mib = req->config.memory_mib;
        profiles = req->config.flags & CONTROL_CONFIG_PROFILE;
        if (!(req->config.flags & CONTROL_CONFIG_RESTORE) && pread(fds[1], mode, sizeof(mode) - 1, 0) < 0)
            _exit(92);
    }
    if (req->type == CONTROL_VSOCK_CONNECT) {
        connect_agent(fds[0]);
        return;
    }
    if (req->type == CONTROL_RESTORE)
        restore(req, fds);
    if (req->type == CONTROL_SAVE)
        write_snapshot(fds, n_fds);
    if (req->type == CONTROL_BAKE)
        arm(req, fds, n_fds);
    if (req->type == CONTROL_TOUCHED && write_list(SNAP_RUNS_PREFETCH, fds[0]) < 0)
        _exit(97);
    for (unsigned i = 0; i < n_fds; i++)
        close(fds[i]);
}

static void answer(const struct control_request *req)
{
    struct control_stats stats = {.memory_bytes = (uint64_t)memory_mib << 20,
                                  .vcpus = 1,
                                  .setup_ns = 5,
                                  .uptime_ns = 6,
                                  .sandbox = CONTROL_SANDBOX_SECCOMP,
                                  .profile = profiles ? (char[]){"fake exits\n"} : (char[]){""}};
    char no[] = "this KVM has no irqfd", console[] = "fake console\n";

    if (req->type == CONTROL_CONFIG && is("refuse"))
        reply(&(struct control_report){.type = CONTROL_ERROR, .id = req->id, .error = {ENOTSUP, no}});
    else if (req->type == CONTROL_STATS)
        reply(&(struct control_report){.type = CONTROL_STATS_REPLY, .id = req->id, .stats = &stats});
    else if (req->type == CONTROL_CONSOLE_TAIL)
        reply(&(struct control_report){
            .type = CONTROL_CONSOLE, .id = req->id, .console = {console, sizeof(console) - 1}});
    else if (req->type == CONTROL_SAVE)
        reply(&(struct control_report){.type = CONTROL_SAVED, .id = req->id, .saved = figures});
    else if (req->type != CONTROL_RESTORE)
        reply(&(struct control_report){.type = CONTROL_OK, .id = req->id});
}

static void handle(struct control_request *req, const int *fds, unsigned n_fds)
{
    use_fds(req, fds, n_fds);
    answer(req);
    if (req->type == CONTROL_BAKE)
        first_look();
    if (req->type == CONTROL_STOP)
        end(CONTROL_EXIT_STOPPED, "");
    if (req->type == CONTROL_VSOCK_CONNECT && is("lose"))
        end(CONTROL_EXIT_PANIC, "out of luck");
    if (req->type != CONTROL_START)
        return;
    if (is("panic"))
        end(CONTROL_EXIT_PANIC, "no root\n");
    if (is("die"))
        _exit(9);
    if (!is("hang"))
        reply(&(struct control_report){.type = CONTROL_LIFECYCLE, .lifecycle = {SM_LC_EV_AGENT_READY, 0}});
}

int main(void)
{
    static uint8_t frame_buf[CONTROL_MAX_FRAME];
    struct pollfd p[2] = {{.fd = CONTROL_FD, .events = POLLIN}, {.events = POLLIN}};
    int fds[CONTROL_MAX_FDS];
    unsigned n_fds;
    ssize_t n;

    signal(SIGCHLD, SIG_IGN);
    if (pipe(events) < 0)
        return 98;
    p[1].fd = events[0];
    while (poll(p, 2, -1) > 0) {
        struct control_request req;

        if (p[1].revents)
            on_event();
        if (!p[0].revents)
            continue;
        n = io_recv_fds(CONTROL_FD, frame_buf, sizeof(frame_buf), fds, CONTROL_MAX_FDS, &n_fds);
        if (n <= 0)
            return 0;
        if (control_request_decode(frame_buf, (size_t)n, n_fds, &req, NULL) < 0)
            return 93;
        handle(&req, fds, n_fds);
        control_request_done(&req);
    }
    return 0;
}
