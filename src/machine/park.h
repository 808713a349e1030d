/* SPDX-License-Identifier: Apache-2.0 */
/* A machine at rest for a capture: its guest is asked to park all vCPUs but the first, then all meet (coord.h). */
#ifndef SM_MACHINE_PARK_H
#define SM_MACHINE_PARK_H

#include <stdbool.h>
#include <stdint.h>

#include <supermachine/supermachine.h>

struct machine;

struct park {
    bool asked;    /* the guest has been asked to park, and not to unpark */
    uint32_t most; /* vCPUs that it has said are parked, since it was asked; guarded by the group's lock */
};

/*
 * Bring a running machine to rest: no vCPU is in the guest, and its timers are its own. Devices are the caller's to
 * pause. -ESHUTDOWN and a sentence: its run has ended. It nests; each needs its machine_go_on(). Loop's thread.
 */
int machine_rest(struct machine *m, struct sm_error *err);

/* Let it run on, and unpark it. */
void machine_go_on(struct machine *m);

/* The guest says that `n` vCPUs are parked. Any thread. */
void park_said(struct machine *m, uint32_t n);

#endif
