/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine du`: what the store takes on disk. */
#include <stdio.h>
#include <time.h>

#include "cli/command.h"
#include "cli/format.h"
#include "cli/json.h"
#include "cli/record.h"
#include "cli/table.h"

struct du_options {
    bool json, verbose;
};

#define AT(field) offsetof(struct du_options, field)

static const struct option_def du_table[] = {
    {"json", 0, OPTION_FLAG, AT(json), NULL, "Print all of it as one JSON object"},
    {"verbose", 'v', OPTION_FLAG, AT(verbose), NULL, "Show what the store is made of, too"},
    {0},
};

static void add_size(struct table *t, uint64_t bytes)
{
    char text[FORMAT_SIZE];

    table_add(t, format_size(text, bytes));
}

static void print_images(const struct sm_image_usage *list)
{
    struct table t = {.columns = 5};
    int64_t now = time(NULL);
    char text[FORMAT_SIZE];

    table_add(&t, "IMAGE");
    table_add(&t, "IMAGE ID");
    table_add(&t, "UNIQUE");
    table_add(&t, "SHARED");
    table_add(&t, "USED");
    for (; list; list = list->next) {
        table_add(&t, list->name ? list->name : "<none>");
        table_add(&t, format_id(text, list->id));
        add_size(&t, list->unique_bytes);
        add_size(&t, list->shared_bytes);
        table_add(&t, list->used ? format_ago(text, list->used, now) : "never");
    }
    table_print(&t);
}

static void print_parts(const struct sm_store_usage *u)
{
    struct table t = {.columns = 3};
    char text[FORMAT_SIZE];
    const struct {
        const char *name;
        uint32_t count;
        uint64_t bytes;
    } parts[] = {
        {"converted layers", u->layers, u->layer_bytes},
        {"merged file systems", u->file_systems, u->file_system_bytes},
        {"snapshots", u->snapshots, u->snapshot_bytes},
        {"documents and compressed layers", u->blobs, u->blob_bytes},
        {"halves of cut pulls", u->partials, u->partial_bytes},
    };

    table_add(&t, "PART");
    table_add(&t, "COUNT");
    table_add(&t, "SIZE");
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        table_add(&t, parts[i].name);
        snprintf(text, sizeof(text), "%u", parts[i].count);
        table_add(&t, text);
        add_size(&t, parts[i].bytes);
    }
    table_print(&t);
}

static void print_json(const struct sm_store_usage *u, const struct sm_image_usage *list)
{
    fputs("{\"images\":[", stdout);
    for (; list; list = list->next) {
        fputs("{\"name\":", stdout);
        list->name ? json_string(stdout, list->name) : (void)fputs("null", stdout);
        fputs(",\"id\":", stdout);
        json_string(stdout, list->id);
        putchar(',');
        time_json(stdout, "used", list->used);
        printf(",\"unique_bytes\":%llu,\"shared_bytes\":%llu}%s", (unsigned long long)list->unique_bytes,
               (unsigned long long)list->shared_bytes, list->next ? "," : "");
    }
    printf("],\"layers\":{\"count\":%u,\"bytes\":%llu},\"file_systems\":{\"count\":%u,\"bytes\":%llu}", u->layers,
           (unsigned long long)u->layer_bytes, u->file_systems, (unsigned long long)u->file_system_bytes);
    printf(",\"blobs\":{\"count\":%u,\"bytes\":%llu},\"partials\":{\"count\":%u,\"bytes\":%llu}", u->blobs,
           (unsigned long long)u->blob_bytes, u->partials, (unsigned long long)u->partial_bytes);
    printf(",\"snapshots\":{\"count\":%u,\"bytes\":%llu}", u->snapshots, (unsigned long long)u->snapshot_bytes);
    printf(",\"total_bytes\":%llu,\"reclaimable_bytes\":%llu}\n", (unsigned long long)u->total_bytes,
           (unsigned long long)u->reclaimable_bytes);
}

static int run_du(int argc, char **argv)
{
    struct sm_store_usage total = {.size = sizeof(total)};
    char all[FORMAT_SIZE], reclaimable[FORMAT_SIZE];
    struct sm_error err = SM_ERROR_INIT;
    struct du_options o = {0};
    struct sm_image_usage *list;
    struct sm_store *store;
    int first, code, r;

    if (!command_options(&command_du, argc, argv, &o, &first, &code))
        return code;
    if (first < argc)
        return complain("du: '%s' is one word too many", argv[first]);
    code = store_open(&store);
    if (code)
        return code;
    r = sm_store_usage(&list, store, &total, &err);
    sm_store_free(store);
    if (r < 0)
        return complain("%s", err.text);
    if (o.json) {
        print_json(&total, list);
    } else {
        print_images(list);
        putchar('\n');
        if (o.verbose) {
            print_parts(&total);
            putchar('\n');
        }
        printf("Total %s; 'supermachine prune' would free %s.\n", format_size(all, total.total_bytes),
               format_size(reclaimable, total.reclaimable_bytes));
    }
    sm_image_usages_free(list);
    return 0;
}

const struct command command_du = {
    .name = "du",
    .operands = "",
    .summary = "show what the store takes on disk",
    .about =
        "Shows for each image how much of the disk it takes alone (what its removal would free, its snapshots among "
        "it) and together with others, and the store's whole size. Images share layers, converted and compressed. "
        "'supermachine snapshot ls' tells the size of each snapshot.",
    .options = du_table,
    .run = run_du,
};
