/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When is a bake ripe? The five triggers, their order, and what follows when one fires. Pure: time, events and outcomes
 * come in, decisions go out; who asks carries them out.
 */
#ifndef SM_MACHINE_TRIGGERS_H
#define SM_MACHINE_TRIGGERS_H

#include <stdbool.h>
#include <stdint.h>

#include <supermachine/supermachine.h>

#define TRIGGERS_DEFAULT_AFTER_MS 7000u
#define TRIGGERS_MAX_TEXT         160 /* bytes of a log line, its NUL included */

/* In the order in which they are looked at. */
enum trigger {
    TRIGGER_HEARTBEAT, /* the guest's counter has reached the target */
    TRIGGER_PRE_EXEC,  /* everything is set up, and the workload is about to start */
    TRIGGER_LISTENER,  /* the workload listens */
    TRIGGER_PARKED,    /* with LISTENER on: the workload has ended without ever listening */
    TRIGGER_AFTER,     /* the clock has run out */
    TRIGGERS,
};

struct triggers_config {
    uint64_t heartbeat;    /* the target; 0: off */
    bool pre_exec;         /* on */
    bool listener;         /* on, and PARKED with it */
    bool require_listener; /* a bake without one is a failure; needs `listener` */
    uint32_t after_ms;     /* 0: never */
    uint32_t quiesce_ms;   /* before heartbeat and listener fire; 0: not at all */
    bool save;             /* there is somewhere to save to: fire means capture */
    bool pool;             /* bake, then pool: without `save`, fire means that the owner takes over */
};

/* What is known of the guest now. */
struct triggers_seen {
    uint64_t now_ms; /* a monotonic clock */
    uint64_t heartbeat;
    bool pre_exec, parked;
    uint32_t listeners;
    bool stop;     /* the owner wants the end */
    bool canceled; /* forced out of the guest, and neither a pause nor a restore nor a stop had asked for it */
};

enum triggers_action {
    TRIGGERS_RUN,     /* enter the guest */
    TRIGGERS_QUIESCE, /* let it come to rest for at most quiesce_ms, then say how that went */
    TRIGGERS_CAPTURE, /* capture and save, then say how that went */
    TRIGGERS_LEAVE,   /* the loop is over: `exit` says why */
};

enum triggers_exit {
    TRIGGERS_CANCELED,
    TRIGGERS_STOPPED,
    TRIGGERS_SNAPSHOT_SAVED,
    TRIGGERS_SYSTEM_OFF,
    TRIGGERS_BAKE_READY,
};

struct triggers {
    struct triggers_config config;
    uint64_t start_ms;
    unsigned quiesced, spent; /* bits of enum trigger: it was, and will not be again */
    bool has_fired;
    enum trigger fired; /* last */
    uint64_t fired_ms;  /* since the start */
    bool no_listener;   /* fired without a listener, though one was waited for */
    bool leaving;
    enum triggers_exit exit;
};

/* -EINVAL and a sentence when the configuration can never fire, or contradicts itself. */
int triggers_init(struct triggers *t, const struct triggers_config *config, uint64_t now_ms, struct sm_error *err);

/* Before each entry into the guest: what to do. < 0: the bake has failed, and the sentence says how. */
int triggers_check(struct triggers *t, const struct triggers_seen *seen, enum triggers_action *ret,
                   struct sm_error *err);

/* After TRIGGERS_QUIESCE: the guest has powered itself off meanwhile, or not. */
void triggers_quiesced(struct triggers *t, bool powered_off);

/* After TRIGGERS_CAPTURE: it was saved, or could not be captured: then the guest runs on, and this trigger is spent. */
void triggers_captured(struct triggers *t, bool saved);

/* When triggers_check() must be called again though nothing has happened; UINT64_MAX: never. */
uint64_t triggers_deadline_ms(const struct triggers *t);

/* The log line of the trigger that fired last. */
void triggers_line(const struct triggers *t, char text[TRIGGERS_MAX_TEXT]);

/* "heartbeat", ...; "canceled", ... */
const char *trigger_name(enum trigger trigger);
const char *triggers_exit_name(enum triggers_exit e);

#endif
