/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: one command in a machine.
 *
 * Each has its connection to the agent (the first takes over the machine's first; one that ends leaves its to the next,
 * since making one takes two messages each way) and its three pumps. What
 * the guest sends goes into a sink; the agent client is told what the sink got rid of, so a reader that does not read
 * holds up its own stream and nothing else, with at most AGENT_WINDOW bytes kept. What a source reads goes to the
 * guest as far as its window is open; then the source pauses.
 *
 * It has ended when the guest said how, and all its output has been written. stdin is not waited for: one that
 * stays open holds nothing up.
 *
 * A lost connection often is the first sign of a machine that has died, and the worker's word comes a moment later. So
 * a loss is not told before LOST_GRACE_MS have gone by, or the machine's end, which is the better reason.
 *
 * Time limits run here and not in the guest: a guest that hangs can't be asked. First the stop signal, then SIGKILL to
 * all that the command started. The timer is a descriptor, so that sm_vm_fd() tells of it too.
 *
 * When a sink's reader has gone, the command's processes get SIGPIPE, once: what a pipe would have done.
 *
 * In a machine whose workload was running when it was baked, the first command that is the same is that workload: the
 * connection is attached to it, and from there on it is like any other.
 */
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "lib/options.h"
#include "lib/pump.h"
#include "lib/runspec.h"
#include "lib/vm.h"

#define LOST_GRACE_MS   500
#define STOP_GRACE_MS   10000
#define EXEC_MAX_SIGNAL 64

struct sm_exec {
    struct list node; /* in vm->execs, from start to free */
    struct sm_vm *vm;
    struct link *link; /* NULL: its connection has done its work */
    struct source in;
    struct sink out, err;
    struct loop_source timer;
    int timer_fd;
    int stop_signal;
    uint32_t grace_ms;
    bool ended; /* `result` is final, but for output under way */
    bool timed_out;
    struct sm_error failure; /* .code set: how it ended can't be told */
    struct sm_error lost;    /* .code set: the connection was lost; on its way to be the failure */
    struct sm_exec_result result;
    char message[SM_ERROR_TEXT_MAX];
};

struct sm_exec *exec_of_node(struct list *node)
{
    return LIST_ENTRY(node, struct sm_exec, node);
}

/* ---- Timer ---- */

static void set_timer(struct sm_exec *x, uint32_t ms)
{
    struct itimerspec at = {.it_value = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}};

    timerfd_settime(x->timer_fd, 0, &at, NULL);
}

static void on_timer(struct loop_source *src, uint32_t events);

static int open_timer(struct sm_exec *x)
{
    int r;

    if (x->timer_fd >= 0)
        return 0;
    x->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (x->timer_fd < 0)
        return -errno;
    r = loop_add(x->vm->loop, &x->timer, x->timer_fd, EPOLLIN, on_timer, x);
    if (r < 0)
        close_fd(&x->timer_fd);
    return r;
}

static void close_timer(struct sm_exec *x)
{
    loop_remove(x->vm->loop, &x->timer);
    close_fd(&x->timer_fd);
}

/* ---- The end ---- */

/* Closing the connection would cut off what is owed on it, which whoever comes next needs. One that failed ends the
 * machine. */
static void finish_first(struct sm_exec *x)
{
    if (!x->link || !x->vm->owed)
        return;
    if (x->lost.code)
        vm_fail(x->vm, &x->lost);
    else
        vm_await_first(x->vm, NULL);
}

static void over(struct sm_exec *x)
{
    if (x->vm->workload_exec == x) {
        x->vm->workload_exec = NULL;
        x->vm->workload_started = true;
    }
    source_close(&x->in);
    close_timer(x);
    vm_give_back(x->vm, x->link);
    x->link = NULL;
}

static void fail(struct sm_exec *x, const struct sm_error *why)
{
    if (x->ended || x->failure.code)
        return;
    x->failure = *why;
    over(x);
}

void exec_vm_ended(struct sm_exec *x, const struct sm_error *why)
{
    fail(x, why);
}

void exec_vm_rewound(struct sm_exec *x)
{
    if (x->ended || x->failure.code)
        return;
    x->result.status = SM_EXEC_SIGNALED;
    x->result.signal = SIGKILL;
    x->result.exit_code = 128 + SIGKILL;
    x->ended = true;
    over(x);
}

