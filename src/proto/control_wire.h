/* SPDX-License-Identifier: Apache-2.0 */
/* What requests and reports of the control protocol share on the wire. */
#ifndef SM_PROTO_CONTROL_WIRE_H
#define SM_PROTO_CONTROL_WIRE_H

#include <string.h>

#include "base/buf.h"

static inline void put_header(struct buf *out, unsigned type, uint32_t id)
{
    buf_u16(out, (uint16_t)type);
    buf_u16(out, 0);
    buf_u32(out, id);
}

/* A string into a fixed array of `size` bytes; sets bad when it does not fit. */
static inline void get_chars(struct reader *r, char *dst, size_t size)
{
    uint32_t len = reader_u32(r);
    const char *p = len < size ? reader_bytes(r, len) : NULL;

    if (!p || memchr(p, '\0', len)) {
        r->bad = true;
        dst[0] = '\0';
        return;
    }
    memcpy(dst, p, len);
    dst[len] = '\0';
}

#endif
