/* SPDX-License-Identifier: Apache-2.0 */
/* Bounded reader and growing writer: see buf.h. */
#include "base/buf.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

#define BUF_FIRST_CAP 64

const void *reader_bytes(struct reader *r, size_t len)
{
    const void *p = r->p;

    if (r->bad || len > r->left) {
        r->bad = true;
        r->left = 0;
        return NULL;
    }
    r->p += len;
    r->left -= len;
    return p;
}

static uint64_t read_le(struct reader *r, unsigned bytes)
{
    const uint8_t *p = reader_bytes(r, bytes);
    uint64_t v = 0;

    for (unsigned i = 0; p && i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

uint8_t reader_u8(struct reader *r)
{
    return (uint8_t)read_le(r, 1);
}

uint16_t reader_u16(struct reader *r)
{
    return (uint16_t)read_le(r, 2);
}

uint32_t reader_u32(struct reader *r)
{
    return (uint32_t)read_le(r, 4);
}

uint64_t reader_u64(struct reader *r)
{
    return read_le(r, 8);
}

char *reader_str(struct reader *r, size_t max)
{
    uint32_t len = reader_u32(r);
    const char *p = len <= max ? reader_bytes(r, len) : NULL;
    char *s = NULL;

    if (p && !memchr(p, '\0', len))
        s = strndup(p, len);
    if (!s)
        r->bad = true;
    return s;
}

void buf_done(struct buf *b)
{
    free(b->data);
    *b = (struct buf){.max = b->max};
}

void *buf_reserve(struct buf *b, size_t len)
{
    size_t need;

    if (b->bad || !CHECKED_ADD(b->len, len, &need) || need > b->max) {
        b->bad = true;
        return NULL;
    }
    if (need > b->cap) {
        size_t cap = b->cap ? b->cap : BUF_FIRST_CAP;

        while (cap < need)
            cap = cap > b->max / 2 ? b->max : cap * 2;
        uint8_t *data = realloc(b->data, cap);
        if (!data) {
            b->bad = true;
            return NULL;
        }
        b->data = data;
        b->cap = cap;
    }
    void *p = b->data + b->len;
    if (len)
        memset(p, 0, len);
    b->len = need;
    return p;
}

static void write_le(struct buf *b, uint64_t v, unsigned bytes)
{
    uint8_t *p = buf_reserve(b, bytes);

    for (unsigned i = 0; p && i < bytes; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

void buf_u8(struct buf *b, uint8_t v)
{
    write_le(b, v, 1);
}

void buf_u16(struct buf *b, uint16_t v)
{
    write_le(b, v, 2);
}

void buf_u32(struct buf *b, uint32_t v)
{
    write_le(b, v, 4);
}

void buf_u64(struct buf *b, uint64_t v)
{
    write_le(b, v, 8);
}

void buf_bytes(struct buf *b, const void *data, size_t len)
{
    void *p = buf_reserve(b, len);

    if (p && len)
        memcpy(p, data, len);
}

void buf_str(struct buf *b, const char *s)
{
    size_t len = s ? strlen(s) : 0;

    if (len > UINT32_MAX) {
        b->bad = true;
        return;
    }
    buf_u32(b, (uint32_t)len);
    buf_bytes(b, s, len);
}

void buf_consume(struct buf *b, size_t n)
{
    assert(n <= b->len);
    if (n)
        memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
}

void buf_patch_u32(struct buf *b, size_t off, uint32_t v)
{
    if (b->bad)
        return;
    assert(range_within(off, 4, b->len));
    for (unsigned i = 0; i < 4; i++)
        b->data[off + i] = (uint8_t)(v >> (8 * i));
}
