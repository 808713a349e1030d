/* SPDX-License-Identifier: Apache-2.0 */
/* Events to the host by /dev/supermachine: see docs/lifecycle-device.md. */
#ifndef GUEST_LIFECYCLE_H
#define GUEST_LIFECYCLE_H

#include <stdint.h>

#include "lifecycle_regs.h"

/* The open device, reads of which do not block, or -errno (-ENOENT: this machine has none). */
int ga_lifecycle_open(void);

/* SM_LC_EV_* with its argument. `fd` < 0: nothing happens. 0 or -errno. */
int ga_lifecycle_event(int fd, uint32_t kind, uint64_t arg);

/* SM_LC_EV_PANIC with a text, cut to what the device takes. */
int ga_lifecycle_panic(int fd, const char *text);

#endif
