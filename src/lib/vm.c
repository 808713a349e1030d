/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: one machine, from its first moment to its end.
 *
 * How it comes up is in vm_start.c. Here is what holds for each: its worker tells things, connections lead to the
 * guest's agent, and it ends. On the first connection the guest is set up, or told who it is after a restore; nobody
 * waits for the answers (vm->owed counts them): the first command follows on the same connection, and the agent does
 * one after the other. No other connection's command may overtake them.
 *
 * A machine that has ended stays an object that says why it ended. Every failure on the way up carries evidence: the
 * worker's sentence, or the last that the guest's console said.
 *
 * Commands' output is written to pipes whose readers may have gone: a guard keeps SIGPIPE from the owner.
 *
 * Threads: the owner's only, and only inside its calls.
 */
#include "lib/vm.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "lib/options.h"
#include "lib/pipe_guard.h"
#include "lib/remote.h"
#include "lifecycle_regs.h"

int vm_new(struct sm_vm **ret, struct sm_error *err)
{
    struct sm_vm *vm = calloc(1, sizeof(*vm));
    int r;

    if (!vm)
        return sm_error_sys(err, ENOMEM, "cannot start a machine");
    vm->started_ns = io_now_ns();
    list_init(&vm->execs);
    r = loop_new(&vm->loop);
    if (r < 0) {
        sm_vm_free(vm);
        return sm_error_sys(err, -r, "cannot start a machine");
    }
    *ret = vm;
    return 0;
}

void vm_clear(struct sm_vm *vm)
{
    link_free(STEAL_PTR(vm->first));
    link_free(STEAL_PTR(vm->spare));
    worker_free(STEAL_PTR(vm->worker));
    snapshot_unref(STEAL_PTR(vm->from));
    loop_timer_cancel(&vm->answer);
    vm->prepared_id = 0;
    vm->agent_ready = vm->stays = false;
    vm->owed = 0;
    vm->baked.come = false;
    vm->ended.code = 0;
}

int vm_tell(struct sm_vm *vm, enum sm_vm_event_kind kind, const char *text, struct sm_error *err)
{
    const struct sm_vm_event event = {.kind = kind, .text = text};

    if (vm->event && vm->event(vm->event_ctx, &event))
        return sm_error_set(err, ECANCELED, "the start of the machine was given up, as asked");
    return 0;
}

/* ---- What the worker tells ---- */

static void on_lifecycle(void *ctx, uint32_t kind, uint64_t arg)
{
    struct sm_vm *vm = ctx;

    (void)arg;
    if (kind == SM_LC_EV_AGENT_READY)
        vm->agent_ready = true;
}

static void on_console(void *ctx, const char *data, size_t len)
{
    struct sm_vm *vm = ctx;

    vm->console(vm->console_ctx, data, len);
}

static void on_ended(void *ctx)
{
    struct sm_vm *vm = ctx;
    struct sm_error why = SM_ERROR_INIT;

    worker_error(vm->worker, &why);
    vm_fail(vm, &why);
}

static void on_baked(void *ctx, const struct control_baked *report)
{
    struct vm_baked *b = &((struct sm_vm *)ctx)->baked;

    snprintf(b->text, sizeof(b->text), "%s", report->text);
    b->report = *report;
    b->report.text = b->text;
    b->come = true;
}

const struct worker_ops vm_worker_ops = {on_lifecycle, on_console, on_ended, on_baked};

int vm_ended(const struct sm_vm *vm, struct sm_error *err)
{
    if (vm->ended.code && err)
        *err = vm->ended;
    return -vm->ended.code;
}

void vm_fail(struct sm_vm *vm, const struct sm_error *why)
{
    if (vm->ended.code)
        return;
    if (vm->stopping) /* whichever of its connections ended first */
        sm_error_set(&vm->ended, ESHUTDOWN, "the machine was stopped");
    else
        vm->ended = *why;
    loop_timer_cancel(&vm->answer);
    LIST_FOREACH_SAFE(&vm->execs, it, tmp)
    exec_vm_ended(exec_of_node(it), &vm->ended);
}

/* ---- Connections to the agent ---- */

int vm_dial(struct sm_vm *vm, const struct agent_ops *ops, void *ctx, struct agent **ret, struct sm_error *err)
{
    struct control_request req = {.type = CONTROL_VSOCK_CONNECT, .port = AGENT_PORT};
    int sv[2];
    int r;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
        return sm_error_sys(err, errno, "cannot make a connection to the guest");
    r = worker_send(vm->worker, &req, &sv[1], 1, true, NULL, err);
    close(sv[1]);
    if (r < 0) {
        close(sv[0]);
        return r;
    }
    return agent_new(vm->loop, sv[0], ops, ctx, ret, err);
}

