/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: from a plan to a machine that runs.
 *
 *     there is a snapshot          restore it
 *     there is none                take the lock on its key (others wait, then restore), restore the base (base.c) with
 *                                  the image's disk, set the guest up, wait for the trigger, which saves; publish
 *     there is one that is no good the same, and it is replaced
 *
 * The machine that was baked goes on: it is told a new identity (RENEW), as a clone would be, and takes commands. What
 * is saved is what differs from the base. With no_base the machine boots with the image's disk, and is saved whole.
 *
 * A warm-up begins with the plain snapshot, restored or baked; then its command runs, and the machine is saved again,
 * under the key that has the warm-up in it.
 *
 * What the store can't take is no failure of the machine (bake_is_storage): it is told, and the machine goes on
 * without. When nobody but the snapshot is wanted, it is a failure.
 *
 * Locks are taken in the order warm-up, plain, base, so no two processes wait for each other; they are files' locks and
 * go with the process.
 *
 * A workload that the trigger wants running is started on a connection of its own, which is closed once it has started:
 * what it writes stays in its pipes, and in the snapshot, until a command attaches to it. So each clone gives the
 * output from the beginning.
 *
 * Threads: the machine's.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "lib/bake.h"
#include "snap/limits.h"

/* A snapshot's host name, until each machine gets its own. */
#define PLACEHOLDER "supermachine"

struct bake {
    struct sm_vm *vm;
    const struct sm_vm_config *config;
    struct bake_plan *plan;
    bool only_bake;
    bool can_store; /* nothing has been found against it so far */
    struct sm_error *err;
};

static uint64_t deadline(const struct bake *b, uint32_t more_ms)
{
    return io_now_ns() + ((uint64_t)b->vm->start_timeout_ms + more_ms) * 1000000ull;
}

/* The plain snapshot is all that is wanted. */
static bool ends_with_plain(const struct bake *b)
{
    return b->only_bake && !b->plan->warmup.n;
}

/* The store said no. 0: it is told, and the machine goes on without; else -errno. */
static int not_stored(struct bake *b, const struct sm_error *why)
{
    b->can_store = false;
    if (b->only_bake || !bake_is_storage(why->code)) {
        if (b->err)
            *b->err = *why;
        return -why->code;
    }
    return vm_tell(b->vm, SM_VM_NOT_STORED, why->text, b->err);
}

static int waiting(void *ctx, const char *who)
{
    const struct bake *b = ctx;

    return vm_tell(b->vm, SM_VM_WAITING, who, b->err);
}

/* ---- Restoring ---- */

/* Another worker for the machine: the one before is of no use any more. */
static int respawn(struct bake *b)
{
    vm_clear(b->vm);
    return launch_spawn(b->vm, b->config, b->err);
}

/* 1: it was restored. 0: there is none, or (*ret_bad) none that is good. */
static int find_and_restore(struct bake *b, const char *key, bool *ret_bad)
{
    struct sm_error why = SM_ERROR_INIT;
    struct snapshot *s = NULL;
    bool bad = false;
    int r = snapshot_find(&s, b->vm->store, key, &why);

    if (r == -ENOENT)
        return 0;
    bad = r < 0;
    if (r == 0) {
        r = vm_tell(b->vm, SM_VM_RESTORING, "", &why);
        if (r == 0)
            r = launch_restore(b->vm, b->config, s, &bad, &why);
        if (r == 0) {
            b->vm->origin = SM_VM_RESTORED;
            b->vm->workload_waits = s->meta.workload;
        }
    }
    snapshot_unref(s);
    if (r == 0)
        return 1;
    if (!bad) {
        if (b->err)
            *b->err = why;
        return r;
    }
    r = vm_tell(b->vm, SM_VM_REPLACING, why.text, b->err);
    if (r == 0)
        r = respawn(b);
    *ret_bad = true;
    return r;
}

/* ---- Setting up ---- */

/* Restore the base with the image's disk. */
static int restore_base(struct bake *b)
{
    struct snapshot *base = NULL;
    bool bad = false;
    int r = base_get(&base, b->vm, b->vm->store, b->config, b->plan, false, NULL, b->err);

    if (r == 0)
        r = vm_tell(b->vm, SM_VM_RESTORING, "base", b->err);
    if (r == 0)
        r = launch_restore(b->vm, b->config, base, &bad, b->err);
    if (r < 0 && bad) {
        snapshot_unref(STEAL_PTR(base));
        r = vm_tell(b->vm, SM_VM_REPLACING, b->err ? b->err->text : "", b->err);
        if (r == 0)
            r = respawn(b);
        if (r == 0)
            r = base_get(&base, b->vm, b->vm->store, b->config, b->plan, true, NULL, b->err);
        if (r == 0)
            r = vm_tell(b->vm, SM_VM_RESTORING, "base", b->err);
        if (r == 0)
            r = launch_restore(b->vm, b->config, base, NULL, b->err);
    }
    snapshot_unref(base);
    return r;
}

