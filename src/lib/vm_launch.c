/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: a machine's worker, from its start until its guest runs.
 *
 * Everything that the worker needs is sent in one go, while the kernel still loads it, and then the answers are
 * awaited: CONFIG, DISK and START to boot; CONFIG, DISK, RESTORE and VSOCK_CONNECT to restore. After a boot the guest's
 * agent is awaited. A restored one listens already: a connection and what is written to it wait in the worker until the
 * guest takes them, so the first command is on its way before the guest has run an instruction.
 *
 * A worker that was prepared has had its CONFIG. A base has a disk of AGENT_EMPTY_DISK zero bytes; the disk of an image
 * takes its place when the base is restored, and the guest is told that it grew.
 *
 * The KVM self-test takes the worker some milliseconds, so what it found is remembered in the image store for as long
 * as this host stays up (selftest.c).
 *
 * Threads: the machine's.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "lib/find.h"
#include "lib/selftest.h"
#include "lib/vm.h"

/* The guest has no network device; programs that insist on the file shall find one. */
#define RESOLV_CONF "# This machine has no network.\n"

int launch_spawn(struct sm_vm *vm, const struct sm_vm_config *config, struct sm_error *err)
{
    CLEANUP_FD int kvm = find_kvm(err); /* without it there is no use in looking for anything else */
    char path[PATH_MAX];
    int r = kvm < 0 ? kvm : find_file(FIND_WORKER, config->worker, path, err);

    return r < 0 ? r : worker_spawn(&vm->worker, vm->loop, path, &vm_worker_ops, vm, err);
}

/* ---- CONFIG and DISK ---- */

enum purpose { BOOT, RESTORE, PREPARE };

/* Kernel and initramfs, which a boot needs. Returns how many descriptors there are then, or -errno. */
static int open_guest(const struct sm_vm_config *c, int *fds, struct sm_error *err)
{
    char path[PATH_MAX];

    fds[0] = find_open(FIND_KERNEL, c->kernel, path, err);
    if (fds[0] < 0)
        return fds[0];
    fds[1] = find_open(FIND_INITRAMFS, c->initramfs, path, err);
    return fds[1] < 0 ? fds[1] : 2;
}

static int send_config(struct sm_vm *vm, const struct sm_vm_config *c, enum purpose purpose, bool self_test,
                       uint32_t *ret_id, struct sm_error *err)
{
    struct control_request req = {
        .type = CONTROL_CONFIG, .config = {.memory_mib = c->memory_mib, .vcpus = c->vcpus, .guest_cid = VM_GUEST_CID}};
    uint32_t *flags = &req.config.flags;
    int fds[4] = {-1, -1, -1, -1};
    unsigned n = 1;
    int r = fds[0] = find_kvm(err);

    *flags = (self_test ? CONTROL_CONFIG_SELF_TEST : 0) | (purpose == PREPARE ? CONTROL_CONFIG_PREPARE : 0) |
             (purpose == BOOT ? CONTROL_CONFIG_INITRAMFS : CONTROL_CONFIG_RESTORE) |
             (c->profile ? CONTROL_CONFIG_PROFILE : 0) | (worker_traced() ? CONTROL_CONFIG_TRACE : 0);
    if (purpose == BOOT && c->kernel_args)
        snprintf(req.config.cmdline, sizeof(req.config.cmdline), "%s", c->kernel_args);
    if (r >= 0 && purpose == BOOT) {
        r = open_guest(c, fds + n, err);
        n += r > 0 ? (unsigned)r : 0;
    }
    if (r >= 0 && vm->console) {
        *flags |= CONTROL_CONFIG_CONSOLE | (purpose == BOOT ? CONTROL_CONFIG_VERBOSE : 0);
        r = worker_console_pipe(vm->worker, &fds[n++], err);
    }
    if (r >= 0)
        r = worker_send(vm->worker, &req, fds, n, false, ret_id, err);
    for (unsigned i = 0; i < 4; i++)
        close_fd(&fds[i]);
    return r;
}

/* The root disk. An image's extents share few descriptors; the frame carries each once. */
static int send_image_disk(struct sm_vm *vm, uint32_t *ret_id, struct sm_error *err)
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

static int send_empty_disk(struct sm_vm *vm, uint32_t *ret_id, struct sm_error *err)
{
    struct control_extent extent = {.length = AGENT_EMPTY_DISK};
    struct control_request req = {.type = CONTROL_DISK, .disk = {.serial = "root", .n_extents = 1, .extents = &extent}};
    CLEANUP_FD int fd = memfd_create("empty-disk", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, AGENT_EMPTY_DISK) < 0)
        return sm_error_sys(err, errno, "cannot make an empty disk");
    return worker_send(vm->worker, &req, &fd, 1, false, ret_id, err);
}

static int send_disk(struct sm_vm *vm, uint32_t *ret_id, struct sm_error *err)
{
    return vm->image ? send_image_disk(vm, ret_id, err) : send_empty_disk(vm, ret_id, err);
}

static int await_ok(struct sm_vm *vm, uint32_t id, struct sm_error *err)
{
    return worker_await(vm->worker, id, CONTROL_OK, NULL, err);
}

int launch_prepare(struct sm_vm *vm, const struct sm_vm_config *config, struct sm_error *err)
{
    return send_config(vm, config, PREPARE, true, &vm->prepared_id, err);
}

/* ---- Boot ---- */

