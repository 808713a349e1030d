/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: one machine, from its configuration to its end.
 *
 * Start: the worker is started first, and while it is being loaded by the kernel we open its files. CONFIG, DISK and
 * START go out back to back, then their answers are awaited. The guest's boot ends with agent-ready; then a connection
 * to the agent is opened and SETUP sent on it. Nobody waits for its answer: the first command follows on the same
 * connection, and the agent does one after the other.
 *
 * A machine that has ended stays an object that says why it ended. Every failure on the way up carries evidence: the
 * worker's sentence, or the last that the guest's console said.
 *
 * The KVM self-test takes the worker some milliseconds, so what it found is remembered in the image store for as long
 * as this host stays up (selftest.c).
 *
 * Commands' output is written to pipes whose readers may have gone: a guard keeps SIGPIPE from the owner.
 *
 * Threads: the owner's only, and only inside its calls.
 */
#include "lib/vm.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "lib/find.h"
#include "lib/options.h"
#include "lib/pipe_guard.h"
#include "lib/selftest.h"
#include "lifecycle_regs.h"

#define VM_GUEST_CID         3
#define VM_SET_UP_TIMEOUT_MS 30000

/* The guest has no network device; programs that insist on the file shall find one. */
#define VM_RESOLV_CONF "# This machine has no network.\n"

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

    if (vm->stopping)
        sm_error_set(&why, ESHUTDOWN, "the machine was stopped");
    else
        worker_error(vm->worker, &why);
    vm_fail(vm, &why);
}

static const struct worker_ops worker_callbacks = {.lifecycle = on_lifecycle, .console = on_console, .ended = on_ended};

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
    vm->ended = *why;
    LIST_FOREACH_SAFE(&vm->execs, it, tmp)
    exec_vm_ended(exec_of_node(it), &vm->ended);
}

/* ---- Connections to the agent ---- */

int vm_connect(struct sm_vm *vm, struct sm_exec *exec, struct link **ret, struct sm_error *err)
{
    struct control_request req = {.type = CONTROL_VSOCK_CONNECT, .port = AGENT_PORT};
    struct link *link = NULL;
    int sv[2];
    int r;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
        return sm_error_sys(err, errno, "cannot make a connection to the guest");
    link = calloc(1, sizeof(*link));
    if (!link) {
        close(sv[0]);
        close(sv[1]);
        return sm_error_sys(err, ENOMEM, "cannot make a connection to the guest");
    }
    link->vm = vm;
    link->exec = exec;
    r = worker_send(vm->worker, &req, &sv[1], 1, true, NULL, err);
    close(sv[1]);
    if (r < 0) {
        close(sv[0]);
        free(link);
        return r;
    }
    r = agent_new(vm->loop, sv[0], &exec_agent_ops, link, &link->agent, err);
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

/* ---- Configuration ---- */

static int check_name(const char *what, const char *s, const char *extra, struct sm_error *err)
{
    size_t n = strlen(s);

    if (n == 0 || n > VM_NAME_MAX)
        return sm_error_set(err, EINVAL, "the %s '%.80s' must have 1 to %d characters", what, s, VM_NAME_MAX);
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]) && (i == 0 || !strchr(extra, s[i])))
            return sm_error_set(err, EINVAL,
                                "the %s '%s' may hold letters, digits and '%s', and begins with one of "
                                "the first two",
                                what, s, extra);
    return 0;
}

static int set_hostname(struct sm_vm *vm, const char *given, struct sm_error *err)
{
    unsigned char id[6];

    if (given) {
        snprintf(vm->hostname, sizeof(vm->hostname), "%s", given);
        return check_name("hostname", given, "-.", err);
    }
    if (getrandom(id, sizeof(id), 0) != (ssize_t)sizeof(id))
        return sm_error_sys(err, errno, "cannot get random bytes");
    for (size_t i = 0; i < sizeof(id); i++)
        snprintf(vm->hostname + 2 * i, 3, "%02x", id[i]);
    return 0;
}

