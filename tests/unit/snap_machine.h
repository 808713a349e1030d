/* SPDX-License-Identifier: Apache-2.0 */
/* All devices of a machine, without vCPUs: what a state file is loaded into by tests and fuzz targets. */
#ifndef SM_TESTS_SNAP_MACHINE_H
#define SM_TESTS_SNAP_MACHINE_H

#include "dev/lifecycle.h"
#include "dev/serial.h"
#include "fake_driver.h"

enum { SLOT_DISK, SLOT_VSOCK, SLOT_RNG, SNAP_SLOTS };

struct snap_machine {
    struct fake f[SNAP_SLOTS]; /* a driver and a guest's memory for each device */
    struct serial *serial;
    struct lifecycle *lifecycle;
};

void snap_machine_open(struct snap_machine *m);
void snap_machine_close(struct snap_machine *m);

/* Drivers come up, registers get values. */
void snap_machine_run(struct snap_machine *m);

/* Save (paused) or load. */
void snap_machine_state(struct snap_machine *m, struct snap_stream *s);
void snap_machine_pause(struct snap_machine *m);
void snap_machine_resume(struct snap_machine *m);

#endif
