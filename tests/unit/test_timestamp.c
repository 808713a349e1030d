/* SPDX-License-Identifier: Apache-2.0 */
/* RFC 3339 times of images' documents. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>

#include "lib/timestamp.h"

static void times_are_understood(void **state)
{
    static const struct {
        const char *text;
        int64_t t;
    } good[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"2024-02-29T12:30:00Z", 1709209800},
        {"2024-02-29t12:30:00.123456789z", 1709209800},
        {"2024-02-29 13:30:00+01:00", 1709209800},
        {"2024-02-29T07:00:00-05:30", 1709209800},
        {"1969-12-31T23:59:59Z", -1},
        {"2000-03-01T00:00:00Z", 951868800},
        {"1900-03-01T00:00:00Z", -2203891200},
        {"0001-01-01T00:00:00Z", -62135596800},
        {"0000-01-01T00:00:00Z", -62167219200},
        {"9999-12-31T23:59:59Z", 253402300799},
        {"2016-12-31T23:59:60Z", 1483228800},
    };

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        int64_t t = 7;

        assert_int_equal(timestamp_parse(good[i].text, &t), 0);
        assert_true(t == good[i].t);
    }
}

static void others_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "2024",
        "2024-02-30T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "2024-13-01T00:00:00Z",
        "2024-00-01T00:00:00Z",
        "2024-01-00T00:00:00Z",
        "2024-01-01T24:00:00Z",
        "2024-01-01T00:60:00Z",
        "2024-01-01T00:00:61Z",
        "2024-01-01T00:00:00",
        "2024-01-01T00:00:00.Z",
        "2024-01-01T00:00:00Zx",
        "2024-01-01T00:00:00+01",
        "2024-01-01T00:00:00+24:00",
        "2024-01-01T00:00:00+01:00x",
        "2024-1-01T00:00:00Z",
        "2024-01-01X00:00:00Z",
        "-024-01-01T00:00:00Z",
    };
    int64_t t = 7;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(timestamp_parse(bad[i], &t), -EINVAL);
    assert_true(t == 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_are_understood),
        cmocka_unit_test(others_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
