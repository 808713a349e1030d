/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps a SIGPIPE of ours from the program that uses the library: blocked in this thread between enter and leave, and
 * taken away if it came. (The signal goes to the writing thread, so nobody else's is lost.)
 */
#ifndef SM_LIB_PIPE_GUARD_H
#define SM_LIB_PIPE_GUARD_H

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <time.h>

struct pipe_guard {
    sigset_t before;
    bool was_pending;
};

static inline void pipe_guard_enter(struct pipe_guard *g)
{
    sigset_t pipe, pending;

    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    sigpending(&pending);
    g->was_pending = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe, &g->before);
}

static inline void pipe_guard_leave(struct pipe_guard *g)
{
    static const struct timespec no_wait = {0};
    sigset_t pipe;

    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    if (!g->was_pending)
        while (sigtimedwait(&pipe, NULL, &no_wait) < 0 && errno == EINTR)
            ;
    pthread_sigmask(SIG_SETMASK, &g->before, NULL);
}

#endif
