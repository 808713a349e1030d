/* SPDX-License-Identifier: Apache-2.0 */
/* Values of the command line: sizes, durations, counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>

#include "cli/values.h"

static void memory_is_understood(void **state)
{
    static const struct {
        const char *text;
        uint32_t mib;
    } good[] = {
        {"128", 128}, {"512m", 512},          {"512M", 512},      {"512MiB", 512}, {"512mb", 512},
        {"2g", 2048}, {"1G", 1024},           {"1048576k", 1024}, {"1b", 1},       {"1048577b", 2},
        {"1025k", 2}, {"67108864", 67108864}, {"1t", 1048576},    {"0001", 1},
    };
    uint32_t v;

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        v = 0;
        assert_int_equal(value_memory(good[i].text, &v), 0);
        assert_int_equal(v, good[i].mib);
    }
}

static void bad_memory_is_refused(void **state)
{
    static const char *const bad[] = {"", "m", "-1", " 1", "1x", "1mx", "1bb", "1.5g", "0x10", "1 m", "1mibs"};
    static const char *const far[] = {"0", "0m", "99999999999999999999", "18446744073709551615g", "4294967296"};
    uint32_t v = 7;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(value_memory(bad[i], &v), -EINVAL);
    for (size_t i = 0; i < sizeof(far) / sizeof(far[0]); i++)
        assert_int_equal(value_memory(far[i], &v), -ERANGE);
    assert_int_equal(v, 7);
}

static void durations_are_understood(void **state)
{
    static const struct {
        const char *text;
        uint32_t ms;
    } good[] = {
        {"10", 10000},         {"10s", 10000},       {"1.5s", 1500},       {"0.25", 250},
        {"500ms", 500},        {"1m30s", 90000},     {"2h", 7200000},      {"1h1m1s1ms", 3661001},
        {"720h", 2592000000u}, {"30d", 2592000000u}, {"1d12h", 129600000},
    };
    uint32_t v;

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        v = 0;
        assert_int_equal(value_duration(good[i].text, &v), 0);
        assert_int_equal(v, good[i].ms);
    }
}

static void bad_durations_are_refused(void **state)
{
    static const char *const bad[] = {"", "s", "1x", "-1", "1.", "1.s", "1m30", " 1", "1y", "ms"};
    static const char *const far[] = {"0", "0s", "721h", "99999999999999999999s", "720h1ms", "0.0001s", "31d"};
    uint32_t v = 7;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(value_duration(bad[i], &v), -EINVAL);
    for (size_t i = 0; i < sizeof(far) / sizeof(far[0]); i++)
        assert_int_equal(value_duration(far[i], &v), -ERANGE);
    assert_int_equal(v, 7);
}

static void ages_are_understood(void **state)
{
    uint32_t v = 7;

    assert_int_equal(value_age("90", &v), 0);
    assert_int_equal(v, 90);
    assert_int_equal(value_age("2w", &v), 0);
    assert_int_equal(v, 1209600);
    assert_int_equal(value_age("36525d", &v), 0);
    assert_int_equal(v, 3155760000u);
    assert_int_equal(value_age("36526d", &v), -ERANGE);
    assert_int_equal(value_age("999ms", &v), -ERANGE);
    assert_int_equal(value_age("week", &v), -EINVAL);
    assert_int_equal(v, 3155760000u);
}

static void sizes_are_bytes(void **state)
{
    uint64_t v = 7;

    assert_int_equal(value_size("4096", &v), 0);
    assert_true(v == 4096);
    assert_int_equal(value_size("10GiB", &v), 0);
    assert_true(v == 10737418240u);
    assert_int_equal(value_size("0", &v), -ERANGE);
    assert_int_equal(value_size("9999999t", &v), -ERANGE);
    assert_int_equal(value_size("1.5g", &v), -EINVAL);
    assert_true(v == 10737418240u);
}

static void counts_are_whole(void **state)
{
    uint32_t v = 0;

    assert_int_equal(value_count("16", &v), 0);
    assert_int_equal(v, 16);
    assert_int_equal(value_count("0", &v), -ERANGE);
    assert_int_equal(value_count("1.5", &v), -EINVAL);
    assert_int_equal(value_count("", &v), -EINVAL);
    assert_int_equal(value_count("4294967296", &v), -ERANGE);
}

static void milliseconds_are_understood(void **state)
{
    static const char *const bad[] = {"", "ms", "-1", "1x", "1.5", " 5", "5 "};
    uint32_t v = 7;

    assert_int_equal(value_ms("500", &v), 0);
    assert_int_equal(v, 500);
    assert_int_equal(value_ms("500ms", &v), 0);
    assert_int_equal(v, 500);
    assert_int_equal(value_ms("1.5s", &v), 0);
    assert_int_equal(v, 1500);
    assert_int_equal(value_ms("7m", &v), 0);
    assert_int_equal(v, 420000);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(value_ms(bad[i], &v), -EINVAL);
    assert_int_equal(value_ms("0", &v), -ERANGE);
    assert_int_equal(value_ms("99999999999", &v), -ERANGE);
    assert_int_equal(value_ms("99999999999999999999999", &v), -ERANGE);
    assert_int_equal(v, 420000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_understood),     cmocka_unit_test(bad_memory_is_refused),
        cmocka_unit_test(durations_are_understood), cmocka_unit_test(bad_durations_are_refused),
        cmocka_unit_test(ages_are_understood),      cmocka_unit_test(sizes_are_bytes),
        cmocka_unit_test(counts_are_whole),         cmocka_unit_test(milliseconds_are_understood),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