/* A guest that does not come up: what its console says is the evidence. */
static int timed_out(struct sm_vm *vm, struct sm_error *err)
{
    char console[4096], tail[1024];
    long n = sm_vm_console_tail(vm, console, sizeof(console), NULL);

    worker_tail_text(console, n > 0 ? (size_t)n : 0, tail, sizeof(tail));
    if (tail[0])
        return sm_error_set(err, ETIMEDOUT, "the guest did not answer within %u ms; its console said last: %s",
                            vm->start_timeout_ms, tail);
    return sm_error_set(err, ETIMEDOUT,
                        "the guest did not answer within %u ms and its console said nothing: its kernel hangs, or this "
                        "host is very slow (watch it boot with -v, or give it longer with --start-timeout)",
                        vm->start_timeout_ms);
}

static int await_agent(struct sm_vm *vm, struct sm_error *err)
{
    int r = vm_await(vm, &vm->agent_ready, vm->started_ns + vm->start_timeout_ms * 1000000ull, err);

    if (r < 0)
        return r;
    if (!vm->agent_ready)
        return timed_out(vm, err);
    vm->ready_ns = io_now_ns();
    return 0;
}

int launch_boot(struct sm_vm *vm, const struct sm_vm_config *config, struct sm_error *err)
{
    struct control_request start = {.type = CONTROL_START};
    struct selftest memory;
    bool tested = selftest_passed(&memory, oci_store_path(vm->store));
    uint32_t config_id = 0, disk_id = 0, start_id = 0;
    int r = send_config(vm, config, BOOT, !tested, &config_id, err);

    if (r == 0)
        r = send_disk(vm, &disk_id, err);
    if (r == 0)
        r = worker_send(vm->worker, &start, NULL, 0, false, &start_id, err);
    if (r == 0)
        r = await_ok(vm, config_id, err);
    if (r == 0 && !tested)
        selftest_remember(&memory);
    if (r == 0)
        r = await_ok(vm, disk_id, err);
    if (r == 0)
        r = await_ok(vm, start_id, err);
    return r < 0 ? r : await_agent(vm, err);
}

/* ---- Restore ---- */

int launch_generation(uint8_t ret[CONTROL_GENERATION_SIZE], struct sm_error *err)
{
    if (getrandom(ret, CONTROL_GENERATION_SIZE, 0) != CONTROL_GENERATION_SIZE)
        return sm_error_sys(err, errno, "cannot get random bytes");
    ret[0] |= 1; /* never all zero */
    return 0;
}

int launch_setup(struct sm_vm *vm, const char *hostname, bool heartbeat, bool listeners, struct sm_error *err)
{
    struct agent_setup setup = {.hostname = hostname,
                                .root_device = "/dev/vda",
                                .root_fstype = "erofs",
                                .resolv_conf = RESOLV_CONF,
                                .heartbeat = heartbeat,
                                .listeners = listeners};
    int r = agent_setup(vm->first->agent, &setup, err);

    if (r == 0)
        vm_owes(vm);
    return r;
}

int launch_renew(struct sm_vm *vm, const uint8_t generation[CONTROL_GENERATION_SIZE], struct sm_error *err)
{
    int r = agent_renew(vm->first->agent, generation, vm->hostname, vm->renew_signal, err);

    if (r == 0)
        vm_owes(vm);
    return r;
}

static int send_restore(struct sm_vm *vm, const struct snapshot *s, const uint8_t generation[CONTROL_GENERATION_SIZE],
                        uint32_t *ret_id, struct sm_error *err)
{
    struct control_request req = {.type = CONTROL_RESTORE};
    int fds[5] = {s->state_fd, s->memory_fd};
    unsigned n = 2;

    memcpy(req.restore.generation, generation, CONTROL_GENERATION_SIZE);
    if (s->diff_fd >= 0) {
        req.restore.flags |= CONTROL_RESTORE_DIFF;
        fds[n++] = s->base_memory_fd;
        fds[n++] = s->diff_fd;
    }
    if (s->prefetch_fd >= 0) {
        req.restore.flags |= CONTROL_RESTORE_PREFETCH;
        fds[n++] = s->prefetch_fd;
    }
    return worker_send(vm->worker, &req, fds, n, false, ret_id, err);
}

/* The first connection, and what is said on it at once: a base's guest has nothing to renew before it is set up. */
static int open_first(struct sm_vm *vm, const struct snapshot *s, const uint8_t generation[CONTROL_GENERATION_SIZE],
                      struct sm_error *err)
{
    int r = vm_connect(vm, NULL, &vm->first, err);

    return r < 0 || s->meta.kind == SNAPSHOT_BASE ? r : launch_renew(vm, generation, err);
}

int launch_restore(struct sm_vm *vm, const struct sm_vm_config *config, struct snapshot *snapshot, bool *ret_bad,
                   struct sm_error *err)
{
    uint32_t config_id = vm->prepared_id, disk_id = 0, restore_id = 0;
    uint8_t generation[CONTROL_GENERATION_SIZE];
    struct selftest memory;
    bool test = !config_id && !selftest_passed(&memory, oci_store_path(vm->store));
    int r = launch_generation(generation, err);

    if (ret_bad)
        *ret_bad = false;
    if (r == 0 && !config_id)
        r = send_config(vm, config, RESTORE, test, &config_id, err);
    if (r == 0)
        r = send_disk(vm, &disk_id, err);
    if (r == 0)
        r = send_restore(vm, snapshot, generation, &restore_id, err);
    if (r == 0)
        r = open_first(vm, snapshot, generation, err);
    if (r == 0)
        r = await_ok(vm, config_id, err);
    if (r == 0 && test)
        selftest_remember(&memory);
    if (r == 0)
        r = await_ok(vm, disk_id, err);
    if (r < 0)
        return r;
    r = await_ok(vm, restore_id, err);
    if (r < 0) {
        if (ret_bad)
            *ret_bad = true;
        return r;
    }
    vm->prepared_id = 0;
    vm->from = snapshot_ref(snapshot);
    vm->ready_ns = io_now_ns();
    return 0;
}
