/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of machines on the fake worker: an image of one file, and short ways to start and run. Failures end the
 * test. */
#ifndef VM_FIXTURE_H
#define VM_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <supermachine/supermachine.h>

#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})

extern struct sm_image *vm_image; /* its command is `echo "the image's"`, its stop signal SIGINT; it exposes 80/tcp */
extern char vm_dir[], vm_store[]; /* layout, store, kernel; the store's directory */
extern struct sm_error vm_err;    /* of the last failure */

/* For cmocka_run_group_tests. */
int vm_fixture_up(void **state);
int vm_fixture_down(void **state);

/* A configuration for the fake worker in this mode (see fake_worker.c), its guest called "box". */
struct sm_vm_config vm_config(const char *mode);

/* Skips the test where there is no /dev/kvm to open. */
int vm_try(struct sm_vm **ret, const struct sm_vm_config *config);
struct sm_vm *vm_start(const struct sm_vm_config *config);

struct sm_exec *vm_exec(struct sm_vm *vm, const struct sm_exec_config *config);

/* Wait for its end and free it; a message is "some". */
struct sm_exec_result vm_finish(struct sm_exec *x);

/* Run to the end; what it writes comes back. */
struct sm_exec_result vm_run(struct sm_vm *vm, struct sm_exec_config config, char *out, size_t size);

#endif
