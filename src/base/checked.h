/* SPDX-License-Identifier: Apache-2.0 */
/* Arithmetic that cannot wrap in silence, and alignment. */
#ifndef SM_BASE_CHECKED_H
#define SM_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* True when the result fits; *ret is written either way (wrapped when it does not fit). */
#define CHECKED_ADD(a, b, ret) (!__builtin_add_overflow(a, b, ret))
#define CHECKED_MUL(a, b, ret) (!__builtin_mul_overflow(a, b, ret))

/* Does [off, off + len) lie within [0, size)? A zero length does when off <= size. */
static inline bool range_within(uint64_t off, uint64_t len, uint64_t size)
{
    return off <= size && len <= size - off;
}

/* `to` is a power of two; the caller knows that `v` is far from the top of its range. */
static inline uint64_t align_up(uint64_t v, uint64_t to)
{
    return (v + to - 1) & ~(to - 1);
}

static inline bool is_aligned(uint64_t v, uint64_t to)
{
    return (v & (to - 1)) == 0;
}

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define MIB (1024ull * 1024)
#define GIB (1024ull * MIB)

#endif
