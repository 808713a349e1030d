/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control server: requests of the owner, events to it.
 *
 * Theory of operation
 *
 * One owner, one machine, one loop on the main thread. A request is handled and answered before the next is read. The
 * server goes through these states, and each request names the one it is good for:
 *
 *     NEW -> (CONFIG) -> CONFIGURED -> (START, RESTORE) -> RUNNING -> machine's end -> EXITED is sent, the loop ends
 *                                            `-> FAILED: it did not succeed; only STOP is left
 *     RUNNING -> (SAVE with stop) -> SAVED: it stands still; only STOP is left
 *
 * The owner's end is noticed by the socket closing, and by its process ending (a pidfd), should a child it has forked
 * hold the socket open. Either way the machine is stopped and nothing more is sent.
 *
 * This file has the socket, the machine's making and the plain requests; snapshots, bakes and prepared machines are in
 * serve_*.c.
 *
 * Sending: the socket never blocks. Replies and EXITED wait for room a bounded time, then the owner is given up; events
 * stay in the machine's box, where newer ones replace them, until the socket is writable again.
 */
#include "vmm/server.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "base/loop.h"
#include "dev/blk.h"
#include "dev/rng.h"
#include "dev/vsock.h"
#include "hv/selftest.h"
#include "machine/profile.h"
#include "vmm/server_private.h"

#define SEND_PATIENCE_MS 5000

/* --- sending --- */

static void give_up_owner(struct server *s)
{
    s->owner_gone = true;
    if (s->machine)
        machine_stop(s->machine);
    else
        loop_stop(s->loop);
}

static int send_report(struct server *s, const struct control_report *rep, int patience_ms)
{
    struct buf out = buf_init(CONTROL_MAX_FRAME);
    struct sm_error err = SM_ERROR_INIT;
    int r = control_report_encode(rep, &out, &err);

    assert(r == 0); /* what we make is within the limits */
    for (;;) {
        struct pollfd p = {.fd = s->sock, .events = POLLOUT};

        r = io_send_fds(s->sock, out.data, out.len, NULL, 0);
        if (r != -EAGAIN || patience_ms == 0 || poll(&p, 1, patience_ms) <= 0)
            break;
    }
    buf_done(&out);
    return r;
}

void server_reply(struct server *s, const struct control_report *rep)
{
    if (!s->owner_gone && send_report(s, rep, SEND_PATIENCE_MS) < 0)
        give_up_owner(s);
}

void server_reply_result(struct server *s, uint32_t id, int r, struct sm_error *err)
{
    struct control_report rep = {.type = CONTROL_OK, .id = id};

    if (r < 0) {
        rep.type = CONTROL_ERROR;
        rep.error.code = err->code ? err->code : -r;
        rep.error.text = err->text;
    }
    server_reply(s, &rep);
}

/* --- the machine's callbacks --- */

static bool on_event(void *ctx, uint32_t kind, uint64_t arg)
{
    struct server *s = ctx;
    const struct control_report rep = {.type = CONTROL_LIFECYCLE, .lifecycle = {.kind = kind, .arg = arg}};

    if (s->owner_gone)
        return true;
    int r = send_report(s, &rep, 0);
    if (r == -EAGAIN) {
        loop_mod(s->loop, &s->sock_src, EPOLLIN | EPOLLOUT);
        return false;
    }
    if (r < 0)
        give_up_owner(s);
    return true;
}

static enum control_exit_reason reason_of(enum machine_end end)
{
    switch (end) {
    case MACHINE_POWER_OFF:
        return CONTROL_EXIT_POWER_OFF;
    case MACHINE_RESET:
        return CONTROL_EXIT_RESET;
    case MACHINE_PANIC:
        return CONTROL_EXIT_PANIC;
    case MACHINE_TRIPLE_FAULT:
        return CONTROL_EXIT_TRIPLE_FAULT;
    case MACHINE_VCPU_ERROR:
        return CONTROL_EXIT_VCPU_ERROR;
    case MACHINE_RUNNING:
    case MACHINE_STOPPED:
        break;
    }
    return CONTROL_EXIT_STOPPED;
}

static void send_exited(struct server *s, enum control_exit_reason reason, char *text)
{
    struct control_report rep = {.type = CONTROL_EXITED, .exited = {.reason = reason, .text = text}};
    CLEANUP_FREE char *tail = s->machine ? malloc(CONTROL_MAX_CONSOLE) : NULL;

    if (tail) {
        rep.exited.console = tail;
        rep.exited.console_len = (uint32_t)machine_console_tail(s->machine, tail, CONTROL_MAX_CONSOLE);
    }
    if (!s->owner_gone)
        send_report(s, &rep, SEND_PATIENCE_MS);
    loop_stop(s->loop);
}

static void on_ended(void *ctx, enum machine_end end, const char *text)
{
    char copy[EVENTS_MAX_TEXT];

    snprintf(copy, sizeof(copy), "%s", text);
    send_exited(ctx, reason_of(end), copy);
}

static int on_vcpu_thread(void *ctx, struct sm_error *err)
{
    const struct server *s = ctx;

    return sandbox_filter_vcpu(s->filters, err);
}

static void on_trace(void *ctx, const char *line)
{
    char out[160];
    int n = snprintf(out, sizeof(out), "supermachine-vmm: %s\n", line);

    /* Not stdio, which would ask what kind of file it is: vCPU threads may not. */
    if (write(STDERR_FILENO, out, (size_t)n < sizeof(out) ? (size_t)n : sizeof(out) - 1) < 0)
        return;
}

static void on_console(void *ctx, uint8_t byte)
{
    const struct server *s = ctx;

    /* Not blocking: what the reader can't take now is in the tail. */
    if (write(s->console_fd, &byte, 1) < 0)
        return;
}

/* --- requests --- */

int server_wrong_time(struct sm_error *err, const char *request)
{
    return sm_error_set(err, EINVAL, "control request %s came at the wrong time", request);
}

static int self_test(struct server *s, struct sm_error *err)
{
    struct selftest_result res;
    int r = selftest_run(&res, &hv_kvm, s->kvm_fd, err);

    if (r < 0)
        return r;
    return res.usable ? 0 : sm_error_set(err, ENOTSUP, "%s", res.sentence);
}

static int do_config(struct server *s, const struct control_request *req, struct fds *fds, struct sm_error *err)
{
    unsigned next = 0;

    if (s->state != SERVER_NEW)
        return server_wrong_time(err, "CONFIG");
    s->config = req->config;
    s->kvm_fd = steal_fd(&fds->fd[next++]);
    if (!(req->config.flags & CONTROL_CONFIG_RESTORE))
        s->kernel_fd = steal_fd(&fds->fd[next++]);
    if (req->config.flags & CONTROL_CONFIG_INITRAMFS)
        s->initramfs_fd = steal_fd(&fds->fd[next++]);
    if (req->config.flags & CONTROL_CONFIG_CONSOLE)
        s->console_fd = steal_fd(&fds->fd[next++]);
    s->state = SERVER_FAILED;
    int r = s->console_fd >= 0 ? io_set_nonblock(s->console_fd) : 0;
    if (r < 0)
        return sm_error_sys(err, -r, "the console's descriptor does not work");
    r = req->config.flags & CONTROL_CONFIG_SELF_TEST ? self_test(s, err) : 0;
    if (r == 0 && req->config.flags & CONTROL_CONFIG_PREPARE)
        r = serve_prepare(s, err);
    if (r == 0)
        s->state = SERVER_CONFIGURED;
    return r;
}

static int do_disk(struct server *s, const struct control_request *req, struct fds *fds, struct sm_error *err)
{
    const struct control_disk *d = &req->disk;
    struct blk_config config = {.n_extents = d->n_extents, .writable = d->writable};
    bool used[CONTROL_MAX_FDS] = {false};

    if (s->state != SERVER_CONFIGURED)
        return server_wrong_time(err, "DISK");
    if (s->n_disks == CONTROL_MAX_DISKS || (s->machine && !s->prepared_disk))
        return sm_error_set(err, ENOSPC, "a machine has at most %d disks", s->machine ? 1 : CONTROL_MAX_DISKS);
    CLEANUP_FREE struct blk_extent *extents = calloc(d->n_extents, sizeof(*extents));
    if (!extents)
        return sm_error_sys(err, ENOMEM, "no memory for a disk");
    for (uint32_t i = 0; i < d->n_extents; i++) {
        const struct control_extent *e = &d->extents[i];

        extents[i] = (struct blk_extent){.fd = fds->fd[e->fd], .offset = e->offset, .length = e->length};
        used[e->fd] = true;
    }
    config.extents = extents;
    snprintf(config.serial, sizeof(config.serial), "%s", d->serial);
    int r = s->machine ? serve_attach(s, &config, err) : blk_new(&s->disk[s->n_disks], &config, err);
    /* They have been taken over, also when it failed. */
    for (unsigned i = 0; i < fds->n; i++)
        if (used[i])
            fds->fd[i] = -1;
    if (r == 0 && !s->machine)
        s->n_disks++;
    return r;
}

/* Disks first, in their order, then vsock and rng: what the guest calls them depends on it. */
static int add_devices(struct server *s, struct sm_error *err)
{
    const struct vsock_config vsock = {.loop = s->loop, .guest_cid = s->config.guest_cid};
    struct virtio_dev *rng;
    int r = 0;

    for (unsigned i = 0; r == 0 && i < s->n_disks; i++)
        r = machine_add_virtio(s->machine, STEAL_PTR(s->disk[i]), err);
    if (r == 0)
        r = vsock_new(&s->vsock, &vsock, err);
    if (r == 0) {
        r = machine_add_virtio(s->machine, s->vsock, err);
        if (r < 0)
            s->vsock = NULL;
    }
    if (r == 0)
        r = rng_new(&rng, err);
    return r < 0 ? r : machine_add_virtio(s->machine, rng, err);
}

static bool is_guest_memory(const void *ctx, const void *addr)
{
    return machine_has_address(ctx, addr);
}

/* Memory that comes from a file may end under the guest: what is to be said then is made now. */
static int guard_memory(struct server *s, struct sm_error *err)
{
    char sentence[] = MACHINE_CUT_SENTENCE;
    const struct control_report rep = {.type = CONTROL_EXITED,
                                       .exited = {.reason = CONTROL_EXIT_VCPU_ERROR, .text = sentence}};
    int r = control_report_encode(&rep, &s->last_frame, err);

    if (r < 0)
        return r;
    s->last_words = (struct sigbus_words){.is_guest = is_guest_memory,
                                          .ctx = s->machine,
                                          .sock = s->sock,
                                          .frame = s->last_frame.data,
                                          .len = s->last_frame.len,
                                          .complaint = "supermachine-vmm: " MACHINE_CUT_SENTENCE "\n"};
    return sigbus_guard(&s->last_words, err);
}

/* An empty machine with its devices. */
int server_build_machine(struct server *s, struct sm_error *err)
{
    s->ops = (struct machine_ops){.event = on_event,
                                  .ended = on_ended,
                                  .vcpu_thread = on_vcpu_thread,
                                  .trace = s->config.flags & CONTROL_CONFIG_TRACE ? on_trace : NULL,
                                  .console = s->console_fd >= 0 ? on_console : NULL};
    struct machine_config config = {.hv = &hv_kvm,
                                    .hv_fd = s->kvm_fd,
                                    .loop = s->loop,
                                    .memory_mib = s->config.memory_mib,
                                    .vcpus = s->config.vcpus,
                                    .profile = s->config.flags & CONTROL_CONFIG_PROFILE,
                                    .ops = &s->ops,
                                    .ctx = s};
    int r = machine_new(&s->machine, &config, err);

    if (r == 0)
        r = add_devices(s, err);
    if (r == 0 && s->config.flags & CONTROL_CONFIG_RESTORE)
        r = guard_memory(s, err);
    s->built_ns = io_now_ns();
    return r;
}

static int boot(struct server *s, struct sm_error *err)
{
    return machine_boot(s->machine, s->kernel_fd, s->initramfs_fd, s->config.cmdline,
                        s->config.flags & CONTROL_CONFIG_VERBOSE, err);
}

int server_shut_in(struct server *s, struct sm_error *err)
{
    int r;

    if (s->sandbox & CONTROL_SANDBOX_SECCOMP)
        return 0;
    close_fd(&s->kvm_fd);
    close_fd(&s->kernel_fd);
    close_fd(&s->initramfs_fd);
    r = sandbox_filters_new(&s->filters, err);
    if (r == 0)
        r = sandbox_enter(&s->sandbox, err);
    if (r == 0)
        r = machine_spawn(s->machine, err);
    if (r == 0)
        r = sandbox_filter_main(s->filters, err);
    sandbox_filters_free(STEAL_PTR(s->filters));
    if (r == 0)
        s->sandbox |= CONTROL_SANDBOX_SECCOMP | (s->owner >= 0 ? CONTROL_SANDBOX_OWNER : 0);
    return r;
}

/* What is in it has been put there: shut in, and run. */
int server_go(struct server *s, struct sm_error *err)
{
    int r = server_shut_in(s, err);

    if (r < 0)
        return r;
    s->state = SERVER_RUNNING;
    machine_run(s->machine);
    return 0;
}

static int do_start(struct server *s, struct sm_error *err)
{
    if (s->state != SERVER_CONFIGURED || s->config.flags & CONTROL_CONFIG_RESTORE)
        return server_wrong_time(err, "START");
    s->start_ns = io_now_ns();
    s->state = SERVER_FAILED;
    int r = server_build_machine(s, err);
    if (r == 0)
        r = boot(s, err);
    return r < 0 ? r : server_go(s, err);
}

static int do_vsock_connect(struct server *s, const struct control_request *req, struct fds *fds, struct sm_error *err)
{
    if (s->state != SERVER_RUNNING)
        return server_wrong_time(err, "VSOCK_CONNECT");
    return vsock_connect(s->vsock, req->port, steal_fd(&fds->fd[0]), err);
}

static void do_console_tail(struct server *s, uint32_t id)
{
    CLEANUP_FREE char *tail = malloc(CONTROL_MAX_CONSOLE);
    struct control_report rep = {.type = CONTROL_CONSOLE, .id = id, .console = {.data = tail}};

    if (tail && s->machine)
        rep.console.len = (uint32_t)machine_console_tail(s->machine, tail, CONTROL_MAX_CONSOLE);
    server_reply(s, &rep);
}

/* A prepared machine was built before. */
static uint64_t since_start(const struct server *s, uint64_t ns)
{
    return ns > s->start_ns ? ns - s->start_ns : 0;
}

static void do_stats(struct server *s, uint32_t id)
{
    struct control_stats stats = {.vcpus = s->config.vcpus, .sandbox = s->sandbox};
    struct control_report rep = {.type = CONTROL_STATS_REPLY, .id = id, .stats = &stats};
    struct buf profile = buf_init(CONTROL_MAX_PROFILE);

    if (s->machine && s->state == SERVER_RUNNING) {
        struct machine_stats m;

        machine_stats(s->machine, &m);
        stats.memory_bytes = m.memory_bytes;
        stats.events_lost = m.events_lost;
        stats.built_ns = since_start(s, s->built_ns);
        stats.mapped_ns = since_start(s, m.mapped_ns);
        stats.loaded_ns = since_start(s, m.loaded_ns);
        stats.first_exit_ns = since_start(s, m.first_exit_ns);
        if (m.first_entry_ns) {
            stats.setup_ns = m.first_entry_ns - s->start_ns;
            stats.uptime_ns = io_now_ns() - m.first_entry_ns;
        }
        stats.n_exits = HV_EXIT_KINDS;
        for (unsigned k = 0; k < HV_EXIT_KINDS; k++) {
            snprintf(stats.exits[k].name, sizeof(stats.exits[k].name), "%s", profile_kind_name((enum hv_exit_kind)k));
            stats.exits[k].count = m.exits[k];
        }
        machine_profile(s->machine, &profile);
        buf_u8(&profile, 0);
        if (!profile.bad)
            stats.profile = (char *)profile.data;
    }
    server_reply(s, &rep);
    buf_done(&profile);
}

static void do_stop(struct server *s, uint32_t id)
{
    const struct control_report rep = {.type = CONTROL_OK, .id = id};
    char text[] = "stopped by its owner";

    server_reply(s, &rep);
    if (s->state == SERVER_RUNNING || s->state == SERVER_SAVED)
        machine_stop(s->machine);
    else
        send_exited(s, CONTROL_EXIT_STOPPED, text);
}

static void handle(struct server *s, const struct control_request *req, struct fds *fds)
{
    struct sm_error err = SM_ERROR_INIT;
    int r = 0;

    switch (req->type) {
    case CONTROL_CONFIG:
        r = do_config(s, req, fds, &err);
        break;
    case CONTROL_DISK:
        r = do_disk(s, req, fds, &err);
        break;
    case CONTROL_START:
        r = do_start(s, &err);
        break;
    case CONTROL_RESTORE:
        r = serve_restore(s, req, fds, &err);
        break;
    case CONTROL_SAVE:
        serve_save(s, req, fds);
        return;
    case CONTROL_BAKE:
        r = serve_bake(s, req, fds, &err);
        break;
    case CONTROL_REWIND:
        r = serve_rewind(s, req, &err);
        break;
    case CONTROL_TOUCHED:
        r = serve_touched(s, fds, &err);
        break;
    case CONTROL_VSOCK_CONNECT:
        r = do_vsock_connect(s, req, fds, &err);
        break;
    case CONTROL_CONSOLE_TAIL:
        do_console_tail(s, req->id);
        return;
    case CONTROL_STATS:
        do_stats(s, req->id);
        return;
    case CONTROL_STOP:
        do_stop(s, req->id);
        return;
    }
    server_reply_result(s, req->id, r, &err);
}

static void on_request(struct loop_source *src, uint32_t events)
{
    struct server *s = src->ctx;
    struct sm_error err = SM_ERROR_INIT;
    struct control_request req;
    struct fds fds = {.n = 0};

    if (events & EPOLLOUT) {
        loop_mod(s->loop, src, EPOLLIN);
        if (s->machine)
            machine_deliver(s->machine);
    }
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    ssize_t n = io_recv_fds(s->sock, s->frame, CONTROL_MAX_FRAME, fds.fd, CONTROL_MAX_FDS, &fds.n);
    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        loop_remove(s->loop, src);
        give_up_owner(s);
        return;
    }
    int r = control_request_decode(s->frame, (size_t)n, fds.n, &req, &err);
    if (r == 0) {
        handle(s, &req, &fds);
        control_request_done(&req);
    } else {
        uint32_t id = control_frame_id(s->frame, (size_t)n);

        if (id)
            server_reply_result(s, id, r, &err);
        loop_remove(s->loop, src);
        give_up_owner(s);
    }
    for (unsigned i = 0; i < fds.n; i++)
        close_fd(&fds.fd[i]);
}

static void on_owner_gone(struct loop_source *src, uint32_t events)
{
    struct server *s = src->ctx;

    loop_remove(s->loop, src);
    give_up_owner(s);
}

/* Watch the process that started us. It may be outside our view (another PID namespace): then the socket has to do. */
static void watch_owner(struct server *s)
{
    pid_t parent = getppid();

    if (parent <= 1)
        return;
    s->owner = (int)syscall(SYS_pidfd_open, parent, 0);
    if (s->owner < 0)
        return;
    /* It may have died in between, and its number may be another's by now. */
    if (getppid() != parent || loop_add(s->loop, &s->owner_src, s->owner, EPOLLIN, on_owner_gone, s) < 0)
        close_fd(&s->owner);
}

int server_run(int sock, struct sm_error *err)
{
    struct server s = {.sock = sock,
                       .owner = -1,
                       .kvm_fd = -1,
                       .kernel_fd = -1,
                       .initramfs_fd = -1,
                       .console_fd = -1,
                       .last_frame = buf_init(CONTROL_MAX_FRAME),
                       .sock_src = {.fd = -1},
                       .owner_src = {.fd = -1}};
    int r = io_set_nonblock(sock);

    s.frame = malloc(CONTROL_MAX_FRAME);
    if (r == 0)
        r = s.frame ? loop_new(&s.loop) : -ENOMEM;
    if (r == 0)
        r = loop_add(s.loop, &s.sock_src, sock, EPOLLIN, on_request, &s);
    if (r == 0) {
        watch_owner(&s);
        r = loop_run(s.loop);
    }
    if (r < 0)
        sm_error_sys(err, -r, "the worker's loop failed");
    sigbus_guard(NULL, NULL);
    machine_free(s.machine);
    serve_bake_done(&s);
    buf_done(&s.last_frame);
    for (unsigned i = 0; i < s.n_disks; i++)
        if (s.disk[i])
            s.disk[i]->ops->free(s.disk[i]);
    close_fd(&s.kvm_fd);
    close_fd(&s.kernel_fd);
    close_fd(&s.initramfs_fd);
    close_fd(&s.console_fd);
    if (s.loop) {
        loop_remove(s.loop, &s.owner_src);
        loop_remove(s.loop, &s.sock_src);
    }
    close_fd(&s.owner);
    loop_free(s.loop);
    free(s.frame);
    close(sock);
    return r;
}
