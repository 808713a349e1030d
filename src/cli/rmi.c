/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine rmi`: images out of the store. */
#include <stdio.h>

#include "cli/command.h"
#include "cli/record.h"

struct rmi_options {
    bool force, json;
};

#define AT(field) offsetof(struct rmi_options, field)

static const struct option_def rmi_table[] = {
    {"force", 'f', OPTION_FLAG, AT(force), NULL,
     "Remove an image that is named by its id with all its names; an image that is not there is no error"},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "Print what was removed as one JSON object"},
    {0},
};

/* Appends to a list; returns its new end. */
static struct sm_image_record **append(struct sm_image_record **end, struct sm_image_record *list)
{
    *end = list;
    while (*end)
        end = &(*end)->next;
    return end;
}

static int remove_all(const struct rmi_options *o, struct sm_store *store, char **names)
{
    struct sm_remove_options options = SM_REMOVE_OPTIONS_INIT;
    struct sm_image_record *all = NULL, **end = &all;
    uint64_t freed = 0;
    int code = 0;

    options.force = o->force;
    for (; *names; names++) {
        struct sm_removal removal = {.size = sizeof(removal)};
        struct sm_error err = SM_ERROR_INIT;
        struct sm_image_record *removed;

        if (sm_store_remove(&removed, store, *names, &options, &removal, &err) < 0) {
            code = complain("%s", err.text);
            continue;
        }
        freed += removal.freed_bytes;
        if (!o->json && removed_print(store, removed))
            code = EXIT_OURS;
        end = append(end, removed);
    }
    if (o->json) {
        fputs("{\"removed\":", stdout);
        records_json(stdout, all);
        printf(",\"freed_bytes\":%llu}\n", (unsigned long long)freed);
    }
    sm_image_records_free(all);
    return code;
}

static int run_rmi(int argc, char **argv)
{
    struct rmi_options o = {0};
    struct sm_store *store;
    int first, code;

    if (!command_options(&command_rmi, argc, argv, &o, &first, &code))
        return code;
    if (first == argc)
        return complain("rmi: which image? See 'supermachine rmi --help'");
    code = store_open(&store);
    if (code)
        return code;
    code = remove_all(&o, store, argv + first);
    sm_store_free(store);
    return code;
}

const struct command command_rmi = {
    .name = "rmi",
    .operands = "IMAGE...",
    .summary = "remove images from the store",
    .about =
        "Removes each IMAGE: a name, or an id of 'supermachine images'. With its last name an image goes, and what "
        "no other image needs of it, its snapshots among that. Machines that run are not disturbed.",
    .options = rmi_table,
    .run = run_rmi,
};
