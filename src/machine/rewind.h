/* SPDX-License-Identifier: Apache-2.0 */
/* A restored machine goes back to its snapshot in place. */
#ifndef SM_MACHINE_REWIND_H
#define SM_MACHINE_REWIND_H

#include "machine/machine.h"

/*
 * Put a running machine back to the snapshot it was restored from, as another clone of it: the guest learns
 * `generation`, as after machine_restore(). Connections of the guest's are reset at both ends. It runs when this
 * returns. -EINVAL: it was booted. -EBUSY: it is being saved. -ESHUTDOWN: its run has ended. Any other failure ends it.
 */
int machine_rewind(struct machine *m, const uint8_t generation[MACHINE_GENERATION_SIZE], struct sm_error *err);

#endif