static int check_config(struct sm_vm *vm, struct sm_vm_config *c, struct sm_error *err)
{
    int r;

    if (c->memory_mib == 0)
        c->memory_mib = SM_VM_MEMORY_MIB_DEFAULT;
    if (c->vcpus == 0)
        c->vcpus = 1;
    if (c->start_timeout_ms == 0)
        c->start_timeout_ms = SM_VM_START_TIMEOUT_MS_DEFAULT;
    if (c->memory_mib < SM_VM_MEMORY_MIB_MIN || c->memory_mib > SM_VM_MEMORY_MIB_MAX)
        return sm_error_set(err, EINVAL, "%u MiB of memory is out of range: a machine can have %d to %d MiB",
                            c->memory_mib, SM_VM_MEMORY_MIB_MIN, SM_VM_MEMORY_MIB_MAX);
    if (c->vcpus > SM_VM_VCPUS_MAX)
        return sm_error_set(err, EINVAL, "%u processors are out of range: a machine can have 1 to %d", c->vcpus,
                            SM_VM_VCPUS_MAX);
    if (c->kernel_args && strlen(c->kernel_args) > CONTROL_MAX_CMDLINE)
        return sm_error_set(err, EINVAL, "the kernel arguments are longer than %d bytes", CONTROL_MAX_CMDLINE);
    if (c->name) {
        r = check_name("name", c->name, "_.-", err);
        if (r < 0)
            return r;
        snprintf(vm->name, sizeof(vm->name), "%s", c->name);
    }
    vm->console = c->console;
    vm->console_ctx = c->console_ctx;
    vm->vcpus = c->vcpus;
    return set_hostname(vm, c->hostname, err);
}

/* ---- Start ---- */

/* CONFIG with its descriptors: /dev/kvm, kernel, initramfs, console. */
static int send_config(struct sm_vm *vm, const struct sm_vm_config *c, bool self_test, uint32_t *ret_id,
                       struct sm_error *err)
{
    struct control_request req = {
        .type = CONTROL_CONFIG,
        .config = {.memory_mib = c->memory_mib,
                   .vcpus = c->vcpus,
                   .guest_cid = VM_GUEST_CID,
                   .flags = CONTROL_CONFIG_INITRAMFS | (self_test ? CONTROL_CONFIG_SELF_TEST : 0)}};
    int fds[4] = {-1, -1, -1, -1};
    char path[PATH_MAX];
    unsigned n = 0;
    int r;

    if (c->kernel_args)
        snprintf(req.config.cmdline, sizeof(req.config.cmdline), "%s", c->kernel_args);
    r = fds[n++] = find_kvm(err);
    if (r >= 0)
        r = fds[n++] = find_open(FIND_KERNEL, c->kernel, path, err);
    if (r >= 0)
        r = fds[n++] = find_open(FIND_INITRAMFS, c->initramfs, path, err);
    if (r >= 0 && vm->console) {
        req.config.flags |= CONTROL_CONFIG_CONSOLE | CONTROL_CONFIG_VERBOSE;
        r = worker_console_pipe(vm->worker, &fds[n++], err);
    }
    if (r >= 0)
        r = worker_send(vm->worker, &req, fds, n, false, ret_id, err);
    for (unsigned i = 0; i < n; i++)
        close_fd(&fds[i]);
    return r;
}

/* The root disk. An image's extents share few descriptors; the frame carries each once. */
static int send_disk(struct sm_vm *vm, uint32_t *ret_id, struct sm_error *err)
{
    struct control_request req = {.type = CONTROL_DISK, .disk = {.serial = "root"}};
    CLEANUP_FREE struct control_extent *extents = NULL;
    const struct oci_extent *from;
    unsigned n = oci_image_extents(vm->image->oci, &from);
    int fds[CONTROL_MAX_FDS];
    unsigned n_fds = 0;

    if (n > CONTROL_MAX_EXTENTS)
        return sm_error_set(err, E2BIG, "the image is in too many pieces: %u, at most %d can be a disk", n,
                            CONTROL_MAX_EXTENTS);
    extents = calloc(n ? n : 1, sizeof(*extents));
    if (!extents)
        return sm_error_sys(err, ENOMEM, "cannot describe the root disk");
    for (unsigned i = 0; i < n; i++) {
        unsigned k = 0;

        while (k < n_fds && fds[k] != from[i].fd)
            k++;
        if (k == CONTROL_MAX_FDS)
            return sm_error_set(err, E2BIG, "the image has too many layers: at most %d", CONTROL_MAX_FDS - 1);
        if (k == n_fds)
            fds[n_fds++] = from[i].fd;
        extents[i] = (struct control_extent){.fd = k, .offset = from[i].offset, .length = from[i].length};
    }
    req.disk.n_extents = n;
    req.disk.extents = extents;
    return worker_send(vm->worker, &req, fds, n_fds, false, ret_id, err);
}