static int boot_whole(struct bake *b)
{
    int r = vm_tell(b->vm, SM_VM_BOOTING, "", b->err);

    if (r == 0)
        r = launch_boot(b->vm, b->config, b->err);
    return r < 0 ? r : vm_connect(b->vm, NULL, &b->vm->first, b->err);
}

/* Kernel and agent are up, and the disk is the image's. */
static int come_up(struct bake *b)
{
    struct sm_error why = SM_ERROR_INIT;
    struct sm_error *err = b->err;
    int r;

    if (b->config->no_base)
        return boot_whole(b);
    b->err = &why;
    r = restore_base(b);
    b->err = err;
    if (r == 0)
        return 0;
    if (bake_is_storage(why.code)) {
        r = not_stored(b, &why);
        if (r == 0)
            r = respawn(b);
        return r < 0 ? r : boot_whole(b);
    }
    if (err)
        *err = why;
    return r;
}

static int set_up(struct bake *b, const char *hostname)
{
    const struct bake_plan *p = b->plan;
    int r = vm_tell(b->vm, SM_VM_SETTING_UP, "", b->err);

    if (r == 0)
        r = launch_setup(b->vm, hostname, p->heartbeat != 0, p->trigger == SM_TRIGGER_LISTENER, b->err);
    for (size_t i = 0; r == 0 && i < p->n_files; i++) {
        const struct plan_file *f = &p->files[i];

        /* One at a time: nothing else is taken while its bytes are on their way. */
        r = agent_put(b->vm->first->agent, f->path, f->mode, 0, 0, f->data, f->len, b->err);
        if (r == 0) {
            vm_owes(b->vm);
            r = vm_await_first(b->vm, b->err);
        }
    }
    return r;
}

/* ---- The workload ---- */

/* Its connection until it has started. */
struct starter {
    bool over;
    struct sm_error err; /* .code set: it could not be started */
};

static void on_started(struct agent *a, void *ctx, uint32_t pid)
{
    struct starter *s = ctx;

    (void)a;
    (void)pid;
    s->over = true;
}

static void on_start_error(struct agent *a, void *ctx, int exit_code, const struct sm_error *err)
{
    struct starter *s = ctx;

    (void)a;
    (void)exit_code;
    s->err = *err;
    s->over = true;
}

static void on_error(struct agent *a, void *ctx, const struct sm_error *err)
{
    on_start_error(a, ctx, 0, err);
}

static const struct agent_ops starter_ops = {
    .on_started = on_started, .on_start_error = on_start_error, .on_error = on_error};

static int start_workload(struct bake *b)
{
    const struct runspec *spec = &b->plan->workload;
    struct agent_exec exec = {.argv = (const char *const *)spec->argv.list,
                              .env = (const char *const *)spec->env.list,
                              .cwd = spec->cwd,
                              .user = spec->user,
                              .workload = true,
                              .detached = true,
                              .create_cwd = true};
    struct starter starter = {.err = SM_ERROR_INIT};
    struct agent *a = NULL;
    int r = vm_dial(b->vm, &starter_ops, &starter, &a, b->err);

    if (r == 0)
        r = agent_exec(a, &exec, b->err);
    if (r == 0)
        r = vm_await(b->vm, &starter.over, deadline(b, 0), b->err);
    agent_free(a);
    if (r == 0 && !starter.over)
        r = sm_error_set(b->err, ETIMEDOUT, "the guest's agent did not start the workload within %u ms",
                         b->vm->start_timeout_ms);
    if (r == 0 && starter.err.code) {
        if (b->err)
            *b->err = starter.err;
        r = sm_error_wrap(b->err, "starting the workload");
    }
    if (r == 0)
        b->vm->workload_waits = true;
    return r;
}

/* ---- The trigger ---- */

static int arm(struct bake *b, const struct snapshot_draft *draft)
{
    const struct bake_plan *p = b->plan;
    bool diff = b->vm->from != NULL;
    int fds[3] = {draft->state_fd, draft->memory_fd, draft->diff_fd};
    struct control_request req = {
        .type = CONTROL_BAKE,
        .bake = {.heartbeat = p->heartbeat, .after_ms = p->after_ms, .quiesce_ms = p->quiesce_ms}};
    uint32_t *flags = &req.bake.flags;

    *flags = (diff ? CONTROL_BAKE_DIFF : 0) | (ends_with_plain(b) ? CONTROL_BAKE_STOP : 0) |
             (p->require_listener ? CONTROL_BAKE_REQUIRE_LISTENER : 0);
    if (p->trigger == SM_TRIGGER_PRE_EXEC)
        *flags |= CONTROL_BAKE_PRE_EXEC;
    /* An agent that was not asked to tell of listeners leaves the worker with "the workload has ended". */
    if (p->trigger == SM_TRIGGER_LISTENER || p->trigger == SM_TRIGGER_PARKED)
        *flags |= CONTROL_BAKE_LISTENER;
    return vm_ask(b->vm, &req, fds, diff ? 3 : 2, CONTROL_OK, NULL, b->err);
}

