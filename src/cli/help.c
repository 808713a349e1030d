/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine help`: help texts, manual pages and shell completion, all from the command and option tables. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"

#define HELP_COLUMN 30 /* where an option's sentence begins */
#define HELP_WIDTH  100

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

void help_print_command(const struct command *cmd)
{
    printf("usage: supermachine %s [OPTION...]%s%s\n\n", cmd->name, cmd->operands[0] ? " " : "", cmd->operands);
    print_wrapped(cmd->about, 0, 0);
    puts("\noptions:");
    for (const struct option_def *def = cmd->options; def->name; def++)
        print_option(def);
    print_option(&help_option);
}

static void print_overview(void)
{
    puts("supermachine runs OCI images as hardware-isolated microVMs.\n\nusage:");
    for (const struct command *const *c = all_commands; *c; c++) {
        int n = printf("  supermachine %s%s%s", (*c)->name, (*c)->operands[0] ? " " : "", (*c)->operands);

        printf("%*s%s\n", n < 58 ? 58 - n : 2, "", (*c)->summary);
    }
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

static void print_man(const struct command *cmd)
{
    printf(".TH SUPERMACHINE\\-");
    for (const char *p = cmd->name; *p; p++)
        putchar(toupper((unsigned char)*p));
    printf(" 1 \"\" \"supermachine %s\" \"supermachine\"\n", sm_version());
    printf(".SH NAME\nsupermachine\\-%s \\- %s\n", cmd->name, cmd->summary);
    printf(".SH SYNOPSIS\n\\fBsupermachine %s\\fR [\\fIOPTION\\fR...] ", cmd->name);
    roff_text(cmd->operands);
    puts(".SH DESCRIPTION");
    roff_text(cmd->about);
    puts(".SH OPTIONS");
    for (const struct option_def *def = cmd->options; def->name; def++)
        roff_option(def);
    roff_option(&help_option);
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
        printf(".TP\n\\fB%s\\fR\n%s (see supermachine\\-%s(1))\n", (*c)->name, (*c)->summary, (*c)->name);
}

/* ---- Completion ---- */

/* "verb:--option) words='one two' ;;" */
static void print_choices(const struct command *cmd, const struct option_def *def)
{
    printf("    %s:--%s) words='", cmd->name, def->name);
    for (const char *p = def->arg; *p; p++)
        putchar(*p == '|' ? ' ' : *p);
    puts("' ;;");
}

static void print_bash_completion(void)
{
    puts("# bash completion for supermachine\n_supermachine()\n{\n"
         "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=\n"
         "    case ${COMP_WORDS[1]}:$prev in");
    for (const struct command *const *c = all_commands; *c; c++)
        for (const struct option_def *def = (*c)->options; def->name; def++)
            if (def->kind == OPTION_CHOICE)
                print_choices(*c, def);
    puts("    esac\n    if [ -n \"$words\" ]; then\n"
         "        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n        return\n    fi\n"
         "    if [ \"$COMP_CWORD\" -eq 1 ]; then");
    fputs("        words='", stdout);
    for (const struct command *const *c = all_commands; *c; c++)
        printf("%s%s", c == all_commands ? "" : " ", (*c)->name);
    puts("'\n    else\n        case ${COMP_WORDS[1]} in");
    for (const struct command *const *c = all_commands; *c; c++) {
        printf("        %s) words='", (*c)->name);
        for (const struct option_def *def = (*c)->options; def->name; def++)
            printf("--%s ", def->name);
        puts("--help' ;;");
    }
    puts("        esac\n    fi\n    case $cur in\n    -*) ;;\n    *) [ \"$COMP_CWORD\" -gt 1 ] && words= ;;\n    esac\n"
         "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
         "    [ -n \"$words\" ] || mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n}\n"
         "complete -o filenames -F _supermachine supermachine");
}

static int run_help(int argc, char **argv)
{
    struct help_options o = {0};
    const struct command *cmd = NULL;
    int first, code;

    if (!command_options(&command_help, argc, argv, &o, &first, &code))
        return code;
    if (o.completion) {
        if (strcmp(o.completion, "bash") != 0)
            return complain("help: there is no completion for '%s', only for bash", o.completion);
        print_bash_completion();
        return 0;
    }
    if (first < argc) {
        cmd = command_find(argv[first]);
        if (!cmd)
            return complain("help: there is no command '%s': see 'supermachine help'", argv[first]);
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
