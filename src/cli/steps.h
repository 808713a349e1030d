/* SPDX-License-Identifier: Apache-2.0 */
/* What the start of a machine is at: one line on stderr, where that is a terminal; with `verbose` a line for each. */
#ifndef SM_CLI_STEPS_H
#define SM_CLI_STEPS_H

#include <stdbool.h>

#include <supermachine/supermachine.h>

/* Begins zeroed. */
struct steps {
    bool visible, verbose, shown; /* shown: a line of ours is above the cursor */
    const char *label;
};

/* Sets the callback of `config`. `label`: what is started. */
void steps_begin(struct steps *s, bool quiet, bool verbose, const char *label, struct sm_vm_config *config);

/* Wipe the line: call before anything else is printed. */
void steps_end(struct steps *s);

/* With `verbose`: how the machine came to be. */
void steps_started(const struct steps *s, struct sm_vm *vm);

#endif
