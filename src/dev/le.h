/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Little-endian fields. load/store are for our own copies, at any alignment. shared_* are for memory that a vCPU may
 * touch at the same moment: naturally aligned, one access, never torn and never repeated by the compiler.
 */
#ifndef SM_DEV_LE_H
#define SM_DEV_LE_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t load_le16(const uint8_t *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof(v));
    return le16toh(v);
}

static inline uint32_t load_le32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return le32toh(v);
}

static inline uint64_t load_le64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return le64toh(v);
}

static inline void store_le16(uint8_t *p, uint16_t v)
{
    v = htole16(v);
    memcpy(p, &v, sizeof(v));
}

static inline void store_le32(uint8_t *p, uint32_t v)
{
    v = htole32(v);
    memcpy(p, &v, sizeof(v));
}

static inline void store_le64(uint8_t *p, uint64_t v)
{
    v = htole64(v);
    memcpy(p, &v, sizeof(v));
}

static inline uint16_t shared_load_le16(const uint8_t *p, int order)
{
    return le16toh(__atomic_load_n((const uint16_t *)(const void *)p, order));
}

static inline void shared_store_le16(uint8_t *p, uint16_t v, int order)
{
    __atomic_store_n((uint16_t *)(void *)p, htole16(v), order);
}

static inline void shared_store_le32(uint8_t *p, uint32_t v, int order)
{
    __atomic_store_n((uint32_t *)(void *)p, htole32(v), order);
}

/*
 * Copy out of guest memory, at any alignment: what follows sees only the copy. The compiler may otherwise read the
 * source again for a later use of the copy, and the guest can have changed it since (a double fetch).
 */
static inline void copy_from_guest(void *to, const void *from, size_t len)
{
    memcpy(to, from, len);
    __asm__ volatile("" ::: "memory");
}

#endif
