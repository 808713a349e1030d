/* SPDX-License-Identifier: Apache-2.0 */
/* From the initramfs to the image's root: what SETUP asks for. Needs to be PID 1. */
#ifndef GUEST_SETUP_H
#define GUEST_SETUP_H

#include "request.h"

/* The little that the agent itself needs before SETUP: /dev, /proc, /sys of the initramfs. 0, or -errno. */
int ga_setup_early(struct ga_error *err);

/* 0, or -errno with a sentence; then the machine is of no use any more. `ret_cgroup`, `ret_root`: see life.h. */
int ga_setup_root(const struct ga_setup *setup, int *ret_cgroup, int *ret_root, struct ga_error *err);

#endif
