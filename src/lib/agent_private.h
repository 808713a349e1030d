/* SPDX-License-Identifier: Apache-2.0 */
/* What the two halves of the agent's client share: agent.c (the connection) and agent_requests.c (what is asked). */
#ifndef SM_LIB_AGENT_PRIVATE_H
#define SM_LIB_AGENT_PRIVATE_H

#include "base/buf.h"
#include "lib/agent.h"

#define AGENT_MAX_SIGNAL 64u /* _NSIG of Linux */

struct output {
    size_t unread; /* given to the callee, which is not done with it */
    size_t owed;   /* done with, not yet credited */
};

struct agent {
    struct loop *loop;
    struct loop_source src;
    struct loop_timer fail_timer; /* reports a failure that happened inside a request */
    int fd;
    const struct agent_ops *ops;
    void *ctx;
    struct buf out;
    size_t out_sent; /* bytes at the front of `out` that have gone */
    bool out_broken; /* writing failed: the reader will find out more */
    uint8_t *in;
    size_t in_len;
    bool hello;          /* the guest's HELLO has come */
    unsigned pending;    /* control requests without an answer */
    const uint8_t *file; /* the caller's: what PUT has not sent yet */
    size_t file_left;
    bool putting; /* its PUT has no answer yet: other requests wait for that */
    bool exec, started, open_stdin, eof_sent;
    bool ended; /* the final callback has been called */
    size_t stdin_credit;
    bool want_room;
    struct output output[2];
    bool resize_waits;
    uint16_t rows, cols;
    bool busy, freed;
};

/* Bytes that the socket has not taken. */
size_t agent_out_waiting(const struct agent *a);

/* Append a frame; agent_flush() sends it. A pair is the shape of CREDIT and SIGNAL. */
void agent_put_frame(struct agent *a, uint16_t type, const void *data, size_t len);
void agent_put_pair(struct agent *a, uint16_t type, uint32_t first, uint32_t second);
void agent_put_resize(struct agent *a);

void agent_flush(struct agent *a);

#endif
