/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `supermachine help`: help texts, manual pages and shell completion.
 *
 * Theory of operation
 *
 * What: all of it comes from the command and option tables, so that it can't say what is not so. Options are told by
 * name, whatever their order in a table, which may be put together of parts that commands share. A command below
 * another ("snapshot ls") has its own help and manual page; its group's lists it.
 *
 * Limits: OPTIONS_MAX in a table, as options.c has it.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"

#define HELP_COLUMN     30 /* where an option's sentence begins */
#define HELP_WIDTH      100
#define OVERVIEW_COLUMN 60
#define OPTIONS_MAX     64

struct help_options {
    bool man;
    const char *completion;
};

static const struct option_def help_table[] = {
    {"man", 0, OPTION_FLAG, offsetof(struct help_options, man), NULL, "Print the manual page, as roff"},
    {"completion", 0, OPTION_STRING, offsetof(struct help_options, completion), "SHELL",
     "Print completion for a shell: bash"},
    {0},
};

/* Words wrapped at HELP_WIDTH, each line from `column`; `at` is where the cursor is. Newlines begin anew. */
static void print_wrapped(const char *text, size_t column, size_t at)
{
    size_t spaces = 0; /* before the next word, unless it begins a line */

    while (*text) {
        size_t word = strcspn(text, " \n");

        if (word && at + spaces + word > HELP_WIDTH && at > column) {
            printf("\n%*s", (int)column, "");
            at = column;
            spaces = 0;
        }
        if (word)
            printf("%*s%.*s", (int)spaces, "", (int)word, text);
        at += word ? spaces + word : 0;
        text += word;
        spaces = 0;
        for (; *text == ' ' || *text == '\n'; text++) {
            if (*text == ' ') {
                spaces++;
                continue;
            }
            printf("\n%*s", text[1] != '\n' ? (int)column : 0, "");
            at = column;
        }
    }
    putchar('\n');
}

static void print_option(const struct option_def *def)
{
    char left[80];
    char letter[8] = "      ";
    size_t n;

    if (def->letter)
        snprintf(letter, sizeof(letter), "  -%c, ", def->letter);
    n = (size_t)snprintf(left, sizeof(left), "%s--%s", letter, def->name);
    if (def->arg)
        n += (size_t)snprintf(left + n, sizeof(left) - n, " %s", def->arg);
    fputs(left, stdout);
    if (n + 2 > HELP_COLUMN)
        printf("\n%*s", HELP_COLUMN, "");
    else
        printf("%*s", (int)(HELP_COLUMN - n), "");
    print_wrapped(def->help, HELP_COLUMN, HELP_COLUMN);
}

static const struct option_def help_option = {"help", 'h', OPTION_ACCEPTED, 0, NULL, "Print this help"};

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const struct option_def *const *)a)->name, (*(const struct option_def *const *)b)->name);
}

/* A table's options by name, --help last. Returns how many. */
static size_t sorted_options(const struct option_def *table, const struct option_def *ret[OPTIONS_MAX + 1])
{
    size_t n = 0;

    for (; table->name && n < OPTIONS_MAX; table++)
        ret[n++] = table;
    qsort(ret, n, sizeof(*ret), by_name);
    ret[n++] = &help_option;
    return n;
}

static void print_line_of(const struct command *cmd)
{
    int n = printf("  supermachine %s%s%s", cmd->name, cmd->operands[0] ? " " : "", cmd->operands);

    printf("%*s%s\n", n < OVERVIEW_COLUMN ? OVERVIEW_COLUMN - n : 2, "", cmd->summary);
}

void help_print_command(const struct command *cmd)
{
    const struct option_def *options[OPTIONS_MAX + 1];
    size_t n = sorted_options(cmd->options, options);

    printf("usage: supermachine %s %s%s%s\n\n", cmd->name, cmd->group ? "" : "[OPTION...]",
           cmd->operands[0] && !cmd->group ? " " : "", cmd->operands);
    print_wrapped(cmd->about, 0, 0);
    if (cmd->group) {
        puts("\ncommands:");
        for (const struct command *c = NULL; (c = command_below(cmd, c));)
            print_line_of(c);
    }
    puts("\noptions:");
    for (size_t i = 0; i < n; i++)
        print_option(options[i]);
}

