/* SPDX-License-Identifier: Apache-2.0 */
/* How far and how fast: see meter.h. */
#include "cli/meter.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "cli/format.h"

#define SAMPLE_NS     500000000ull /* shorter ones would make the rate jump */
#define SECOND_NS     1000000000ull
#define SMOOTHING     0.3 /* weight of the newest sample */
#define STATE_WIDTH   10
#define BAR_MIN       10
#define BAR_MAX       40
#define FIGURES_WIDTH 30 /* what they grow to: room is kept, so that the bar has the same length all the time */
#define LONGEST_LEFT  (99ull * 86400) /* seconds; more than this is no prediction */

void meter_update(struct meter *m, uint64_t done, uint64_t total, uint64_t now_ns)
{
    m->total = total;
    if (m->since_ns == 0 || done < m->before) {
        m->since_ns = now_ns;
        m->before = done;
        m->rate = 0;
    } else if (now_ns - m->since_ns >= SAMPLE_NS) {
        double rate = (double)(done - m->before) * SECOND_NS / (double)(now_ns - m->since_ns);

        m->rate = m->rate > 0 ? (1 - SMOOTHING) * m->rate + SMOOTHING * rate : rate;
        m->since_ns = now_ns;
        m->before = done;
    }
    m->done = done;
}

uint64_t meter_left(const struct meter *m)
{
    double left;

    if (m->rate < 1 || m->total == 0 || m->done > m->total)
        return UINT64_MAX;
    left = (double)(m->total - m->done) / m->rate;
    return left > (double)LONGEST_LEFT ? UINT64_MAX : (uint64_t)(left + 0.5);
}

/* "  12.3MB/45.6MB  5.1MB/s  7s", as far as known. */
static void figures(char *buf, size_t size, const struct meter *m)
{
    char done[FORMAT_SIZE], total[FORMAT_SIZE], rate[FORMAT_SIZE], left[FORMAT_SIZE];
    uint64_t seconds = meter_left(m);
    size_t n = 0;

    buf[0] = '\0';
    if (m->done == 0 && m->total == 0)
        return;
    n += (size_t)snprintf(buf, size, "  %s", format_size(done, m->done));
    if (m->total)
        n += (size_t)snprintf(buf + n, size - n, "/%s", format_size(total, m->total));
    if (m->rate >= 1)
        n += (size_t)snprintf(buf + n, size - n, "  %s/s", format_size(rate, (uint64_t)m->rate));
    if (seconds != UINT64_MAX)
        snprintf(buf + n, size - n, "  %s", format_left(left, seconds));
}

/* "  [====>     ]", `inner` columns within the brackets. */
static void bar(char *buf, unsigned inner, const struct meter *m)
{
    unsigned full = (unsigned)((double)m->done / (double)m->total * inner);

    memcpy(buf, "  [", 3);
    memset(buf + 3, ' ', inner);
    memset(buf + 3, '=', full);
    if (full < inner)
        buf[3 + full] = '>';
    memcpy(buf + 3 + inner, "]", 2);
}

const char *meter_line(char *buf, size_t size, unsigned width, const char *label, const char *state,
                       const struct meter *m)
{
    char text[160], numbers[160], drawn[BAR_MAX + 8] = "";
    size_t used;
    bool fits;
    int inner;

    figures(numbers, sizeof(numbers), m);
    if (numbers[0])
        snprintf(text, sizeof(text), "%.64s  %-*.20s", label, STATE_WIDTH, state);
    else
        snprintf(text, sizeof(text), "%.64s  %.20s", label, state);
    used = strlen(text) + strlen(numbers) + 4; /* 4: what a bar needs besides itself */
    inner = (int)width - (int)strlen(text) - 4 - FIGURES_WIDTH;
    if (inner > BAR_MAX)
        inner = BAR_MAX;
    if (m->total && m->done <= m->total && inner >= BAR_MIN && used + (size_t)inner <= width)
        bar(drawn, (unsigned)inner, m);
    fits = strlen(text) + strlen(drawn) + strlen(numbers) <= width;
    snprintf(buf, size, "%s%s%s", text, fits ? drawn : "", fits ? numbers : "");
    if (strlen(buf) > width)
        buf[width] = '\0';
    return buf;
}
