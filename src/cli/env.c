/* SPDX-License-Identifier: Apache-2.0 */
/* --env and --env-file: see env.h. */
#include "cli/env.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void env_list_done(struct env_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->items[i]);
    free(l->items);
    *l = (struct env_list){0};
}

/* Takes `entry`. */
static int push(struct env_list *l, char *entry, char why[ENV_WHY_MAX])
{
    char **items = entry ? reallocarray(l->items, l->n + 2, sizeof(*items)) : NULL;

    if (!items) {
        free(entry);
        snprintf(why, ENV_WHY_MAX, "out of memory");
        return -1;
    }
    l->items = items;
    l->items[l->n++] = entry;
    l->items[l->n] = NULL;
    return 0;
}

/* NAME with our value, or NULL and errno 0 when we have none. */
static char *from_ours(const char *name)
{
    const char *value = getenv(name);
    char *entry = NULL;

    errno = 0;
    if (value && asprintf(&entry, "%s=%s", name, value) < 0)
        return NULL;
    return entry;
}

int env_add(struct env_list *l, const char *entry, char why[ENV_WHY_MAX])
{
    char *own = NULL;

    if (!entry[0] || entry[0] == '=') {
        snprintf(why, ENV_WHY_MAX, "'%.200s' has no name: give NAME=VALUE", entry);
        return -1;
    }
    if (!strchr(entry, '='))
        own = from_ours(entry);
    return push(l, own ? own : strdup(entry), why);
}

static int read_line(struct env_list *l, char *line, char why[ENV_WHY_MAX])
{
    size_t name_len;
    char *entry;

    while (isspace((unsigned char)*line))
        line++;
    if (!*line || *line == '#')
        return 0;
    name_len = strcspn(line, "=");
    if (name_len == 0) {
        snprintf(why, ENV_WHY_MAX, "'%.200s' has no name", line);
        return -1;
    }
    for (size_t i = 0; i < name_len; i++)
        if (isspace((unsigned char)line[i])) {
            snprintf(why, ENV_WHY_MAX, "the name '%.*s' holds a space", (int)(name_len < 200 ? name_len : 200), line);
            return -1;
        }
    if (line[name_len])
        return push(l, strdup(line), why);
    entry = from_ours(line);
    return entry ? push(l, entry, why) : 0;
}

int env_read(struct env_list *l, FILE *f, const char *name, char why[ENV_WHY_MAX])
{
    char *line = NULL, detail[ENV_WHY_MAX];
    size_t cap = 0;
    unsigned number = 0;
    ssize_t n;
    int r = 0;

    while (r == 0 && (n = getline(&line, &cap, f)) >= 0) {
        char *text = line;

        number++;
        if (n > 0 && line[n - 1] == '\n')
            line[--n] = '\0';
        if (n > 0 && line[n - 1] == '\r')
            line[--n] = '\0';
        if (number == 1 && strncmp(text, "\xef\xbb\xbf", 3) == 0) /* a byte order mark */
            text += 3;
        if (n > ENV_LINE_MAX) {
            snprintf(detail, sizeof(detail), "longer than %d bytes", ENV_LINE_MAX);
            r = -1;
        } else if (strlen(line) != (size_t)n) {
            snprintf(detail, sizeof(detail), "it holds a NUL byte");
            r = -1;
        } else {
            r = read_line(l, text, detail);
        }
    }
    if (r < 0)
        snprintf(why, ENV_WHY_MAX, "line %u of '%.100s': %.300s", number, name, detail);
    else if (ferror(f)) {
        snprintf(why, ENV_WHY_MAX, "cannot read '%.200s': %s", name, strerror(errno));
        r = -1;
    }
    free(line);
    return r;
}
