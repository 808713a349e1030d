/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exit profile of one vCPU: how often it left the guest, where, and how long the host took. Off by default. Exits that
 * the hypervisor handles by itself (timers, idling, hypercalls) do not come here: hv.h's counters have them.
 */
#ifndef SM_MACHINE_PROFILE_H
#define SM_MACHINE_PROFILE_H

#include <stdint.h>

#include "base/buf.h"
#include "hv/hv.h"

#define PROFILE_PLACES 128 /* further ones are counted together */

struct profile_place {
    enum hv_exit_kind kind;
    uint64_t addr;
    uint64_t count, ns;
};

/* Written by the vCPU's thread alone; a reader on another may see a count before its time. */
struct profile {
    struct profile_place place[PROFILE_PLACES + 1];
    unsigned n;
    uint64_t run_ns; /* inside KVM_RUN: the guest, and what KVM does for it */
};

/* One exit at `addr` (0 where it has none) that was handled in `ns`. */
void profile_add(struct profile *p, enum hv_exit_kind kind, uint64_t addr, uint64_t ns);

/* Whose address it is: a name, and where that begins; NULL: nobody's. */
typedef const char *profile_name_fn(void *ctx, enum hv_exit_kind kind, uint64_t addr, uint64_t *ret_base);

/*
 * One line for the time in the guest, one for each kind of exit and device, "vcpu 0: mmio-read blk: 12 exits, 34 us";
 * most frequent first. What does not fit is left out by whole lines.
 */
void profile_print(const struct profile *p, unsigned vcpu, profile_name_fn *name, void *ctx, struct buf *out);

/* The same by register: "vcpu 0: mmio-read blk+0x70: 7 exits, 20 us". */
void profile_print_places(const struct profile *p, unsigned vcpu, profile_name_fn *name, void *ctx, struct buf *out);

/* "mmio-read", ... */
const char *profile_kind_name(enum hv_exit_kind kind);

#endif
