/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine inspect`: all about images, as JSON. */
#include <stdio.h>

#include "cli/command.h"
#include "cli/json.h"
#include "cli/record.h"

struct inspect_options {
    const char *platform;
};

static const struct option_def inspect_table[] = {
    {"json", 0, OPTION_ACCEPTED, 0, NULL, "Accepted: what is printed is JSON"},
    {"platform", 0, OPTION_STRING, offsetof(struct inspect_options, platform), "OS/ARCH[/VARIANT]",
     "Choose this platform of each image (default: this host's)"},
    {0},
};

/* An array of those that are there (nothing where none is), and a sentence for each that is not. */
static int inspect_all(struct sm_store *store, char **names, const char *platform)
{
    bool any = false;
    int code = 0;

    for (; *names; names++) {
        struct sm_error err = SM_ERROR_INIT;
        char *text;

        if (sm_store_inspect(&text, store, *names, platform, &err) < 0) {
            code = complain("%s", err.text);
            continue;
        }
        fputs(any ? ",\n    " : "[\n    ", stdout);
        json_pretty(stdout, text, 1);
        any = true;
        sm_string_free(text);
    }
    if (any)
        puts("\n]");
    return code;
}

static int run_inspect(int argc, char **argv)
{
    struct inspect_options o = {0};
    struct sm_store *store;
    int first, code;

    if (!command_options(&command_inspect, argc, argv, &o, &first, &code))
        return code;
    if (first == argc)
        return complain("inspect: which image? See 'supermachine inspect --help'");
    code = store_open(&store);
    if (code)
        return code;
    code = inspect_all(store, argv + first, o.platform);
    sm_store_free(store);
    return code;
}

const struct command command_inspect = {
    .name = "inspect",
    .operands = "IMAGE...",
    .summary = "show all about images",
    .about = "Prints a JSON array with an object for each IMAGE (a name, or an id), whose members are those of 'docker "
             "image inspect': Id, RepoTags, RepoDigests, Created, Architecture, Os, Size, Config, RootFS. Layers and "
             "Descriptor are the layers and the manifest as the registry keeps them.",
    .options = inspect_table,
    .run = run_inspect,
};
