/* SPDX-License-Identifier: Apache-2.0 */
/* NULL-terminated lists of strings that own their strings, bounded in count and bytes. */
#ifndef SM_LIB_STRV_H
#define SM_LIB_STRV_H

#include <stddef.h>

struct strv {
    char **list; /* NULL while empty; else ends with NULL */
    size_t n, cap;
    size_t bytes; /* of all strings, their ends included */
};

void strv_done(struct strv *v);

/* 0, -ENOMEM, or -E2BIG over SM_EXEC_COUNT_MAX strings or SM_EXEC_STRINGS_MAX bytes. */
int strv_add(struct strv *v, const char *s);
int strv_add_all(struct strv *v, const char *const *list); /* a NULL list adds nothing */

/*
 * The list as an environment: "NAME=VALUE" takes the place of an entry of that name or comes last; "NAME" alone removes
 * it. An empty name is ignored, as are entries that begin with '='.
 */
int strv_env(struct strv *v, const char *entry);

/* Does the environment hold `name`? */
int strv_env_has(const struct strv *v, const char *name);

#endif
