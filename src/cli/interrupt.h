/* SPDX-License-Identifier: Apache-2.0 */
/* Ctrl-C during long work: the first one asks it to stop at a good place, the second one ends us. */
#ifndef SM_CLI_INTERRUPT_H
#define SM_CLI_INTERRUPT_H

#include <stdbool.h>

/* From here to interrupt_end() SIGINT, SIGTERM and SIGHUP are only remembered, each once; ignored ones stay ignored. */
void interrupt_begin(void);
void interrupt_end(void);

bool interrupted(void);

/* Die of the signal that was remembered, so that whoever started us sees what happened. */
void interrupt_die(void) __attribute__((noreturn));

#endif
