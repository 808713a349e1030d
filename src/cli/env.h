/* SPDX-License-Identifier: Apache-2.0 */
/* --env and --env-file, as Docker reads them. */
#ifndef SM_CLI_ENV_H
#define SM_CLI_ENV_H

#include <stddef.h>
#include <stdio.h>

#define ENV_LINE_MAX (64 * 1024) /* bytes of one line of an --env-file */
#define ENV_WHY_MAX  512

/* Entries in the order they were given, each malloc'd; ends with NULL once there is one. */
struct env_list {
    char **items;
    size_t n;
};

void env_list_done(struct env_list *l);

/*
 * "NAME=VALUE" is taken as it is; "NAME" gets our own environment's value, and stays "NAME" (remove it) where that has
 * none. -1 and a sentence for an empty name.
 */
int env_add(struct env_list *l, const char *entry, char why[ENV_WHY_MAX]);

/*
 * A file of such lines: space before a name is dropped, lines that are empty or begin with '#' are skipped, everything
 * behind '=' is the value (no quotes, no escapes). "NAME" alone is left out where our environment has none.
 * -1 and a sentence with the line's number.
 */
int env_read(struct env_list *l, FILE *f, const char *name, char why[ENV_WHY_MAX]);

#endif
