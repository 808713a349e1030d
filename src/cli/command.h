/* SPDX-License-Identifier: Apache-2.0 */
/* The commands (verbs), and what they share. */
#ifndef SM_CLI_COMMAND_H
#define SM_CLI_COMMAND_H

#include <supermachine/supermachine.h>

#include "cli/options.h"

/* Exit codes, Docker's and timeout(1)'s. */
#define EXIT_OURS      125
#define EXIT_TIMED_OUT 124

struct command {
    const char *name;     /* "run"; "snapshot ls": one below another */
    const char *operands; /* "IMAGE [COMMAND [ARG...]]" */
    const char *summary;  /* half a sentence, lower case */
    const char *about;    /* paragraphs, for help and the manual */
    const struct option_def *options;
    bool passes_on;           /* what is behind the first operand belongs to a workload: no options of ours there */
    const char *const *notes; /* pairs of heading and text, for the manual; NULL ends. NULL: none */
    /* argv[0] is the verb, or its last word. Returns the exit code. */
    int (*run)(int argc, char **argv);
    bool group; /* there are commands below it: its name and another word */
};

#define COMMAND(verb)         extern const struct command command_##verb;
#define SUBCOMMAND(verb, sub) extern const struct command command_##verb##_##sub;
#include "cli/commands.def"
#undef COMMAND
#undef SUBCOMMAND

extern const struct command *const all_commands[]; /* NULL ends */

const struct command *command_find(const char *name);

/*
 * The command that a line begins with, in *ret_words words. Where the second one is none of a group's, the group. NULL:
 * there is none.
 */
const struct command *command_of_line(int argc, char **argv, int *ret_words);

/* The next one below `group` behind `after` (NULL: the first); NULL: no more. */
const struct command *command_below(const struct command *group, const struct command *after);

/* The name's last word. */
const char *command_word(const struct command *cmd);

/* "supermachine: ..." on stderr; returns EXIT_OURS. */
int complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * Parse a command's options. True: go on, *ret_first is the first operand. False: leave with *ret_exit (help was shown,
 * or the line is wrong and that was said).
 */
bool command_options(const struct command *cmd, int argc, char **argv, void *into, int *ret_first, int *ret_exit);

/* help.c */
void help_print_command(const struct command *cmd);

#endif
