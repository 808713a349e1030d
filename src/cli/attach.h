/* SPDX-License-Identifier: Apache-2.0 */
/* Being the command's front: its signals, its terminal, its end. */
#ifndef SM_CLI_ATTACH_H
#define SM_CLI_ATTACH_H

#include <stdbool.h>

#include <supermachine/supermachine.h>

/*
 * From here on signals come to attach_wait() instead of ending us. Call it right before the command is started, so
 * that none is lost in between. -1 and errno on failure.
 */
int attach_begin(bool tty);

/*
 * Until the command has ended. Signals are passed on to it, a new size of the terminal too; the third request to end
 * (SIGINT, SIGTERM, SIGQUIT, SIGHUP) ends us without it. 0 with its result; -errno: see `err`.
 */
int attach_wait(struct sm_vm *vm, struct sm_exec *exec, struct sm_exec_result *result, struct sm_error *err);

#endif