/* 1: the files are good. 0: they are not, and the machine goes on. */
static int await_baked(struct bake *b)
{
    const struct vm_baked *baked = &b->vm->baked;
    struct sm_error why = SM_ERROR_INIT;
    int r = vm_await(b->vm, &baked->come, deadline(b, b->plan->after_ms + b->plan->quiesce_ms), b->err);

    if (r < 0)
        return r;
    if (!baked->come)
        return sm_error_set(b->err, ETIMEDOUT, "the trigger %s has not come within %u ms", b->plan->trigger_text,
                            b->vm->start_timeout_ms);
    if (baked->report.exit == CONTROL_BAKE_SNAPSHOT_SAVED && !baked->report.code)
        return 1;
    sm_error_set(&why, baked->report.code ? baked->report.code : EIO, "%s", baked->report.text);
    vm_advise_room(&why);
    return not_stored(b, &why);
}

/* Everything up to the saved files; without a draft, up to a machine that takes commands. As await_baked(). */
static int trigger(struct bake *b, const struct snapshot_draft *draft)
{
    bool pre_exec = b->plan->trigger == SM_TRIGGER_PRE_EXEC;
    int r = draft && pre_exec ? arm(b, draft) : 0;

    if (r == 0)
        r = set_up(b, PLACEHOLDER);
    if (r == 0 && draft && pre_exec) {
        r = agent_pre_exec(b->vm->first->agent, b->err);
        if (r == 0)
            vm_owes(b->vm);
    }
    if (r == 0 && !pre_exec)
        r = vm_await_first(b->vm, b->err);
    if (r == 0 && !pre_exec)
        r = start_workload(b);
    /* From here on its time runs; a machine saved before its workload had started would wait for it for ever. What the
     * workload has done already is known to the worker. */
    if (r == 0 && draft && !pre_exec)
        r = arm(b, draft);
    if (r < 0 || !draft)
        return r;
    r = vm_tell(b->vm, SM_VM_TRIGGER, b->plan->trigger_text, b->err);
    return r < 0 ? r : await_baked(b);
}

/* ---- Saving ---- */

void bake_line(const char *what, const struct control_saved *s, uint32_t memory_mib, char ret[BAKE_LINE_SIZE])
{
    snprintf(ret, BAKE_LINE_SIZE,
             "%.80s: saved in %llu us, %u MiB of RAM (%llu KiB data, %llu KiB zero), %u devices, %u listeners", what,
             (unsigned long long)s->total_ns / 1000, memory_mib, (unsigned long long)s->data_pages * SNAP_PAGE / 1024,
             (unsigned long long)s->zero_pages * SNAP_PAGE / 1024, s->devices, s->listeners);
}

/* Durable, and in its place. A store that refuses is told of here. */
static int publish(struct bake *b, struct snapshot_draft *draft, bool warm, bool replace, const char *line)
{
    struct sm_error why = SM_ERROR_INIT;
    struct snapshot_meta meta;
    int r = vm_tell(b->vm, SM_VM_SAVING, "", b->err);

    if (r < 0)
        return r;
    bake_plan_meta(b->plan, SNAPSHOT_BAKE, &meta);
    if (b->plan->warmup.n && !warm)
        meta.tag = NULL;
    if (b->vm->from)
        snapshot_base_of(&meta, b->vm->from);
    r = snapshot_draft_publish(draft, &meta, replace, NULL, &why);
    return r < 0 ? not_stored(b, &why) : vm_tell(b->vm, SM_VM_SAVED, line, b->err);
}

/* The guest is another one than its clones from here on. */
static int renew(struct bake *b)
{
    uint8_t generation[CONTROL_GENERATION_SIZE];
    int r = launch_generation(generation, b->err);

    if (r == 0 && !b->vm->first)
        r = vm_connect(b->vm, NULL, &b->vm->first, b->err);
    return r < 0 ? r : launch_renew(b->vm, generation, b->err);
}

/* Where the files go; NULL when the store takes none. */
static int new_draft(struct bake *b, const char *key, struct snapshot_draft **ret)
{
    struct sm_error why = SM_ERROR_INIT;

    if (!b->can_store || snapshot_draft_new(ret, b->vm->store, key, &why) == 0)
        return 0;
    return not_stored(b, &why);
}