static void print_overview(void)
{
    puts("supermachine runs OCI images as hardware-isolated microVMs.\n\nusage:");
    for (const struct command *const *c = all_commands; *c; c++)
        if (!(*c)->group)
            print_line_of(*c);
    puts("\n'supermachine help COMMAND' tells more about one.");
}

/* ---- Manual pages: man(7) ---- */

/* Text with what roff would take for its own made harmless. */
static void roff_text(const char *text)
{
    bool line_start = true;

    for (; *text; text++) {
        if (line_start && (*text == '.' || *text == '\''))
            fputs("\\&", stdout);
        if (*text == '\\')
            fputs("\\e", stdout);
        else if (*text == '-')
            fputs("\\-", stdout);
        else if (*text == '\n' && text[1] == '\n')
            fputs("\n.PP", stdout);
        else
            putchar(*text);
        line_start = *text == '\n';
    }
    putchar('\n');
}

static void roff_option(const struct option_def *def)
{
    fputs(".TP\n", stdout);
    if (def->letter)
        printf("\\fB\\-%c\\fR, ", def->letter);
    fputs("\\fB\\-\\-", stdout);
    for (const char *p = def->name; *p; p++)
        *p == '-' ? fputs("\\-", stdout) : putchar(*p);
    fputs("\\fR", stdout);
    if (def->arg)
        printf(" \\fI%s\\fR", def->arg);
    putchar('\n');
    roff_text(def->help);
}

/* A command's name as a manual page has it: "supermachine-snapshot-ls". */
static void roff_page(const struct command *cmd, bool upper)
{
    fputs(upper ? "SUPERMACHINE\\-" : "supermachine\\-", stdout);
    for (const char *p = cmd->name; *p; p++)
        *p == ' ' ? fputs("\\-", stdout) : putchar(upper ? toupper((unsigned char)*p) : *p);
}

/* An entry of a list of commands. */
static void roff_command(const struct command *cmd)
{
    printf(".TP\n\\fB%s\\fR\n%s (see ", cmd->name, cmd->summary);
    roff_page(cmd, false);
    puts("(1))");
}

static void print_man(const struct command *cmd)
{
    const struct option_def *options[OPTIONS_MAX + 1];
    size_t n = sorted_options(cmd->options, options);

    printf(".TH ");
    roff_page(cmd, true);
    printf(" 1 \"\" \"supermachine %s\" \"supermachine\"\n", sm_version());
    printf(".SH NAME\n");
    roff_page(cmd, false);
    printf(" \\- %s\n", cmd->summary);
    printf(".SH SYNOPSIS\n\\fBsupermachine %s\\fR %s", cmd->name, cmd->group ? "" : "[\\fIOPTION\\fR...] ");
    roff_text(cmd->operands);
    puts(".SH DESCRIPTION");
    roff_text(cmd->about);
    if (cmd->group)
        puts(".SH COMMANDS");
    for (const struct command *c = NULL; cmd->group && (c = command_below(cmd, c));)
        roff_command(c);
    puts(".SH OPTIONS");
    for (size_t i = 0; i < n; i++)
        roff_option(options[i]);
    for (const char *const *note = cmd->notes; note && note[0]; note += 2) {
        printf(".SH %s\n", note[0]);
        roff_text(note[1]);
    }
}

/* The manual page of the program itself: `help --man` without a command. */
static void print_overview_man(void)
{
    printf(".TH SUPERMACHINE 1 \"\" \"supermachine %s\" \"supermachine\"\n", sm_version());
    puts(".SH NAME\nsupermachine \\- run OCI images as hardware\\-isolated microVMs\n.SH SYNOPSIS\n"
         "\\fBsupermachine\\fR \\fICOMMAND\\fR [\\fIOPTION\\fR...] [\\fIARG\\fR...]\n.SH DESCRIPTION\n"
         "Runs an OCI image in a virtual machine of its own, with a kernel of its own, on KVM.\n.SH COMMANDS");
    for (const struct command *const *c = all_commands; *c; c++)
        roff_command(*c);
}

