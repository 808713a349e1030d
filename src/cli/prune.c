/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine prune`: make room in the store. */
#include <stdio.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/format.h"
#include "cli/record.h"

struct prune_options {
    bool all, dry_run, force, json;
    uint32_t older_than;
    uint64_t max_size;
};

#define AT(field) offsetof(struct prune_options, field)

static const struct option_def prune_table[] = {
    {"all", 'a', OPTION_FLAG, AT(all), NULL,
     "Remove images that have a name, too, and snapshots that can be made again"},
    {"dry-run", 'n', OPTION_FLAG, AT(dry_run), NULL, "Only tell what would go"},
    {"force", 'f', OPTION_FLAG, AT(force), NULL, "Don't ask"},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "Print what was removed as one JSON object"},
    {"max-size", 0, OPTION_SIZE, AT(max_size), "SIZE",
     "Stop when the store takes no more than this, as in 500m or 10g; what was used least recently goes first"},
    {"older-than", 0, OPTION_AGE, AT(older_than), "TIME",
     "Remove only what was not used for this time, as in 12h, 7d or 2w; snapshots that can be made again among it"},
    {0},
};

static int prune(struct sm_image_record **ret, struct sm_store *store, const struct prune_options *o, bool dry_run,
                 struct sm_removal *removal)
{
    struct sm_prune_options options = SM_PRUNE_OPTIONS_INIT;
    struct sm_error err = SM_ERROR_INIT;

    *removal = (struct sm_removal){.size = sizeof(*removal)};
    options.all = o->all;
    options.dry_run = dry_run;
    options.older_than = o->older_than;
    options.max_size = o->max_size;
    return sm_store_prune(ret, store, &options, removal, &err) < 0 ? complain("%s", err.text) : 0;
}

/* Where somebody is there to be asked. */
static bool confirmed(const struct prune_options *o, const struct sm_removal *removal)
{
    char size[FORMAT_SIZE], answer[16];

    if (o->force || !isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
        return true;
    fprintf(stderr, "This removes %u %s and frees %s. Go on? [y/N] ", removal->names,
            removal->names == 1 ? "image" : "images", format_size(size, removal->freed_bytes));
    fflush(stderr);
    return fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

static int print_result(struct sm_store *store, const struct prune_options *o, const struct sm_image_record *removed,
                        const struct sm_removal *removal)
{
    char size[FORMAT_SIZE];
    int code = 0;

    if (o->json) {
        printf("{\"dry_run\":%s,\"removed\":", o->dry_run ? "true" : "false");
        records_json(stdout, removed);
        printf(",\"objects\":%u,\"freed_bytes\":%llu}\n", removal->objects, (unsigned long long)removal->freed_bytes);
        return 0;
    }
    if (!o->dry_run)
        code = removed_print(store, removed);
    for (const struct sm_image_record *r = removed; o->dry_run && r; r = r->next)
        printf("Would remove: %s\n", record_title(r));
    printf("%s: %s\n", o->dry_run ? "Space that would be freed" : "Space freed",
           format_size(size, removal->freed_bytes));
    return code;
}

static int run_prune(int argc, char **argv)
{
    struct prune_options o = {0};
    struct sm_image_record *list = NULL;
    struct sm_removal removal;
    struct sm_store *store;
    int first, code;

    if (!command_options(&command_prune, argc, argv, &o, &first, &code))
        return code;
    if (first < argc)
        return complain("prune: '%s' is one word too many: 'supermachine rmi' removes single images", argv[first]);
    code = store_open(&store);
    if (code)
        return code;
    code = prune(&list, store, &o, true, &removal);
    if (code == 0 && !o.dry_run && (removal.names || removal.objects)) {
        if (!confirmed(&o, &removal)) {
            code = complain("prune: nothing was removed");
            goto out;
        }
        sm_image_records_free(list);
        list = NULL;
        code = prune(&list, store, &o, false, &removal);
    }
    if (code == 0)
        code = print_result(store, &o, list, &removal);
out:
    sm_image_records_free(list);
    sm_store_free(store);
    return code;
}

static const char *const prune_notes[] = {
    "EXAMPLES",
    "supermachine prune\n\n"
    "supermachine prune --all --older-than 7d\n\n"
    "supermachine prune --all --max-size 10g -f",
    NULL,
};

const struct command command_prune = {
    .name = "prune",
    .operands = "",
    .summary = "make room in the store",
    .about = "Removes what no image needs (layers of images that were run from a layout, halves of pulls that were "
             "cut, snapshots of images that are gone), and images that have no name any more; with --all the others, "
             "too, and snapshots that can be made again. With --older-than or --max-size, such snapshots go before any "
             "image does. What was saved of a machine never goes. On a terminal it asks first.",
    .options = prune_table,
    .notes = prune_notes,
    .run = run_prune,
};
