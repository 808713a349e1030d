/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine snapshot`: the group; what is done is in snapshot_*.c. */
#include "cli/command.h"

static const struct option_def snapshot_table[] = {{0}};

static int run_snapshot(int argc, char **argv)
{
    int first, code;

    if (!command_options(&command_snapshot, argc, argv, NULL, &first, &code))
        return code;
    if (first < argc)
        return complain("snapshot: there is no command 'snapshot %s': see 'supermachine snapshot --help'", argv[first]);
    return complain("snapshot: what is to be done? See 'supermachine snapshot --help'");
}

static const char *const snapshot_notes[] = {
    "EXAMPLES",
    "supermachine run --name web app &\n\n"
    "supermachine snapshot create web ./web-1\n\n"
    "supermachine run --snapshot ./web-1\n\n"
    "supermachine snapshot export 5d3c | ssh there supermachine snapshot import",
    NULL,
};

const struct command command_snapshot = {
    .name = "snapshot",
    .operands = "COMMAND ...",
    .summary = "save machines, and keep snapshots",
    .about = "Snapshots are saved machines: those that 'supermachine run' and 'supermachine bake' make of images, and "
             "those of machines that run. 'supermachine run --snapshot' starts from one.\n\nIn the store a snapshot is "
             "named by its key, or the first digits of it. docs/snapshots.md tells more.",
    .options = snapshot_table,
    .passes_on = true,
    .notes = snapshot_notes,
    .group = true,
    .run = run_snapshot,
};
