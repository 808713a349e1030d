/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: finds the verb in the table and runs it. */
#include <string.h>

#include "cli/command.h"

int main(int argc, char **argv)
{
    const struct command *cmd;
    int words;

    if (argc < 2)
        return command_help.run(1, (char *[]){"help", NULL});
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return command_help.run(argc - 1, argv + 1);
    if (strcmp(argv[1], "--version") == 0)
        return command_version.run(argc - 1, argv + 1);
    cmd = command_of_line(argc - 1, argv + 1, &words);
    if (!cmd)
        return complain("there is no command '%s': see 'supermachine help'", argv[1]);
    return cmd->run(argc - words, argv + words);
}