static void on_timer(struct loop_source *src, uint32_t events)
{
    struct sm_exec *x = src->ctx;
    uint64_t times;

    (void)events;
    if (read(x->timer_fd, &times, sizeof(times)) < 0)
        return;
    if (x->lost.code) {
        finish_first(x);
        fail(x, &x->lost);
    } else if (!x->timed_out) {
        x->timed_out = true;
        agent_signal(x->link->agent, x->stop_signal, AGENT_TARGET_PROCESS);
        set_timer(x, x->grace_ms);
    } else {
        agent_signal(x->link->agent, SIGKILL, AGENT_TARGET_TREE);
    }
}

/* ---- What the agent tells ---- */

static struct sink *sink_of(struct sm_exec *x, enum agent_stream stream)
{
    return stream == AGENT_STREAM_STDERR ? &x->err : &x->out;
}

static void on_output(struct agent *a, void *ctx, enum agent_stream stream, const void *data, size_t len)
{
    struct link *link = ctx;

    (void)a;
    sink_write(sink_of(link->exec, stream), data, len);
}

static void on_started(struct agent *a, void *ctx, uint32_t pid)
{
    struct link *link = ctx;

    (void)a;
    (void)pid;
    if (link->vm->workload_exec == link->exec)
        link->vm->workload_started = true;
}

static void on_stdin_room(struct agent *a, void *ctx)
{
    struct link *link = ctx;

    (void)a;
    source_resume(&link->exec->in);
}

static void on_exit_frame(struct agent *a, void *ctx, const struct agent_exit *end)
{
    struct sm_exec *x = ((struct link *)ctx)->exec;

    (void)a;
    x->result.status = end->signal ? SM_EXEC_SIGNALED : SM_EXEC_EXITED;
    x->result.exit_code = end->status;
    x->result.signal = end->signal;
    x->result.timed_out = x->timed_out;
    x->result.core_dumped = end->core_dumped;
    x->result.duration_ns = end->duration_ns;
    x->result.peak_rss_kib = end->peak_rss_kib;
    x->ended = true;
    x->vm->execs_ended++;
    over(x);
}

static void on_start_error(struct agent *a, void *ctx, int exit_code, const struct sm_error *err)
{
    struct sm_exec *x = ((struct link *)ctx)->exec;

    (void)a;
    x->result.status = exit_code == 127   ? SM_EXEC_NOT_FOUND
                       : exit_code == 126 ? SM_EXEC_NOT_EXECUTABLE
                                          : SM_EXEC_NOT_STARTED;
    x->result.exit_code = exit_code;
    snprintf(x->message, sizeof(x->message), "%s", err->text);
    x->ended = true;
    over(x);
}

/* Control requests are made on the first connection only. */
static void on_done(struct agent *a, void *ctx)
{
    struct sm_vm *vm = ((struct link *)ctx)->vm;

    (void)a;
    if (--vm->owed == 0)
        loop_timer_cancel(&vm->answer);
}

/* Before there is a command, this is the end of the machine: its set-up failed. */
static void on_error(struct agent *a, void *ctx, const struct sm_error *err)
{
    struct link *link = ctx;
    struct sm_vm *vm = link->vm;
    struct sm_exec *x = link->exec;
    struct sm_error why = *err;
    const char *refusal = worker_last_refusal(vm->worker);

    (void)a;
    if (refusal[0])
        sm_error_wrap(&why, "%s", refusal);
    sm_error_wrap(&why, "the guest's agent");
    if (link == vm->spare) {
        link_free(STEAL_PTR(vm->spare));
        return;
    }
    if (!x) {
        vm_fail(vm, &why);
        return;
    }
    x->lost = why;
    source_close(&x->in);
    if (open_timer(x) < 0)
        fail(x, &why);
    else
        set_timer(x, LOST_GRACE_MS);
}

const struct agent_ops exec_agent_ops = {
    .on_done = on_done,
    .on_started = on_started,
    .on_output = on_output,
    .on_stdin_room = on_stdin_room,
    .on_exit = on_exit_frame,
    .on_start_error = on_start_error,
    .on_error = on_error,
};

/* ---- Pumps ---- */

