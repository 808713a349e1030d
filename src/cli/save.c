/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine save`: images as an archive. */
#include "cli/command.h"
#include "cli/progress.h"
#include "cli/record.h"
#include "cli/registry_args.h"
#include "cli/target.h"

struct save_options {
    bool quiet;
    const char *output, *platform;
    struct registry_args registry;
};

#define AT(field) offsetof(struct save_options, field)

static const struct option_def save_table[] = {
    {"output", 'o', OPTION_STRING, AT(output), "FILE",
     "Write to this file instead of standard output; it is there when it is complete"},
    {"platform", 0, OPTION_STRING, AT(platform), "OS/ARCH[/VARIANT]",
     "Choose this platform of each image (default: this host's)"},
    {"quiet", 'q', OPTION_FLAG, AT(quiet), NULL, "Show no progress"},
    REGISTRY_OPTIONS(struct save_options),
    {0},
};

static int save(const struct save_options *o, struct sm_store *store, char **names, struct target *t)
{
    struct sm_save_options options = SM_SAVE_OPTIONS_INIT;
    struct sm_registry_options registry;
    struct sm_error err = SM_ERROR_INIT;
    struct progress progress = {0};

    registry_args_fill(&registry, &o->registry);
    options.registry = &registry;
    options.platform = o->platform;
    progress_begin(&progress, o->quiet, names[0], &options.event, &options.event_ctx);
    if (sm_store_save(store, (const char *const *)names, t->fd, &options, &err) < 0) {
        target_drop(t); /* after Ctrl-C nobody else does */
        return progress_failed(&progress, &err);
    }
    progress_end(&progress);
    return 0;
}

static int run_save(int argc, char **argv)
{
    struct save_options o = {0};
    struct sm_store *store;
    struct target target;
    int first, code;

    if (!command_options(&command_save, argc, argv, &o, &first, &code))
        return code;
    if (first == argc)
        return complain("save: which image? See 'supermachine save --help'");
    code = store_open(&store);
    if (code)
        return code;
    code = target_open(&target, "save", o.output);
    if (code == 0)
        code = target_close(&target, save(&o, store, argv + first, &target));
    sm_store_free(store);
    return code;
}

static const char *const save_notes[] = {
    REGISTRY_NOTES,
    "EXAMPLES",
    "supermachine save -o app.tar app:1.2 nginx\n\n"
    "supermachine save app:1.2 | ssh host supermachine load",
    NULL,
};

const struct command command_save = {
    .name = "save",
    .operands = "IMAGE...",
    .summary = "write images to an archive",
    .about =
        "Writes images to one OCI archive (a tar), which supermachine, skopeo, podman and Docker load. Manifests are "
        "written byte for byte as they came, so digests stay; the same images give the same archive.\n\nLayers "
        "that the store keeps only in converted form are fetched from the image's registry.",
    .options = save_table,
    .notes = save_notes,
    .run = run_save,
};
