/* SPDX-License-Identifier: Apache-2.0 */
/* A bake in a running machine: the triggers (triggers.h) joined to what the guest says, to time, and to capturing. */
#ifndef SM_MACHINE_BAKE_H
#define SM_MACHINE_BAKE_H

#include <stdatomic.h>

#include "base/loop.h"
#include "machine/events.h"
#include "machine/machine.h"
#include "machine/triggers.h"

#define BAKE_MAX_TEXT 2048 /* bytes of an outcome's line or sentence, its NUL included */

struct bake_outcome {
    enum triggers_exit exit;
    enum trigger trigger; /* TRIGGERS: none has fired */
    int code;             /* 0; or a positive errno: the bake has failed, and `text` says how */
    char text[BAKE_MAX_TEXT];
    struct machine_saved saved; /* of TRIGGERS_SNAPSHOT_SAVED */
};

struct bake_config {
    struct triggers_config triggers;
    bool stay; /* a machine that was saved does not run on */
    /* Save the machine, with `triggers.save` only. The machine is at rest or comes to it by machine_save(). */
    int (*capture)(void *ctx, struct machine_saved *ret, struct sm_error *err);
    /* Once. The machine runs on, unless it has ended or stays. */
    void (*ended)(void *ctx, const struct bake_outcome *outcome);
    void *ctx;
};

/*
 * Arm a running machine, at most one bake at a time. What the guest has said since it was started or restored counts,
 * but a pre-exec of before an earlier bake. All calls on the loop's thread unless they say otherwise.
 */
int machine_bake(struct machine *m, const struct bake_config *config, struct sm_error *err);

/* --- for the files of this directory --- */

struct bake_seen {
    uint64_t heartbeat;
    bool pre_exec, parked;
    uint64_t port[EVENTS_MAX_LISTENERS];
    uint32_t n_ports;
};

struct bake {
    struct machine *m;
    struct bake_config config;
    struct triggers triggers;
    struct loop_timer clock; /* first look, then the deadline of the clock's trigger */
    struct loop_timer rest;  /* end of coming to rest */
    bool resting;            /* the guest comes to rest */
    unsigned masked;         /* vCPUs whose timer is masked; a bit each */
    struct sm_error unmask;  /* the first that could not be unmasked */
    bool over;               /* `outcome` is to be told */
    struct bake_outcome outcome;
    atomic_bool armed;
    struct bake_seen seen; /* guarded by the group's lock */
};

void bake_init(struct bake *b, struct machine *m);
void bake_done(struct bake *b);

/* The guest has rung the lifecycle device. On a vCPU's thread. */
void bake_rung(struct machine *m, uint32_t kind, uint64_t arg);

/* Something has happened: decide, and let those go on that wait for it. */
void bake_look(struct machine *m);

/* The machine has come to rest: whoever asked for it, it sees no masked timer. */
void bake_at_rest(struct machine *m);

/* The machine's run has ended. */
void bake_machine_ended(struct machine *m, enum machine_end why, const char *text);

/* The guest is another one now: what was said does not count. */
void bake_forget(struct machine *m);

#endif
