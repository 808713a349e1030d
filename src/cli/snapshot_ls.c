/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine snapshot ls`: what snapshots are in the store. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/command.h"
#include "cli/format.h"
#include "cli/record.h"
#include "cli/snapshots.h"
#include "cli/table.h"

struct ls_options {
    bool json, no_trunc, quiet;
};

#define AT(field) offsetof(struct ls_options, field)

static const struct option_def ls_table[] = {
    {"json", 0, OPTION_FLAG, AT(json), NULL, "Print one JSON document, an array"},
    {"no-trunc", 0, OPTION_FLAG, AT(no_trunc), NULL, "Don't shorten keys"},
    {"quiet", 'q', OPTION_FLAG, AT(quiet), NULL, "Print keys only"},
    {0},
};

static const char *shown_key(char buf[FORMAT_SIZE], const struct ls_options *o, const struct sm_snapshot_record *r)
{
    return o->no_trunc ? r->key : snapshot_short(buf, r->key);
}

static bool any_tag(const struct sm_snapshot_record *list)
{
    for (; list; list = list->next)
        if (list->tag[0])
            return true;
    return false;
}

static void print_table(const struct ls_options *o, const struct sm_snapshot_record *list)
{
    static const char *const heads[] = {"SNAPSHOT", "KIND", "IMAGE",   "TRIGGER", "TAG",
                                        "MEMORY",   "CPUS", "CREATED", "SIZE"};
    bool tags = any_tag(list);
    struct table t = {.columns = tags ? 9 : 8};
    int64_t now = time(NULL);
    char text[FORMAT_SIZE];

    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
        if (tags || strcmp(heads[i], "TAG") != 0)
            table_add(&t, heads[i]);
    for (const struct sm_snapshot_record *r = list; r; r = r->next) {
        table_add(&t, shown_key(text, o, r));
        table_add(&t, snapshot_kind(r));
        table_add(&t, r->image ? r->image : r->image_id ? format_id(text, r->image_id) : "-");
        table_add(&t, r->trigger[0] ? r->trigger : "-");
        if (tags)
            table_add(&t, r->tag);
        snprintf(text, sizeof(text), "%u MiB", r->memory_mib);
        table_add(&t, text);
        snprintf(text, sizeof(text), "%u", r->vcpus);
        table_add(&t, text);
        table_add(&t, format_ago(text, r->created, now));
        table_add(&t, format_size(text, r->disk_bytes));
    }
    table_print(&t);
    fflush(stdout);
    for (const struct sm_snapshot_record *r = list; r; r = r->next)
        if (r->problem)
            fprintf(stderr, "%s can't be used: %s\n", shown_key(text, o, r), r->problem);
}

static int run_snapshot_ls(int argc, char **argv)
{
    struct sm_snapshot_record *list;
    struct sm_error err = SM_ERROR_INIT;
    struct ls_options o = {0};
    struct sm_store *store;
    int first, code, r;

    if (!command_options(&command_snapshot_ls, argc, argv, &o, &first, &code))
        return code;
    if (first < argc)
        return complain("snapshot ls: '%s' is one word too many", argv[first]);
    code = store_open(&store);
    if (code)
        return code;
    r = sm_snapshot_list(&list, store, &err);
    sm_store_free(store);
    if (r < 0)
        return complain("%s", err.text);
    if (o.json) {
        snapshots_json(stdout, list);
        putchar('\n');
    } else if (o.quiet) {
        char text[FORMAT_SIZE];

        for (const struct sm_snapshot_record *s = list; s; s = s->next)
            puts(shown_key(text, &o, s));
    } else {
        print_table(&o, list);
    }
    sm_snapshot_records_free(list);
    return 0;
}

const struct command command_snapshot_ls = {
    .name = "snapshot ls",
    .operands = "",
    .summary = "list the snapshots of the store",
    .about = "Lists the snapshots of the store. KIND is bake for those of images, which are made again when they are "
             "missing; base for those that bakes begin with; vm for machines that were saved while they ran, which "
             "nothing can make again. SIZE is what the snapshot takes on this disk, without its base.",
    .options = ls_table,
    .run = run_snapshot_ls,
};
