/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker without a machine, for test_vm: it speaks the control protocol, and each connection to "the guest" gets a
 * real agent in a process of its own, which runs commands right here. What else it does is in the kernel's file:
 *     ok      all goes well                      refuse  CONFIG is refused
 *     hang    the guest never comes up           panic   it panics instead of coming up
 *     die     the worker exits with 9 at START   lose    connections close at once, then the machine panics
 *     mute    connections are taken and never answered
 */
#include <errno.h>
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

static char mode[16];
static unsigned connections;
static int mute_fd = -1;

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

static _Noreturn void serve(int fd, bool first)
{
    static const struct ga_server_ops ops = {.setup = set_up, .power = power};
    struct ga_server *s;

    close(CONTROL_FD);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    signal(SIGCHLD, SIG_DFL);
    if (ga_server_new(&ops, NULL, !first, &s) < 0 || ga_server_adopt(s, fd) < 0)
        _exit(91);
    ga_server_run(s, true);
    ga_server_free(s);
    _exit(0);
}

static void connect_agent(int fd)
{
    bool first = connections++ == 0;

    if (is("mute")) {
        mute_fd = dup(fd);
    } else if (!is("lose") && fork() == 0) {
        serve(fd, first);
    }
    close(fd);
}

static void handle(struct control_request *req, const int *fds, unsigned n_fds)
{
    struct control_report ok = {.type = CONTROL_OK, .id = req->id};
    struct control_stats stats = {.memory_bytes = (uint64_t)req->config.memory_mib << 20,
                                  .vcpus = 1,
                                  .setup_ns = 5,
                                  .uptime_ns = 6,
                                  .sandbox = CONTROL_SANDBOX_SECCOMP,
                                  .profile = (char[]){""}};
    char no[] = "this KVM has no irqfd", console[] = "fake console\n";

    if (req->type == CONTROL_CONFIG && n_fds > 1 && pread(fds[1], mode, sizeof(mode) - 1, 0) < 0)
        _exit(92);
    if (req->type == CONTROL_VSOCK_CONNECT) {
        connect_agent(fds[0]);
    } else {
        for (unsigned i = 0; i < n_fds; i++)
            close(fds[i]);
    }
    if (req->type == CONTROL_CONFIG && is("refuse"))
        reply(&(struct control_report){.type = CONTROL_ERROR, .id = req->id, .error = {ENOTSUP, no}});
    else if (req->type == CONTROL_STATS)
        reply(&(struct control_report){.type = CONTROL_STATS_REPLY, .id = req->id, .stats = &stats});
    else if (req->type == CONTROL_CONSOLE_TAIL)
        reply(&(struct control_report){
            .type = CONTROL_CONSOLE, .id = req->id, .console = {console, sizeof(console) - 1}});
    else
        reply(&ok);
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
    static uint8_t frame[CONTROL_MAX_FRAME];
    int fds[CONTROL_MAX_FDS];
    unsigned n_fds;
    ssize_t n;

    signal(SIGCHLD, SIG_IGN);
    while ((n = io_recv_fds(CONTROL_FD, frame, sizeof(frame), fds, CONTROL_MAX_FDS, &n_fds)) > 0) {
        struct control_request req;

        if (control_request_decode(frame, (size_t)n, n_fds, &req, NULL) < 0)
            return 93;
        handle(&req, fds, n_fds);
        control_request_done(&req);
    }
    return 0;
}
