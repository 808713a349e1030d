/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine version`. */
#include <stdio.h>
#include <sys/utsname.h>

#include "cli/command.h"
#include "cli/json.h"

struct version_options {
    bool json;
};

static const struct option_def version_table[] = {
    {"json", 0, OPTION_FLAG, offsetof(struct version_options, json), NULL, "Print JSON"},
    {0},
};

static int run_version(int argc, char **argv)
{
    struct version_options o = {0};
    struct utsname un;
    int first, code;

    if (!command_options(&command_version, argc, argv, &o, &first, &code))
        return code;
    uname(&un);
    if (!o.json) {
        printf("supermachine %s (%s)\n", sm_version(), un.machine);
        return 0;
    }
    fputs("{\"version\":", stdout);
    json_string(stdout, sm_version());
    fputs(",\"architecture\":", stdout);
    json_string(stdout, un.machine);
    puts("}");
    return 0;
}

const struct command command_version = {
    .name = "version",
    .operands = "",
    .summary = "print the program's version",
    .about = "Prints the version of the program and the architecture it was built for.",
    .options = version_table,
    .run = run_version,
};
