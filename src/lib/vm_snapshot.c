/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is done with a machine that runs, about snapshots: it is saved, it is put back to the one it comes from, and the
 * pages that it has touched are written down for those who come after it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "lib/options.h"
#include "lib/vm.h"
#include "snap/limits.h"

/* ---- Save ---- */

static const char *const *as_const(char **list)
{
    return (const char *const *)list;
}

static void describe(const struct sm_vm *vm, bool diff, struct snapshot_meta *ret)
{
    bool workload = vm->workload_waits || vm->workload_exec;

    *ret = (struct snapshot_meta){.kind = SNAPSHOT_VM,
                                  .image_digest = oci_image_digest(vm->image->oci),
                                  .image_name = vm->image->ref,
                                  .platform = vm->platform,
                                  .kernel = vm->kernel,
                                  .initramfs = vm->initramfs,
                                  .kernel_args = vm->kernel_args,
                                  .memory_mib = vm->memory_mib,
                                  .vcpus = vm->vcpus,
                                  .workload = workload};
    if (workload) {
        ret->cmd = as_const(vm->workload.argv.list);
        ret->env = as_const(vm->workload.env.list);
        ret->cwd = vm->workload.cwd;
        ret->user = vm->workload.user;
    }
    if (diff)
        snapshot_base_of(ret, vm->from);
}

/* One that is on its way to the guest would be in neither machine: its clone's agent would know of none. */
static int await_workload(struct sm_vm *vm, struct sm_error *err)
{
    int r;

    if (!vm->workload_exec)
        return 0;
    r = vm_await(vm, &vm->workload_started, io_now_ns() + vm->start_timeout_ms * 1000000ull, err);
    if (r == 0 && !vm->workload_started)
        r = sm_error_set(err, ETIMEDOUT, "its workload has not started within %u ms", vm->start_timeout_ms);
    return r;
}

static int check_save(const struct sm_vm *vm, uint32_t flags, struct sm_error *err)
{
    if (vm->ended.code)
        return vm_ended(vm, err);
    if (flags & ~(SM_SAVE_STOP | SM_SAVE_DIFF | SM_SAVE_LIVE))
        return sm_error_set(err, EINVAL, "a machine is saved with flags that there are not: %#x", flags);
    if (flags & SM_SAVE_DIFF && !vm->from)
        return sm_error_set(
            err, ENOTSUP,
            "the machine has booted and comes from no snapshot: there is nothing to save the difference "
            "to");
    return 0;
}

/* Into the draft's files, and what they are is said of them. */
static int save_into(struct sm_vm *vm, struct snapshot_draft *draft, uint32_t flags, struct control_saved *ret,
                     struct sm_error *err)
{
    bool diff = flags & SM_SAVE_DIFF;
    struct control_request req = {.type = CONTROL_SAVE,
                                  .save_flags = (flags & SM_SAVE_STOP ? CONTROL_SAVE_STOP : 0) |
                                                (flags & SM_SAVE_LIVE ? CONTROL_SAVE_LIVE : 0) |
                                                (diff ? CONTROL_SAVE_DIFF : 0)};
    int fds[3] = {draft->state_fd, draft->memory_fd, draft->diff_fd};
    struct control_report rep = {0};
    struct snapshot_meta meta;
    int r;

    link_free(STEAL_PTR(vm->spare)); /* a clone had to end it first */
    r = vm_ask(vm, &req, fds, diff ? 3 : 2, CONTROL_SAVED, &rep, err);

    if (r < 0)
        return r;
    vm->stays = flags & SM_SAVE_STOP;
    *ret = rep.saved;
    describe(vm, diff, &meta);
    return snapshot_draft_publish(draft, &meta, false, NULL, err);
}

int sm_vm_save(struct sm_vm *vm, const char *dest, uint32_t flags, struct sm_save_result *result, struct sm_error *err)
{
    struct snapshot_draft *draft = NULL;
    struct sm_save_result ours = {0};
    struct control_saved saved = {0};
    int r = check_save(vm, flags, err);

    if (r == 0)
        r = await_workload(vm, err);
    if (r == 0)
        r = dest ? snapshot_draft_new_dir(&draft, vm->store, dest, err)
                 : snapshot_draft_new(&draft, vm->store, NULL, err);
    if (r == 0)
        r = save_into(vm, draft, flags, &saved, err);
    if (r == 0 && !dest)
        memcpy(ours.key, draft->key, sizeof(ours.key));
    snapshot_draft_free(draft);
    if (r < 0)
        return sm_error_wrap(err, "saving the machine");
    ours.pause_ns = saved.pause_ns;
    ours.data_bytes = saved.data_pages * SNAP_PAGE;
    if (result)
        options_give(result, &ours, sizeof(ours));
    return 0;
}

/* ---- Back ---- */

int sm_vm_rewind(struct sm_vm *vm, struct sm_error *err)
{
    struct control_request req = {.type = CONTROL_REWIND};
    int r = vm_ended(vm, err);

    if (r < 0)
        return r;
    if (vm->origin != SM_VM_RESTORED)
        return sm_error_set(
            err, ENOTSUP, "the machine was not restored from a snapshot of its image: there is nothing to go back to");
    r = launch_generation(req.generation, err);
    if (r < 0)
        return r;
    LIST_FOREACH_SAFE(&vm->execs, it, tmp)
    exec_vm_rewound(exec_of_node(it));
    link_free(STEAL_PTR(vm->first));
    link_free(STEAL_PTR(vm->spare));
    vm->owed = 0;
    loop_timer_cancel(&vm->answer);
    r = vm_ask(vm, &req, NULL, 0, CONTROL_OK, NULL, err);
    if (r == 0)
        r = vm_connect(vm, NULL, &vm->first, err);
    if (r == 0)
        r = launch_renew(vm, req.generation, err);
    if (r < 0)
        return sm_error_wrap(err, "putting the machine back");
    vm->workload_waits = vm->from->meta.workload;
    vm->workload_exec = NULL;
    return 0;
}

/* ---- For those who come after ---- */

void sm_vm_settle(struct sm_vm *vm)
{
    struct control_request req = {.type = CONTROL_TOUCHED};
    CLEANUP_FD int fd = -1;

    if (!vm->from || vm->from->prefetch_fd >= 0 || !vm->execs_ended || vm->settled || vm->ended.code || vm->stays)
        return;
    vm->settled = true;
    fd = snapshot_prefetch_file(vm->from, NULL);
    if (fd >= 0 && vm_ask(vm, &req, &fd, 1, CONTROL_OK, NULL, NULL) == 0)
        snapshot_prefetch_add(vm->from, fd, NULL);
}
