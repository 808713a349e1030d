/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of strings: see strv.h. */
#include "lib/strv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <supermachine/supermachine.h>

void strv_done(struct strv *v)
{
    for (size_t i = 0; i < v->n; i++)
        free(v->list[i]);
    free(v->list);
    *v = (struct strv){0};
}

static int grow(struct strv *v)
{
    size_t cap = v->cap ? v->cap * 2 : 16;
    char **list = reallocarray(v->list, cap, sizeof(*list));

    if (!list)
        return -ENOMEM;
    v->list = list;
    v->cap = cap;
    return 0;
}

int strv_add(struct strv *v, const char *s)
{
    size_t len = strlen(s) + 1;

    if (v->n >= SM_EXEC_COUNT_MAX || len > SM_EXEC_STRINGS_MAX || v->bytes > SM_EXEC_STRINGS_MAX - len)
        return -E2BIG;
    if (v->n + 1 >= v->cap && grow(v) < 0)
        return -ENOMEM;
    char *copy = strdup(s);
    if (!copy)
        return -ENOMEM;
    v->list[v->n++] = copy;
    v->list[v->n] = NULL;
    v->bytes += len;
    return 0;
}

int strv_add_all(struct strv *v, const char *const *list)
{
    for (; list && *list; list++) {
        int r = strv_add(v, *list);

        if (r < 0)
            return r;
    }
    return 0;
}

/* Where the entry of this name is, or v->n. */
static size_t env_find(const struct strv *v, const char *name, size_t len)
{
    size_t i;

    for (i = 0; i < v->n; i++)
        if (strncmp(v->list[i], name, len) == 0 && v->list[i][len] == '=')
            break;
    return i;
}

int strv_env_has(const struct strv *v, const char *name)
{
    return env_find(v, name, strlen(name)) < v->n;
}

int strv_env(struct strv *v, const char *entry)
{
    size_t len = strcspn(entry, "=");
    size_t at;

    if (len == 0)
        return 0;
    at = env_find(v, entry, len);
    if (at < v->n) {
        v->bytes -= strlen(v->list[at]) + 1;
        free(v->list[at]);
        memmove(v->list + at, v->list + at + 1, (v->n - at) * sizeof(*v->list));
        v->n--;
    }
    if (entry[len] != '=')
        return 0;
    int r = strv_add(v, entry);
    if (r < 0 || at >= v->n - 1)
        return r;
    /* Keep its place: a list that only changes values keeps its order. */
    char *s = v->list[v->n - 1];
    memmove(v->list + at + 1, v->list + at, (v->n - 1 - at) * sizeof(*v->list));
    v->list[at] = s;
    return 0;
}