/* ---- Completion ---- */

/* "'verb:--option') words='one two' ;;" */
static void print_choices(const struct command *cmd, const struct option_def *def)
{
    printf("    '%s:--%s') words='", cmd->name, def->name);
    for (const char *p = def->arg; *p; p++)
        putchar(*p == '|' ? ' ' : *p);
    puts("' ;;");
}

/* The first words, or with a group those behind it. */
static void print_words(const struct command *group)
{
    const char *gap = "";

    fputs("words='", stdout);
    for (const struct command *const *c = all_commands; !group && *c; c++)
        if (!strchr((*c)->name, ' ')) {
            printf("%s%s", gap, (*c)->name);
            gap = " ";
        }
    for (const struct command *c = NULL; group && (c = command_below(group, c)); gap = " ")
        printf("%s%s", gap, command_word(c));
    puts("'");
}

static void print_bash_completion(void)
{
    puts("# bash completion for supermachine\n_supermachine()\n{\n"
         "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=\n"
         "    local verb=${COMP_WORDS[1]} at=1\n    case $verb in");
    for (const struct command *const *c = all_commands; *c; c++)
        if ((*c)->group)
            printf("    %s) at=2 verb=\"$verb ${COMP_WORDS[2]}\" ;;\n", (*c)->name);
    puts("    esac\n    case $verb:$prev in");
    for (const struct command *const *c = all_commands; *c; c++)
        for (const struct option_def *def = (*c)->options; def->name; def++)
            if (def->kind == OPTION_CHOICE)
                print_choices(*c, def);
    puts("    esac\n    if [ -n \"$words\" ]; then\n"
         "        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n        return\n    fi\n"
         "    if [ \"$COMP_CWORD\" -eq 1 ]; then");
    fputs("        ", stdout);
    print_words(NULL);
    puts("    elif [ \"$COMP_CWORD\" -eq \"$at\" ]; then\n        case ${COMP_WORDS[1]} in");
    for (const struct command *const *c = all_commands; *c; c++)
        if ((*c)->group) {
            printf("        %s) ", (*c)->name);
            print_words(*c);
            puts("            ;;");
        }
    puts("        esac\n    else\n        case $verb in");
    for (const struct command *const *c = all_commands; *c; c++) {
        if ((*c)->group)
            continue;
        printf("        '%s') words='", (*c)->name);
        for (const struct option_def *def = (*c)->options; def->name; def++)
            printf("--%s ", def->name);
        puts("--help' ;;");
    }
    puts("        esac\n    fi\n    case $cur in\n    -*) ;;\n    *) [ \"$COMP_CWORD\" -gt \"$at\" ] && words= ;;\n    "
         "esac\n"
         "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
         "    [ -n \"$words\" ] || mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n}\n"
         "complete -o filenames -F _supermachine supermachine");
}

static int run_help(int argc, char **argv)
{
    struct help_options o = {0};
    const struct command *cmd = NULL;
    int first, words, code;

    if (!command_options(&command_help, argc, argv, &o, &first, &code))
        return code;
    if (o.completion) {
        if (strcmp(o.completion, "bash") != 0)
            return complain("help: there is no completion for '%s', only for bash", o.completion);
        print_bash_completion();
        return 0;
    }
    if (first < argc) {
        cmd = command_of_line(argc - first, argv + first, &words);
        if (!cmd || first + words < argc)
            return complain("help: there is no command '%s%s%s': see 'supermachine help'", argv[first], cmd ? " " : "",
                            cmd ? argv[first + words] : "");
    }
    if (o.man)
        cmd ? print_man(cmd) : print_overview_man();
    else
        cmd ? help_print_command(cmd) : print_overview();
    return 0;
}

const struct command command_help = {
    .name = "help",
    .operands = "[COMMAND]",
    .summary = "explain the program or one of its commands",
    .about = "Explains the program, or one of its commands. The manual pages and the shell completion that are "
             "installed are made by this command, too.",
    .options = help_table,
    .run = run_help,
};
