/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine tag`: a further name for an image. */
#include "cli/command.h"
#include "cli/record.h"

static const struct option_def tag_table[] = {{0}};

static int run_tag(int argc, char **argv)
{
    struct sm_error err = SM_ERROR_INIT;
    struct sm_store *store;
    int first, code, r;

    if (!command_options(&command_tag, argc, argv, NULL, &first, &code))
        return code;
    if (argc - first != 2)
        return complain("tag: name an image and its new name. See 'supermachine tag --help'");
    code = store_open(&store);
    if (code)
        return code;
    r = sm_store_tag(store, argv[first], argv[first + 1], &err);
    sm_store_free(store);
    return r < 0 ? complain("%s", err.text) : 0;
}

const struct command command_tag = {
    .name = "tag",
    .operands = "IMAGE NAME",
    .summary = "give an image a further name",
    .about = "Gives IMAGE (a name, or an id of 'supermachine images') the name NAME, too. When another image has that "
             "name, it loses it.",
    .options = tag_table,
    .run = run_tag,
};
