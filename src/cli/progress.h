/* SPDX-License-Identifier: Apache-2.0 */
/* One line on stderr, where that is a terminal, that tells what long work is at. */
#ifndef SM_CLI_PROGRESS_H
#define SM_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include <supermachine/supermachine.h>

struct progress {
    bool shown;
    uint64_t last_ns; /* when it was drawn last */
};

/* Is there anybody to show it to? */
bool progress_wanted(void);

/* For struct sm_image_options: `ctx` is a struct progress. */
int progress_show(void *ctx, const struct sm_image_event *event);

/* Wipe the line: call before anything else is printed. */
void progress_end(struct progress *p);

#endif
