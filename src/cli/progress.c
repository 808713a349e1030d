/* SPDX-License-Identifier: Apache-2.0 */
/* Progress on a terminal: see progress.h. */
#include "cli/progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define REDRAW_NS 100000000ull

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

bool progress_wanted(void)
{
    return isatty(STDERR_FILENO) == 1;
}

int progress_show(void *ctx, const struct sm_image_event *event)
{
    struct progress *p = ctx;
    uint64_t now = now_ns();

    if (p->last_ns && now - p->last_ns < REDRAW_NS)
        return 0;
    p->last_ns = now;
    p->shown = true;
    if (event->total && event->done <= event->total)
        fprintf(stderr, "\r\033[Kconverting: %.1f of %.1f MiB", (double)event->done / 1048576,
                (double)event->total / 1048576);
    fflush(stderr);
    return 0;
}

void progress_end(struct progress *p)
{
    if (p->shown)
        fputs("\r\033[K", stderr);
    p->shown = false;
}
