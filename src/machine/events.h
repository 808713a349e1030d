/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The box between vCPU threads and the loop: events of the guest, and how its run ended. A guest can ring as fast as it
 * likes, so nothing is queued: the latest of each kind is kept, and a bounded list of listening ports.
 */
#ifndef SM_MACHINE_EVENTS_H
#define SM_MACHINE_EVENTS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define EVENTS_MAX_KINDS     16 /* SM_LC_EV_* are below */
#define EVENTS_MAX_LISTENERS 64
#define EVENTS_MAX_TEXT      2048 /* bytes of an end's sentence, its NUL included */

enum machine_end {
    MACHINE_RUNNING,
    MACHINE_STOPPED,
    MACHINE_POWER_OFF,
    MACHINE_RESET,
    MACHINE_PANIC,
    MACHINE_TRIPLE_FAULT,
    MACHINE_VCPU_ERROR,
};

struct event {
    uint32_t kind; /* SM_LC_EV_* */
    uint64_t arg;
};

struct events {
    pthread_mutex_t lock; /* over everything below */
    bool pending[EVENTS_MAX_KINDS];
    uint64_t arg[EVENTS_MAX_KINDS];
    uint64_t listener[EVENTS_MAX_LISTENERS];
    unsigned n_listeners;
    uint64_t lost;
    enum machine_end end;
    char end_text[EVENTS_MAX_TEXT];
};

void events_init(struct events *ev);
void events_done(struct events *ev);

/* Any thread. `kind` is below EVENTS_MAX_KINDS. */
void events_post(struct events *ev, uint32_t kind, uint64_t arg);

/* The next event, oldest kind number first; false when there is none. */
bool events_take(struct events *ev, struct event *ret);

/* Put back what events_take() gave and could not be delivered now, unless a newer one has come. */
void events_put_back(struct events *ev, const struct event *event);

/* Drop all that were posted and not taken. */
void events_forget(struct events *ev);

/* Events that were overwritten or dropped before anyone took them. */
uint64_t events_lost(struct events *ev);

/*
 * The run is over: the first to say so gives reason and sentence, and true comes back to it alone. Bytes of `text`
 * (`len` of them, a guest's perhaps) that are not printable ASCII, newlines apart, become '?'.
 */
bool events_end(struct events *ev, enum machine_end end, const char *prefix, const char *text, size_t len);

/* MACHINE_RUNNING until the run is over; then `text` (EVENTS_MAX_TEXT bytes) is filled, unless it is NULL. */
enum machine_end events_ended(struct events *ev, char *text);

#endif