/* Everything that the worker needs, in one go; then its answers. */
static int boot(struct sm_vm *vm, const struct sm_vm_config *c, struct sm_error *err)
{
    struct control_request start = {.type = CONTROL_START};
    struct selftest memory;
    bool tested = selftest_passed(&memory, oci_store_path(vm->image->store));
    uint32_t config_id = 0, disk_id = 0, start_id = 0;
    int r = send_config(vm, c, !tested, &config_id, err);

    if (r == 0)
        r = send_disk(vm, &disk_id, err);
    if (r == 0)
        r = worker_send(vm->worker, &start, NULL, 0, false, &start_id, err);
    if (r == 0)
        r = worker_await(vm->worker, config_id, CONTROL_OK, NULL, err);
    if (r == 0 && !tested)
        selftest_remember(&memory);
    if (r == 0)
        r = worker_await(vm->worker, disk_id, CONTROL_OK, NULL, err);
    if (r == 0)
        r = worker_await(vm->worker, start_id, CONTROL_OK, NULL, err);
    return r;
}

/* A guest that does not come up: what its console says is the evidence. */
static int timed_out(struct sm_vm *vm, uint32_t timeout_ms, struct sm_error *err)
{
    char console[4096], tail[1024];
    long n = sm_vm_console_tail(vm, console, sizeof(console), NULL);

    worker_tail_text(console, n > 0 ? (size_t)n : 0, tail, sizeof(tail));
    if (tail[0])
        return sm_error_set(err, ETIMEDOUT, "the guest did not answer within %u ms; its console said last: %s",
                            timeout_ms, tail);
    return sm_error_set(err, ETIMEDOUT,
                        "the guest did not answer within %u ms and its console said nothing: its kernel hangs, or this "
                        "host is very slow (watch it boot with -v, or give it longer with --start-timeout)",
                        timeout_ms);
}

static int await_agent(struct sm_vm *vm, uint32_t timeout_ms, struct sm_error *err)
{
    uint64_t deadline = vm->started_ns + timeout_ms * 1000000ull;

    while (!vm->agent_ready && !vm->ended.code) {
        uint64_t now = io_now_ns();
        int r;

        if (now >= deadline)
            return timed_out(vm, timeout_ms, err);
        r = vm_round(vm, (int)((deadline - now) / 1000000 + 1), err);
        if (r < 0)
            return r;
    }
    if (!vm->agent_ready)
        return vm_ended(vm, err);
    vm->ready_ns = io_now_ns();
    return 0;
}

static int set_up_guest(struct sm_vm *vm, struct sm_error *err)
{
    struct agent_setup setup = {
        .hostname = vm->hostname, .root_device = "/dev/vda", .root_fstype = "erofs", .resolv_conf = VM_RESOLV_CONF};
    int r = vm_connect(vm, NULL, &vm->first, err);

    return r < 0 ? r : agent_setup(vm->first->agent, &setup, err);
}

