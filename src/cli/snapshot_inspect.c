/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine snapshot inspect`: all about snapshots, as JSON. */
#include <stdio.h>

#include "cli/command.h"
#include "cli/json.h"
#include "cli/record.h"

struct inspect_options {
    bool json;
};

static const struct option_def inspect_table[] = {
    {"json", 0, OPTION_ACCEPTED, 0, NULL, "Accepted: what is printed is JSON"},
    {0},
};

/* An array with those that are there; the others are told. */
static int inspect_all(struct sm_store *store, char **names)
{
    bool any = false;
    int code = 0;

    for (; *names; names++) {
        struct sm_error err = SM_ERROR_INIT;
        char *text;

        if (sm_snapshot_inspect(&text, store, *names, &err) < 0) {
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

static int run_snapshot_inspect(int argc, char **argv)
{
    struct inspect_options o = {0};
    struct sm_store *store;
    int first, code;

    if (!command_options(&command_snapshot_inspect, argc, argv, &o, &first, &code))
        return code;
    if (first == argc)
        return complain("snapshot inspect: which snapshot? See 'supermachine snapshot inspect --help'");
    code = store_open(&store);
    if (code)
        return code;
    code = inspect_all(store, argv + first);
    sm_store_free(store);
    return code;
}

const struct command command_snapshot_inspect = {
    .name = "snapshot inspect",
    .operands = "SNAPSHOT...",
    .summary = "show all about snapshots",
    .about =
        "Prints a JSON array with an object for each SNAPSHOT: a key, the first digits of one, a directory (with a "
        "'/' in it), or the image that there is one snapshot of. docs/snapshot-format.md lists the members.",
    .options = inspect_table,
    .run = run_snapshot_inspect,
};
