/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine pull`: an image from its registry into the store. */
#include <stdio.h>

#include "cli/command.h"
#include "cli/progress.h"
#include "cli/record.h"
#include "cli/registry_args.h"

struct pull_options {
    bool json, quiet;
    const char *platform;
    struct registry_args registry;
};

#define AT(field) offsetof(struct pull_options, field)

static const struct option_def pull_table[] = {
    {"json", 0, OPTION_FLAG, AT(json), NULL, "Print what was pulled as one JSON object"},
    {"platform", 0, OPTION_STRING, AT(platform), "OS/ARCH[/VARIANT]",
     "Choose this platform of the image (default: this host's)"},
    {"quiet", 'q', OPTION_FLAG, AT(quiet), NULL, "Print the image's name only, and no progress"},
    REGISTRY_OPTIONS(struct pull_options),
    {0},
};

static void print_result(const struct pull_options *o, const struct sm_image_record *r,
                         const struct sm_pull_result *result)
{
    if (o->json) {
        fputs("{\"image\":", stdout);
        record_json(stdout, r);
        printf(",\"up_to_date\":%s,\"fetched_bytes\":%llu}\n", result->up_to_date ? "true" : "false",
               (unsigned long long)result->fetched_bytes);
        return;
    }
    if (!o->quiet) {
        printf("Digest: %s\n", r->digest);
        printf("Status: %s for %s\n", result->up_to_date ? "Image is up to date" : "Downloaded newer image",
               record_title(r));
    }
    puts(record_title(r));
}

static int pull(const struct pull_options *o, struct sm_store *store, const char *name)
{
    struct sm_pull_options options = SM_PULL_OPTIONS_INIT;
    struct sm_pull_result result = {.size = sizeof(result)};
    struct sm_registry_options registry;
    struct sm_error err = SM_ERROR_INIT;
    struct progress progress = {0};
    struct sm_image_record *record;
    int r;

    registry_args_fill(&registry, &o->registry);
    options.registry = &registry;
    options.platform = o->platform;
    progress_begin(&progress, o->quiet, name, &options.event, &options.event_ctx);
    r = sm_store_pull(&record, store, name, &options, &result, &err);
    if (r < 0)
        return progress_failed(&progress, &err);
    progress_finish(&progress);
    print_result(o, record, &result);
    sm_image_records_free(record);
    return 0;
}

static int run_pull(int argc, char **argv)
{
    struct pull_options o = {0};
    struct sm_store *store;
    int first, code;

    if (!command_options(&command_pull, argc, argv, &o, &first, &code))
        return code;
    if (argc - first != 1)
        return complain("pull: name one image. See 'supermachine pull --help'");
    code = store_open(&store);
    if (code)
        return code;
    code = pull(&o, store, argv[first]);
    sm_store_free(store);
    return code;
}

static const char *const pull_notes[] = {
    REGISTRY_NOTES,
    "EXAMPLES",
    "supermachine pull nginx\n\n"
    "supermachine pull --platform linux/arm64 registry.example:5000/team/app:1.2\n\n"
    "supermachine pull app@sha256:6d1e...",
    NULL,
};

const struct command command_pull = {
    .name = "pull",
    .operands = "NAME",
    .summary = "fetch an image from its registry",
    .about = "Fetches an image into the store and converts it. NAME is as for Docker: nginx, nginx:1.27, user/app, "
             "host:5000/path/app:tag, name@sha256:...; without a host it is Docker Hub's, without a tag its "
             "\"latest\".\n\nWhat the store has already is not fetched again: when NAME has not changed, one request "
             "tells. A pull that was cut, with Ctrl-C or otherwise, goes on where it was when it is done again. An "
             "image that had the name before stays in the store without one (see prune).",
    .options = pull_table,
    .notes = pull_notes,
    .run = run_pull,
};
