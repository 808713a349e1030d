/* SPDX-License-Identifier: Apache-2.0 */
/* A machine on the scripted hypervisor and the files of a snapshot, for tests of saving and restoring. */
#ifndef SM_TESTS_MACHINE_ENV_H
#define SM_TESTS_MACHINE_ENV_H

#include <stdbool.h>

#include "base/loop.h"
#include "machine/machine.h"

struct env {
    struct loop *loop;
    struct machine *m;
    unsigned ends;
    char end_text[256];
    struct machine_files files; /* state and memory, to save to and to restore from */
};

extern const uint8_t env_generation[MACHINE_GENERATION_SIZE];

/* cmocka's set-up and tear-down: *state is a struct env. */
int env_set_up(void **state);
int env_tear_down(void **state);

/* A machine with one device; the same booted and running, of 32 MiB; the end of it. */
void env_build(struct env *e, unsigned memory_mib, unsigned vcpus);
void env_start(struct env *e, unsigned vcpus);
void env_finish(struct env *e);

/* A clone of 32 MiB and one vCPU that runs. */
void env_clone(struct env *e, const struct machine_files *files);

/* Fresh state and memory files, and one for a list of pages. */
struct machine_files env_files(bool diff);
void env_close(struct machine_files *files);

#endif
