/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection from the host: frames in, frames out, nothing about what they mean.
 *
 * Nothing here blocks. Input is taken frame by frame, each checked against the limit of its type before memory is given
 * to it. Output is queued and written as the socket takes it; who has much to send asks ga_conn_has_room() first, and
 * input stops while the host leaves GA_OUT_STOP bytes unread.
 *
 * A connection is never freed from inside its own callbacks: it becomes `dead` (descriptor closed, all calls do
 * nothing) and its owner sweeps it up later.
 */
#ifndef GUEST_CONN_H
#define GUEST_CONN_H

#include <stdbool.h>
#include <sys/types.h>

#include "loop.h"
#include "wire.h"

#define GA_OUT_HIGH (64u << 10)  /* no more stream data is queued behind so much */
#define GA_OUT_STOP (256u << 10) /* no more input is read */

struct ga_conn {
    struct ga_loop *loop;
    struct ga_source src;
    struct ga_queue in, out;
    bool dead;    /* lost or closed */
    bool ending;  /* the last frame is queued: it goes out, then we wait for the host to close */
    bool shut;    /* the last frame has gone out */
    bool paused;  /* frames wait: see ga_conn_pause() */
    bool starved; /* somebody was told that there is no room, and waits for on_room */

    /* A whole frame within its limit. The payload is valid during the call. */
    void (*on_frame)(struct ga_conn *c, uint32_t type, const uint8_t *data, size_t len);
    void (*on_room)(struct ga_conn *c); /* ga_conn_has_room() was false and has become true */
};

/* Takes `fd`, a connected stream socket that does not block. 0 or -errno (then `fd` is closed). */
int ga_conn_init(struct ga_conn *c, struct ga_loop *loop, int fd);
void ga_conn_done(struct ga_conn *c);

/* Queue a frame and send what the socket takes. Without memory for it the connection dies. */
void ga_conn_send(struct ga_conn *c, uint32_t type, const void *data, size_t len);

/* The same for one that nobody waits for: it goes out with the next. False: the connection is at its end. */
bool ga_conn_put(struct ga_conn *c, uint32_t type, const void *data, size_t len);

/* Queue a frame with what one read of at most `max` bytes from `fd` gives. As read(2), -errno for an error. */
ssize_t ga_conn_send_from(struct ga_conn *c, uint32_t type, int fd, size_t max);

/* Frames of errno and sentence. A refusal ends the connection. */
void ga_conn_refuse(struct ga_conn *c, int code, const char *text);
void ga_conn_start_error(struct ga_conn *c, uint32_t reason, int code, const char *text);

/* Has it been lost, even if the loop has not come to see it yet? Then it is dead. */
bool ga_conn_lost(struct ga_conn *c);

/* Nothing more will be sent. */
void ga_conn_end(struct ga_conn *c);

/* Take no frames until resumed: for a request that is answered later than it came. Its loss is still noticed. */
void ga_conn_pause(struct ga_conn *c);
void ga_conn_resume(struct ga_conn *c);

/* False: on_room will tell. */
bool ga_conn_has_room(struct ga_conn *c);

#endif
