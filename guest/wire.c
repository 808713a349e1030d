/* SPDX-License-Identifier: Apache-2.0 */
/* Fields of frames, byte queues, errors: see wire.h. */
#include "wire.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A queue that ran empty keeps a block up to this size. */
#define QUEUE_KEEP 4096u

static int __attribute__((format(printf, 3, 0))) set_text(struct ga_error *err, int code, const char *fmt, va_list ap)
{
    err->code = code;
    vsnprintf(err->text, sizeof(err->text), fmt, ap);
    return -code;
}

int ga_error_set(struct ga_error *err, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    set_text(err, code, fmt, ap);
    va_end(ap);
    return -code;
}

int ga_error_sys(struct ga_error *err, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    set_text(err, code, fmt, ap);
    va_end(ap);
    size_t n = strlen(err->text);
    snprintf(err->text + n, sizeof(err->text) - n, ": %s", strerror(code));
    return -code;
}

static const uint8_t *take(struct ga_reader *r, size_t len)
{
    const uint8_t *p = r->p;

    if (r->bad || len > r->left) {
        r->bad = true;
        return NULL;
    }
    r->p += len;
    r->left -= len;
    return p;
}

static uint64_t read_le(struct ga_reader *r, unsigned bytes)
{
    const uint8_t *p = take(r, bytes);
    uint64_t v = 0;

    for (unsigned i = 0; p && i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

uint16_t ga_read_u16(struct ga_reader *r)
{
    return (uint16_t)read_le(r, 2);
}

uint32_t ga_read_u32(struct ga_reader *r)
{
    return (uint32_t)read_le(r, 4);
}

uint64_t ga_read_u64(struct ga_reader *r)
{
    return read_le(r, 8);
}

const char *ga_read_str(struct ga_reader *r, size_t max, size_t *ret_len)
{
    uint32_t len = ga_read_u32(r);
    const uint8_t *p = len <= max ? take(r, len) : NULL;

    if (!p || memchr(p, '\0', len)) {
        r->bad = true;
        return NULL;
    }
    *ret_len = len;
    return (const char *)p;
}

static void put_le(uint8_t *p, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

void ga_put_u16(uint8_t *p, uint16_t v)
{
    put_le(p, v, 2);
}

void ga_put_u32(uint8_t *p, uint32_t v)
{
    put_le(p, v, 4);
}

void ga_put_u64(uint8_t *p, uint64_t v)
{
    put_le(p, v, 8);
}

uint8_t *ga_queue_reserve(struct ga_queue *q, size_t len)
{
    if (q->off && q->cap - q->len < len) {
        memmove(q->data, q->data + q->off, q->len - q->off);
        q->len -= q->off;
        q->off = 0;
    }
    if (q->cap - q->len < len) {
        /* At least half as much again, so that many small additions cost little. */
        size_t cap = q->len + len > q->cap + q->cap / 2 ? q->len + len : q->cap + q->cap / 2;
        uint8_t *data = realloc(q->data, cap);

        if (!data)
            return NULL;
        q->data = data;
        q->cap = cap;
    }
    return q->data + q->len;
}

void ga_queue_commit(struct ga_queue *q, size_t len)
{
    assert(len <= q->cap - q->len);
    q->len += len;
}

void ga_queue_consume(struct ga_queue *q, size_t len)
{
    assert(len <= ga_queue_size(q));
    q->off += len;
    if (q->off < q->len)
        return;
    q->off = q->len = 0;
    if (q->cap > QUEUE_KEEP)
        ga_queue_done(q);
}

void ga_queue_done(struct ga_queue *q)
{
    free(q->data);
    *q = (struct ga_queue){0};
}

uint64_t ga_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
