/* SPDX-License-Identifier: Apache-2.0 */
/* The table of commands, and what they share: see command.h. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"

#define COMMAND(verb)         &command_##verb,
#define SUBCOMMAND(verb, sub) &command_##verb##_##sub,
const struct command *const all_commands[] = {
#include "cli/commands.def"
    NULL};
#undef COMMAND
#undef SUBCOMMAND

const struct command *command_find(const char *name)
{
    for (const struct command *const *c = all_commands; *c; c++)
        if (strcmp((*c)->name, name) == 0)
            return *c;
    return NULL;
}

const char *command_word(const struct command *cmd)
{
    const char *space = strrchr(cmd->name, ' ');

    return space ? space + 1 : cmd->name;
}

static bool is_below(const struct command *cmd, const struct command *group)
{
    size_t n = strlen(group->name);

    return strncmp(cmd->name, group->name, n) == 0 && cmd->name[n] == ' ';
}

const struct command *command_below(const struct command *group, const struct command *after)
{
    bool passed = after == NULL;

    for (const struct command *const *c = all_commands; *c; c++) {
        if (passed && is_below(*c, group))
            return *c;
        passed = passed || *c == after;
    }
    return NULL;
}

const struct command *command_of_line(int argc, char **argv, int *ret_words)
{
    const struct command *found = argc > 0 && !strchr(argv[0], ' ') ? command_find(argv[0]) : NULL;

    *ret_words = 1;
    if (!found || !found->group || argc < 2)
        return found;
    for (const struct command *c = NULL; (c = command_below(found, c));)
        if (strcmp(command_word(c), argv[1]) == 0) {
            *ret_words = 2;
            return c;
        }
    return found;
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
