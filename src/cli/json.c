/* SPDX-License-Identifier: Apache-2.0 */
/* Writing JSON (RFC 8259 §7): see json.h. */
#include "cli/json.h"

#include <stdbool.h>

#define INDENT 4

void json_string(FILE *f, const char *s)
{
    putc('"', f);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;

        if (c == '"' || c == '\\')
            fprintf(f, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            fprintf(f, "\\u%04x", c);
        else
            putc(c, f);
    }
    putc('"', f);
}

static void new_line(FILE *f, unsigned depth)
{
    fprintf(f, "\n%*s", (int)(INDENT * depth), "");
}

/* The string that begins at `p`; returns what is behind it. */
static const char *copy_string(FILE *f, const char *p)
{
    putc(*p++, f);
    for (; *p && *p != '"'; p++) {
        putc(*p, f);
        if (*p == '\\' && p[1])
            putc(*++p, f);
    }
    if (*p)
        putc(*p++, f);
    return p;
}

void json_pretty(FILE *f, const char *p, unsigned depth)
{
    while (*p) {
        bool empty = (p[0] == '{' && p[1] == '}') || (p[0] == '[' && p[1] == ']');

        if (*p == '"') {
            p = copy_string(f, p);
            continue;
        }
        if ((*p == '}' || *p == ']') && depth)
            new_line(f, --depth);
        putc(*p, f);
        if (empty)
            putc(*++p, f);
        else if (*p == '{' || *p == '[')
            new_line(f, ++depth);
        else if (*p == ',')
            new_line(f, depth);
        else if (*p == ':')
            putc(' ', f);
        p++;
    }
}
