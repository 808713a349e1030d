/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A chain's buffers as one run of bytes. A driver may cut a request into descriptors as it likes (virtio 1.2 §2.7.4),
 * so devices find headers and trailers by byte position, never by descriptor.
 *
 * The iovecs are our own copies: taking bytes off either end changes them in place.
 */
#ifndef SM_DEV_IOV_H
#define SM_DEV_IOV_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct iov_run {
    struct iovec *iov;
    unsigned n;
    uint64_t len; /* sum of all */
};

/* Move the first `len` bytes (<= run->len) out of guest memory, off the run. */
void iov_take(struct iov_run *run, void *to, size_t len);

/* Move `len` bytes (<= run->len) into guest memory at the run's start, off the run. */
void iov_put(struct iov_run *run, const void *from, size_t len);

/* Drop the first `len` bytes (<= run->len). */
void iov_skip(struct iov_run *run, uint64_t len);

/* Keep only the first `len` bytes (<= run->len). */
void iov_trim(struct iov_run *run, uint64_t len);

/* Describe the first `len` bytes (<= run->len) in `to`, which has room for run->n entries; returns how many it took. */
unsigned iov_first(const struct iov_run *run, uint64_t len, struct iovec *to);

/* Where the byte at `off` (< run->len) is. */
uint8_t *iov_at(const struct iov_run *run, uint64_t off);

#endif
