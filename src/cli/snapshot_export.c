/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine snapshot export`: a snapshot as an archive. */
#include "cli/command.h"
#include "cli/progress.h"
#include "cli/record.h"
#include "cli/target.h"

struct export_options {
    bool quiet;
    const char *output;
};

#define AT(field) offsetof(struct export_options, field)

static const struct option_def export_table[] = {
    {"output", 'o', OPTION_STRING, AT(output), "FILE",
     "Write to this file instead of standard output; it is there when it is complete"},
    {"quiet", 'q', OPTION_FLAG, AT(quiet), NULL, "Show no progress"},
    {0},
};

static int export(const struct export_options *o, struct sm_store *store, const char *name, struct target *t)
{
    struct sm_snapshot_options options = SM_SNAPSHOT_OPTIONS_INIT;
    struct sm_error err = SM_ERROR_INIT;
    struct progress progress = {0};

    progress_begin(&progress, o->quiet, name, &options.event, &options.event_ctx);
    if (sm_snapshot_export(store, name, t->fd, &options, &err) < 0) {
        target_drop(t); /* after Ctrl-C nobody else does */
        return progress_failed(&progress, &err);
    }
    progress_end(&progress);
    return 0;
}

static int run_snapshot_export(int argc, char **argv)
{
    struct export_options o = {0};
    struct sm_store *store;
    struct target target;
    int first, code;

    if (!command_options(&command_snapshot_export, argc, argv, &o, &first, &code))
        return code;
    if (argc - first != 1)
        return complain("snapshot export: name one snapshot. See 'supermachine snapshot export --help'");
    code = store_open(&store);
    if (code)
        return code;
    code = target_open(&target, "snapshot export", o.output);
    if (code == 0)
        code = target_close(&target, export(&o, store, argv[first], &target));
    sm_store_free(store);
    return code;
}

static const char *const export_notes[] = {
    "EXAMPLES",
    "supermachine snapshot export -o web.tar 5d3c\n\n"
    "supermachine snapshot export ./web-1 | ssh there supermachine snapshot import",
    NULL,
};

const struct command command_snapshot_export = {
    .name = "snapshot export",
    .operands = "SNAPSHOT",
    .summary = "write a snapshot to an archive",
    .about = "Writes a snapshot (of the store, or in a directory) as a tar. It is whole then: with what its base has, "
             "where it has one. The image that it is of is not in it; 'supermachine save' takes that along.",
    .options = export_table,
    .notes = export_notes,
    .run = run_snapshot_export,
};
