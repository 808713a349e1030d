/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Option tables. One table a command says what there is; parsing (getopt_long), --help, the manual page and shell
 * completion all come from it.
 */
#ifndef SM_CLI_OPTIONS_H
#define SM_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum option_kind {
    OPTION_FLAG,     /* bool */
    OPTION_STRING,   /* const char * */
    OPTION_LIST,     /* struct string_list, may be given again */
    OPTION_MEMORY,   /* uint32_t, MiB */
    OPTION_COUNT,    /* uint32_t, 1 and more */
    OPTION_DURATION, /* uint32_t, milliseconds */
    OPTION_MS,       /* uint32_t, milliseconds; so is a number alone */
    OPTION_AGE,      /* uint32_t, seconds */
    OPTION_SIZE,     /* uint64_t, bytes */
    OPTION_CHOICE,   /* unsigned: which of the words in `arg`, "one|two|three", from 0 */
    OPTION_ACCEPTED, /* a flag that says what is so anyway: stored nowhere */
};

struct option_def {
    const char *name; /* long name; NULL ends a table */
    char letter;      /* 0: none */
    enum option_kind kind;
    size_t offset;    /* in the command's options struct */
    const char *arg;  /* what its value is called in help; NULL for flags */
    const char *help; /* one sentence, no full stop at its end */
};

/* Order is kept; strings are argv's. Grows as it is filled, freed by its owner. */
struct string_list {
    const char **items;
    size_t n;
};

int string_list_add(struct string_list *l, const char *s);
void string_list_done(struct string_list *l);

/*
 * Parse argv[1...] into `into` by `table`; returns the index of the first operand. With `stop` parsing ends there (what
 * comes behind IMAGE belongs to the workload); without, options may stand between and behind operands, too, which are
 * moved to the end of argv in their order. --help is always known: *help is set. -1 and a sentence in `why` when the
 * line is wrong.
 */
int options_parse(int argc, char **argv, const struct option_def *table, bool stop, void *into, bool *help, char *why,
                  size_t why_size);

#endif