static void sink_done(struct sink *s, size_t n)
{
    struct sm_exec *x = s->ctx;

    if (x->link)
        agent_output_done(x->link->agent, s == &x->err ? AGENT_STREAM_STDERR : AGENT_STREAM_STDOUT, n);
}

static void sink_broke(struct sink *s)
{
    struct sm_exec *x = s->ctx;

    if (x->link)
        agent_signal(x->link->agent, SIGPIPE, AGENT_TARGET_TREE);
}

static size_t source_take(struct source *s, const void *data, size_t len)
{
    struct sm_exec *x = s->ctx;

    return x->link ? agent_stdin(x->link->agent, data, len) : len;
}

static void source_eof(struct source *s)
{
    struct sm_exec *x = s->ctx;

    if (x->link)
        agent_stdin_eof(x->link->agent);
}

static int open_pumps(struct sm_exec *x, const struct sm_exec_config *c, struct sm_error *err)
{
    struct loop *loop = x->vm->loop;
    int r;

    x->in.ctx = x->out.ctx = x->err.ctx = x;
    x->in.take = source_take;
    x->in.eof = source_eof;
    x->out.done = x->err.done = sink_done;
    x->out.broke = x->err.broke = sink_broke;
    r = sink_open(&x->out, loop, c->out, err);
    if (r == 0)
        r = sink_open(&x->err, loop, c->err, err);
    return r < 0 ? r : source_open(&x->in, loop, c->in, err);
}

/* ---- Start ---- */

/* The first connection, when it is still free, or one that a command has left; else a new one. */
static int get_link(struct sm_exec *x, struct sm_error *err)
{
    struct sm_vm *vm = x->vm;

    if (!vm->first && !vm->spare)
        return vm_connect(vm, x, &x->link, err);
    x->link = vm->first ? STEAL_PTR(vm->first) : STEAL_PTR(vm->spare);
    x->link->exec = x;
    return 0;
}

/* The command that runs already, and that nobody has taken yet. */
static int attach(struct sm_exec *x, struct sm_error *err)
{
    int r = get_link(x, err);

    if (r == 0)
        r = agent_attach(x->link->agent, err);
    if (r == 0) {
        x->vm->workload_waits = false;
        x->vm->workload_exec = x;
        x->vm->workload_started = true;
    }
    return r;
}

/* Nothing is asked for: in a clone of somebody's machine, what went on there. */
static bool asks_nothing(const struct sm_exec_config *c)
{
    return !c->args && !c->entrypoint && !c->cmd && !(c->env && *c->env) && !c->cwd && !c->user;
}

static bool is_waiting(const struct sm_vm *vm, const struct sm_exec_config *c, const struct runspec *spec)
{
    if (!vm->workload_waits || c->tty || c->in >= 0)
        return false;
    return runspec_equal(spec, &vm->workload) || (vm->from && vm->from->meta.kind == SNAPSHOT_VM && asks_nothing(c));
}

static int request(struct sm_exec *x, const struct sm_exec_config *c, struct sm_error *err)
{
    struct sm_vm *vm = x->vm;
    const struct oci_config *image = oci_image_config(vm->image->oci);
    struct runspec_request want = runspec_request_of(c);
    struct runspec spec;
    int r = runspec_build(&spec, image, &want, err);
    /* A machine that goes back to one that runs finds it again: no other takes its place. */
    bool comes_with_one = vm->from && vm->from->meta.workload;
    bool workload = c->workload && !comes_with_one && !vm->workload_waits && !vm->workload_exec;

    if (r < 0)
        return r;
    if (is_waiting(vm, c, &spec)) {
        runspec_done(&spec);
        return attach(x, err);
    }
    if (workload) {
        runspec_done(&vm->workload);
        vm->workload = spec;
    } else {
        runspec_done(&spec);
    }
    want.hostname = vm->hostname;
    want.tty = c->tty != 0;
    r = runspec_build(&spec, image, &want, err);
    if (r < 0)
        return r;
    struct agent_exec exec = {.argv = (const char *const *)spec.argv.list,
                              .env = (const char *const *)spec.env.list,
                              .cwd = spec.cwd,
                              .user = spec.user,
                              .tty = c->tty != 0,
                              .open_stdin = c->in >= 0,
                              .workload = workload,
                              .detached = workload,
                              .late_start = true,
                              .create_cwd = true,
                              .rows = c->rows,
                              .cols = c->cols};
    r = get_link(x, err);
    if (r == 0)
        r = agent_exec(x->link->agent, &exec, err);
    if (r == 0 && workload) {
        vm->workload_exec = x;
        vm->workload_started = false;
    }
    runspec_done(&spec);
    return r;
}

