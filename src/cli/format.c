/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes and times as people read them: see format.h. */
#include "cli/format.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define MINUTE 60
#define HOUR   3600
#define DAY    86400

const char *format_size(char buf[FORMAT_SIZE], uint64_t bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    double v = (double)bytes;
    unsigned unit = 0;

    /* 999.5 would be written as 1000. */
    for (; v >= 999.5 && unit + 1 < sizeof(units) / sizeof(units[0]); unit++)
        v /= 1000;
    snprintf(buf, FORMAT_SIZE, "%.3g%s", v, units[unit]);
    return buf;
}

const char *format_ago(char buf[FORMAT_SIZE], int64_t then, int64_t now)
{
    static const struct {
        int64_t below, unit;
        const char *name;
    } steps[] = {{MINUTE, 1, "second"},         {HOUR, MINUTE, "minute"},    {2 * DAY, HOUR, "hour"},
                 {14 * DAY, DAY, "day"},        {60 * DAY, 7 * DAY, "week"}, {730 * DAY, 30 * DAY, "month"},
                 {INT64_MAX, 365 * DAY, "year"}};
    int64_t past = now - then, n;
    unsigned i = 0;

    if (then == 0)
        return strcpy(buf, "unknown");
    if (past < 1)
        return strcpy(buf, "just now"); /* also by a clock that is wrong */
    while (past >= steps[i].below)
        i++;
    n = past / steps[i].unit;
    snprintf(buf, FORMAT_SIZE, "%lld %s%s ago", (long long)n, steps[i].name, n == 1 ? "" : "s");
    return buf;
}

const char *format_left(char buf[FORMAT_SIZE], uint64_t s)
{
    if (s < MINUTE)
        snprintf(buf, FORMAT_SIZE, "%us", (unsigned)s);
    else if (s < HOUR)
        snprintf(buf, FORMAT_SIZE, "%um%02us", (unsigned)(s / MINUTE), (unsigned)(s % MINUTE));
    else if (s < DAY)
        snprintf(buf, FORMAT_SIZE, "%uh%02um", (unsigned)(s / HOUR), (unsigned)(s % HOUR / MINUTE));
    else
        snprintf(buf, FORMAT_SIZE, "%llud%02uh", (unsigned long long)(s / DAY), (unsigned)(s % DAY / HOUR));
    return buf;
}

const char *format_time(char buf[FORMAT_SIZE], int64_t t)
{
    time_t when = t;
    struct tm tm;

    if (!gmtime_r(&when, &tm) || strftime(buf, FORMAT_SIZE, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
        return strcpy(buf, "");
    return buf;
}

const char *format_id(char buf[FORMAT_SIZE], const char *digest)
{
    const char *hex = strchr(digest, ':');

    snprintf(buf, FORMAT_SIZE, "%.12s", hex ? hex + 1 : digest);
    return buf;
}
