/* SPDX-License-Identifier: Apache-2.0 */
/* Digests and platforms, as text. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/checked.h"
#include "oci/digest.h"
#include "oci/platform.h"
#include "oci/text.h"

#define ABC "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" /* FIPS 180-4, example 1 */

static void test_digest(void **state)
{
    static const char *const bad[] = {
        "",
        "sha256:",
        "sha256:" ABC "0",
        "sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
        ABC,
        "SHA256:" ABC,
        ":" ABC,
        "sha256",
        "sha256 :" ABC,
        "sha256:" ABC " ",
        "sha256:../../../../etc/passwd",
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015a/",
    };
    struct sm_error err = SM_ERROR_INIT;
    struct digest d, of;
    char s[DIGEST_STR_SIZE];

    assert_int_equal(digest_parse(&d, "sha256:" ABC, "x", &err), 0);
    assert_int_equal(digest_of(&of, "abc", 3, &err), 0);
    assert_true(digest_equal(&d, &of));
    digest_str(&of, s);
    assert_string_equal(s, "sha256:" ABC);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(digest_parse(&d, bad[i], "the field", &err), -EINVAL);
        assert_non_null(strstr(err.text, "the field"));
    }
    assert_int_equal(digest_parse(&d, "sha512:" ABC ABC, "the field", &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "only sha256"));
}

static void test_platform(void **state)
{
    static const char *const bad[] = {"",          "linux",        "linux/",    "/amd64",
                                      "linux//v8", "linux/arm64/", "linux/a b", "linux/amd64/v1/x"};
    static const struct {
        const char *want, *have;
        int score;
    } scores[] = {
        {"linux/amd64", "linux/amd64", 3},    {"linux/amd64", "linux/arm64", 0},
        {"linux/amd64", "windows/amd64", 0},  {"linux/amd64", "linux/amd64/v3", 2},
        {"linux/amd64/v3", "linux/amd64", 1}, {"linux/amd64/v3", "linux/amd64/v2", 0},
        {"linux/arm64", "linux/arm64/v8", 3}, {"linux/aarch64", "linux/arm64", 3},
        {"linux/x86_64", "linux/amd64", 3},   {"linux/arm/v7", "linux/arm/v6", 0},
        {"linux/amd64/v1", "linux/amd64", 3},
    };
    struct sm_error err = SM_ERROR_INIT;
    struct platform want, have;
    char s[PLATFORM_STR_SIZE];

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(platform_parse(&want, bad[i], &err), -EINVAL);
    for (size_t i = 0; i < ARRAY_SIZE(scores); i++) {
        assert_int_equal(platform_parse(&want, scores[i].want, &err), 0);
        assert_int_equal(platform_parse(&have, scores[i].have, &err), 0);
        assert_int_equal(platform_score(&want, &have), scores[i].score);
    }
    assert_int_equal(platform_parse(&want, NULL, &err), 0);
    assert_string_equal(want.os, "linux");
    assert_int_equal(platform_set(&have, "linux", NULL, NULL, &err), 0);
    assert_string_equal(platform_str(s, &have), "linux/unknown");
    assert_int_equal(platform_set(&have, "li\nux", "amd64", NULL, &err), -EBADMSG);
}

static void test_text(void **state)
{
    char buf[TEXT_SHOWN_SIZE], big[1000];

    assert_string_equal(text_shown(buf, "a\x1b[31m\n\x7f"), "a?[31m??");
    assert_string_equal(text_shown(buf, "d\xc3\xa9j\xc3\xa0"), "d\xc3\xa9j\xc3\xa0");
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    assert_true(strlen(text_shown(buf, big)) < TEXT_SHOWN_SIZE);
    assert_non_null(strstr(buf, "..."));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_digest),
        cmocka_unit_test(test_platform),
        cmocka_unit_test(test_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