int sm_exec_start(struct sm_exec **ret, struct sm_vm *vm, const struct sm_exec_config *given, struct sm_error *err)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_exec *x;
    int r = OPTIONS_COPY(&config, given, err);

    if (r < 0)
        return r;
    if (config.workload && (config.tty || config.in >= 0))
        return sm_error_set(err, EINVAL, "a machine's workload has neither a terminal nor standard input");
    r = vm->first ? vm_ended(vm, err) : vm_await_first(vm, err);
    if (r < 0)
        return r;
    x = calloc(1, sizeof(*x));
    if (!x)
        return sm_error_sys(err, ENOMEM, "cannot start a command");
    x->vm = vm;
    x->timer_fd = x->timer.fd = -1;
    x->grace_ms = config.grace_ms ? config.grace_ms : STOP_GRACE_MS;
    x->stop_signal = runspec_signal(oci_image_config(vm->image->oci)->stop_signal);
    if (x->stop_signal < 0)
        x->stop_signal = SIGTERM;
    list_push_back(&vm->execs, &x->node);
    r = open_pumps(x, &config, err);
    if (r == 0 && config.timeout_ms) {
        r = open_timer(x);
        if (r < 0)
            sm_error_sys(err, -r, "cannot make a timer");
    }
    if (r == 0)
        r = request(x, &config, err);
    if (r == 0 && config.timeout_ms)
        set_timer(x, config.timeout_ms);
    if (r < 0) {
        sm_exec_free(x);
        return r;
    }
    *ret = x;
    return 0;
}

void sm_exec_free(struct sm_exec *x)
{
    if (!x)
        return;
    finish_first(x);
    /* The end of its connection is not the workload's. */
    if (x->vm->workload_exec == x && x->link)
        agent_signal(x->link->agent, SIGKILL, AGENT_TARGET_TREE);
    over(x);
    sink_close(&x->out);
    sink_close(&x->err);
    list_remove(&x->node);
    free(x);
}

/* ---- Use ---- */

static bool is_over(const struct sm_exec *x)
{
    return (x->ended || x->failure.code) && sink_empty(&x->out) && sink_empty(&x->err);
}

void sm_exec_result(const struct sm_exec *x, struct sm_exec_result *result)
{
    struct sm_exec_result ours = x->result;

    if (!is_over(x) || x->failure.code)
        ours = (struct sm_exec_result){.status = SM_EXEC_RUNNING};
    ours.message = x->message;
    options_give(result, &ours, sizeof(ours));
}

int sm_exec_wait(struct sm_exec *x, struct sm_exec_result *result, struct sm_error *err)
{
    while (!is_over(x)) {
        int r = vm_round(x->vm, -1, err);

        if (r < 0)
            return r;
    }
    if (x->failure.code) {
        if (err)
            *err = x->failure;
        return -x->failure.code;
    }
    if (result)
        sm_exec_result(x, result);
    return 0;
}

int sm_exec_signal(struct sm_exec *x, int signal, struct sm_error *err)
{
    if (signal < 0 || signal > EXEC_MAX_SIGNAL)
        return sm_error_set(err, EINVAL, "%d is not a signal: they go from 1 to %d", signal, EXEC_MAX_SIGNAL);
    if (x->link && !x->lost.code)
        agent_signal(x->link->agent, signal == SM_SIGNAL_STOP ? x->stop_signal : signal, AGENT_TARGET_PROCESS);
    return 0;
}

int sm_exec_resize(struct sm_exec *x, uint16_t rows, uint16_t cols, struct sm_error *err)
{
    (void)err;
    if (x->link && !x->lost.code)
        agent_resize(x->link->agent, rows, cols);
    return 0;
}

int sm_exec_close_stdin(struct sm_exec *x, struct sm_error *err)
{
    (void)err;
    source_end(&x->in);
    return 0;
}
