/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The base: a machine with kernel and agent up and no image yet, saved once for each kernel, agent, memory size and
 * number of processors. Whoever needs one that is not there makes it, under the lock on its key; others wait for it.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "lib/bake.h"

struct teller {
    struct sm_vm *vm;
    struct sm_error *err;
};

static int waiting(void *ctx, const char *who)
{
    const struct teller *t = ctx;

    return t->vm ? vm_tell(t->vm, SM_VM_WAITING, who, t->err) : 0;
}

/* Boot one and save it. It is the draft's files that count: the machine itself goes. */
static int boot_and_save(struct snapshot_draft *draft, struct sm_vm *told, struct oci_store *store,
                         const struct sm_vm_config *config, struct control_saved *ret, struct sm_error *err)
{
    struct control_request save = {.type = CONTROL_SAVE, .save_flags = CONTROL_SAVE_STOP};
    int fds[2] = {draft->state_fd, draft->memory_fd};
    struct sm_vm_config own = *config;
    struct control_report saved = {0};
    struct sm_vm *vm;
    int r = vm_new(&vm, err);

    if (r < 0)
        return r;
    own.event = NULL;
    own.console = NULL;
    vm->store = store;
    r = vm_configure(vm, &own, err);
    if (r == 0)
        r = launch_spawn(vm, &own, err);
    if (r == 0 && told)
        r = vm_tell(told, SM_VM_BOOTING, "", err);
    if (r == 0)
        r = launch_boot(vm, &own, err);
    if (r == 0)
        r = vm_ask(vm, &save, fds, 2, CONTROL_SAVED, &saved, err);
    if (r == 0 && ret)
        *ret = saved.saved;
    sm_vm_free(vm);
    return r;
}

static int make(struct snapshot **ret, struct sm_vm *told, struct oci_store *store, const struct sm_vm_config *config,
                const struct bake_plan *plan, struct control_saved *ret_saved, struct sm_error *err)
{
    struct snapshot_draft *draft = NULL;
    struct snapshot_meta meta;
    int r = snapshot_draft_new(&draft, store, plan->base_key, err);

    if (r == 0)
        r = boot_and_save(draft, told, store, config, ret_saved, err);
    if (r == 0 && told)
        r = vm_tell(told, SM_VM_SAVING, "base", err);
    if (r == 0) {
        bake_plan_meta(plan, SNAPSHOT_BASE, &meta);
        r = snapshot_draft_publish(draft, &meta, true, ret, err);
    }
    snapshot_draft_free(draft);
    return r;
}

int base_get(struct snapshot **ret, struct sm_vm *vm, struct oci_store *store, const struct sm_vm_config *config,
             const struct bake_plan *plan, bool anew, struct control_saved *ret_saved, struct sm_error *err)
{
    struct teller teller = {vm, err};
    CLEANUP_FD int lock = -1;
    int r = anew ? -ENOENT : snapshot_find(ret, store, plan->base_key, NULL);

    if (r == 0)
        return 0;
    lock = snapshot_lock(store, plan->base_key, waiting, &teller, err);
    if (lock < 0)
        return lock;
    /* Somebody else may have made it while we waited. */
    if (!anew && snapshot_find(ret, store, plan->base_key, NULL) == 0)
        return 0;
    r = make(ret, vm, store, config, plan, ret_saved, err);
    return r;
}
