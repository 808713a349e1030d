/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bake: see bake.h.
 *
 * Theory of operation
 *
 * The triggers are to be looked at before each entry into the guest. Everything they look at is either said by the
 * guest, through a register write that makes its vCPU exit, or is the clock. So looking after each such exit, before
 * that vCPU enters again, and when the clock's time has come, is the same and costs nothing else: the vCPU notes what
 * was said, wakes the loop and waits outside of the guest (vcpu_ask); the loop's thread goes down the list, acts, and
 * answers. Nothing that follows the register write in the guest has happened by then: at pre-exec, nothing is in
 * flight.
 *
 * Acting, by what triggers_check() says:
 *
 *   run        answer, and that is all
 *   quiesce    at a rendezvous, each vCPU's timer is masked on its own thread. If all of them idle there is nothing to
 *              wait for. Else they run for `quiesce_ms`, with devices at work, and are then forced out by a second
 *              rendezvous; KVM does not tell when a vCPU goes idle, so it is not shorter. Timers are unmasked, at rest,
 *              and the list begins anew. What the guest says meanwhile is noted, and looked at then.
 *   capture    save (machine_save, which parks the guest first). The vCPU that asked runs on for that if there are
 *              others: parking needs the first one. What was decided stays decided.
 *   leave      tell the owner. The machine runs on, or has ended.
 *
 * Whoever else brings the machine to rest (SAVE) while it quiesces forces it out early: a snapshot must hold no masked
 * timer. A forced exit for that, or for a rewind, is no cancellation; a run that was cut by an error or a panic is one.
 *
 * A capture that fails ends the bake, and the guest runs on. Other triggers would get their turn by the pure list; but
 * what kept this one from being saved (no space, an error of the hypervisor) would meet them, too, and whoever waits
 * for the bake wants to know now.
 *
 * Threads: the loop's; bake_rung() on a vCPU's. Shared: `seen` under the group's lock, and `armed`.
 */
#include "machine/bake.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/io.h"
#include "lifecycle_regs.h"
#include "machine/coord.h"
#include "machine/machine_private.h"
#include "snap/limits.h"

#define NS_OF_MS 1000000u

void bake_init(struct bake *b, struct machine *m)
{
    *b = (struct bake){.m = m};
}

void bake_done(struct bake *b)
{
    loop_timer_cancel(&b->clock);
    loop_timer_cancel(&b->rest);
}

/* --- what is known --- */

static void note_port(struct bake_seen *seen, uint64_t port)
{
    for (uint32_t i = 0; i < seen->n_ports; i++)
        if (seen->port[i] == port)
            return;
    if (seen->n_ports < EVENTS_MAX_LISTENERS)
        seen->port[seen->n_ports++] = port;
}

/* False: no trigger is interested. Lock held. */
static bool note(struct bake_seen *seen, uint32_t kind, uint64_t arg)
{
    switch (kind) {
    case SM_LC_EV_HEARTBEAT:
        seen->heartbeat = arg;
        return true;
    case SM_LC_EV_PRE_EXEC:
        seen->pre_exec = true;
        return true;
    case SM_LC_EV_WORKLOAD_PARKED:
        seen->parked = true;
        return true;
    case SM_LC_EV_LISTENER:
        note_port(seen, arg);
        return true;
    default:
        return false;
    }
}

void bake_rung(struct machine *m, uint32_t kind, uint64_t arg)
{
    pthread_mutex_lock(&m->group.lock);
    bool matters = note(&m->bake.seen, kind, arg);
    atomic_store(&m->listeners, m->bake.seen.n_ports);
    pthread_mutex_unlock(&m->group.lock);
    if (!matters || !atomic_load(&m->bake.armed))
        return;
    for (unsigned i = 0; i < m->n_vcpus; i++)
        if (m->vcpu[i].has_thread && pthread_equal(pthread_self(), m->vcpu[i].thread))
            vcpu_ask(&m->vcpu[i]);
}

void bake_forget(struct machine *m)
{
    pthread_mutex_lock(&m->group.lock);
    m->bake.seen = (struct bake_seen){.n_ports = 0};
    atomic_store(&m->listeners, 0);
    pthread_mutex_unlock(&m->group.lock);
}

static struct triggers_seen what_is_known(struct machine *m)
{
    struct triggers_seen ret = {.now_ms = io_now_ns() / NS_OF_MS};
    const struct bake_seen *seen = &m->bake.seen;

    pthread_mutex_lock(&m->group.lock);
    ret.heartbeat = seen->heartbeat;
    ret.pre_exec = seen->pre_exec;
    ret.parked = seen->parked;
    ret.listeners = seen->n_ports;
    pthread_mutex_unlock(&m->group.lock);
    return ret;
}

/* --- its end --- */

