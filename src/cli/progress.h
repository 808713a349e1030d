/* SPDX-License-Identifier: Apache-2.0 */
/* Lines on stderr, where that is a terminal, that tell what long work is at: one a layer. */
#ifndef SM_CLI_PROGRESS_H
#define SM_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include <supermachine/supermachine.h>

struct progress_layer;

/* Begins zeroed. */
struct progress {
    bool begun, visible;
    const char *label; /* of what is done for no layer in particular: the image's name. NULL: none */
    struct progress_layer *layers;
    unsigned n_layers;
    struct progress_layer *whole; /* what is done for all of it */
    unsigned shown;               /* lines on the screen now, above the cursor */
    uint64_t drawn_ns;            /* when */
};

/*
 * *event is what to give to the library, with `p` as its context. Ctrl-C asks to stop (interrupt.h). Only where stderr
 * is a terminal, and not `quiet`, anything is shown.
 */
void progress_begin(struct progress *p, bool quiet, const char *label,
                    int (**event)(void *ctx, const struct sm_image_event *event), void **event_ctx);

/* Wipe the lines: call before anything else is printed. Signals have their usual effect again. */
void progress_end(struct progress *p);

/* The same, but what became of the layers stays on the screen. */
void progress_finish(struct progress *p);

/*
 * progress_end(), and the sentence of a call that failed; EXIT_OURS. After Ctrl-C it says so and does not come back.
 */
int progress_failed(struct progress *p, const struct sm_error *err);

#endif
