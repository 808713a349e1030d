/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: the ways in which machines start.
 *
 * The worker is started first: while the kernel loads it, we find out which snapshot is wanted (bake_plan.c) and open
 * its files. Then the machine is restored or baked (bake.c); or it boots, where that was asked for, or its owner wants
 * to see its console from the first line.
 *
 * Threads: the owner's.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "lib/bake.h"
#include "lib/options.h"
#include "lib/remote.h"
#include "lib/store.h"

/* ---- Both ends of a start ---- */

/* Another process wants the machine saved. */
static int on_remote_save(void *ctx, const struct remote_request *req, struct remote_saved *ret, struct sm_error *err)
{
    struct sm_save_result result = {.size = sizeof(result)};
    int r = sm_vm_save(ctx, req->path[0] ? req->path : NULL, req->flags, &result, err);

    if (r < 0)
        return r;
    ret->pause_ns = result.pause_ns;
    ret->data_bytes = result.data_bytes;
    memcpy(ret->key, result.key, sizeof(ret->key));
    return 0;
}

int vm_begin(struct sm_vm **ret, struct sm_image *image, const struct sm_vm_config *config, struct sm_error *err)
{
    struct sm_vm *vm = config->prepared && !config->boot ? prepared_take(config->prepared, config) : NULL;
    int r = vm ? 0 : vm_new(&vm, err);

    if (r < 0)
        return r;
    vm->image = image_ref(image);
    vm->store = image->store;
    r = vm_configure(vm, config, err);
    if (r == 0 && config->share)
        r = remote_new(&vm->remote, oci_store_path(vm->store), vm->name, err);
    if (r == 0 && !vm->worker)
        r = launch_spawn(vm, config, err);
    if (r < 0) {
        sm_vm_free(vm);
        return r;
    }
    *ret = vm;
    return 0;
}

int vm_begun(struct sm_vm *vm, int r, struct sm_vm **ret, struct sm_error *err)
{
    if (r == 0 && vm->remote)
        r = remote_serve(vm->remote, vm->loop, on_remote_save, vm, err);
    if (r == 0) {
        *ret = vm;
        return 0;
    }
    if (vm->name[0])
        sm_error_wrap(err, "machine '%s'", vm->name);
    sm_vm_free(vm);
    return r;
}

/* ---- Start ---- */

/* What a save of it says of it. */
static int remember(struct sm_vm *vm, struct bake_plan *plan, struct sm_error *err)
{
    memcpy(vm->kernel, plan->kernel, sizeof(vm->kernel));
    memcpy(vm->initramfs, plan->initramfs, sizeof(vm->initramfs));
    memcpy(vm->platform, plan->platform, sizeof(vm->platform));
    vm->workload = plan->workload;
    plan->workload = (struct runspec){0};
    if (plan->kernel_args) {
        vm->kernel_args = strdup(plan->kernel_args);
        if (!vm->kernel_args)
            return sm_error_sys(err, ENOMEM, "cannot start a machine");
    }
    return 0;
}

int sm_vm_start(struct sm_vm **ret, struct sm_image *image, const struct sm_vm_config *given, struct sm_error *err)
{
    struct bake_plan plan = {0};
    struct sm_vm_config config;
    struct sm_vm *vm;
    int r = vm_config_check(&config, given, err);

    if (r < 0)
        return r;
    config.boot = config.boot || config.console;
    r = vm_begin(&vm, image, &config, err);
    if (r < 0)
        return r;
    r = bake_plan_make(&plan, vm->store, image, &config, err);
    if (r == 0)
        r = config.boot ? bake_boot(vm, &config, &plan, err) : bake_run(vm, &config, &plan, false, err);
    if (r == 0)
        r = remember(vm, &plan, err);
    bake_plan_done(&plan);
    return vm_begun(vm, r, ret, err);
}

/* ---- Baking only ---- */

static void give_result(struct sm_bake_result *ret, const char *key, uint64_t since_ns,
                        const struct control_baked *made)
{
    struct sm_bake_result ours = {.baked = made != NULL, .duration_ns = io_now_ns() - since_ns};

    if (!ret)
        return;
    memcpy(ours.key, key, sizeof(ours.key));
    if (made) {
        ours.pause_ns = made->saved.pause_ns;
        snprintf(ours.line, sizeof(ours.line), "%s", made->text);
    }
    options_give(ret, &ours, sizeof(ours));
}

/* Is it there already, and not to be replaced? */
static bool is_there(struct oci_store *store, const char *key, const struct bake_plan *plan)
{
    struct snapshot *s = NULL;

    if (plan->force || snapshot_find(&s, store, key, NULL) < 0)
        return false;
    snapshot_unref(s);
    return true;
}

int sm_image_bake(struct sm_image *image, const struct sm_vm_config *given, struct sm_bake_result *result,
                  struct sm_error *err)
{
    uint64_t since = io_now_ns();
    struct bake_plan plan = {0};
    struct sm_vm_config config;
    struct sm_vm *vm = NULL;
    int r = vm_config_check(&config, given, err);

    if (r < 0)
        return r;
    config.boot = config.share = 0;
    config.console = NULL;
    r = bake_plan_make(&plan, image->store, image, &config, err);
    if (r < 0)
        return r;
    if (is_there(image->store, plan.key, &plan)) {
        give_result(result, plan.key, since, NULL);
        goto out;
    }
    r = vm_begin(&vm, image, &config, err);
    if (r < 0)
        goto out;
    r = bake_run(vm, &config, &plan, true, err);
    if (r == 0)
        give_result(result, plan.key, since, vm->origin == SM_VM_BAKED ? &vm->baked.report : NULL);
    sm_vm_free(vm);
out:
    bake_plan_done(&plan);
    return r;
}

int sm_base_bake(struct sm_store *store, const struct sm_vm_config *given, struct sm_bake_result *result,
                 struct sm_error *err)
{
    char line[BAKE_LINE_SIZE];
    struct control_baked made = {.text = line};
    uint64_t since = io_now_ns();
    struct sm_bake_config bake = {0};
    struct bake_plan plan = {0};
    struct snapshot *base = NULL;
    struct sm_vm_config config;
    struct sm_vm *told = NULL;
    int r = vm_config_check(&config, given, err);

    if (r == 0)
        r = OPTIONS_COPY(&bake, config.bake, err);
    if (r < 0)
        return r;
    config.boot = 0;
    r = bake_plan_make(&plan, store->oci, NULL, &config, err);
    if (r == 0)
        r = vm_new(&told, err);
    if (r == 0)
        r = vm_configure(told, &config, err);
    if (r == 0)
        r = base_get(&base, told, store->oci, &config, &plan, bake.force, &made.saved, err);
    if (r == 0) {
        bake_line("base", &made.saved, config.memory_mib, line);
        give_result(result, plan.base_key, since, made.saved.total_ns ? &made : NULL);
    }
    snapshot_unref(base);
    sm_vm_free(told);
    bake_plan_done(&plan);
    return r;
}
