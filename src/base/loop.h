/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Event loop over epoll: descriptors and one-shot timers. One thread owns a loop and is the only one that calls it;
 * another thread talks to it by a descriptor the owner watches (an eventfd).
 *
 * Sources are embedded in their owner's struct. A source may be removed from inside any callback, its own included:
 * the loop never touches a source that has been removed.
 */
#ifndef SM_BASE_LOOP_H
#define SM_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "base/list.h"

struct loop;
struct loop_source;

/* `events`: EPOLL* bits that are ready. */
typedef void loop_fn(struct loop_source *src, uint32_t events);

struct loop_source {
    int fd;          /* -1: not in a loop. Owned by the source's owner, open for as long as it is added */
    uint32_t events; /* what is watched */
    loop_fn *fn;
    void *ctx; /* for fn */
};

struct loop_timer {
    struct list node;
    uint64_t at_ns; /* CLOCK_MONOTONIC; 0: not armed */
    void (*fn)(struct loop_timer *timer);
    void *ctx;
};

/* 0 or -errno. */
int loop_new(struct loop **ret_loop);
void loop_free(struct loop *loop);

/* Watch `fd`. 0 or -errno; `src` is set up by this call. */
int loop_add(struct loop *loop, struct loop_source *src, int fd, uint32_t events, loop_fn *fn, void *ctx);

/* Change what is watched; cheap when nothing changes. Asserts on failure: it can only fail by a bug of ours. */
void loop_mod(struct loop *loop, struct loop_source *src, uint32_t events);

/* Harmless when not added. Does not close the descriptor. */
void loop_remove(struct loop *loop, struct loop_source *src);

/* Arm (or arm anew) for `at_ns` on CLOCK_MONOTONIC; fires once. */
void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at_ns, void (*fn)(struct loop_timer *),
                    void *ctx);
void loop_timer_cancel(struct loop_timer *timer);

/* Run callbacks until loop_stop(), which may have been called before. Returns 0, or -errno when waiting failed. */
int loop_run(struct loop *loop);

/* One round: wait at most `timeout_ms` (-1: no limit), run what is ready. Callbacks run, or -errno. */
int loop_once(struct loop *loop, int timeout_ms);
void loop_stop(struct loop *loop);

/* The epoll descriptor: for a seccomp filter or for nesting. Stays owned by the loop. */
int loop_fd(const struct loop *loop);

#endif
