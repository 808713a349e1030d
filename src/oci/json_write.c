/* SPDX-License-Identifier: Apache-2.0 */
/* Writing JSON (RFC 8259): see json_write.h. */
#include "oci/json_write.h"

#include <stdio.h>
#include <string.h>

#include "oci/text.h"

void json_write_raw(struct buf *b, const char *text)
{
    buf_bytes(b, text, strlen(text));
}

void json_write_string(struct buf *b, const char *s)
{
    const unsigned char *p = (const unsigned char *)s, *end = p + strlen(s);

    buf_u8(b, '"');
    while (p < end) {
        size_t n = text_utf8_length(p, (size_t)(end - p));
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
