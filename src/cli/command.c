/* SPDX-License-Identifier: Apache-2.0 */
/* The table of commands, and what they share: see command.h. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"

#define COMMAND(verb) &command_##verb,
const struct command *const all_commands[] = {
#include "cli/commands.def"
    NULL};
#undef COMMAND

const struct command *command_find(const char *name)
{
    for (const struct command *const *c = all_commands; *c; c++)
        if (strcmp((*c)->name, name) == 0)
            return *c;
    return NULL;
}

int complain(const char *fmt, ...)
{
    va_list ap;

    fflush(stdout);
    fputs("supermachine: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return EXIT_OURS;
}

bool command_options(const struct command *cmd, int argc, char **argv, void *into, int *ret_first, int *ret_exit)
{
    bool help = false;
    char why[256];

    *ret_first = options_parse(argc, argv, cmd->options, cmd->passes_on, into, &help, why, sizeof(why));
    if (*ret_first < 0) {
        *ret_exit = complain("%s: %s", cmd->name, why);
        return false;
    }
    if (help) {
        help_print_command(cmd);
        *ret_exit = 0;
        return false;
    }
    return true;
}
