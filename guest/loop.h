/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's event loop: level-triggered epoll, one thread. A source is embedded in its owner; it may be removed from
 * inside any callback, its own included, and its owner may be freed right after.
 */
#ifndef GUEST_LOOP_H
#define GUEST_LOOP_H

#include <stdint.h>
#include <sys/epoll.h>

#define GA_LOOP_BATCH 32

struct ga_source {
    int fd; /* -1: none; owned by the source: ga_source_close() closes it */
    uint32_t events;
    void (*fn)(struct ga_source *src, uint32_t events);
    void *ctx;
};

struct ga_loop {
    int epfd;
    struct epoll_event batch[GA_LOOP_BATCH];
    int batch_len;
};

/* 0 or -errno. */
int ga_loop_init(struct ga_loop *l);
void ga_loop_done(struct ga_loop *l);

/* Set up, watching nothing yet. */
static inline void ga_source_init(struct ga_source *s, int fd, void (*fn)(struct ga_source *, uint32_t), void *ctx)
{
    *s = (struct ga_source){.fd = fd, .fn = fn, .ctx = ctx};
}

/*
 * Watch for `events`. With none the descriptor leaves the epoll set altogether: a hang-up or error is otherwise
 * reported whether it is wanted or not, and would spin. 0 or -errno.
 */
int ga_source_want(struct ga_loop *l, struct ga_source *s, uint32_t events);
void ga_source_close(struct ga_loop *l, struct ga_source *s);

/* Wait at most `timeout_ms` (-1: no limit), run what is ready. 0 or -errno. */
int ga_loop_once(struct ga_loop *l, int timeout_ms);

#endif
