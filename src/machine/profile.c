/* SPDX-License-Identifier: Apache-2.0 */
/* Exit profile: see profile.h. */
#include "machine/profile.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kind_names[HV_EXIT_KINDS] = {
    [HV_EXIT_KICKED] = "kicked",     [HV_EXIT_MMIO_READ] = "mmio-read", [HV_EXIT_MMIO_WRITE] = "mmio-write",
    [HV_EXIT_PIO_READ] = "pio-read", [HV_EXIT_PIO_WRITE] = "pio-write", [HV_EXIT_HALT] = "halt",
    [HV_EXIT_SHUTDOWN] = "shutdown", [HV_EXIT_POWER_OFF] = "power-off", [HV_EXIT_RESET] = "reset",
    [HV_EXIT_OTHER] = "other",
};

const char *profile_kind_name(enum hv_exit_kind kind)
{
    return kind < HV_EXIT_KINDS ? kind_names[kind] : "?";
}

static struct profile_place *find(struct profile *p, enum hv_exit_kind kind, uint64_t addr)
{
    for (unsigned i = 0; i < p->n; i++)
        if (p->place[i].kind == kind && p->place[i].addr == addr)
            return &p->place[i];
    if (p->n == PROFILE_PLACES) /* the last one collects the rest */
        return &p->place[PROFILE_PLACES];
    struct profile_place *place = &p->place[p->n++];
    *place = (struct profile_place){.kind = kind, .addr = addr};
    return place;
}

void profile_add(struct profile *p, enum hv_exit_kind kind, uint64_t addr, uint64_t ns)
{
    struct profile_place *place = find(p, kind, addr);

    place->count++;
    place->ns += ns;
}

/* Most frequent first, by insertion. (The C library's qsort() asks for the size of memory: a system call too many.) */
static void sort_places(struct profile_place *place, unsigned n)
{
    for (unsigned i = 1; i < n; i++) {
        struct profile_place moving = place[i];
        unsigned at = i;

        for (; at > 0 && place[at - 1].count < moving.count; at--)
            place[at] = place[at - 1];
        place[at] = moving;
    }
}

static void put_line(struct buf *out, const char *line)
{
    size_t len = strlen(line);

    /* What does not fit is left out whole; `out` stays good. */
    if (len <= out->max - out->len)
        buf_bytes(out, line, len);
}

static void put_place(struct buf *out, unsigned vcpu, const char *what, const char *where,
                      const struct profile_place *l)
{
    char line[160];

    snprintf(line, sizeof(line), "vcpu %u: %s%s%s: %llu exits, %llu us\n", vcpu, what, *where ? " " : "", where,
             (unsigned long long)l->count, (unsigned long long)(l->ns / 1000));
    put_line(out, line);
}

static bool has_address(enum hv_exit_kind kind)
{
    return kind == HV_EXIT_MMIO_READ || kind == HV_EXIT_MMIO_WRITE || kind == HV_EXIT_PIO_READ ||
           kind == HV_EXIT_PIO_WRITE;
}

/* A copy that can be sorted, of what another thread still writes; what is beyond the table is its last place. */
static struct profile *copy_of(const struct profile *p)
{
    struct profile *copy = malloc(sizeof(*copy));

    if (copy)
        *copy = *p;
    return copy;
}

static const char *name_of(const struct profile_place *l, profile_name_fn *name, void *ctx, uint64_t *ret_base)
{
    const char *ret = has_address(l->kind) ? name(ctx, l->kind, l->addr, ret_base) : NULL;

    return ret ? ret : has_address(l->kind) ? "nobody" : "";
}

void profile_print(const struct profile *p, unsigned vcpu, profile_name_fn *name, void *ctx, struct buf *out)
{
    struct profile *copy = copy_of(p), by_device = {.n = 0};
    const struct profile_place *beyond;
    uint64_t entries = 0;
    char line[160];

    if (!copy)
        return;
    beyond = &copy->place[PROFILE_PLACES];
    for (unsigned i = 0; i < copy->n; i++) {
        const struct profile_place *l = &copy->place[i];
        uint64_t base = 0;

        name_of(l, name, ctx, &base);
        struct profile_place *sum = find(&by_device, l->kind, base);
        sum->count += l->count;
        sum->ns += l->ns;
        entries += l->count;
    }
    sort_places(by_device.place, by_device.n);
    snprintf(line, sizeof(line), "vcpu %u: run: %llu entries, %llu us\n", vcpu,
             (unsigned long long)(entries + beyond->count), (unsigned long long)(copy->run_ns / 1000));
    put_line(out, line);
    for (unsigned i = 0; i < by_device.n; i++) {
        const struct profile_place *l = &by_device.place[i];
        uint64_t base;

        put_place(out, vcpu, profile_kind_name(l->kind), name_of(l, name, ctx, &base), l);
    }
    if (beyond->count)
        put_place(out, vcpu, "elsewhere", "", beyond);
    free(copy);
}

void profile_print_places(const struct profile *p, unsigned vcpu, profile_name_fn *name, void *ctx, struct buf *out)
{
    struct profile *copy = copy_of(p);

    if (!copy)
        return;
    sort_places(copy->place, copy->n);
    for (unsigned i = 0; i < copy->n; i++) {
        const struct profile_place *l = &copy->place[i];
        char where[64];
        uint64_t base = 0;

        if (!has_address(l->kind))
            continue;
        const char *whose = name_of(l, name, ctx, &base);
        snprintf(where, sizeof(where), "%s+0x%llx", whose, (unsigned long long)(l->addr - base));
        put_place(out, vcpu, profile_kind_name(l->kind), where, l);
    }
    free(copy);
}
