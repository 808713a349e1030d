/* SPDX-License-Identifier: Apache-2.0 */
/* Strings from images in sentences: see text.h. */
#include "oci/text.h"

#include <string.h>

const char *text_shown(char buf[TEXT_SHOWN_SIZE], const char *s)
{
    const size_t half = (TEXT_SHOWN_SIZE - 4) / 2;
    size_t len = strlen(s), n = 0;

    if (len < TEXT_SHOWN_SIZE) {
        memcpy(buf, s, len + 1);
        n = len;
    } else {
        memcpy(buf, s, half);
        memcpy(buf + half, "...", 3);
        memcpy(buf + half + 3, s + len - half, half + 1);
        n = 2 * half + 3;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)buf[i];

        if (c < 0x20 || c == 0x7f)
            buf[i] = '?';
    }
    return buf;
}

size_t text_utf8_length(const unsigned char *s, size_t left)
{
    unsigned char low = 0x80, high = 0xbf;
    size_t n;

    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return 0;
    n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (n > left)
        return 0;
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
