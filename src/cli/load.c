/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine load`: images out of an archive. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/progress.h"
#include "cli/record.h"

struct load_options {
    bool json, quiet;
    const char *input, *name, *platform;
};

#define AT(field) offsetof(struct load_options, field)

static const struct option_def load_table[] = {
    {"input", 'i', OPTION_STRING, AT(input), "FILE", "Read this file instead of standard input"},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "Print what was loaded as one JSON document, an array"},
    {"name", 0, OPTION_STRING, AT(name), "NAME",
     "Give the image this name instead of the archive's; for an archive of one image"},
    {"platform", 0, OPTION_STRING, AT(platform), "OS/ARCH[/VARIANT]",
     "Choose this platform of each image (default: this host's)"},
    {"quiet", 'q', OPTION_FLAG, AT(quiet), NULL, "Show no progress"},
    {0},
};

static int load(const struct load_options *o, struct sm_store *store, int fd)
{
    struct sm_load_options options = SM_LOAD_OPTIONS_INIT;
    struct sm_error err = SM_ERROR_INIT;
    struct progress progress = {0};
    struct sm_image_record *list;

    options.file = o->input;
    options.name = o->name;
    options.platform = o->platform;
    progress_begin(&progress, o->quiet, o->input ? o->input : "standard input", &options.event, &options.event_ctx);
    if (sm_store_load(&list, store, fd, &options, &err) < 0)
        return progress_failed(&progress, &err);
    progress_end(&progress);
    if (o->json) {
        records_json(stdout, list);
        putchar('\n');
    }
    for (const struct sm_image_record *r = list; r && !o->json; r = r->next)
        r->name ? printf("Loaded image: %s\n", r->name) : printf("Loaded image ID: %s\n", r->id);
    sm_image_records_free(list);
    return 0;
}

static int run_load(int argc, char **argv)
{
    struct load_options o = {0};
    struct sm_store *store;
    int first, code, fd = STDIN_FILENO;

    if (!command_options(&command_load, argc, argv, &o, &first, &code))
        return code;
    if (first < argc)
        return complain("load: '%s' is one word too many: name the archive with -i", argv[first]);
    if (!o.input && isatty(STDIN_FILENO))
        return complain("load: an archive does not come from a terminal: name it with -i, or redirect standard input");
    if (o.input)
        fd = open(o.input, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return complain("cannot open '%s': %s", o.input, strerror(errno));
    code = store_open(&store);
    if (code == 0) {
        code = load(&o, store, fd);
        sm_store_free(store);
    }
    if (o.input)
        close(fd);
    return code;
}

static const char *const load_notes[] = {
    "EXAMPLES",
    "docker save app | supermachine load\n\n"
    "supermachine load -i app.tar --name app:1.2",
    NULL,
};

const struct command command_load = {
    .name = "load",
    .operands = "",
    .summary = "take images from an archive into the store",
    .about = "Reads an archive (a tar, also compressed with gzip or zstd) and puts its images into the store: what "
             "'docker save' or 'supermachine save' wrote, or another OCI archive. Every byte is checked against its "
             "digest; when something is wrong, nothing is loaded.",
    .options = load_table,
    .notes = load_notes,
    .run = run_load,
};
