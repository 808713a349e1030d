/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Option tables: see options.h.
 *
 * Theory of operation
 *
 * What: a table becomes getopt_long's own tables, built anew for each call; what getopt finds goes through one function
 * for each kind of value into the place that the table names. What is wrong becomes one sentence, which names the
 * option as it was typed and what it takes.
 *
 * Limits: MAX_OPTIONS in a table. getopt's state is the process': one thread, one parse at a time.
 */
#include "cli/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/values.h"

#define MAX_OPTIONS 64
#define FIRST_VALUE 256 /* getopt's values: above every letter */

int string_list_add(struct string_list *l, const char *s)
{
    const char **items = reallocarray(l->items, l->n + 2, sizeof(*items));

    if (!items)
        return -ENOMEM;
    l->items = items;
    l->items[l->n++] = s;
    l->items[l->n] = NULL;
    return 0;
}

void string_list_done(struct string_list *l)
{
    free(l->items);
    *l = (struct string_list){0};
}

static int store_number(const struct option_def *def, void *at, const char *value, char *why, size_t why_size)
{
    static const char *const forms[] = {
        [OPTION_MEMORY] = "as in 512m or 2g; a number alone is MiB",
        [OPTION_COUNT] = "a whole number from 1 up",
        [OPTION_DURATION] = "as in 30s, 1m30s or 500ms; a number alone is seconds",
        [OPTION_MS] = "as in 500, 500ms or 7s; a number alone is milliseconds",
        [OPTION_AGE] = "as in 7d, 12h or 2w; a number alone is seconds",
        [OPTION_SIZE] = "as in 500m or 10g; a number alone is bytes",
    };
    int r = def->kind == OPTION_MEMORY     ? value_memory(value, at)
            : def->kind == OPTION_COUNT    ? value_count(value, at)
            : def->kind == OPTION_DURATION ? value_duration(value, at)
            : def->kind == OPTION_MS       ? value_ms(value, at)
            : def->kind == OPTION_AGE      ? value_age(value, at)
                                           : value_size(value, at);

    if (r < 0)
        snprintf(why, why_size, "--%s: '%s' is %s: give %s", def->name, value,
                 r == -ERANGE ? "out of range" : "not understood", forms[def->kind]);
    return r < 0 ? -1 : 0;
}

static int store_choice(const struct option_def *def, unsigned *at, const char *value, char *why, size_t why_size)
{
    const char *word = def->arg;

    for (unsigned i = 0;; i++) {
        size_t n = strcspn(word, "|");

        if (strlen(value) == n && strncmp(word, value, n) == 0) {
            *at = i;
            return 0;
        }
        if (!word[n])
            break;
        word += n + 1;
    }
    snprintf(why, why_size, "--%s: '%s' is not understood: give one of %s", def->name, value, def->arg);
    return -1;
}

static int store(const struct option_def *def, void *into, const char *value, char *why, size_t why_size)
{
    void *at = (char *)into + def->offset;

    switch (def->kind) {
    case OPTION_FLAG:
        *(bool *)at = true;
        return 0;
    case OPTION_STRING:
        *(const char **)at = value;
        return 0;
    case OPTION_LIST:
        if (string_list_add(at, value) == 0)
            return 0;
        snprintf(why, why_size, "out of memory");
        return -1;
    case OPTION_MEMORY:
    case OPTION_COUNT:
    case OPTION_DURATION:
    case OPTION_MS:
    case OPTION_AGE:
    case OPTION_SIZE:
        return store_number(def, at, value, why, why_size);
    case OPTION_CHOICE:
        return store_choice(def, at, value, why, why_size);
    case OPTION_ACCEPTED:
        return 0;
    }
    return -1;
}

/* What getopt found wrong: '?' unknown (or ambiguous), ':' its value is missing. */
static void complain(int c, char *const *argv, char *why, size_t why_size)
{
    const char *word = argv[optind - 1];
    const char *what = c == ':' ? "needs a value" : "is not an option of this command (see --help)";

    if (optopt && optopt < FIRST_VALUE)
        snprintf(why, why_size, "-%c %s", optopt, what);
    else
        snprintf(why, why_size, "%.*s %s", (int)strcspn(word, "="), word, c == '?' && optopt ? "takes no value" : what);
}

int options_parse(int argc, char **argv, const struct option_def *table, bool stop, void *into, bool *help, char *why,
                  size_t why_size)
{
    struct option longs[MAX_OPTIONS + 2] = {{0}};
    /* '+': stop at the first operand; ':': tell missing values apart. */
    char shorts[2 * MAX_OPTIONS + 4];
    size_t n, k = (size_t)snprintf(shorts, sizeof(shorts), "%s:h", stop ? "+" : "");
    int c;

    for (n = 0; table[n].name; n++) {
        if (n == MAX_OPTIONS)
            abort();
        longs[n] =
            (struct option){table[n].name, table[n].arg ? required_argument : no_argument, NULL, FIRST_VALUE + (int)n};
        if (table[n].letter) {
            shorts[k++] = table[n].letter;
            if (table[n].arg)
                shorts[k++] = ':';
        }
    }
    shorts[k] = '\0';
    longs[n] = (struct option){"help", no_argument, NULL, 'h'};
    optind = 0; /* glibc: start over, whatever was parsed before */
    opterr = 0;
    while ((c = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
        const struct option_def *def = NULL;

        if (c == '?' || c == ':') {
            complain(c, argv, why, why_size);
            return -1;
        }
        for (size_t i = 0; i < n; i++)
            if (c == FIRST_VALUE + (int)i || (table[i].letter && c == table[i].letter))
                def = &table[i];
        if (!def)
            *help = true; /* the one that is in no table */
        else if (store(def, into, optarg, why, why_size) < 0)
            return -1;
    }
    return optind;
}
