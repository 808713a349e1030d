/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fields of frames (guest/proto.h): a bounded reader, a byte queue, and the error that goes back to the host.
 *
 * The reader never leaves its bounds: a read past the end returns zeros and sets `bad` for good, so a decoder reads a
 * whole record and checks once. The queue grows on demand up to what its user lets in, and gives large blocks back when
 * it runs empty.
 */
#ifndef GUEST_WIRE_H
#define GUEST_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto.h"

/* What went wrong, in a sentence for the person at the host. Initialise with {0}. */
struct ga_error {
    int code;
    char text[AGENT_MAX_TEXT];
};

/* Both return -code; the second puts ": " and the meaning of `code` behind the sentence. */
int ga_error_set(struct ga_error *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int ga_error_sys(struct ga_error *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

struct ga_reader {
    const uint8_t *p;
    size_t left;
    bool bad;
};

uint16_t ga_read_u16(struct ga_reader *r);
uint32_t ga_read_u32(struct ga_reader *r);
uint64_t ga_read_u64(struct ga_reader *r);

/* The bytes of a str of at most `max` bytes without a NUL among them, or NULL (and bad). */
const char *ga_read_str(struct ga_reader *r, size_t max, size_t *ret_len);

void ga_put_u16(uint8_t *p, uint16_t v);
void ga_put_u32(uint8_t *p, uint32_t v);
void ga_put_u64(uint8_t *p, uint64_t v);

/* Bytes [off, len) of `data` wait. Zero-initialised when empty. */
struct ga_queue {
    uint8_t *data;
    size_t off, len, cap;
};

static inline size_t ga_queue_size(const struct ga_queue *q)
{
    return q->len - q->off;
}

/* Room for `len` bytes at the end, NULL when there is no memory. ga_queue_commit() says how many were filled. */
uint8_t *ga_queue_reserve(struct ga_queue *q, size_t len);
void ga_queue_commit(struct ga_queue *q, size_t len);
void ga_queue_consume(struct ga_queue *q, size_t len);
void ga_queue_done(struct ga_queue *q);

/* CLOCK_MONOTONIC. */
uint64_t ga_now_ns(void);

#endif
