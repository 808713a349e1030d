/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's event loop: see loop.h. */
#include "loop.h"

#include <errno.h>
#include <stddef.h>
#include <unistd.h>

int ga_loop_init(struct ga_loop *l)
{
    l->batch_len = 0;
    l->epfd = epoll_create1(EPOLL_CLOEXEC);
    return l->epfd < 0 ? -errno : 0;
}

void ga_loop_done(struct ga_loop *l)
{
    close(l->epfd);
    l->epfd = -1;
}

int ga_source_want(struct ga_loop *l, struct ga_source *s, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = s};
    int op = !events ? EPOLL_CTL_DEL : s->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

    if (s->fd < 0 || s->events == events)
        return 0;
    if (epoll_ctl(l->epfd, op, s->fd, &ev) < 0)
        return -errno;
    s->events = events;
    return 0;
}

void ga_source_close(struct ga_loop *l, struct ga_source *s)
{
    if (s->fd < 0)
        return;
    ga_source_want(l, s, 0);
    close(s->fd);
    s->fd = -1;
    s->events = 0;
    for (int i = 0; i < l->batch_len; i++)
        if (l->batch[i].data.ptr == s)
            l->batch[i].data.ptr = NULL;
}

int ga_loop_once(struct ga_loop *l, int timeout_ms)
{
    int n = epoll_wait(l->epfd, l->batch, GA_LOOP_BATCH, timeout_ms);

    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    l->batch_len = n;
    for (int i = 0; i < n; i++) {
        struct ga_source *s = l->batch[i].data.ptr;

        if (s)
            s->fn(s, l->batch[i].events);
    }
    l->batch_len = 0;
    return 0;
}
