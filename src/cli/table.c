/* SPDX-License-Identifier: Apache-2.0 */
/* Tables: see table.h. */
#include "cli/table.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"

#define GAP 3 /* spaces between columns */

static bool is_continuation(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* Characters, not bytes: what is UTF-8 is one column wide each, as far as tables here are concerned. */
static size_t width_of(const char *s)
{
    size_t n = 0;

    for (; *s; s++)
        n += !is_continuation(*s);
    return n;
}

/* C0, DEL, and C1 (U+0080 to U+009F: 0xc2 and a byte below 0xa0). */
static void make_harmless(char *s)
{
    for (; *s; s++) {
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = '?';
        else if ((unsigned char)*s == 0xc2 && (unsigned char)s[1] >= 0x80 && (unsigned char)s[1] < 0xa0)
            s[0] = s[1] = '?';
    }
}

void table_add_cut(struct table *t, const char *text, size_t max)
{
    static const char dots[] = "\xe2\x80\xa6"; /* an ellipsis */
    char **cells = reallocarray(t->cells, t->n + 1, sizeof(*cells));
    char *cell = malloc(strlen(text) + sizeof(dots));

    if (!cells || !cell)
        exit(complain("out of memory"));
    strcpy(cell, text);
    make_harmless(cell);
    if (max && width_of(cell) > max) {
        char *end = cell;

        for (size_t n = 0; n < max; end++)
            if (!is_continuation(*end) && n++ == max - 1)
                break;
        strcpy(end, dots);
    }
    t->cells = cells;
    t->cells[t->n++] = cell;
}

void table_add(struct table *t, const char *text)
{
    table_add_cut(t, text, 0);
}

void table_print(struct table *t)
{
    size_t *widths = calloc(t->columns, sizeof(*widths));

    if (!widths)
        exit(complain("out of memory"));
    for (size_t i = 0; i < t->n; i++) {
        size_t width = width_of(t->cells[i]);

        if (width > widths[i % t->columns])
            widths[i % t->columns] = width;
    }
    for (size_t i = 0; i < t->n; i++) {
        bool last = (i + 1) % t->columns == 0;

        printf("%s%*s", t->cells[i], last ? 0 : (int)(widths[i % t->columns] - width_of(t->cells[i]) + GAP),
               last ? "\n" : "");
        free(t->cells[i]);
    }
    free(t->cells);
    free(widths);
    *t = (struct table){.columns = t->columns};
}
