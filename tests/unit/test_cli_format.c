/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes and times as people read them, tables, JSON in lines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/format.h"
#include "cli/json.h"
#include "cli/table.h"

static char text[FORMAT_SIZE];

static void sizes_have_three_digits(void **state)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        {0, "0B"},
        {1, "1B"},
        {999, "999B"},
        {1000, "1kB"},
        {1234, "1.23kB"},
        {999499, "999kB"},
        {999500, "1MB"},
        {4260000, "4.26MB"},
        {187654321, "188MB"},
        {1020000000, "1.02GB"},
        {UINT64_MAX, "18.4EB"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_string_equal(format_size(text, cases[i].bytes), cases[i].text);
}

static void past_times_have_one_unit(void **state)
{
    static const struct {
        int64_t past;
        const char *text;
    } cases[] = {
        {-5, "just now"},       {0, "just now"},          {1, "1 second ago"},       {59, "59 seconds ago"},
        {60, "1 minute ago"},   {3599, "59 minutes ago"}, {3600, "1 hour ago"},      {86400, "24 hours ago"},
        {172800, "2 days ago"}, {1209600, "2 weeks ago"}, {5184000, "2 months ago"}, {63072000, "2 years ago"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_string_equal(format_ago(text, 2000000000 - cases[i].past, 2000000000), cases[i].text);
    assert_string_equal(format_ago(text, 0, 2000000000), "unknown");
    assert_string_equal(format_ago(text, -62135596800, 2000000000), "2033 years ago");
}

static void times_left_have_two_units(void **state)
{
    assert_string_equal(format_left(text, 0), "0s");
    assert_string_equal(format_left(text, 59), "59s");
    assert_string_equal(format_left(text, 65), "1m05s");
    assert_string_equal(format_left(text, 3600), "1h00m");
    assert_string_equal(format_left(text, 90000), "1d01h");
}

static void times_and_ids_are_exact(void **state)
{
    assert_string_equal(format_time(text, 1709209800), "2024-02-29T12:30:00Z");
    assert_string_equal(format_time(text, 0), "1970-01-01T00:00:00Z");
    assert_string_equal(format_id(text, "sha256:0123456789abcdef0123"), "0123456789ab");
}

/* What `print` writes to standard output. */
static char *printed(void (*print)(void))
{
    int saved = dup(STDOUT_FILENO);
    FILE *f = tmpfile();
    char *got;
    long n;

    assert_non_null(f);
    fflush(stdout);
    assert_true(saved >= 0 && dup2(fileno(f), STDOUT_FILENO) >= 0);
    print();
    fflush(stdout);
    assert_true(dup2(saved, STDOUT_FILENO) >= 0);
    close(saved);
    n = lseek(fileno(f), 0, SEEK_END);
    got = calloc(1, (size_t)n + 1);
    assert_non_null(got);
    assert_int_equal(pread(fileno(f), got, (size_t)n, 0), n);
    fclose(f);
    return got;
}

static void print_a_table(void)
{
    static const char *const cells[] = {"ONE", "TWO", "a", "b", "longer", "\033[2J\x7f\xc2\x9b"};
    struct table t = {.columns = 2};

    for (size_t i = 0; i < sizeof(cells) / sizeof(cells[0]); i++)
        table_add(&t, cells[i]);
    table_add_cut(&t,
                  "12\xc3\xa4"
                  "4567",
                  5);
    table_add_cut(&t,
                  "12\xc3\xa4"
                  "45",
                  5);
    table_print(&t);
    assert_int_equal(t.n, 0);
}

static void tables_fit_what_is_in_them(void **state)
{
    char *got = printed(print_a_table);

    assert_string_equal(got, "ONE      TWO\n"
                             "a        b\n"
                             "longer   ?[2J???\n"
                             "12\xc3\xa4"
                             "4\xe2\x80\xa6    12\xc3\xa4"
                             "45\n");
    free(got);
}

static void json_has_a_line_for_each_member(void **state)
{
    char *got = NULL;
    size_t len;
    FILE *f = open_memstream(&got, &len);

    assert_non_null(f);
    json_pretty(f, "{\"a\":[1,\"x,{\\\"\"],\"b\":{},\"c\":[],\"d\":null}", 0);
    fclose(f);
    assert_string_equal(got,
                        "{\n    \"a\": [\n        1,\n        \"x,{\\\"\"\n    ],\n    \"b\": {},\n    \"c\": [],\n"
                        "    \"d\": null\n}");
    free(got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_have_three_digits),    cmocka_unit_test(past_times_have_one_unit),
        cmocka_unit_test(times_left_have_two_units),  cmocka_unit_test(times_and_ids_are_exact),
        cmocka_unit_test(tables_fit_what_is_in_them), cmocka_unit_test(json_has_a_line_for_each_member),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
