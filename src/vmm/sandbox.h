/* SPDX-License-Identifier: Apache-2.0 */
/* Shutting the worker in before its guest runs: see sandbox.c for the steps. */
#ifndef SM_VMM_SANDBOX_H
#define SM_VMM_SANDBOX_H

#include <stdint.h>

#include <supermachine/supermachine.h>

#define SANDBOX_MAX_FDS 4096 /* descriptors the worker may hold: vsock connections, above all */

/* At the process's start: no stray descriptor above `last_fd`, 0 to 2 open on something. */
int sandbox_descriptors(int last_fd, struct sm_error *err);

/*
 * Everything but system call filters. Single-threaded, with all that is needed open. Steps the host does not allow are
 * left out; *steps gets CONTROL_SANDBOX_* bits of those that took effect. Fails only where a step that every host
 * allows does not work.
 */
int sandbox_enter(uint32_t *steps, struct sm_error *err);

/* System call filters, one for each kind of thread, made by sandbox_filters_new() while the process may still do it. */
struct sandbox_filters;

int sandbox_filters_new(struct sandbox_filters **ret, struct sm_error *err);
void sandbox_filters_free(struct sandbox_filters *f);

/* Shut the calling thread in for good. Any other system call than those of its list kills the process. */
int sandbox_filter_vcpu(const struct sandbox_filters *f, struct sm_error *err);
int sandbox_filter_main(const struct sandbox_filters *f, struct sm_error *err);

#endif
