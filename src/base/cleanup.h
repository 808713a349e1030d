/* SPDX-License-Identifier: Apache-2.0 */
/* Scope-bound ownership: a variable marked with one of these is released when it goes out of scope. */
#ifndef SM_BASE_CLEANUP_H
#define SM_BASE_CLEANUP_H

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_freep(void *p)
{
    free(*(void **)p);
}

/* Keeps errno: cleanup runs between a failure and its report. */
static inline void cleanup_closep(int *fd)
{
    if (*fd >= 0) {
        int saved = errno;

        close(*fd);
        errno = saved;
    }
}

#define CLEANUP(fn)  __attribute__((cleanup(fn)))
#define CLEANUP_FREE CLEANUP(cleanup_freep)
#define CLEANUP_FD   CLEANUP(cleanup_closep)

/* Define `static inline void NAMEp(TYPE **p)` for CLEANUP(NAMEp), from a free function that takes NULL. */
#define DEFINE_CLEANUP(type, fn)                                                                                       \
    static inline void fn##p(type **p)                                                                                 \
    {                                                                                                                  \
        fn(*p);                                                                                                        \
    }                                                                                                                  \
    struct cleanup_swallow_semicolon

/* Take a value out of a variable that would be cleaned up. */
#define STEAL_PTR(p)                                                                                                   \
    __extension__({                                                                                                    \
        __typeof__(p) steal_ptr_ = (p);                                                                                \
        (p) = NULL;                                                                                                    \
        steal_ptr_;                                                                                                    \
    })

static inline int steal_fd(int *fd)
{
    int v = *fd;

    *fd = -1;
    return v;
}

/* close() that makes closing twice harmless: sets the variable to -1. */
static inline void close_fd(int *fd)
{
    cleanup_closep(fd);
    *fd = -1;
}

#endif
