/* SPDX-License-Identifier: Apache-2.0 */
/* Ctrl-C during long work: the first one asks it to stop at a good place, the second one ends us. */
#ifndef SM_CLI_INTERRUPT_H
#define SM_CLI_INTERRUPT_H

#include <stdbool.h>

/* From here to interrupt_end() the first SIGINT is only remembered, for some seconds. Where it is ignored it stays so.
 */
void interrupt_begin(void);
void interrupt_end(void);

bool interrupted(void);

/* Die of it: a shell that runs a loop or a script ends that only when it sees this. */
void interrupt_die(void) __attribute__((noreturn));

#endif
