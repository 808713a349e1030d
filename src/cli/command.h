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
    const char *name;
    const char *operands; /* "IMAGE [COMMAND [ARG...]]" */
    const char *summary;  /* half a sentence, lower case */
    const char *about;    /* paragraphs, for help and the manual */
    const struct option_def *options;
    bool passes_on;           /* what is behind the first operand belongs to a workload: no options of ours there */
    const char *const *notes; /* pairs of heading and text, for the manual; NULL ends. NULL: none */
    /* argv[0] is the verb. Returns the exit code. */
    int (*run)(int argc, char **argv);
};

#define COMMAND(verb) extern const struct command command_##verb;
#include "cli/commands.def"
#undef COMMAND

extern const struct command *const all_commands[]; /* NULL ends */

const struct command *command_find(const char *name);

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
