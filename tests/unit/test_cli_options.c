/* SPDX-License-Identifier: Apache-2.0 */
/* Option tables: parsing, and that every command's table is sound. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"

struct target {
    bool flag, other;
    const char *text;
    struct string_list list;
    uint32_t memory, count, duration, age;
    uint64_t size;
    unsigned choice;
};

static const struct option_def table[] = {
    {"flag", 'f', OPTION_FLAG, offsetof(struct target, flag), NULL, "A flag"},
    {"other", 'o', OPTION_FLAG, offsetof(struct target, other), NULL, "Another"},
    {"text", 'x', OPTION_STRING, offsetof(struct target, text), "TEXT", "A string"},
    {"list", 'l', OPTION_LIST, offsetof(struct target, list), "ITEM", "A list"},
    {"memory", 'm', OPTION_MEMORY, offsetof(struct target, memory), "SIZE", "A size"},
    {"count", 0, OPTION_COUNT, offsetof(struct target, count), "N", "A count"},
    {"time", 0, OPTION_DURATION, offsetof(struct target, duration), "TIME", "A time"},
    {"age", 0, OPTION_AGE, offsetof(struct target, age), "TIME", "A long time"},
    {"size", 0, OPTION_SIZE, offsetof(struct target, size), "SIZE", "Bytes"},
    {"choice", 0, OPTION_CHOICE, offsetof(struct target, choice), "never|always|a", "One of them"},
    {"same", 0, OPTION_ACCEPTED, 0, NULL, "Accepted"},
    {0},
};

static char *argv[32];
static char why[256];
static bool help;

/* Splits `line` at spaces; the first word is the command. */
static int parse(char *line, bool stop, struct target *t)
{
    int argc = 0;

    for (char *word = strtok(line, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    argv[argc] = NULL;
    *t = (struct target){0};
    help = false;
    why[0] = '\0';
    return options_parse(argc, argv, table, stop, t, &help, why, sizeof(why));
}

#define PARSE(line, t)       parse((char[]){line}, true, t)
#define PARSE_MIXED(line, t) parse((char[]){line}, false, t)

static void options_end_at_the_first_operand(void **state)
{
    struct target t;

    assert_int_equal(PARSE("run -fo -x abc --memory=64 --time 2s --count 3 --same image -f --flag", &t), 11 - 1);
    assert_true(t.flag && t.other);
    assert_string_equal(t.text, "abc");
    assert_int_equal(t.memory, 64);
    assert_int_equal(t.duration, 2000);
    assert_int_equal(t.count, 3);
    assert_int_equal(PARSE("run image -f", &t), 1);
    assert_false(t.flag);
    assert_int_equal(PARSE("run -f -- -o", &t), 3);
    assert_false(t.other);
    assert_int_equal(PARSE("run", &t), 1);
}

static void options_may_come_behind_operands(void **state)
{
    struct target t;

    assert_int_equal(PARSE_MIXED("rmi one -f two --text x three", &t), 4);
    assert_true(t.flag);
    assert_string_equal(t.text, "x");
    assert_string_equal(argv[4], "one");
    assert_string_equal(argv[6], "three");
    assert_int_equal(PARSE_MIXED("rmi one -- -f", &t), 2);
    assert_false(t.flag);
    assert_string_equal(argv[3], "-f");
}

static void choices_are_one_of_the_words(void **state)
{
    struct target t;

    assert_int_equal(PARSE("run --choice always image", &t), 3);
    assert_int_equal(t.choice, 1);
    assert_int_equal(PARSE("run --choice=a image", &t), 2);
    assert_int_equal(t.choice, 2);
    assert_int_equal(PARSE("run --choice al image", &t), -1);
    assert_non_null(strstr(why, "--choice: 'al'"));
    assert_non_null(strstr(why, "never|always|a"));
    assert_int_equal(PARSE("run --choice never|always image", &t), -1);
    assert_int_equal(PARSE("run --choice= image", &t), -1);
}

static void sizes_and_ages_are_stored(void **state)
{
    struct target t;

    assert_int_equal(PARSE("prune --size 10g --age 7d", &t), 5);
    assert_true(t.size == 10737418240u);
    assert_int_equal(t.age, 604800);
    assert_int_equal(PARSE("prune --size much", &t), -1);
    assert_non_null(strstr(why, "--size: 'much'"));
    assert_int_equal(PARSE("prune --age 500ms", &t), -1);
    assert_non_null(strstr(why, "--age: '500ms' is out of range"));
}

static void lists_keep_their_order(void **state)
{
    struct target t;

    assert_int_equal(PARSE("run -l a --list b --list=c -ld image", &t), 7);
    assert_int_equal(t.list.n, 4);
    assert_string_equal(t.list.items[0], "a");
    assert_string_equal(t.list.items[3], "d");
    assert_null(t.list.items[4]);
    string_list_done(&t.list);
    assert_int_equal(t.list.n, 0);
}

static void mistakes_are_named(void **state)
{
    struct target t;

    assert_int_equal(PARSE("run --nothing image", &t), -1);
    assert_non_null(strstr(why, "--nothing"));
    assert_int_equal(PARSE("run --nothing=5 image", &t), -1);
    assert_non_null(strstr(why, "--nothing"));
    assert_int_equal(PARSE("run -fz image", &t), -1);
    assert_non_null(strstr(why, "-z"));
    assert_int_equal(PARSE("run --text", &t), -1);
    assert_non_null(strstr(why, "needs a value"));
    assert_int_equal(PARSE("run -x", &t), -1);
    assert_non_null(strstr(why, "-x needs a value"));
    assert_int_equal(PARSE("run --flag=yes image", &t), -1);
    assert_non_null(strstr(why, "takes no value"));
    assert_int_equal(PARSE("run -m lots image", &t), -1);
    assert_non_null(strstr(why, "--memory: 'lots'"));
    assert_int_equal(PARSE("run --count 0 image", &t), -1);
    assert_non_null(strstr(why, "out of range"));
    assert_int_equal(PARSE("run --time 5y image", &t), -1);
    assert_non_null(strstr(why, "--time"));
}

static void help_is_always_known(void **state)
{
    struct target t;

    assert_int_equal(PARSE("run --help", &t), 2);
    assert_true(help);
    assert_int_equal(PARSE("run -h", &t), 2);
    assert_true(help);
    assert_int_equal(PARSE("run image --help", &t), 1);
    assert_false(help);
}

/* Names and letters are used once, help texts are there and have the same form, values have a name. */
static void tables_are_sound(void **state)
{
    for (const struct command *const *c = all_commands; *c; c++) {
        assert_ptr_equal(command_find((*c)->name), *c);
        assert_non_null((*c)->summary);
        assert_non_null((*c)->about);
        for (const struct option_def *a = (*c)->options; a->name; a++) {
            size_t n = strlen(a->help);

            assert_true(n > 0 && a->help[n - 1] != '.');
            assert_int_equal(a->arg != NULL, a->kind != OPTION_FLAG && a->kind != OPTION_ACCEPTED);
            assert_string_not_equal(a->name, "help");
            assert_int_not_equal(a->letter, 'h');
            for (const struct option_def *b = a + 1; b->name; b++) {
                assert_string_not_equal(a->name, b->name);
                assert_false(a->letter && a->letter == b->letter);
            }
        }
    }
    assert_null(command_find("nothing"));
}

static const struct command *of_line(int n, const char *a, const char *b, const char *c, int *words)
{
    char text[3][32];
    char *line[] = {text[0], text[1], text[2], NULL};

    snprintf(text[0], sizeof(text[0]), "%s", a);
    snprintf(text[1], sizeof(text[1]), "%s", b);
    snprintf(text[2], sizeof(text[2]), "%s", c);
    line[n] = NULL;
    return command_of_line(n, line, words);
}

/* A command below another is two words; what is none of them is the group's to refuse. */
static void commands_have_one_word_or_two(void **state)
{
    int words;

    assert_string_equal(of_line(1, "run", "", "", &words)->name, "run");
    assert_int_equal(words, 1);
    assert_string_equal(of_line(2, "run", "create", "", &words)->name, "run");
    assert_int_equal(words, 1);
    assert_string_equal(of_line(3, "snapshot", "create", "web", &words)->name, "snapshot create");
    assert_int_equal(words, 2);
    assert_string_equal(of_line(2, "snapshot", "fly", "", &words)->name, "snapshot");
    assert_int_equal(words, 1);
    assert_string_equal(of_line(1, "snapshot", "", "", &words)->name, "snapshot");
    assert_null(of_line(2, "fly", "create", "", &words));
    assert_null(of_line(1, "snapshot create", "", "", &words));
    assert_null(of_line(0, "", "", "", &words));
    for (const struct command *const *c = all_commands; *c; c++) {
        const struct command *below = command_below(*c, NULL);

        assert_int_equal((*c)->group, below != NULL);
        assert_string_equal(command_word(*c), strchr((*c)->name, ' ') ? strchr((*c)->name, ' ') + 1 : (*c)->name);
        for (; below; below = command_below(*c, below))
            assert_memory_equal(below->name, (*c)->name, strlen((*c)->name));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_end_at_the_first_operand),
        cmocka_unit_test(options_may_come_behind_operands),
        cmocka_unit_test(choices_are_one_of_the_words),
        cmocka_unit_test(sizes_and_ages_are_stored),
        cmocka_unit_test(lists_keep_their_order),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(help_is_always_known),
        cmocka_unit_test(tables_are_sound),
        cmocka_unit_test(commands_have_one_word_or_two),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