/* With the lock held, or without one where it could not be had. */
static int bake_plain(struct bake *b, bool replace)
{
    struct snapshot_draft *draft = NULL;
    bool saved = false;
    int r = come_up(b);

    if (r == 0)
        r = new_draft(b, b->plan->plain_key, &draft);
    if (r == 0)
        r = trigger(b, draft);
    saved = r > 0;
    /* Before the files are made durable: the guest is at work meanwhile. */
    if (r >= 0 && !ends_with_plain(b))
        r = renew(b);
    if (r >= 0 && saved)
        r = publish(b, draft, false, replace, b->vm->baked.text);
    snapshot_draft_free(draft);
    b->vm->origin = SM_VM_BAKED;
    return r < 0 ? r : 0;
}

/* ---- Warming up ---- */

static int run_warmup(struct bake *b)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_exec_result result = {.size = sizeof(result)};
    struct sm_exec *x = NULL;
    int r = vm_tell(b->vm, SM_VM_WARMING_UP, "", b->err);

    config.args = (const char *const *)b->plan->warmup.list;
    if (r == 0)
        r = sm_exec_start(&x, b->vm, &config, b->err);
    if (r == 0)
        r = sm_exec_wait(x, &result, b->err);
    if (r == 0 && result.exit_code)
        r = sm_error_set(b->err, ECHILD, "the warm-up command '%.200s' has failed with exit code %d%s%.500s",
                         b->plan->warmup.list[0], result.exit_code, result.message[0] ? ": " : "", result.message);
    sm_exec_free(x);
    link_free(STEAL_PTR(b->vm->spare)); /* a clone had to end it first */
    return r;
}

static int save_warm(struct bake *b, struct snapshot_draft *draft, bool replace)
{
    bool diff = b->vm->from != NULL;
    struct control_request req = {
        .type = CONTROL_SAVE, .save_flags = (diff ? CONTROL_SAVE_DIFF : 0) | (b->only_bake ? CONTROL_SAVE_STOP : 0)};
    int fds[3] = {draft->state_fd, draft->memory_fd, draft->diff_fd};
    struct control_report rep = {0};
    struct vm_baked *baked = &b->vm->baked;
    struct sm_error why = SM_ERROR_INIT;
    int r = vm_ask(b->vm, &req, fds, diff ? 3 : 2, CONTROL_SAVED, &rep, &why);

    if (r < 0)
        return not_stored(b, &why);
    baked->report = (struct control_baked){.text = baked->text, .saved = rep.saved};
    bake_line("warm-up done", &rep.saved, b->vm->memory_mib, baked->text);
    return publish(b, draft, true, replace, baked->text);
}

static int obtain(struct bake *b, const char *key, bool anew, int (*make)(struct bake *b, bool replace));

static int bake_warm(struct bake *b, bool replace)
{
    struct snapshot_draft *draft = NULL;
    int r = obtain(b, b->plan->plain_key, b->plan->force, bake_plain);

    if (r == 0)
        r = run_warmup(b);
    if (r == 0)
        r = new_draft(b, b->plan->key, &draft);
    if (r == 0 && draft)
        r = save_warm(b, draft, replace);
    snapshot_draft_free(draft);
    b->vm->origin = SM_VM_BAKED;
    return r == 0 && !b->only_bake ? renew(b) : r;
}

/* ---- One key after the other ---- */

/* Find and restore what `key` says, else `make` it under its lock. */
static int obtain(struct bake *b, const char *key, bool anew, int (*make)(struct bake *b, bool replace))
{
    struct sm_error why = SM_ERROR_INIT;
    CLEANUP_FD int lock = -1;
    bool bad = false;
    int r = anew ? 0 : find_and_restore(b, key, &bad);

    if (r)
        return r < 0 ? r : 0;
    if (b->can_store) {
        lock = snapshot_lock(b->vm->store, key, waiting, b, &why);
        r = lock < 0 ? not_stored(b, &why) : 0;
        if (r < 0)
            return r;
    }
    /* Somebody else may have made it while we waited. */
    if (!anew && !bad && lock >= 0) {
        r = find_and_restore(b, key, &bad);
        if (r)
            return r < 0 ? r : 0;
    }
    return make(b, anew || bad);
}

int bake_run(struct sm_vm *vm, const struct sm_vm_config *config, struct bake_plan *plan, bool only_bake,
             struct sm_error *err)
{
    struct bake b = {.vm = vm, .config = config, .plan = plan, .only_bake = only_bake, .can_store = true, .err = err};

    return obtain(&b, plan->key, plan->force, plan->warmup.n ? bake_warm : bake_plain);
}

int bake_boot(struct sm_vm *vm, const struct sm_vm_config *config, struct bake_plan *plan, struct sm_error *err)
{
    struct bake b = {.vm = vm, .config = config, .plan = plan, .err = err};
    int r = boot_whole(&b);

    runspec_done(&plan->workload); /* nobody starts it but who wants it */
    return r < 0 ? r : set_up(&b, vm->hostname);
}
