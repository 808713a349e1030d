/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bus: address ranges and who answers there. One for MMIO, one for ports. Filled before the first vCPU runs and not
 * changed afterwards, so it needs no lock; handlers run on vCPU threads and guard themselves.
 */
#ifndef SM_MACHINE_BUS_H
#define SM_MACHINE_BUS_H

#include <stdbool.h>
#include <stdint.h>

#include <supermachine/supermachine.h>

#define BUS_MAX_RANGES 16

/* `off` is from the start of the range; `len` is 1, 2, 4 or 8, and the access lies within the range. */
struct bus_ops {
    const char *name;
    uint64_t (*read)(void *ctx, uint64_t off, unsigned len);
    void (*write)(void *ctx, uint64_t off, unsigned len, uint64_t value);
};

struct bus_range {
    uint64_t base, size;
    const struct bus_ops *ops;
    void *ctx;
};

struct bus {
    struct bus_range range[BUS_MAX_RANGES]; /* sorted by base, no overlap */
    unsigned n;
};

/* 0, -EINVAL when it overlaps another or wraps, -ENOSPC. */
int bus_add(struct bus *bus, uint64_t base, uint64_t size, const struct bus_ops *ops, void *ctx, struct sm_error *err);

/* The range that holds all of the access, or NULL. */
const struct bus_range *bus_find(const struct bus *bus, uint64_t addr, unsigned len);

/* False when nobody answers: *ret is all ones then (an empty bus floats high), and a write is dropped. */
bool bus_read(const struct bus *bus, uint64_t addr, unsigned len, uint64_t *ret);
bool bus_write(const struct bus *bus, uint64_t addr, unsigned len, uint64_t value);

#endif
