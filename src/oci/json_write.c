/* SPDX-License-Identifier: Apache-2.0 */
/* Writing JSON (RFC 8259): see json_write.h. */
#include "oci/json_write.h"

#include <stdio.h>
#include <string.h>

void json_write_raw(struct buf *b, const char *text)
{
    buf_bytes(b, text, strlen(text));
}

/* Bytes of the sequence at `s` when it is well-formed (Unicode §3.9, table 3-7), else 0. Stops at the end of `s`. */
static size_t utf8_length(const unsigned char *s)
{
    unsigned char low = 0x80, high = 0xbf;
    size_t n;

    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return 0;
    n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (s[0] == 0xe0)
        low = 0xa0;
    else if (s[0] == 0xed)
        high = 0x9f;
    else if (s[0] == 0xf0)
        low = 0x90;
    else if (s[0] == 0xf4)
        high = 0x8f;
    if (s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    }
    return n;
}

void json_write_string(struct buf *b, const char *s)
{
    const unsigned char *p = (const unsigned char *)s;

    buf_u8(b, '"');
    while (*p) {
        size_t n = utf8_length(p);
        char escape[8];

        if (!n) {
            json_write_raw(b, "\xef\xbf\xbd");
            n = 1;
        } else if (*p < 0x20 || *p == 0x7f || *p == '"' || *p == '\\') {
            snprintf(escape, sizeof(escape), "\\u%04x", *p);
            json_write_raw(b, escape);
        } else {
            buf_bytes(b, p, n);
        }
        p += n;
    }
    buf_u8(b, '"');
}
