/* SPDX-License-Identifier: Apache-2.0 */
/* Locks on files: waiting for one with an end, and finding out who has it. */
#ifndef SM_OCI_LOCK_H
#define SM_OCI_LOCK_H

#define LOCK_WHO_SIZE 96

struct lock_wait {
    int timeout_ms; /* -1: no limit */
    /* Called some times a second with lock_who's text; non-zero stops waiting. May be NULL. */
    int (*waiting)(void *ctx, const char *who);
    void *ctx;
};

/*
 * flock(2) with LOCK_SH or LOCK_EX. 0; -ETIMEDOUT; -ECANCELED; or what flock says. `wait` NULL: for ever, and nobody is
 * told.
 */
int lock_take(int fd, int how, const struct lock_wait *wait);

/* Who has a lock on the file now: "process 123 (supermachine) and 2 others", or that it cannot be told. */
const char *lock_who(char buf[LOCK_WHO_SIZE], int fd);

#endif