int vm_connect(struct sm_vm *vm, struct sm_exec *exec, struct link **ret, struct sm_error *err)
{
    struct link *link = calloc(1, sizeof(*link));
    int r;

    if (!link)
        return sm_error_sys(err, ENOMEM, "cannot make a connection to the guest");
    link->vm = vm;
    link->exec = exec;
    r = vm_dial(vm, &exec_agent_ops, link, &link->agent, err);
    if (r < 0) {
        free(link);
        return r;
    }
    *ret = link;
    return 0;
}

void link_free(struct link *link)
{
    if (!link)
        return;
    agent_free(link->agent);
    free(link);
}

void vm_give_back(struct sm_vm *vm, struct link *link)
{
    if (!link || vm->spare || !agent_idle(link->agent)) {
        link_free(link);
        return;
    }
    link->exec = NULL;
    vm->spare = link;
}

/* ---- Running ---- */

int vm_round(struct sm_vm *vm, int timeout_ms, struct sm_error *err)
{
    struct pipe_guard guard;
    int r;

    pipe_guard_enter(&guard);
    r = loop_once(vm->loop, timeout_ms);
    pipe_guard_leave(&guard);
    return r < 0 ? sm_error_sys(err, -r, "cannot wait for the machine") : 0;
}

int vm_await(struct sm_vm *vm, const bool *flag, uint64_t deadline_ns, struct sm_error *err)
{
    while (!*flag && !vm->ended.code) {
        uint64_t now = io_now_ns();
        int r;

        if (now >= deadline_ns)
            return 0;
        r = vm_round(vm, (int)((deadline_ns - now) / 1000000 + 1), err);
        if (r < 0)
            return r;
    }
    return *flag ? 0 : vm_ended(vm, err);
}

void vm_advise_room(struct sm_error *err)
{
    size_t n;

    if (!err || (err->code != ENOSPC && err->code != EDQUOT))
        return;
    n = strlen(err->text);
    snprintf(err->text + n, sizeof(err->text) - n, ": make room there ('supermachine prune' does in the image store)");
}

int vm_ask(struct sm_vm *vm, struct control_request *req, const int *fds, unsigned n_fds, enum control_report_type want,
           struct control_report *ret, struct sm_error *err)
{
    struct pipe_guard guard;
    uint32_t id;
    int r = worker_send(vm->worker, req, fds, n_fds, false, &id, err);

    if (r < 0)
        return r;
    pipe_guard_enter(&guard);
    r = worker_await(vm->worker, id, want, ret, err);
    pipe_guard_leave(&guard);
    if (r < 0 && req->type == CONTROL_SAVE)
        vm_advise_room(err);
    return r;
}

static void on_no_answer(struct loop_timer *timer)
{
    struct sm_vm *vm = timer->ctx;
    struct sm_error why = SM_ERROR_INIT;

    sm_error_set(&why, ETIMEDOUT, "the guest's agent did not answer within %u ms", vm->start_timeout_ms);
    vm_fail(vm, &why);
}

void vm_owes(struct sm_vm *vm)
{
    vm->owed++;
    loop_timer_set(vm->loop, &vm->answer, io_now_ns() + vm->start_timeout_ms * 1000000ull, on_no_answer, vm);
}

int vm_await_first(struct sm_vm *vm, struct sm_error *err)
{
    while (vm->owed && !vm->ended.code) {
        int r = vm_round(vm, -1, err);

        if (r < 0)
            return r;
    }
    return vm_ended(vm, err);
}

int sm_vm_fd(const struct sm_vm *vm)
{
    return loop_fd(vm->loop);
}

int sm_vm_dispatch(struct sm_vm *vm, int timeout_ms, struct sm_error *err)
{
    int r;

    if (!vm->ended.code || !list_empty(&vm->execs)) {
        r = vm_round(vm, vm->ended.code ? 0 : timeout_ms, err);
        if (r < 0)
            return r;
    }
    return vm_ended(vm, err);
}

long sm_vm_console_tail(struct sm_vm *vm, char *buf, size_t size, struct sm_error *err)
{
    struct control_request req = {.type = CONTROL_CONSOLE_TAIL};
    struct control_report rep = {0};
    const char *data;
    size_t len;
    int r = 0;

    if (!worker_ended(vm->worker))
        r = vm_ask(vm, &req, NULL, 0, CONTROL_CONSOLE, &rep, err);
    if (r < 0 && !worker_ended(vm->worker))
        return r;
    data = rep.type ? rep.console.data : worker_console(vm->worker, &len);
    if (rep.type)
        len = rep.console.len;
    if (len > size) {
        data += len - size;
        len = size;
    }
    if (len)
        memcpy(buf, data, len);
    control_report_done(&rep);
    return (long)len;
}

