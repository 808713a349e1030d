/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine bake`: have the snapshot that later runs of an image restore. */
#include <stdio.h>
#include <string.h>

#include "cli/json.h"
#include "cli/record.h"
#include "cli/snapshots.h"
#include "cli/start_args.h"
#include "cli/steps.h"

struct bake_options {
    bool force, json, verbose;
    struct start_args start;
};

#define AT(field) offsetof(struct bake_options, field)

static const struct option_def bake_table[] = {
    {"force", 'f', OPTION_FLAG, AT(force), NULL, "Bake anew where there is a snapshot already, and replace that"},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "Print what was made as one JSON object"},
    {"verbose", 'v', OPTION_FLAG, AT(verbose), NULL, "Tell on standard error what is done"},
    START_OPTIONS(struct bake_options),
    {0},
};

static int make(struct bake_options *o, const char *ref, struct sm_image *image, char **argv,
                struct sm_bake_result *result)
{
    struct sm_exec_config command = SM_EXEC_CONFIG_INIT;
    struct sm_bake_config bake = SM_BAKE_CONFIG_INIT;
    struct sm_vm_config config = SM_VM_CONFIG_INIT;
    struct sm_error err = SM_ERROR_INIT;
    struct steps steps;
    int r, code;

    start_args_command(&o->start, argv, &command);
    code = start_args_machine(&o->start, &command, &config, &bake);
    if (code)
        return code;
    bake.force = o->force;
    steps_begin(&steps, o->start.quiet, o->verbose, ref, &config);
    r = sm_image_bake(image, &config, result, &err);
    steps_end(&steps);
    return r < 0 ? complain("%s", err.text) : 0;
}

static void print_json(const struct sm_bake_result *r, const struct sm_snapshot_record *snapshot)
{
    fputs("{\"key\":", stdout);
    json_string(stdout, r->key);
    printf(",\"baked\":%s,\"duration_ms\":%.3f,\"pause_ms\":%.3f,\"line\":", r->baked ? "true" : "false",
           (double)r->duration_ns / 1e6, (double)r->pause_ns / 1e6);
    json_string(stdout, r->line);
    fputs(",\"snapshot\":", stdout);
    snapshot ? snapshot_json(stdout, snapshot) : (void)fputs("null", stdout);
    puts("}");
}

static void print_text(const struct sm_bake_result *r, const struct sm_snapshot_record *snapshot)
{
    char size[FORMAT_SIZE], base[FORMAT_SIZE];

    if (r->baked)
        printf("%s baked in %.2f s; it stood still for %.1f ms\n", r->key, (double)r->duration_ns / 1e9,
               (double)r->pause_ns / 1e6);
    else
        printf("%s was there already\n", r->key);
    if (r->line[0])
        puts(r->line);
    if (snapshot && snapshot->base)
        printf("%s on disk, a difference to the base %s\n", format_size(size, snapshot->disk_bytes),
               snapshot_short(base, snapshot->base));
    else if (snapshot)
        printf("%s on disk\n", format_size(size, snapshot->disk_bytes));
}

/* What was made, as the store has it now: another process may have removed it. */
static int print_result(const struct bake_options *o, const struct sm_bake_result *r)
{
    struct sm_snapshot_record *list, *found;
    struct sm_error err = SM_ERROR_INIT;
    struct sm_store *store;
    int res, code = store_open(&store);

    if (code)
        return code;
    res = sm_snapshot_list(&list, store, &err);
    sm_store_free(store);
    if (res < 0)
        return complain("%s", err.text);
    for (found = list; found && strcmp(found->key, r->key) != 0; found = found->next)
        ;
    o->json ? print_json(r, found) : print_text(r, found);
    sm_snapshot_records_free(list);
    return 0;
}

static int run_bake(int argc, char **argv)
{
    struct sm_bake_result result = {.size = sizeof(result)};
    struct sm_image *image = NULL;
    struct bake_options o = {0};
    int first, code;

    if (!command_options(&command_bake, argc, argv, &o, &first, &code))
        goto out;
    if (first == argc) {
        code = complain("bake: which image? See 'supermachine bake --help'");
        goto out;
    }
    code = start_args_read(&o.start);
    if (code == 0)
        code = start_args_open(&o.start, argv[first], &image);
    if (code == 0)
        code = make(&o, argv[first], image, argv + first + 1, &result);
    if (code == 0)
        code = print_result(&o, &result);
out:
    sm_image_free(image);
    start_args_done(&o.start);
    return code;
}

static const char *const bake_notes[] = {
    TRIGGER_NOTES,
    "EXAMPLES",
    "supermachine bake nginx\n\n"
    "supermachine bake --trigger listener --require-listener -m 1g app serve\n\n"
    "supermachine bake --warmup 'app --self-test' --tag warm --extra-file ./app.conf:/etc/app.conf app",
    REGISTRY_NOTES,
    NULL,
};

const struct command command_bake = {
    .name = "bake",
    .operands = "IMAGE [COMMAND [ARG...]]",
    .summary = "make the snapshot that runs start from",
    .about =
        "Brings a machine with IMAGE to the point from which runs shall start, saves it there, and prints the "
        "snapshot's key. 'supermachine run' with the same options restores it; it bakes by itself what it does not "
        "find, so that this command is for doing it ahead of time, with a warm-up, or anew.\n\nCOMMAND is what a "
        "snapshot that holds a running command is of; the pre-exec trigger needs none.",
    .options = bake_table,
    .passes_on = true,
    .notes = bake_notes,
    .run = run_bake,
};
