/* SPDX-License-Identifier: Apache-2.0 */
/* Address ranges: see bus.h. */
#include "machine/bus.h"

#include <errno.h>
#include <stddef.h>

#include "base/checked.h"
#include "base/error.h"

int bus_add(struct bus *bus, uint64_t base, uint64_t size, const struct bus_ops *ops, void *ctx, struct sm_error *err)
{
    uint64_t end;
    unsigned at = 0;

    if (size == 0 || !CHECKED_ADD(base, size, &end))
        return sm_error_set(err, EINVAL, "%s: no such range on a bus", ops->name);
    if (bus->n == BUS_MAX_RANGES)
        return sm_error_set(err, ENOSPC, "%s: the bus is full", ops->name);
    while (at < bus->n && bus->range[at].base < base)
        at++;
    if ((at > 0 && bus->range[at - 1].base + bus->range[at - 1].size > base) ||
        (at < bus->n && bus->range[at].base < end))
        return sm_error_set(err, EINVAL, "%s: overlaps another device at 0x%llx", ops->name, (unsigned long long)base);
    for (unsigned i = bus->n; i > at; i--)
        bus->range[i] = bus->range[i - 1];
    bus->range[at] = (struct bus_range){.base = base, .size = size, .ops = ops, .ctx = ctx};
    bus->n++;
    return 0;
}

const struct bus_range *bus_find(const struct bus *bus, uint64_t addr, unsigned len)
{
    for (unsigned i = 0; i < bus->n; i++) {
        const struct bus_range *r = &bus->range[i];

        if (addr >= r->base && range_within(addr - r->base, len, r->size))
            return r;
    }
    return NULL;
}

static uint64_t all_ones(unsigned len)
{
    return len >= 8 ? UINT64_MAX : (1ull << (8 * len)) - 1;
}

bool bus_read(const struct bus *bus, uint64_t addr, unsigned len, uint64_t *ret)
{
    const struct bus_range *r = bus_find(bus, addr, len);

    *ret = r ? r->ops->read(r->ctx, addr - r->base, len) & all_ones(len) : all_ones(len);
    return r != NULL;
}

bool bus_write(const struct bus *bus, uint64_t addr, unsigned len, uint64_t value)
{
    const struct bus_range *r = bus_find(bus, addr, len);

    if (r)
        r->ops->write(r->ctx, addr - r->base, len, value & all_ones(len));
    return r != NULL;
}
