/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values as people write them: see values.h.
 *
 * Theory of operation
 *
 * What: two grammars, NUMBER[UNIT] for bytes and (NUMBER[.FRACTION]UNIT)+ for times; each is read once, in the finest
 * unit and 64 bits, and then brought to what the caller wants. No space, no sign, nothing behind the end. What does not
 * fit is told apart (-ERANGE) from what is not understood (-EINVAL).
 */
#include "cli/values.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define DAY_MS          (24ull * 3600 * 1000)
#define MAX_DURATION_MS (30 * DAY_MS)
#define MAX_AGE_MS      (36525 * DAY_MS)

/* A number of at most 19 digits. */
static int digits(const char **p, uint64_t *ret)
{
    char *end;

    if (!isdigit((unsigned char)**p))
        return -EINVAL;
    errno = 0;
    unsigned long long v = strtoull(*p, &end, 10);
    if (errno || end - *p > 19)
        return -ERANGE;
    *p = end;
    *ret = v;
    return 0;
}

/* A number and a unit, of which a missing one is `shift`; in bytes. */
static int bytes_of(const char *text, unsigned shift, uint64_t *ret)
{
    static const char units[] = "bkmgt";
    const char *p = text, *unit;
    uint64_t v;
    int r = digits(&p, &v);

    if (r < 0)
        return r;
    if (*p) {
        unit = strchr(units, tolower((unsigned char)*p));
        if (!unit)
            return -EINVAL;
        shift = 10 * (unsigned)(unit - units);
        p++;
        if (shift && *p && strcasecmp(p, "b") != 0 && strcasecmp(p, "ib") != 0)
            return -EINVAL;
        if (!shift && *p)
            return -EINVAL;
    }
    if (v > UINT64_MAX >> shift >> 1)
        return -ERANGE;
    *ret = v << shift;
    return 0;
}

int value_memory(const char *text, uint32_t *ret_mib)
{
    uint64_t bytes, mib;
    int r = bytes_of(text, 20, &bytes);

    if (r < 0)
        return r;
    mib = (bytes + (1 << 20) - 1) >> 20;
    if (mib == 0 || mib > UINT32_MAX)
        return -ERANGE;
    *ret_mib = (uint32_t)mib;
    return 0;
}

int value_size(const char *text, uint64_t *ret_bytes)
{
    uint64_t bytes;
    int r = bytes_of(text, 0, &bytes);

    if (r < 0)
        return r;
    if (bytes == 0)
        return -ERANGE;
    *ret_bytes = bytes;
    return 0;
}

/* The unit at *p, in milliseconds; a missing one is seconds, but only at the very end and for the only number. */
static uint64_t duration_unit(const char **p, int alone)
{
    static const struct {
        const char *text;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60 * 1000}, {"h", 3600 * 1000}, {"d", DAY_MS}, {"w", 7 * DAY_MS}};

    if (!**p)
        return alone ? 1000 : 0;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (strncmp(*p, units[i].text, strlen(units[i].text)) == 0) {
            *p += strlen(units[i].text);
            return units[i].ms;
        }
    return 0;
}

static int time_of(const char *text, uint64_t max_ms, uint64_t *ret_ms)
{
    const char *p = text;
    uint64_t total = 0;

    do {
        uint64_t whole, fraction = 0, scale = 1, unit;
        const char *from = p;
        int r = digits(&p, &whole);

        if (r < 0)
            return r;
        if (*p == '.') {
            p++;
            if (!isdigit((unsigned char)*p))
                return -EINVAL;
            for (; isdigit((unsigned char)*p); p++)
                if (scale < 1000000) {
                    fraction = fraction * 10 + (uint64_t)(*p - '0');
                    scale *= 10;
                }
        }
        unit = duration_unit(&p, from == text);
        if (!unit)
            return -EINVAL;
        if (whole > max_ms / unit)
            return -ERANGE;
        total += whole * unit + fraction * unit / scale;
        if (total > max_ms)
            return -ERANGE;
    } while (*p);
    if (total == 0)
        return -ERANGE;
    *ret_ms = total;
    return 0;
}

int value_duration(const char *text, uint32_t *ret_ms)
{
    uint64_t ms;
    int r = time_of(text, MAX_DURATION_MS, &ms);

    if (r == 0)
        *ret_ms = (uint32_t)ms;
    return r;
}

int value_ms(const char *text, uint32_t *ret_ms)
{
    const char *p = text;
    uint64_t ms;
    int r = digits(&p, &ms);

    if (r < 0)
        return r;
    if (*p) /* with a unit, then; "1.5" would be seconds there */
        return text[strspn(text, "0123456789.")] ? value_duration(text, ret_ms) : -EINVAL;
    if (ms == 0 || ms > MAX_DURATION_MS)
        return -ERANGE;
    *ret_ms = (uint32_t)ms;
    return 0;
}

int value_age(const char *text, uint32_t *ret_s)
{
    uint64_t ms;
    int r = time_of(text, MAX_AGE_MS, &ms);

    if (r < 0)
        return r;
    if (ms < 1000)
        return -ERANGE;
    *ret_s = (uint32_t)(ms / 1000);
    return 0;
}

int value_count(const char *text, uint32_t *ret)
{
    const char *p = text;
    uint64_t v;
    int r = digits(&p, &v);

    if (r < 0)
        return r;
    if (*p)
        return -EINVAL;
    if (v == 0 || v > UINT32_MAX)
        return -ERANGE;
    *ret = (uint32_t)v;
    return 0;
}
