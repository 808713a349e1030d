/* SPDX-License-Identifier: Apache-2.0 */
/* Hears of every TCP port that a process in a control group starts to listen on, from the kernel and without polling.
 */
#ifndef GUEST_LISTENERS_H
#define GUEST_LISTENERS_H

#include "loop.h"
#include "wire.h"

struct ga_listeners;

/*
 * From now on `on_port` is called on the loop, once for each listen(2) in the group of the open directory `cgroup` or
 * below it. 0, or -errno with a sentence.
 */
int ga_listeners_new(struct ga_loop *loop, int cgroup, void (*on_port)(void *ctx, uint16_t port), void *ctx,
                     struct ga_listeners **ret, struct ga_error *err);
void ga_listeners_free(struct ga_listeners *l); /* takes NULL */

#endif
