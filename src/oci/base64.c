/* SPDX-License-Identifier: Apache-2.0 */
/* Base64: see base64.h. */
#include "oci/base64.h"

#include <string.h>

static int value(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;

    return at ? (int)(at - digits) : -1;
}

bool base64_decode(const char *s, uint8_t *ret, size_t *ret_len)
{
    size_t n = 0, digits = 0, padding = 0;
    uint32_t bits = 0;

    for (; *s; s++) {
        int v = value(*s);

        if (*s == '\r' || *s == '\n')
            continue;
        if (*s == '=') {
            padding++;
            continue;
        }
        if (v < 0 || padding)
            return false;
        bits = bits << 6 | (uint32_t)v;
        if (digits % 4 != 0) {
            if (ret)
                ret[n] = (uint8_t)(bits >> (6 - 2 * (digits % 4)));
            n++;
        }
        digits++;
    }
    if ((digits + padding) % 4 != 0 || padding > 2)
        return false;
    *ret_len = n;
    return true;
}