/* Disarmed at once; told by tell(), when the machine runs again. */
static void finish(struct bake *b, enum triggers_exit e, int code, const char *text)
{
    struct bake_outcome *o = &b->outcome;

    atomic_store(&b->armed, false);
    b->resting = false;
    bake_done(b);
    pthread_mutex_lock(&b->m->group.lock);
    b->seen.pre_exec = false; /* a moment that is over, not a state */
    pthread_mutex_unlock(&b->m->group.lock);
    o->exit = e;
    o->trigger = b->triggers.has_fired ? b->triggers.fired : TRIGGERS;
    o->code = code;
    snprintf(o->text, sizeof(o->text), "%s", text);
    b->over = true;
}

static void fail(struct bake *b, const struct sm_error *err)
{
    finish(b, TRIGGERS_CANCELED, err->code, err->text);
}

static void leave(struct bake *b)
{
    const struct machine_saved *saved = &b->outcome.saved;
    char text[BAKE_MAX_TEXT], line[TRIGGERS_MAX_TEXT] = "no trigger fired";
    uint64_t data = saved->data_pages, zero = saved->zero_pages;

    if (b->triggers.has_fired)
        triggers_line(&b->triggers, line);
    if (b->triggers.exit == TRIGGERS_SNAPSHOT_SAVED)
        snprintf(text, sizeof(text),
                 "%s: saved in %llu us, %u MiB of RAM (%llu KiB data, %llu KiB zero), %u devices, %u listeners", line,
                 (unsigned long long)(saved->total_ns / 1000), b->m->config.memory_mib,
                 (unsigned long long)(data * SNAP_PAGE / 1024), (unsigned long long)(zero * SNAP_PAGE / 1024),
                 saved->devices, saved->listeners);
    else
        snprintf(text, sizeof(text), "%s", line);
    finish(b, b->triggers.exit, 0, text);
}

static void tell(struct bake *b)
{
    if (!b->over)
        return;
    b->over = false;
    b->config.ended(b->config.ctx, &b->outcome);
}

void bake_machine_ended(struct machine *m, enum machine_end why, const char *text)
{
    struct triggers_seen seen = {.now_ms = io_now_ns() / NS_OF_MS, .stop = why == MACHINE_STOPPED};
    struct bake *b = &m->bake;
    struct sm_error err = SM_ERROR_INIT;
    enum triggers_action action;

    if (!atomic_load(&b->armed))
        return;
    switch (why) {
    case MACHINE_POWER_OFF:
    case MACHINE_RESET:
        triggers_quiesced(&b->triggers, true);
        break;
    case MACHINE_PANIC:
    case MACHINE_TRIPLE_FAULT:
    case MACHINE_VCPU_ERROR:
        sm_error_set(&err, ECANCELED, "the machine ended before it was baked: %s", text);
        break;
    case MACHINE_RUNNING:
    case MACHINE_STOPPED:
        break;
    }
    if (err.code || triggers_check(&b->triggers, &seen, &action, &err) < 0) {
        fail(b, &err);
    } else {
        assert(action == TRIGGERS_LEAVE);
        leave(b);
    }
    tell(b);
}

/* --- coming to rest --- */

struct masking {
    struct bake *b;
    bool idle; /* all of them, so far */
};

static int mask_one(struct vcpu *v, void *ctx, struct sm_error *err)
{
    struct masking *masking = ctx;
    int r = v->group->hv->vcpu_mask_timer(v->hv, true, err);

    if (r < 0)
        return r;
    masking->b->masked |= 1u << v->index;
    r = v->group->hv->vcpu_idle(v->hv, err);
    masking->idle = masking->idle && r > 0;
    return r < 0 ? r : 0;
}

/* All are tried; the first error is kept. */
static int unmask_one(struct vcpu *v, void *ctx, struct sm_error *err)
{
    struct sm_error why = SM_ERROR_INIT;
    struct bake *b = ctx;

    if (!(b->masked & 1u << v->index))
        return 0;
    b->masked &= ~(1u << v->index);
    if (v->group->hv->vcpu_mask_timer(v->hv, false, &why) < 0 && !b->unmask.code)
        b->unmask = why;
    return 0;
}

static void unmask(struct bake *b)
{
    if (b->masked)
        coord_each(b->m->vcpu, b->m->n_vcpus, unmask_one, b, NULL);
}

void bake_at_rest(struct machine *m)
{
    struct bake *b = &m->bake;

    if (!b->resting || !b->masked)
        return;
    unmask(b);
    loop_timer_set(m->config.loop, &b->rest, io_now_ns(), b->rest.fn, b); /* its time is over */
}

static void on_rested(struct loop_timer *timer);

/*
 * Begin to rest. *at_rest: the machine is, before and afterwards. False when there is nothing more to decide now: the
 * guest runs on its way to rest, the machine has ended, or the bake has failed.
 */
