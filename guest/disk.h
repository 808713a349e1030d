/* SPDX-License-Identifier: Apache-2.0 */
/* The root disk of a machine that was started before its image was known: empty at first, and then it grows. */
#ifndef GUEST_DISK_H
#define GUEST_DISK_H

#include "wire.h"

/*
 * Returns at once unless the device has AGENT_EMPTY_DISK bytes; then when it has another size. 0, or -errno with a
 * sentence: -ETIMEDOUT after AGENT_DISK_WAIT_MS. A device that cannot be looked at is left to mount(2) to complain of.
 */
int ga_disk_wait(const char *device, struct ga_error *err);

#endif