static const struct {
    uint32_t bit;
    const char *word;
} sandbox_words[] = {
    {CONTROL_SANDBOX_FDS, "descriptors"}, {CONTROL_SANDBOX_RLIMITS, "rlimits"},
    {CONTROL_SANDBOX_NODUMP, "nodump"},   {CONTROL_SANDBOX_OWNER, "owner"},
    {CONTROL_SANDBOX_USERNS, "userns"},   {CONTROL_SANDBOX_MOUNTNS, "mountns"},
    {CONTROL_SANDBOX_NETNS, "netns"},     {CONTROL_SANDBOX_IPCNS, "ipcns"},
    {CONTROL_SANDBOX_UTSNS, "utsns"},     {CONTROL_SANDBOX_LANDLOCK, "landlock"},
    {CONTROL_SANDBOX_CAPS, "nocaps"},     {CONTROL_SANDBOX_NONEWPRIV, "nonewprivs"},
    {CONTROL_SANDBOX_SECCOMP, "seccomp"},
};

static void sandbox_text(uint32_t bits, char *buf, size_t size)
{
    size_t n = 0;

    buf[0] = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(sandbox_words); i++)
        if (bits & sandbox_words[i].bit && n < size)
            n += (size_t)snprintf(buf + n, size - n, "%s%s", n ? " " : "", sandbox_words[i].word);
}

int sm_vm_stats(struct sm_vm *vm, struct sm_vm_stats *stats, struct sm_error *err)
{
    struct control_request req = {.type = CONTROL_STATS};
    struct control_report rep = {0};
    struct sm_vm_stats ours = {0};
    int r;

    if (vm->ended.code)
        return vm_ended(vm, err);
    r = vm_ask(vm, &req, NULL, 0, CONTROL_STATS_REPLY, &rep, err);
    if (r < 0)
        return r;
    ours.memory_bytes = rep.stats->memory_bytes;
    ours.start_ns = vm->ready_ns - vm->started_ns;
    ours.setup_ns = rep.stats->setup_ns;
    ours.uptime_ns = rep.stats->uptime_ns;
    ours.vcpus = rep.stats->vcpus;
    ours.worker_pid = worker_pid(vm->worker);
    ours.restored = vm->origin;
    for (uint32_t i = 0; i < rep.stats->n_exits; i++)
        ours.exits += rep.stats->exits[i].count;
    sandbox_text(rep.stats->sandbox, ours.sandbox, sizeof(ours.sandbox));
    control_report_done(&rep);
    options_give(stats, &ours, sizeof(ours));
    return 0;
}

int sm_vm_profile(char **ret, struct sm_vm *vm, struct sm_error *err)
{
    struct control_request req = {.type = CONTROL_STATS};
    struct control_report rep = {0};
    int r;

    if (vm->ended.code)
        return vm_ended(vm, err);
    r = vm_ask(vm, &req, NULL, 0, CONTROL_STATS_REPLY, &rep, err);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(rep.stats->profile);
    control_report_done(&rep);
    return 0;
}

/* ---- The end ---- */

int sm_vm_stop(struct sm_vm *vm, uint32_t timeout_ms, struct sm_error *err)
{
    struct control_request req = {.type = CONTROL_STOP};
    uint64_t deadline = io_now_ns() + timeout_ms * 1000000ull;

    if (vm->ended.code)
        return 0;
    vm->stopping = true;
    if (worker_send(vm->worker, &req, NULL, 0, true, NULL, NULL) == 0) {
        while (!vm->ended.code) {
            uint64_t now = io_now_ns();
            int r;

            if (now >= deadline)
                break;
            r = vm_round(vm, (int)((deadline - now) / 1000000 + 1), err);
            if (r < 0)
                return r;
        }
    }
    worker_kill(vm->worker);
    vm_fail(vm, NULL);
    return 0;
}

void sm_vm_free(struct sm_vm *vm)
{
    if (!vm)
        return;
    assert(list_empty(&vm->execs));
    remote_free(vm->remote);
    sm_vm_settle(vm);
    vm_clear(vm);
    runspec_done(&vm->workload);
    loop_free(vm->loop);
    sm_image_free(vm->image);
    free(vm->kernel_args);
    free(vm);
}
