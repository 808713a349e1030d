/* SPDX-License-Identifier: Apache-2.0 */
/* How far a piece of work is, how fast it goes, and that as a line for a terminal. Pure: no clock, no output. */
#ifndef SM_CLI_METER_H
#define SM_CLI_METER_H

#include <stddef.h>
#include <stdint.h>

/* Starts zeroed. */
struct meter {
    uint64_t done, total;      /* bytes; total 0: not known */
    uint64_t since_ns, before; /* the last sample of the rate: when, and `done` then */
    double rate;               /* bytes a second, smoothed; 0: not known yet */
};

/* `done` never goes back in a rate: when it does, the rate begins anew. */
void meter_update(struct meter *m, uint64_t done, uint64_t total, uint64_t now_ns);

/* Seconds until the end at this rate; UINT64_MAX: nobody knows. */
uint64_t meter_left(const struct meter *m);

/*
 * "LABEL  STATE       [====>     ]  12.3MB/45.6MB  5.1MB/s  7s" in at most `width` columns, without a newline; what has
 * no room is left out, the bar first. Nothing about bytes when none are known of. Returns `buf`.
 */
const char *meter_line(char *buf, size_t size, unsigned width, const char *label, const char *state,
                       const struct meter *m);

#endif
