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
