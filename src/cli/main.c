/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: finds the verb in the table and runs it. */
#include <string.h>

#include "cli/command.h"

int main(int argc, char **argv)
{
    const struct command *cmd;
    const char *verb = argc > 1 ? argv[1] : "help";

    if (strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0)
        verb = "help";
    if (strcmp(verb, "--version") == 0)
        verb = "version";
    cmd = command_find(verb);
    if (!cmd)
        return complain("there is no command '%s': see 'supermachine help'", verb);
    if (argc < 2)
        return command_help.run(1, (char *[]){"help", NULL});
    return cmd->run(argc - 1, argv + 1);
}
