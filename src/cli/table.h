/* SPDX-License-Identifier: Apache-2.0 */
/* Tables on standard output: columns as wide as what is in them. */
#ifndef SM_CLI_TABLE_H
#define SM_CLI_TABLE_H

#include <stddef.h>

struct table {
    unsigned columns;
    char **cells; /* row by row, the heading first */
    size_t n;
};

/*
 * The next cell, from left to right and then down. What could steer a terminal (control characters, also those of
 * images' own texts) becomes '?'; no memory ends the program.
 */
void table_add(struct table *t, const char *text);

/* The same for text that may be cut to `max` characters; 0: all of it. */
void table_add_cut(struct table *t, const char *text, size_t max);

/* Prints and empties it. */
void table_print(struct table *t);

#endif
