/* SPDX-License-Identifier: Apache-2.0 */
/* The worker's side of the control protocol (proto/control.h). */
#ifndef SM_VMM_SERVER_H
#define SM_VMM_SERVER_H

#include <supermachine/supermachine.h>

/* Serve the owner on `sock` (taken over) until the machine's end was told or the owner is gone. 0 or -errno. */
int server_run(int sock, struct sm_error *err);

#endif