static bool quiesce(struct bake *b, bool *at_rest)
{
    struct machine *m = b->m;
    struct masking masking = {.b = b, .idle = true};
    struct sm_error err = SM_ERROR_INIT;

    if (!*at_rest && coord_pause(m->vcpu, m->n_vcpus) < 0)
        return false;
    *at_rest = true;
    b->unmask.code = 0;
    int r = coord_each(m->vcpu, m->n_vcpus, mask_one, &masking, &err);
    if (r == 0 && !masking.idle) {
        b->resting = true;
        loop_timer_set(m->config.loop, &b->rest, io_now_ns() + (uint64_t)b->triggers.config.quiesce_ms * NS_OF_MS,
                       on_rested, b);
        return false;
    }
    unmask(b);
    if (r == 0 && !b->unmask.code) {
        triggers_quiesced(&b->triggers, false);
        return true;
    }
    fail(b, r < 0 ? &err : &b->unmask);
    return false;
}

/* --- the decision --- */

/* As above: false when there is nothing more to decide now. */
static bool capture(struct bake *b, bool at_rest)
{
    struct sm_error err = SM_ERROR_INIT;
    struct machine *m = b->m;

    if (m->n_vcpus > 1 && !at_rest)
        vcpus_answer(m->vcpu, m->n_vcpus, ~0u); /* one of them may have to park the others */
    int r = b->config.capture(b->config.ctx, &b->outcome.saved, &err);
    if (r == -ESHUTDOWN)
        return false; /* which is told when the loop comes to it */
    triggers_captured(&b->triggers, r == 0);
    if (r == 0)
        return true;
    sm_error_wrap(&err, "snapshot capture at trigger %s", trigger_name(b->triggers.fired));
    fail(b, &err);
    return false;
}

static void set_clock(struct bake *b);

static void decide(struct bake *b, bool at_rest)
{
    struct machine *m = b->m;
    bool more = true;

    while (more) {
        const struct triggers_seen seen = what_is_known(m);
        struct sm_error err = SM_ERROR_INIT;
        enum triggers_action action = TRIGGERS_RUN;

        more = false;
        if (triggers_check(&b->triggers, &seen, &action, &err) < 0)
            fail(b, &err);
        else if (action == TRIGGERS_QUIESCE)
            more = quiesce(b, &at_rest);
        else if (action == TRIGGERS_CAPTURE)
            more = capture(b, at_rest);
        else if (action == TRIGGERS_LEAVE)
            leave(b);
    }
    bool stays = b->config.stay && b->over && b->outcome.exit == TRIGGERS_SNAPSHOT_SAVED;
    if (at_rest && !stays)
        machine_go_on(m);
    if (atomic_load(&b->armed))
        set_clock(b);
    tell(b);
}

static void on_clock(struct loop_timer *timer)
{
    struct bake *b = timer->ctx;

    bake_look(b->m);
}

static void set_clock(struct bake *b)
{
    uint64_t deadline = triggers_deadline_ms(&b->triggers);

    if (deadline != UINT64_MAX)
        loop_timer_set(b->m->config.loop, &b->clock, deadline * NS_OF_MS, on_clock, b);
}

void bake_look(struct machine *m)
{
    /* Before what they have said is looked at: who asks later is answered later. */
    unsigned asking = vcpus_asking(m->vcpu, m->n_vcpus);

    if (atomic_load(&m->bake.armed) && !m->bake.resting && !m->ended)
        decide(&m->bake, false);
    vcpus_answer(m->vcpu, m->n_vcpus, asking);
}

static void on_rested(struct loop_timer *timer)
{
    struct bake *b = timer->ctx;

    if (machine_rest(b->m, NULL) < 0) /* it unmasks; an end is told when the loop comes to it */
        return;
    b->resting = false;
    loop_timer_cancel(&b->rest);
    if (b->unmask.code) {
        fail(b, &b->unmask);
        machine_go_on(b->m);
        tell(b);
        return;
    }
    triggers_quiesced(&b->triggers, false);
    decide(b, true);
}

int machine_bake(struct machine *m, const struct bake_config *config, struct sm_error *err)
{
    uint64_t now = io_now_ns();
    struct bake *b = &m->bake;

    if (atomic_load(&b->armed))
        return sm_error_set(err, EBUSY, "the machine is being baked already");
    int r = triggers_init(&b->triggers, &config->triggers, now / NS_OF_MS, err);
    if (r < 0)
        return r;
    assert(config->capture || !config->triggers.save);
    b->config = *config;
    b->outcome = (struct bake_outcome){.exit = TRIGGERS_CANCELED};
    b->resting = false;
    atomic_store(&b->armed, true);
    /* The first look comes after the owner was told that it is armed. */
    loop_timer_set(m->config.loop, &b->clock, now, on_clock, b);
    return 0;
}
