/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine fsck`: is the store right, and if not, make it so. */
#include <stdio.h>
#include <stdlib.h>

#include "cli/command.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/record.h"
#include "cli/registry_args.h"

#define EXIT_PROBLEMS 1

struct fsck_options {
    bool json, repair;
    struct registry_args registry;
};

#define AT(field) offsetof(struct fsck_options, field)

static const struct option_def fsck_table[] = {
    {"json", 0, OPTION_FLAG, AT(json), NULL, "Print what was found as one JSON object"},
    {"repair", 0, OPTION_FLAG, AT(repair), NULL,
     "Remove what is damaged, and fetch images that lack something from their registries again"},
    REGISTRY_OPTIONS(struct fsck_options),
    {0},
};

/* Problems are kept until the progress is wiped. */
struct report {
    bool json;
    char *text;
    size_t len;
    FILE *f;
    unsigned n;
};

static void on_problem(void *ctx, const struct sm_store_problem *p)
{
    struct report *report = ctx;

    if (!report->json) {
        fprintf(report->f, "%s: %s%s\n", p->object, p->text, p->removed ? " (removed)" : "");
        return;
    }
    fputs(report->n++ ? ",{\"object\":" : "{\"object\":", report->f);
    json_string(report->f, p->object);
    fputs(",\"text\":", report->f);
    json_string(report->f, p->text);
    fprintf(report->f, ",\"removed\":%s}", p->removed ? "true" : "false");
}

static void print_report(const struct report *report, const struct fsck_options *o, const struct sm_fsck_result *r)
{
    const char *word = r->problems == 1 ? "problem" : "problems";

    if (o->json) {
        printf("{\"checked\":%u,\"problems\":%u,\"unrepaired\":%u,\"unproven\":%u,\"found\":[%s]}\n", r->checked,
               r->problems, r->unrepaired, r->unproven, report->text);
        return;
    }
    fputs(report->text, stdout);
    printf("%u objects checked", r->checked);
    if (r->unproven)
        printf(" (%u by structure only: what they were made from is not in the store)", r->unproven);
    fputs(", ", stdout);
    if (!r->problems)
        puts("all right.");
    else if (!r->unrepaired)
        printf("%u %s found, all repaired.\n", r->problems, word);
    else
        printf("%u %s found, %u left%s.\n", r->problems, word, r->unrepaired,
               o->repair ? "" : ": 'supermachine fsck --repair' repairs what can be");
}

static int check(const struct fsck_options *o, struct sm_store *store)
{
    struct sm_fsck_options options = SM_FSCK_OPTIONS_INIT;
    struct sm_fsck_result result = {.size = sizeof(result)};
    struct report report = {.json = o->json};
    struct sm_registry_options registry;
    struct sm_error err = SM_ERROR_INIT;
    struct progress progress = {0};
    int r;

    report.f = open_memstream(&report.text, &report.len);
    if (!report.f)
        return complain("out of memory");
    registry_args_fill(&registry, &o->registry);
    options.repair = o->repair;
    options.registry = &registry;
    options.problem = on_problem;
    options.problem_ctx = &report;
    progress_begin(&progress, false, sm_store_path(store), &options.event, &options.event_ctx);
    r = sm_store_fsck(store, &options, &result, &err);
    fclose(report.f);
    if (r < 0) {
        free(report.text);
        return progress_failed(&progress, &err);
    }
    progress_end(&progress);
    print_report(&report, o, &result);
    free(report.text);
    return result.unrepaired ? EXIT_PROBLEMS : 0;
}

static int run_fsck(int argc, char **argv)
{
    struct fsck_options o = {0};
    struct sm_store *store;
    int first, code;

    if (!command_options(&command_fsck, argc, argv, &o, &first, &code))
        return code;
    if (first < argc)
        return complain("fsck: '%s' is one word too many", argv[first]);
    code = store_open(&store);
    if (code)
        return code;
    code = check(&o, store);
    sm_store_free(store);
    return code;
}

static const char *const fsck_notes[] = {REGISTRY_NOTES, NULL};

const struct command command_fsck = {
    .name = "fsck",
    .operands = "",
    .summary = "check the store, and repair it",
    .about = "Checks every byte of the store, images and snapshots, against its digest and prints what is not right. "
             "Others may use the store "
             "meanwhile.\n\nExits with 1 when something is left that is not right.",
    .options = fsck_table,
    .notes = fsck_notes,
    .run = run_fsck,
};
