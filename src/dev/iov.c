/* SPDX-License-Identifier: Apache-2.0 */
/* A chain's buffers as one run of bytes: see iov.h. */
#include "dev/iov.h"

#include <assert.h>
#include <string.h>

#include "dev/le.h"

/* Bytes of the first iovec to handle next; drops it from the run when they are all of it. */
static uint8_t *step(struct iov_run *run, uint64_t want, size_t *ret_len)
{
    struct iovec *v = run->iov;
    uint8_t *p = v->iov_base;
    size_t n = v->iov_len < want ? v->iov_len : (size_t)want;

    v->iov_base = p + n;
    v->iov_len -= n;
    run->len -= n;
    if (v->iov_len == 0) {
        run->iov++;
        run->n--;
    }
    *ret_len = n;
    return p;
}

void iov_take(struct iov_run *run, void *to, size_t len)
{
    uint8_t *out = to;

    assert(len <= run->len);
    while (len > 0) {
        size_t n;
        const uint8_t *p = step(run, len, &n);

        copy_from_guest(out, p, n);
        out += n;
        len -= n;
    }
}

void iov_put(struct iov_run *run, const void *from, size_t len)
{
    const uint8_t *in = from;

    assert(len <= run->len);
    while (len > 0) {
        size_t n;
        uint8_t *p = step(run, len, &n);

        memcpy(p, in, n);
        in += n;
        len -= n;
    }
}

void iov_skip(struct iov_run *run, uint64_t len)
{
    assert(len <= run->len);
    while (len > 0) {
        size_t n;

        step(run, len, &n);
        len -= n;
    }
}

void iov_trim(struct iov_run *run, uint64_t len)
{
    assert(len <= run->len);
    while (run->len > len) {
        struct iovec *v = &run->iov[run->n - 1];
        uint64_t excess = run->len - len;

        if (v->iov_len <= excess) {
            run->len -= v->iov_len;
            run->n--;
        } else {
            run->len -= excess;
            v->iov_len -= (size_t)excess;
        }
    }
}

unsigned iov_first(const struct iov_run *run, uint64_t len, struct iovec *to)
{
    unsigned n = 0;

    assert(len <= run->len);
    for (; len > 0; n++) {
        to[n] = run->iov[n];
        if (to[n].iov_len > len)
            to[n].iov_len = (size_t)len;
        len -= to[n].iov_len;
    }
    return n;
}

uint8_t *iov_at(const struct iov_run *run, uint64_t off)
{
    const struct iovec *v = run->iov;

    assert(off < run->len);
    for (; off >= v->iov_len; v++)
        off -= v->iov_len;
    return (uint8_t *)v->iov_base + off;
}
