/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine snapshot create`: save a machine that another process runs. */
#include <stdio.h>

#include "cli/command.h"
#include "cli/format.h"
#include "cli/json.h"
#include "cli/record.h"

struct create_options {
    bool diff, json, stop;
};

#define AT(field) offsetof(struct create_options, field)

static const struct option_def create_table[] = {
    {"diff", 0, OPTION_FLAG, AT(diff), NULL,
     "Store only what differs from the snapshot that the machine came from, or from that one's base"},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "Print what was made as one JSON object"},
    {"stop", 0, OPTION_FLAG, AT(stop), NULL, "The machine does not go on: it stands still until it is ended"},
    {0},
};

static void print_result(const struct create_options *o, const char *dest, const struct sm_save_result *r)
{
    const char *where = dest ? dest : r->key;
    char size[FORMAT_SIZE];

    if (!o->json) {
        printf("%s\n", where);
        fprintf(stderr, "%s of memory written; the machine stood still for %.1f ms\n", format_size(size, r->data_bytes),
                (double)r->pause_ns / 1e6);
        return;
    }
    fputs(dest ? "{\"directory\":" : "{\"key\":", stdout);
    json_string(stdout, where);
    printf(",\"data_bytes\":%llu,\"pause_ms\":%.3f}\n", (unsigned long long)r->data_bytes, (double)r->pause_ns / 1e6);
}

static int run_snapshot_create(int argc, char **argv)
{
    struct sm_save_result result = {.size = sizeof(result)};
    struct sm_error err = SM_ERROR_INIT;
    struct create_options o = {0};
    const char *dest;
    struct sm_store *store;
    int first, code, r;

    if (!command_options(&command_snapshot_create, argc, argv, &o, &first, &code))
        return code;
    if (first == argc || argc - first > 2)
        return complain("snapshot create: name a machine, and a directory at most. See 'supermachine snapshot create "
                        "--help'");
    dest = argc - first == 2 ? argv[first + 1] : NULL;
    code = store_open(&store);
    if (code)
        return code;
    r = sm_remote_save(store, argv[first], dest, (o.stop ? SM_SAVE_STOP : SM_SAVE_LIVE) | (o.diff ? SM_SAVE_DIFF : 0),
                       &result, &err);
    sm_store_free(store);
    if (r < 0)
        return complain("%s", err.text);
    print_result(&o, dest, &result);
    return 0;
}

const struct command command_snapshot_create = {
    .name = "snapshot create",
    .operands = "MACHINE [DIR]",
    .summary = "save a machine that runs",
    .about = "Saves the machine that was started with 'supermachine run --name MACHINE', by another process of this "
             "user. It runs on: its memory is copied meanwhile, and it stands still only for what it has written in "
             "that time.\n\nThe snapshot goes to DIR, which must not be there yet; without DIR to the store, and its "
             "key is printed.",
    .options = create_table,
    .run = run_snapshot_create,
};
