/* SPDX-License-Identifier: Apache-2.0 */
/* A forked process that may compute, read and write what it holds, and nothing else. For work on hostile bytes. */
#ifndef SM_OCI_SANDBOX_H
#define SM_OCI_SANDBOX_H

#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

/* AddressSanitizer's shadow is terabytes of address space: no memory limit then, and its reports on stderr stay open.
 */
#ifdef __SANITIZE_ADDRESS__
#define SANDBOX_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANDBOX_SANITIZED
#endif
#endif

struct sandbox {
    pid_t pid;     /* 0: none */
    int status_fd; /* readable at its end; -1: none */
};

#define SANDBOX_INIT                                                                                                   \
    {                                                                                                                  \
        .pid = 0, .status_fd = -1                                                                                      \
    }
#define SANDBOX_MAX_FDS 4

struct sandbox_limits {
    uint64_t memory;    /* bytes of address space beside what the caller has mapped */
    uint64_t seconds;   /* of processor time */
    uint64_t file_size; /* bytes */
};

/*
 * Run `fn` in a child that keeps the descriptors `fds` under the same numbers and no other. Its result (0 or -errno
 * and a sentence) is what sandbox_end returns. The child never outlives the calling thread.
 */
int sandbox_start(struct sandbox *ret, const struct sandbox_limits *limits, const int *fds, unsigned n_fds,
                  int (*fn)(void *ctx, struct sm_error *err), void *ctx, struct sm_error *err);

/* Wait for the end. `what` begins the sentence when it died instead of reporting. */
int sandbox_end(struct sandbox *s, const char *what, struct sm_error *err);

/* End it, whatever it does. Harmless when there is none. */
void sandbox_kill(struct sandbox *s);

#endif
