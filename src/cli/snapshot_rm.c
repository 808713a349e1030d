/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine snapshot rm`: remove snapshots from the store. */
#include <stdio.h>

#include "cli/command.h"
#include "cli/format.h"
#include "cli/record.h"

struct rm_options {
    bool force, json;
};

#define AT(field) offsetof(struct rm_options, field)

static const struct option_def rm_table[] = {
    {"force", 'f', OPTION_FLAG, AT(force), NULL,
     "Remove all that a name fits, and with a base what needs it; a missing one is no error"},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "Print what that freed as one JSON object"},
    {0},
};

static int remove_all(const struct rm_options *o, struct sm_store *store, char **names)
{
    struct sm_snapshot_options options = SM_SNAPSHOT_OPTIONS_INIT;
    uint64_t freed = 0;
    uint32_t objects = 0;
    char size[FORMAT_SIZE];
    int code = 0;

    options.force = o->force;
    for (; *names; names++) {
        struct sm_removal removal = {.size = sizeof(removal)};
        struct sm_error err = SM_ERROR_INIT;

        if (sm_snapshot_remove(store, *names, &options, &removal, &err) < 0) {
            code = complain("%s", err.text);
            continue;
        }
        freed += removal.freed_bytes;
        objects += removal.objects;
    }
    if (o->json)
        printf("{\"objects\":%u,\"freed_bytes\":%llu}\n", objects, (unsigned long long)freed);
    else if (code == 0)
        printf("%u %s removed, %s freed\n", objects, objects == 1 ? "snapshot" : "snapshots", format_size(size, freed));
    return code;
}

static int run_snapshot_rm(int argc, char **argv)
{
    struct rm_options o = {0};
    struct sm_store *store;
    int first, code;

    if (!command_options(&command_snapshot_rm, argc, argv, &o, &first, &code))
        return code;
    if (first == argc)
        return complain("snapshot rm: which snapshot? See 'supermachine snapshot rm --help'");
    code = store_open(&store);
    if (code)
        return code;
    code = remove_all(&o, store, argv + first);
    sm_store_free(store);
    return code;
}

const struct command command_snapshot_rm = {
    .name = "snapshot rm",
    .operands = "SNAPSHOT...",
    .summary = "remove snapshots from the store",
    .about = "Removes snapshots from the store. Those of images are made again when an image is run; 'supermachine "
             "prune' removes them by age and size. Machines that were started from one are not disturbed.",
    .options = rm_table,
    .run = run_snapshot_rm,
};
