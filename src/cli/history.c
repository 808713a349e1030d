/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine history`: how an image was made. */
#include <stdio.h>
#include <time.h>

#include "cli/command.h"
#include "cli/format.h"
#include "cli/json.h"
#include "cli/record.h"
#include "cli/table.h"

#define SHOWN_STEP 45 /* characters of what made a layer, unless --no-trunc */

struct history_options {
    bool json, no_trunc;
    const char *platform;
};

#define AT(field) offsetof(struct history_options, field)

static const struct option_def history_table[] = {
    {"json", 0, OPTION_FLAG, AT(json), NULL, "Print one JSON document, an array"},
    {"no-trunc", 0, OPTION_FLAG, AT(no_trunc), NULL, "Don't shorten anything"},
    {"platform", 0, OPTION_STRING, AT(platform), "OS/ARCH[/VARIANT]",
     "Choose this platform of the image (default: this host's)"},
    {0},
};

static void print_table(const struct history_options *o, const struct sm_history_entry *list)
{
    static const char *const heads[] = {"LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT"};
    struct table t = {.columns = 5};
    int64_t now = time(NULL);
    char text[FORMAT_SIZE];

    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
        table_add(&t, heads[i]);
    for (; list; list = list->next) {
        table_add(&t, !list->layer ? "<none>" : o->no_trunc ? list->layer : format_id(text, list->layer));
        table_add(&t, format_ago(text, list->created, now));
        table_add_cut(&t, list->created_by, o->no_trunc ? 0 : SHOWN_STEP);
        table_add(&t, format_size(text, list->size));
        table_add(&t, list->comment);
    }
    table_print(&t);
}

static void print_json(const struct sm_history_entry *list)
{
    putchar('[');
    for (const struct sm_history_entry *e = list; e; e = e->next) {
        fputs("{\"layer\":", stdout);
        e->layer ? json_string(stdout, e->layer) : (void)fputs("null", stdout);
        putchar(',');
        time_json(stdout, "created", e->created);
        fputs(",\"created_by\":", stdout);
        json_string(stdout, e->created_by);
        fputs(",\"comment\":", stdout);
        json_string(stdout, e->comment);
        printf(",\"size\":%llu}%s", (unsigned long long)e->size, e->next ? "," : "");
    }
    puts("]");
}

static int run_history(int argc, char **argv)
{
    struct history_options o = {0};
    struct sm_error err = SM_ERROR_INIT;
    struct sm_history_entry *list;
    struct sm_store *store;
    int first, code, r;

    if (!command_options(&command_history, argc, argv, &o, &first, &code))
        return code;
    if (argc - first != 1)
        return complain("history: name one image. See 'supermachine history --help'");
    code = store_open(&store);
    if (code)
        return code;
    r = sm_store_history(&list, store, argv[first], o.platform, &err);
    sm_store_free(store);
    if (r < 0)
        return complain("%s", err.text);
    o.json ? print_json(list) : print_table(&o, list);
    sm_history_free(list);
    return 0;
}

const struct command command_history = {
    .name = "history",
    .operands = "IMAGE",
    .summary = "show how an image was made",
    .about = "Shows the steps that made IMAGE (a name, or an id), by its own word, the newest first. SIZE is the "
             "compressed layer's that a step made.",
    .options = history_table,
    .run = run_history,
};
