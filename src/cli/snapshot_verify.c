/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine snapshot verify`: read every byte of snapshots. */
#include <errno.h>
#include <stdio.h>

#include "cli/command.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/record.h"

#define EXIT_FOUND 1

struct verify_options {
    bool json, quiet;
};

#define AT(field) offsetof(struct verify_options, field)

static const struct option_def verify_table[] = {
    {"json", 0, OPTION_FLAG, AT(json), NULL, "Print what was found as one JSON document, an array"},
    {"quiet", 'q', OPTION_FLAG, AT(quiet), NULL, "Show no progress"},
    {0},
};

static void print_json(const char *name, const struct sm_error *err, bool first)
{
    printf("%s{\"snapshot\":", first ? "" : ",");
    json_string(stdout, name);
    printf(",\"good\":%s,\"problem\":", err->code ? "false" : "true");
    err->code ? json_string(stdout, err->text) : (void)fputs("null", stdout);
    putchar('}');
}

static int verify_all(const struct verify_options *o, struct sm_store *store, char **names)
{
    struct sm_snapshot_options options = SM_SNAPSHOT_OPTIONS_INIT;
    int code = 0;

    if (o->json)
        putchar('[');
    for (char **name = names; *name; name++) {
        struct sm_error err = SM_ERROR_INIT;
        struct progress progress = {0};
        int r;

        progress_begin(&progress, o->quiet, *name, &options.event, &options.event_ctx);
        r = sm_snapshot_verify(store, *name, &options, &err);
        if (r == -ECANCELED)
            return progress_failed(&progress, &err);
        progress_end(&progress);
        if (o->json)
            print_json(*name, &err, name == names);
        else if (r == 0)
            printf("%s: good\n", *name);
        if (r == -EBADMSG) {
            code = code ? code : EXIT_FOUND;
            if (!o->json)
                printf("%s\n", err.text);
        } else if (r < 0) {
            code = complain("%s", err.text);
        }
    }
    if (o->json)
        puts("]");
    return code;
}

static int run_snapshot_verify(int argc, char **argv)
{
    struct verify_options o = {0};
    struct sm_store *store;
    int first, code;

    if (!command_options(&command_snapshot_verify, argc, argv, &o, &first, &code))
        return code;
    if (first == argc)
        return complain("snapshot verify: which snapshot? See 'supermachine snapshot verify --help'");
    code = store_open(&store);
    if (code)
        return code;
    code = verify_all(&o, store, argv + first);
    sm_store_free(store);
    return code;
}

const struct command command_snapshot_verify = {
    .name = "snapshot verify",
    .operands = "SNAPSHOT...",
    .summary = "check every byte of snapshots",
    .about = "Reads every byte of each SNAPSHOT (a key, a directory), and of the base it needs, and compares it with "
             "what was written down when it was made.\n\nExits with 1 when one of them is damaged.",
    .options = verify_table,
    .run = run_snapshot_verify,
};
