/* SPDX-License-Identifier: Apache-2.0 */
/* Our terminal: raw while a workload has it, restored however we end. */
#ifndef SM_CLI_TTY_H
#define SM_CLI_TTY_H

#include <stdbool.h>
#include <stdint.h>

enum tty_mode {
    TTY_RAW,    /* every key goes through as a byte, output is shown as it is */
    TTY_OUTPUT, /* output is shown as it is (the guest's terminal has made it ready); keys keep their meaning */
};

/* -1 and errno when `fd` is no terminal. */
int tty_set(int fd, enum tty_mode mode);

/* As it was before; harmless when it was not raw. */
void tty_restore(void);

/* False when `fd` is no terminal or has no size. */
bool tty_size(int fd, uint16_t *ret_rows, uint16_t *ret_cols);

#endif
