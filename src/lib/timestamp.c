/* SPDX-License-Identifier: Apache-2.0 */
/* Times as documents write them: see timestamp.h. */
#include "lib/timestamp.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>

/* `n` digits at *p, and then `end` unless that is 0; the number, or -1. */
static int number(const char **p, int n, char end)
{
    int v = 0;

    for (int i = 0; i < n; i++, (*p)++) {
        if (!isdigit((unsigned char)**p))
            return -1;
        v = 10 * v + (**p - '0');
    }
    if (end && *(*p)++ != end)
        return -1;
    return v;
}

static bool is_leap(int year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

static int days_in(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    return days[month - 1] + (month == 2 && is_leap(year));
}

/* Since 1970-01-01. `year` is 0 to 9999. */
static int64_t days_before(int year, int month, int day)
{
    int64_t before = (int64_t)year - 1; /* whole years since year 1 */
    int64_t days = before * 365 + before / 4 - before / 100 + before / 400 - 719162;

    if (year == 0)
        days = -366 - 719162;
    for (int m = 1; m < month; m++)
        days += days_in(year, m);
    return days + day - 1;
}

/* "Z" or "+hh:mm"; seconds east of Greenwich. */
static int zone(const char *p, int *ret)
{
    int sign = *p == '-' ? -1 : 1, hours, minutes;

    if ((*p == 'Z' || *p == 'z') && !p[1]) {
        *ret = 0;
        return 0;
    }
    if (*p != '+' && *p != '-')
        return -EINVAL;
    p++;
    hours = number(&p, 2, ':');
    minutes = hours < 0 ? -1 : number(&p, 2, 0);
    if (minutes < 0 || hours > 23 || minutes > 59 || *p)
        return -EINVAL;
    *ret = sign * (hours * 3600 + minutes * 60);
    return 0;
}

int timestamp_parse(const char *s, int64_t *ret)
{
    static const char ends[] = {'-', '-', 0, ':', ':', 0};
    static const int digits[] = {4, 2, 2, 2, 2, 2};
    int v[6], east;

    for (int i = 0; i < 6; i++) {
        if (i == 3 && *s != 'T' && *s != 't' && *s != ' ')
            return -EINVAL;
        s += i == 3;
        v[i] = number(&s, digits[i], ends[i]);
        if (v[i] < 0)
            return -EINVAL;
    }
    /* Second 60 is a leap second: counted as the one after it. */
    if (v[1] < 1 || v[1] > 12 || v[2] < 1 || v[2] > days_in(v[0], v[1]) || v[3] > 23 || v[4] > 59 || v[5] > 60)
        return -EINVAL;
    if (*s == '.') {
        s++;
        if (!isdigit((unsigned char)*s))
            return -EINVAL;
        while (isdigit((unsigned char)*s))
            s++;
    }
    if (zone(s, &east) < 0)
        return -EINVAL;
    *ret = days_before(v[0], v[1], v[2]) * 86400 + v[3] * 3600 + v[4] * 60 + v[5] - east;
    return 0;
}
