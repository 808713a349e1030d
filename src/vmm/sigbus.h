/* SPDX-License-Identifier: Apache-2.0 */
/* The last words of a worker whose guest memory is gone: a snapshot's file that was cut short raises SIGBUS. */
#ifndef SM_VMM_SIGBUS_H
#define SM_VMM_SIGBUS_H

#include <stdbool.h>
#include <stddef.h>

#include <supermachine/supermachine.h>

struct sigbus_words {
    /* Is there guest memory at this address? Called by a signal handler: looks at constant data only. */
    bool (*is_guest)(const void *ctx, const void *addr);
    const void *ctx;
    int sock;              /* a packet socket that gets this */
    const void *frame;     /* last frame, */
    size_t len;            /* and the process then exits with 0 */
    const char *complaint; /* or, when it takes none, stderr gets this line, and the process exits with 1 */
};

/* From now on; NULL: no longer. `words` and what it points to stay as they are meanwhile. */
int sigbus_guard(const struct sigbus_words *words, struct sm_error *err);

#endif
