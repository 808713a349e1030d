/* SPDX-License-Identifier: Apache-2.0 */
/* --env and --env-file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "cli/env.h"

static char why[ENV_WHY_MAX];

static int read_text(struct env_list *l, const char *text, size_t len)
{
    FILE *f = fmemopen((void *)(uintptr_t)text, len, "r");
    int r;

    assert_non_null(f);
    r = env_read(l, f, "vars", why);
    fclose(f);
    return r;
}

#define READ(l, text) read_text(l, text, sizeof(text) - 1)

static void file_is_read_as_docker_does(void **state)
{
    static const char *const want[] = {"A=1",   "B=with space # and all", "C=", "D='quoted'", "HERE=yes", "E=x=y",
                                       "F=crlf"};
    struct env_list l = {0};

    setenv("HERE", "yes", 1);
    unsetenv("NOT_HERE");
    assert_int_equal(READ(&l, "\xef\xbb\xbf"
                              "A=1\n# comment\n\n   \n  B=with space # and all\nC=\nD='quoted'\nHERE\nNOT_HERE\nE=x=y\n"
                              "F=crlf\r\n"),
                     0);
    assert_int_equal(l.n, sizeof(want) / sizeof(want[0]));
    for (size_t i = 0; i < l.n; i++)
        assert_string_equal(l.items[i], want[i]);
    assert_null(l.items[l.n]);
    env_list_done(&l);
}

static void last_line_needs_no_newline(void **state)
{
    struct env_list l = {0};

    assert_int_equal(READ(&l, "A=1\nB=2"), 0);
    assert_int_equal(l.n, 2);
    assert_string_equal(l.items[1], "B=2");
    env_list_done(&l);
}

static void bad_lines_are_named(void **state)
{
    struct env_list l = {0};
    char *big = malloc(ENV_LINE_MAX + 16);

    assert_int_equal(READ(&l, "A=1\n=x\n"), -1);
    assert_non_null(strstr(why, "line 2 of 'vars'"));
    assert_int_equal(READ(&l, "A B=1\n"), -1);
    assert_non_null(strstr(why, "'A B'"));
    assert_int_equal(READ(&l, "A=1\0B\n"), -1);
    assert_non_null(strstr(why, "NUL"));
    assert_non_null(big);
    memset(big, 'A', ENV_LINE_MAX + 16);
    big[1] = '=';
    assert_int_equal(read_text(&l, big, ENV_LINE_MAX + 16), -1);
    assert_non_null(strstr(why, "longer"));
    free(big);
    env_list_done(&l);
}

static void flag_takes_ours_or_removes(void **state)
{
    struct env_list l = {0};

    setenv("HERE", "a b", 1);
    unsetenv("NOT_HERE");
    assert_int_equal(env_add(&l, "X=", why), 0);
    assert_int_equal(env_add(&l, "HERE", why), 0);
    assert_int_equal(env_add(&l, "NOT_HERE", why), 0);
    assert_int_equal(env_add(&l, "=1", why), -1);
    assert_int_equal(env_add(&l, "", why), -1);
    assert_int_equal(l.n, 3);
    assert_string_equal(l.items[0], "X=");
    assert_string_equal(l.items[1], "HERE=a b");
    assert_string_equal(l.items[2], "NOT_HERE");
    env_list_done(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_is_read_as_docker_does),
        cmocka_unit_test(last_line_needs_no_newline),
        cmocka_unit_test(bad_lines_are_named),
        cmocka_unit_test(flag_takes_ours_or_removes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
