/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine images`: what is in the store. */
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/command.h"
#include "cli/format.h"
#include "cli/record.h"
#include "cli/table.h"

struct images_options {
    bool all, digests, json, no_trunc, quiet;
};

#define AT(field) offsetof(struct images_options, field)

static const struct option_def images_table[] = {
    {"all", 'a', OPTION_FLAG, AT(all), NULL, "Show images that have no name any more, too"},
    {"digests", 0, OPTION_FLAG, AT(digests), NULL, "Show what each name means in its registry"},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "Print one JSON document, an array"},
    {"no-trunc", 0, OPTION_FLAG, AT(no_trunc), NULL, "Don't shorten ids"},
    {"quiet", 'q', OPTION_FLAG, AT(quiet), NULL, "Print ids only"},
    {0},
};

static bool matches(const struct sm_image_record *r, const char *pattern)
{
    if (!pattern)
        return true;
    return r->name && (fnmatch(pattern, r->name, 0) == 0 || fnmatch(pattern, r->repository, 0) == 0);
}

/* The list without what nobody asked for. */
static struct sm_image_record *filter(struct sm_image_record *list, bool all, const char *pattern)
{
    struct sm_image_record *kept = NULL, **end = &kept, *next;

    for (; list; list = next) {
        next = list->next;
        list->next = NULL;
        if ((all || list->name) && matches(list, pattern)) {
            *end = list;
            end = &list->next;
        } else {
            sm_image_records_free(list);
        }
    }
    return kept;
}

static const char *shown_id(char buf[FORMAT_SIZE], const struct images_options *o, const struct sm_image_record *r)
{
    return o->no_trunc ? r->id : format_id(buf, r->id);
}

/* An image with several names: once. */
static void print_ids(const struct images_options *o, const struct sm_image_record *list)
{
    char id[FORMAT_SIZE];

    for (const struct sm_image_record *r = list; r; r = r->next) {
        const struct sm_image_record *before = list;

        while (before != r && strcmp(before->id, r->id) != 0)
            before = before->next;
        if (before == r)
            puts(shown_id(id, o, r));
    }
}

static void print_table(const struct images_options *o, const struct sm_image_record *list)
{
    static const char *const heads[] = {"REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "PLATFORM", "CREATED", "SIZE"};
    struct table t = {.columns = o->digests ? 7 : 6};
    int64_t now = time(NULL);
    char text[FORMAT_SIZE];

    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
        if (i != 2 || o->digests)
            table_add(&t, heads[i]);
    for (const struct sm_image_record *r = list; r; r = r->next) {
        table_add(&t, r->repository ? r->repository : "<none>");
        table_add(&t, r->tag ? r->tag : "<none>");
        if (o->digests)
            table_add(&t, r->digest);
        table_add(&t, shown_id(text, o, r));
        table_add(&t, r->platform);
        table_add(&t, format_ago(text, r->created, now));
        table_add(&t, r->size ? format_size(text, r->size) : "unknown");
    }
    table_print(&t);
}

static int run_images(int argc, char **argv)
{
    struct images_options o = {0};
    struct sm_error err = SM_ERROR_INIT;
    struct sm_image_record *list;
    struct sm_store *store;
    int first, code;

    if (!command_options(&command_images, argc, argv, &o, &first, &code))
        return code;
    if (argc - first > 1)
        return complain("images: one NAME at most. See 'supermachine images --help'");
    code = store_open(&store);
    if (code)
        return code;
    if (sm_store_list(&list, store, &err) < 0) {
        sm_store_free(store);
        return complain("%s", err.text);
    }
    list = filter(list, o.all, argv[first]);
    if (o.json) {
        records_json(stdout, list);
        putchar('\n');
    } else if (o.quiet) {
        print_ids(&o, list);
    } else {
        print_table(&o, list);
    }
    sm_image_records_free(list);
    sm_store_free(store);
    return 0;
}

const struct command command_images = {
    .name = "images",
    .operands = "[NAME]",
    .summary = "list the images of the store",
    .about = "Lists the images of the store. With NAME only those of that repository (\"nginx\") or name "
             "(\"nginx:1.27\"); '*' and '?' stand for anything.\n\nCREATED is when the image was built, by its own "
             "word. SIZE is what a registry sends of it: compressed layers and documents. What images take on this "
             "disk, and what they share, 'supermachine du' tells.",
    .options = images_table,
    .run = run_images,
};
