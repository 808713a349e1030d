/* SPDX-License-Identifier: Apache-2.0 */
/* Exit profile: see profile.h. */
#include "machine/profile.h"

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

void profile_print(const struct profile *p, unsigned vcpu, struct buf *out)
{
    struct profile *copy = malloc(sizeof(*copy));
    char line[160];

    if (!copy)
        return;
    *copy = *p;
    sort_places(copy->place, copy->n);
    snprintf(line, sizeof(line), "vcpu %u: %llu us in the guest\n", vcpu, (unsigned long long)(copy->run_ns / 1000));
    put_line(out, line);
    for (unsigned i = 0; i <= PROFILE_PLACES; i++) {
        const struct profile_place *l = &copy->place[i];

        if (l->count == 0 || (i >= copy->n && i < PROFILE_PLACES))
            continue;
        if (i == PROFILE_PLACES)
            snprintf(line, sizeof(line), "vcpu %u: elsewhere: %llu exits, %llu us\n", vcpu,
                     (unsigned long long)l->count, (unsigned long long)(l->ns / 1000));
        else
            snprintf(line, sizeof(line), "vcpu %u: %s 0x%llx: %llu exits, %llu us\n", vcpu, profile_kind_name(l->kind),
                     (unsigned long long)l->addr, (unsigned long long)l->count, (unsigned long long)(l->ns / 1000));
        put_line(out, line);
    }
    free(copy);
}
