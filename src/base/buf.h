/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes in and out, little-endian.
 *
 * struct reader walks bytes that somebody else made. It never leaves its bounds: a read past the end returns zeros and
 * sets `bad` for good, so a decoder reads a whole record and checks `bad` once.
 * struct buf grows as it is written, up to a cap; a write over the cap or without memory sets `bad` and is dropped.
 */
#ifndef SM_BASE_BUF_H
#define SM_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct reader {
    const uint8_t *p;
    size_t left;
    bool bad;
};

static inline struct reader reader_init(const void *data, size_t len)
{
    return (struct reader){.p = data, .left = len};
}

uint8_t reader_u8(struct reader *r);
uint16_t reader_u16(struct reader *r);
uint32_t reader_u32(struct reader *r);
uint64_t reader_u64(struct reader *r);

/* The next `len` bytes, or NULL (and bad) when there are fewer. They live as long as what the reader walks. */
const void *reader_bytes(struct reader *r, size_t len);

/*
 * A string written by buf_str: u32 length, then the bytes. It must hold no NUL and be at most `max` bytes long.
 * Returns a malloc'd copy with an end, or NULL (and bad).
 */
char *reader_str(struct reader *r, size_t max);

struct buf {
    uint8_t *data;
    size_t len, cap;
    size_t max; /* `len` never grows past this */
    bool bad;
};

static inline struct buf buf_init(size_t max)
{
    return (struct buf){.max = max};
}

void buf_done(struct buf *b);
void buf_u8(struct buf *b, uint8_t v);
void buf_u16(struct buf *b, uint16_t v);
void buf_u32(struct buf *b, uint32_t v);
void buf_u64(struct buf *b, uint64_t v);
void buf_bytes(struct buf *b, const void *data, size_t len);
void buf_str(struct buf *b, const char *s); /* NULL is written as "" */

/* `len` zeroed bytes at the end for the caller to fill, or NULL (and bad). Valid until the next write. */
void *buf_reserve(struct buf *b, size_t len);

/* Drop the first `n` bytes (n <= len). */
void buf_consume(struct buf *b, size_t n);

/* Overwrite 4 bytes at `off`, written before: a length that is known only later. */
void buf_patch_u32(struct buf *b, size_t off, uint32_t v);

#endif
