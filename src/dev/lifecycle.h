/* SPDX-License-Identifier: Apache-2.0 */
/* The lifecycle device: events from the guest, power control (docs/lifecycle-device.md). */
#ifndef SM_DEV_LIFECYCLE_H
#define SM_DEV_LIFECYCLE_H

#include <stddef.h>
#include <stdint.h>

#include <supermachine/supermachine.h>

struct lifecycle;

struct lifecycle_ops {
    /* `kind`: SM_LC_EV_*, known ones only. `text`: for SM_LC_EV_PANIC, `text_len` bytes, not terminated; else NULL. */
    void (*event)(void *ctx, uint32_t kind, uint64_t arg, const char *text, size_t text_len);
    void (*power)(void *ctx, uint32_t kind); /* SM_LC_POWER_*, known ones only */
};

/* Callbacks run on the vCPU thread that wrote, no lock held. */
int lifecycle_new(struct lifecycle **ret, const struct lifecycle_ops *ops, void *ctx, struct sm_error *err);
void lifecycle_free(struct lifecycle *lc);
uint64_t lifecycle_read(struct lifecycle *lc, uint64_t off, unsigned len);
void lifecycle_write(struct lifecycle *lc, uint64_t off, unsigned len, uint64_t value);

#endif
