/* SPDX-License-Identifier: Apache-2.0 */
/* The lifecycle device: events from the guest, power control (docs/lifecycle-device.md). */
#ifndef SM_DEV_LIFECYCLE_H
#define SM_DEV_LIFECYCLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <supermachine/supermachine.h>

#include "snap/stream.h"

#define LIFECYCLE_GENERATION_BYTES 16
#define LIFECYCLE_SEED_BYTES       32

struct lifecycle;

struct lifecycle_ops {
    /* `kind`: SM_LC_EV_*, known ones only. `text`: for SM_LC_EV_PANIC, `text_len` bytes, not terminated; else NULL. */
    void (*event)(void *ctx, uint32_t kind, uint64_t arg, const char *text, size_t text_len);
    void (*power)(void *ctx, uint32_t kind); /* SM_LC_POWER_*, known ones only */
    /* So many secondary vCPUs are parked now: the guest's word. NULL: nobody asks. */
    void (*parked)(void *ctx, uint32_t n);
    /* A restored guest has taken its new identity and the time: its other vCPUs may run. NULL: nobody waits. */
    void (*renewed)(void *ctx);
};

/*
 * `irq_fd`: eventfd for the (edge) interrupt, the caller's. Callbacks run on the vCPU thread that wrote, no lock held.
 */
int lifecycle_new(struct lifecycle **ret, int irq_fd, const struct lifecycle_ops *ops, void *ctx, struct sm_error *err);
void lifecycle_free(struct lifecycle *lc);
uint64_t lifecycle_read(struct lifecycle *lc, uint64_t off, unsigned len);
void lifecycle_write(struct lifecycle *lc, uint64_t off, unsigned len, uint64_t value);

/*
 * The guest is a clone now: a new identity, fresh entropy (both copied; the seed leaves with its first reading), and
 * an interrupt that says so. Before the first vCPU runs.
 */
void lifecycle_restored(struct lifecycle *lc, const uint8_t generation[LIFECYCLE_GENERATION_BYTES],
                        const uint8_t seed[LIFECYCLE_SEED_BYTES]);

/* Ask the guest to park its secondary vCPUs, or to let them go. Any thread. */
void lifecycle_park(struct lifecycle *lc, bool park);

/* Save or load. Identity and seed are no part of it: every restore has its own. vCPUs stopped. */
void lifecycle_state(struct lifecycle *lc, struct snap_stream *s);

/* After loading or saving: raise the interrupt again if there is a reason for one. */
void lifecycle_resume(struct lifecycle *lc);

#endif
