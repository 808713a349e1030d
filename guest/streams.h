/* SPDX-License-Identifier: Apache-2.0 */
/* What an exec's stdin, stdout and stderr are: pipes, or one terminal. */
#ifndef GUEST_STREAMS_H
#define GUEST_STREAMS_H

#include "request.h"

/* All -1 until opened. */
struct ga_streams {
    int in;     /* ours, to write to; -1: stdin is /dev/null */
    int out[2]; /* ours, to read from; of a terminal only the first */
    int slave;  /* the terminal's other side, which is stdio too; -1: pipes */
    int stdio[3];
};

#define GA_STREAMS_INIT                                                                                                \
    {                                                                                                                  \
        -1, {-1, -1}, -1,                                                                                              \
        {                                                                                                              \
            -1, -1, -1                                                                                                 \
        }                                                                                                              \
    }

/* The two ends of a pipe; ours does not block. 0 or -errno, then nothing is open. */
int ga_pipe(int *ret_ours, int *ret_theirs, bool we_read);

/* 0, or -errno: then what was opened until there is still open. */
int ga_streams_open(struct ga_streams *s, const struct ga_exec_req *req);

/* The child has its own copies of stdio; a terminal's is ours, and stays. */
void ga_streams_close_stdio(struct ga_streams *s);

#endif
