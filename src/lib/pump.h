/* SPDX-License-Identifier: Apache-2.0 */
/* A caller's descriptors on the loop: a sink is written, a source is read, neither ever holds the loop up. */
#ifndef SM_LIB_PUMP_H
#define SM_LIB_PUMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <supermachine/supermachine.h>

#include "base/loop.h"

/* How a descriptor can be waited for and used without waiting in the call. */
enum pump_kind {
    PUMP_NONE = 0, /* no descriptor: a sink drops, a source is at its end */
    PUMP_ALWAYS,   /* a file, /dev/null: epoll refuses it, and it is always ready */
    PUMP_NONBLOCK, /* its open file description does not block */
    PUMP_SOCKET,   /* a socket: each call says that it shall not block */
    PUMP_BLOCKING, /* none of these: ready for little pieces when the poll says so */
};

struct sink {
    struct loop *loop;
    struct loop_source src;
    enum pump_kind kind;
    int fd;
    uint8_t *data; /* what could not be written yet: [start, start + len) */
    size_t start, len, cap;
    bool broken;                               /* the reader has gone, or writing failed: everything is dropped */
    void (*done)(struct sink *sink, size_t n); /* `n` more bytes were written or dropped */
    void (*broke)(struct sink *sink);          /* once, when it breaks */
    void *ctx;
};

/* `fd` stays the caller's and may be -1. 0 or -errno. */
int sink_open(struct sink *s, struct loop *loop, int fd, struct sm_error *err);

/* Write or keep all of it: the caller bounds how much is under way (by `done`). */
void sink_write(struct sink *s, const void *data, size_t len);
static inline bool sink_empty(const struct sink *s)
{
    return s->len == 0;
}
void sink_close(struct sink *s);

#define SOURCE_CHUNK (64 * 1024)

struct source {
    struct loop *loop;
    struct loop_source src;
    enum pump_kind kind;
    int fd, ready_fd; /* ready_fd: an eventfd that is always readable, for PUMP_ALWAYS */
    bool ended;
    uint8_t *data; /* read, not yet taken: [start, start + len) */
    size_t start, len;
    size_t (*take)(struct source *source, const void *data, size_t len); /* returns how many it took */
    void (*eof)(struct source *source);                                  /* once, after all was taken */
    void *ctx;
};

int source_open(struct source *s, struct loop *loop, int fd, struct sm_error *err);

/* There is room again for what `take` refused. */
void source_resume(struct source *s);

/* Read no more; what was read still goes, then `eof`. */
void source_end(struct source *s);
void source_close(struct source *s);

#endif
