/* SPDX-License-Identifier: Apache-2.0 */
/* Event loop: see loop.h. Timers are few, so they sit on a plain list. */
#include "base/loop.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/io.h"

#define LOOP_BATCH 32

struct loop {
    int epfd;
    bool stop;
    struct list timers;
    /* The batch being dispatched: loop_remove() takes a source out of it, so that it is not touched again. */
    struct epoll_event batch[LOOP_BATCH];
    int batch_len;
};

int loop_new(struct loop **ret_loop)
{
    struct loop *l = calloc(1, sizeof(*l));

    if (!l)
        return -ENOMEM;
    list_init(&l->timers);
    l->epfd = epoll_create1(EPOLL_CLOEXEC);
    if (l->epfd < 0) {
        int r = -errno;

        free(l);
        return r;
    }
    *ret_loop = l;
    return 0;
}

void loop_free(struct loop *l)
{
    if (!l)
        return;
    LIST_FOREACH_SAFE(&l->timers, it, tmp)
    loop_timer_cancel(LIST_ENTRY(it, struct loop_timer, node));
    close(l->epfd);
    free(l);
}

int loop_add(struct loop *l, struct loop_source *src, int fd, uint32_t events, loop_fn *fn, void *ctx)
{
    struct epoll_event ev = {.events = events, .data.ptr = src};

    *src = (struct loop_source){.fd = -1, .events = events, .fn = fn, .ctx = ctx};
    if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) < 0)
        return -errno;
    src->fd = fd;
    return 0;
}

void loop_mod(struct loop *l, struct loop_source *src, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = src};

    if (src->fd < 0 || src->events == events)
        return;
    int r = epoll_ctl(l->epfd, EPOLL_CTL_MOD, src->fd, &ev);
    assert(r == 0);
    (void)r;
    src->events = events;
}

void loop_remove(struct loop *l, struct loop_source *src)
{
    if (src->fd < 0)
        return;
    epoll_ctl(l->epfd, EPOLL_CTL_DEL, src->fd, NULL);
    src->fd = -1;
    for (int i = 0; i < l->batch_len; i++)
        if (l->batch[i].data.ptr == src)
            l->batch[i].data.ptr = NULL;
}

void loop_timer_set(struct loop *l, struct loop_timer *t, uint64_t at_ns, void (*fn)(struct loop_timer *), void *ctx)
{
    loop_timer_cancel(t);
    t->at_ns = at_ns ? at_ns : 1;
    t->fn = fn;
    t->ctx = ctx;
    list_push_back(&l->timers, &t->node);
}

void loop_timer_cancel(struct loop_timer *t)
{
    if (!t->at_ns)
        return;
    t->at_ns = 0;
    list_remove(&t->node);
}

/* The earliest armed timer, or NULL. */
static struct loop_timer *next_timer(const struct loop *l)
{
    struct loop_timer *best = NULL;

    for (struct list *it = l->timers.next; it != &l->timers; it = it->next) {
        struct loop_timer *t = LIST_ENTRY(it, struct loop_timer, node);

        if (!best || t->at_ns < best->at_ns)
            best = t;
    }
    return best;
}

static int fire_timers(struct loop *l)
{
    uint64_t now = io_now_ns();
    struct loop_timer *t;
    int n = 0;

    /* One at a time: a callback may cancel or arm any other. */
    while ((t = next_timer(l)) && t->at_ns <= now) {
        loop_timer_cancel(t);
        t->fn(t);
        n++;
    }
    return n;
}

static int wait_ms(const struct loop *l, int timeout_ms)
{
    const struct loop_timer *t = next_timer(l);

    if (!t)
        return timeout_ms;
    uint64_t now = io_now_ns();
    /* Round up: waking a moment early would spin. */
    uint64_t ms = t->at_ns <= now ? 0 : (t->at_ns - now + 999999) / 1000000;
    if (ms > INT32_MAX)
        ms = INT32_MAX;
    return timeout_ms >= 0 && (uint64_t)timeout_ms < ms ? timeout_ms : (int)ms;
}

int loop_once(struct loop *l, int timeout_ms)
{
    int n = epoll_wait(l->epfd, l->batch, LOOP_BATCH, wait_ms(l, timeout_ms));
    int ran = 0;

    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    l->batch_len = n;
    for (int i = 0; i < n; i++) {
        struct loop_source *src = l->batch[i].data.ptr;

        if (!src)
            continue;
        src->fn(src, l->batch[i].events);
        ran++;
    }
    l->batch_len = 0;
    return ran + fire_timers(l);
}

int loop_run(struct loop *l)
{
    while (!l->stop) {
        int r = loop_once(l, -1);

        if (r < 0)
            return r;
    }
    l->stop = false;
    return 0;
}

void loop_stop(struct loop *l)
{
    l->stop = true;
}

int loop_fd(const struct loop *l)
{
    return l->epfd;
}
