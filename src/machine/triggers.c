/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a bake is ripe: see triggers.h.
 *
 * Theory of operation
 *
 * Each check goes down one list and stops at the first thing that applies:
 *
 *   1. stop: leave, `stopped`; forced out without a reason: leave, `canceled`
 *   2. heartbeat: come to rest once, then fire
 *   3. pre-exec: fire at once, since nothing is in flight; before listener, since it comes earlier in a guest's life
 *   4. listener: come to rest once, then fire
 *   5. workload parked: the listener that is waited for will never come: fire rather than wait out the clock
 *   6. wall clock: fire with what there is, and say that no listener appeared; or fail, if one was demanded
 *   7. run
 *
 * Coming to rest takes guest time, in which other things may happen: after it, the list begins anew, and a trigger that
 * has had its rest fires when its turn comes. A demanded listener also holds back `parked`: a bake that may not do
 * without one must not save before the clock says that it failed.
 *
 * To fire is one of two things. With somewhere to save to: capture; saved, the loop is left with `snapshot_saved`;
 * otherwise the guest runs on and this trigger is spent, so that a capture that cannot work is not tried at every exit.
 * With bake-then-pool: leave with `bake_ready`, once; whoever calls again finds no trigger left and just runs the
 * guest.
 *
 * Threads: none; one caller. Time: the caller's.
 */
#include "machine/triggers.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"

#define ALL_TRIGGERS ((1u << TRIGGERS) - 1)

static const char *const trigger_names[TRIGGERS] = {
    [TRIGGER_HEARTBEAT] = "heartbeat",    [TRIGGER_PRE_EXEC] = "pre-exec", [TRIGGER_LISTENER] = "listener",
    [TRIGGER_PARKED] = "workload-parked", [TRIGGER_AFTER] = "wall-clock",
};

static const char *const exit_names[] = {
    [TRIGGERS_CANCELED] = "canceled",
    [TRIGGERS_STOPPED] = "stopped",
    [TRIGGERS_SNAPSHOT_SAVED] = "snapshot_saved",
    [TRIGGERS_SYSTEM_OFF] = "system_off",
    [TRIGGERS_BAKE_READY] = "bake_ready",
};

const char *trigger_name(enum trigger trigger)
{
    return trigger_names[trigger];
}

const char *triggers_exit_name(enum triggers_exit e)
{
    return exit_names[e];
}

int triggers_init(struct triggers *t, const struct triggers_config *config, uint64_t now_ms, struct sm_error *err)
{
    if (!config->heartbeat && !config->pre_exec && !config->listener && !config->after_ms)
        return sm_error_set(err, EINVAL, "a bake needs a trigger: pre-exec, listener, heartbeat or a time");
    if (config->require_listener && (!config->listener || !config->after_ms))
        return sm_error_set(err, EINVAL, "a listener can be demanded only with the listener trigger, within a time");
    *t = (struct triggers){.config = *config, .start_ms = now_ms};
    return 0;
}

static int leave(struct triggers *t, enum triggers_exit e, enum triggers_action *ret)
{
    t->leaving = true;
    t->exit = e;
    *ret = TRIGGERS_LEAVE;
    return 0;
}

static uint64_t elapsed(const struct triggers *t, uint64_t now_ms)
{
    return now_ms > t->start_ms ? now_ms - t->start_ms : 0;
}

static bool applies(const struct triggers *t, enum trigger trigger, const struct triggers_seen *seen)
{
    const struct triggers_config *c = &t->config;

    switch (trigger) {
    case TRIGGER_HEARTBEAT:
        return c->heartbeat && seen->heartbeat >= c->heartbeat;
    case TRIGGER_PRE_EXEC:
        return c->pre_exec && seen->pre_exec;
    case TRIGGER_LISTENER:
        return c->listener && seen->listeners > 0;
    case TRIGGER_PARKED:
        return c->listener && !c->require_listener && seen->listeners == 0 && seen->parked;
    case TRIGGER_AFTER:
        return c->after_ms && elapsed(t, seen->now_ms) >= c->after_ms;
    case TRIGGERS:
        break;
    }
    return false;
}

static int fire(struct triggers *t, enum trigger trigger, const struct triggers_seen *seen, enum triggers_action *ret)
{
    t->has_fired = true;
    t->fired = trigger;
    t->fired_ms = elapsed(t, seen->now_ms);
    t->no_listener = t->config.listener && seen->listeners == 0 && trigger >= TRIGGER_PARKED;
    if (t->config.save) {
        *ret = TRIGGERS_CAPTURE;
        return 0;
    }
    t->spent = ALL_TRIGGERS;
    return leave(t, TRIGGERS_BAKE_READY, ret);
}

int triggers_check(struct triggers *t, const struct triggers_seen *seen, enum triggers_action *ret,
                   struct sm_error *err)
{
    const unsigned rests = t->config.quiesce_ms ? 1u << TRIGGER_HEARTBEAT | 1u << TRIGGER_LISTENER : 0;

    /* What a rest or a capture has ended with. The owner of a pool comes back after bake_ready. */
    if (t->leaving && t->exit != TRIGGERS_BAKE_READY)
        return leave(t, t->exit, ret);
    t->leaving = false;
    if (seen->stop)
        return leave(t, TRIGGERS_STOPPED, ret);
    if (seen->canceled)
        return leave(t, TRIGGERS_CANCELED, ret);
    for (enum trigger i = 0; (t->config.save || t->config.pool) && i < TRIGGERS; i++) {
        unsigned bit = 1u << i;

        if ((t->spent & bit) || !applies(t, i, seen))
            continue;
        if (i == TRIGGER_AFTER && t->config.require_listener && seen->listeners == 0)
            return sm_error_set(err, ETIMEDOUT,
                                "vCPU 0: listener readiness timeout after %u ms; refusing zero-listener snapshot",
                                t->config.after_ms);
        if ((rests & bit) && !(t->quiesced & bit)) {
            t->quiesced |= bit;
            *ret = TRIGGERS_QUIESCE;
            return 0;
        }
        return fire(t, i, seen, ret);
    }
    *ret = TRIGGERS_RUN;
    return 0;
}

void triggers_quiesced(struct triggers *t, bool powered_off)
{
    t->leaving = powered_off;
    t->exit = TRIGGERS_SYSTEM_OFF;
}

void triggers_captured(struct triggers *t, bool saved)
{
    assert(t->has_fired && t->config.save);
    t->leaving = saved;
    t->exit = TRIGGERS_SNAPSHOT_SAVED;
    t->spent |= 1u << t->fired;
}

uint64_t triggers_deadline_ms(const struct triggers *t)
{
    if (!t->config.after_ms || (t->spent & 1u << TRIGGER_AFTER) || !(t->config.save || t->config.pool))
        return UINT64_MAX;
    return t->start_ms + t->config.after_ms;
}

void triggers_line(const struct triggers *t, char text[TRIGGERS_MAX_TEXT])
{
    snprintf(text, TRIGGERS_MAX_TEXT, "trigger %s fired after %" PRIu64 " ms%s", trigger_names[t->fired], t->fired_ms,
             t->no_listener ? "; no listener appeared" : "");
}
