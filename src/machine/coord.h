/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rendezvous: all vCPUs out of the guest at once, each between two instructions, its thread at rest.
 *
 * pause, each and resume are called by the loop's thread, in this order, on vCPUs that run.
 */
#ifndef SM_MACHINE_COORD_H
#define SM_MACHINE_COORD_H

#include "machine/vcpu.h"

/*
 * Bring all to rest; where they are, they stay so until as many coord_resume() as there were coord_pause(). -ESHUTDOWN:
 * the run ended meanwhile; they are then not to be resumed but joined.
 */
int coord_pause(struct vcpu *vcpus, unsigned n);

/*
 * `fn` for each vCPU, on that vCPU's own thread, one after another: no two run at once, and the caller waits. The first
 * failure ends it and is returned. `fn` sets `err`.
 */
typedef int coord_fn(struct vcpu *v, void *ctx, struct sm_error *err);
int coord_each(struct vcpu *vcpus, unsigned n, coord_fn *fn, void *ctx, struct sm_error *err);

/* Let them run on; returns when all have left the rendezvous. */
void coord_resume(struct vcpu *vcpus, unsigned n);

/* The vCPU's side, on its thread when group->pause is set: rest until resumed. 1: leave the run loop. */
int coord_rest(struct vcpu *v);

#endif
