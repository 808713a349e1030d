/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine snapshot import`: a snapshot out of an archive. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/progress.h"
#include "cli/record.h"
#include "cli/snapshots.h"

struct import_options {
    bool force, json, quiet;
    const char *dest;
};

#define AT(field) offsetof(struct import_options, field)

static const struct option_def import_table[] = {
    {"dest", 'd', OPTION_STRING, AT(dest), "DIR", "Make this directory of it, instead of taking it into the store"},
    {"force", 'f', OPTION_FLAG, AT(force), NULL, "Replace a snapshot that is there already"},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "Print what was taken in as one JSON object"},
    {"quiet", 'q', OPTION_FLAG, AT(quiet), NULL, "Show no progress"},
    {0},
};

static int import(const struct import_options *o, struct sm_store *store, const char *label, int fd)
{
    struct sm_snapshot_options options = SM_SNAPSHOT_OPTIONS_INIT;
    struct sm_snapshot_record *record;
    struct sm_error err = SM_ERROR_INIT;
    struct progress progress = {0};

    options.force = o->force;
    options.dest = o->dest;
    progress_begin(&progress, o->quiet, label, &options.event, &options.event_ctx);
    if (sm_snapshot_import(&record, store, fd, &options, &err) < 0)
        return progress_failed(&progress, &err);
    progress_end(&progress);
    if (o->json) {
        snapshot_json(stdout, record);
        putchar('\n');
    } else {
        puts(o->dest ? o->dest : record->key);
    }
    sm_snapshot_records_free(record);
    return 0;
}

static int run_snapshot_import(int argc, char **argv)
{
    struct import_options o = {0};
    struct sm_store *store;
    const char *file;
    int first, code, fd = STDIN_FILENO;

    if (!command_options(&command_snapshot_import, argc, argv, &o, &first, &code))
        return code;
    if (argc - first > 1)
        return complain("snapshot import: one FILE at most. See 'supermachine snapshot import --help'");
    file = first < argc && strcmp(argv[first], "-") != 0 ? argv[first] : NULL;
    if (!file && isatty(STDIN_FILENO))
        return complain("snapshot import: an archive does not come from a terminal: name it, or redirect standard "
                        "input");
    if (file)
        fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return complain("cannot open '%s': %s", file, strerror(errno));
    code = store_open(&store);
    if (code == 0) {
        code = import(&o, store, file ? file : "standard input", fd);
        sm_store_free(store);
    }
    if (file)
        close(fd);
    return code;
}

const struct command command_snapshot_import = {
    .name = "snapshot import",
    .operands = "[FILE]",
    .summary = "take a snapshot from an archive",
    .about =
        "Reads what 'supermachine snapshot export' wrote, from FILE or standard input, and puts it into the store, "
        "or to a directory; prints its key, or that directory. All of it is checked first; when something is "
        "wrong, nothing is taken in.\n\nIt is as trusted as what is run: a snapshot is a machine's memory.",
    .options = import_table,
    .run = run_snapshot_import,
};