int sm_vm_start(struct sm_vm **ret, struct sm_image *image, const struct sm_vm_config *given, struct sm_error *err)
{
    struct sm_vm_config config = {0};
    char path[PATH_MAX];
    struct sm_vm *vm;
    int r = OPTIONS_COPY(&config, given, err);

    if (r < 0)
        return r;
    vm = calloc(1, sizeof(*vm));
    if (!vm)
        return sm_error_sys(err, ENOMEM, "cannot start a machine");
    vm->started_ns = io_now_ns();
    list_init(&vm->execs);
    vm->image = image_ref(image);
    r = check_config(vm, &config, err);
    if (r < 0)
        goto fail;
    r = loop_new(&vm->loop);
    if (r < 0) {
        sm_error_sys(err, -r, "cannot start a machine");
        goto fail;
    }
    r = find_file(FIND_WORKER, config.worker, path, err);
    if (r == 0)
        r = worker_spawn(&vm->worker, vm->loop, path, &worker_callbacks, vm, err);
    if (r == 0)
        r = boot(vm, &config, err);
    if (r == 0)
        r = await_agent(vm, config.start_timeout_ms, err);
    if (r == 0)
        r = set_up_guest(vm, err);
    if (r < 0) {
        if (vm->name[0])
            sm_error_wrap(err, "machine '%s'", vm->name);
        goto fail;
    }
    *ret = vm;
    return 0;

fail:
    sm_vm_free(vm);
    return r;
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

/* Ask the worker and wait for its answer; commands' streams move meanwhile. */
static int ask(struct sm_vm *vm, enum control_request_type type, enum control_report_type want,
               struct control_report *ret, struct sm_error *err)
{
    struct control_request req = {.type = type};
    struct pipe_guard guard;
    uint32_t id;
    int r = worker_send(vm->worker, &req, NULL, 0, false, &id, err);

    if (r < 0)
        return r;
    pipe_guard_enter(&guard);
    r = worker_await(vm->worker, id, want, ret, err);
    pipe_guard_leave(&guard);
    return r;
}

int vm_await_set_up(struct sm_vm *vm, struct sm_error *err)
{
    uint64_t deadline = io_now_ns() + VM_SET_UP_TIMEOUT_MS * 1000000ull;

    while (!vm->set_up && !vm->ended.code) {
        int r = vm_round(vm, VM_SET_UP_TIMEOUT_MS, err);

        if (r < 0)
            return r;
        if (io_now_ns() > deadline)
            return sm_error_set(err, ETIMEDOUT, "the guest's agent does not answer");
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
    struct control_report rep = {0};
    const char *data;
    size_t len;
    int r = 0;

    if (!worker_ended(vm->worker))
        r = ask(vm, CONTROL_CONSOLE_TAIL, CONTROL_CONSOLE, &rep, err);
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
    struct control_report rep = {0};
    struct sm_vm_stats ours = {0};
    int r;

    if (vm->ended.code)
        return vm_ended(vm, err);
    r = ask(vm, CONTROL_STATS, CONTROL_STATS_REPLY, &rep, err);
    if (r < 0)
        return r;
    ours.memory_bytes = rep.stats->memory_bytes;
    ours.start_ns = vm->ready_ns - vm->started_ns;
    ours.setup_ns = rep.stats->setup_ns;
    ours.uptime_ns = rep.stats->uptime_ns;
    ours.vcpus = rep.stats->vcpus;
    ours.worker_pid = worker_pid(vm->worker);
    for (uint32_t i = 0; i < rep.stats->n_exits; i++)
        ours.exits += rep.stats->exits[i].count;
    sandbox_text(rep.stats->sandbox, ours.sandbox, sizeof(ours.sandbox));
    control_report_done(&rep);
    options_give(stats, &ours, sizeof(ours));
    return 0;
}

/* ---- The end ---- */

int sm_vm_stop(struct sm_vm *vm, uint32_t timeout_ms, struct sm_error *err)
{
    struct control_request req = {.type = CONTROL_STOP};
    uint64_t deadline = io_now_ns() + timeout_ms * 1000000ull;
    struct sm_error why = SM_ERROR_INIT;

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
    sm_error_set(&why, ESHUTDOWN, "the machine was stopped");
    vm_fail(vm, &why);
    return 0;
}

void sm_vm_free(struct sm_vm *vm)
{
    if (!vm)
        return;
    assert(list_empty(&vm->execs));
    link_free(vm->first);
    worker_free(vm->worker);
    loop_free(vm->loop);
    sm_image_free(vm->image);
    free(vm);
}
