/* SPDX-License-Identifier: Apache-2.0 */
/* What registries ask for, and what token servers answer. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/checked.h"
#include "oci/auth.h"

#define S 1000000000ull

static void same(const char *what, const char *have, const char *want)
{
    if (!have != !want || (have && strcmp(have, want)))
        fail_msg("%s: \"%s\" instead of \"%s\"", what, have ? have : "(none)", want ? want : "(none)");
}

static void test_challenges(void **state)
{
    static const struct {
        const char *headers[3];
        enum challenge_scheme scheme;
        const char *realm, *service, *scope, *error;
    } good[] = {
        {{NULL}, CHALLENGE_NONE, NULL, NULL, NULL, NULL},
        {{""}, CHALLENGE_NONE, NULL, NULL, NULL, NULL},
        {{" , ,"}, CHALLENGE_NONE, NULL, NULL, NULL, NULL},
        {{"Basic"}, CHALLENGE_BASIC, NULL, NULL, NULL, NULL},
        {{"Basic realm=\"Registry Realm\""}, CHALLENGE_BASIC, "Registry Realm", NULL, NULL, NULL},
        {{"bAsIc REALM=simple"}, CHALLENGE_BASIC, "simple", NULL, NULL, NULL},
        {{"Basic realm="}, CHALLENGE_BASIC, NULL, NULL, NULL, NULL}, /* a token68 */
        {{"Negotiate , Basic realm=\"x\" ,"}, CHALLENGE_BASIC, "x", NULL, NULL, NULL},
        {{"Basic realm=\"\""}, CHALLENGE_BASIC, "", NULL, NULL, NULL},
        {{"Basic realm = \t\"x\" , charset=\"UTF-8\""}, CHALLENGE_BASIC, "x", NULL, NULL, NULL},
        /* RFC 9110, 11.6.1: two challenges in one header */
        {{"Basic realm=\"simple\", Newauth realm=\"apps\", type=1, title=\"Login to \\\"apps\\\"\""},
         CHALLENGE_BASIC,
         "simple",
         NULL,
         NULL,
         NULL},
        {{"Newauth realm=\"apps\", type=1, title=\"Login to \\\"apps\\\"\", Basic realm=\"simple\""},
         CHALLENGE_BASIC,
         "simple",
         NULL,
         NULL,
         NULL},
        {{"Newauth realm=\"apps\"", "Digest realm=x, nonce=\"a,b\"", "Negotiate"},
         CHALLENGE_NONE,
         NULL,
         NULL,
         NULL,
         NULL},
        {{"Negotiate, Basic realm=\"x\""}, CHALLENGE_BASIC, "x", NULL, NULL, NULL},
        {{"Negotiate a87421000492aa874209af8bc028==, Basic realm=\"x\""}, CHALLENGE_BASIC, "x", NULL, NULL, NULL},
        {{"NTLM TlRM/+-._~ ,,Basic realm=\"x\","}, CHALLENGE_BASIC, "x", NULL, NULL, NULL},
        /* The distribution project's token specification */
        {{"Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:samalba/"
          "my-app:pull,push\""},
         CHALLENGE_BEARER,
         "https://auth.docker.io/token",
         "registry.docker.io",
         "repository:samalba/my-app:pull,push",
         NULL},
        {{"Bearer realm=\"https://a/t\",error=\"invalid_token\""},
         CHALLENGE_BEARER,
         "https://a/t",
         NULL,
         NULL,
         "invalid_token"},
        /* Bearer before basic, wherever it stands; of one scheme the first. */
        {{"Basic realm=\"x\", Bearer realm=\"r\"", "Bearer realm=\"s\""}, CHALLENGE_BEARER, "r", NULL, NULL, NULL},
        {{"Bearer realm=\"r\", service=s", "Basic realm=\"x\""}, CHALLENGE_BEARER, "r", "s", NULL, NULL},
        {{"Basic realm=\"x\"", "Basic realm=\"y\""}, CHALLENGE_BASIC, "x", NULL, NULL, NULL},
        {{"Bearer ,realm=\"\\r\\\\\\\"\",,scope=\"caf\xc3\xa9 \tx\""},
         CHALLENGE_BEARER,
         "r\\\"",
         NULL,
         "caf\xc3\xa9 \tx",
         NULL},
    };
    struct sm_error err = SM_ERROR_INIT;

    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        const char *what = good[i].headers[0] ? good[i].headers[0] : "nothing";
        struct challenge ch;
        size_t n = 0;

        while (n < 3 && good[i].headers[n])
            n++;
        if (challenge_parse(&ch, good[i].headers, n, &err) < 0)
            fail_msg("%s: %s", what, err.text);
        if (ch.scheme != good[i].scheme)
            fail_msg("%s: scheme %d", what, ch.scheme);
        same(what, ch.realm, good[i].realm);
        same(what, ch.service, good[i].service);
        same(what, ch.scope, good[i].scope);
        same(what, ch.error, good[i].error);
        challenge_done(&ch);
    }
}

static void refuse(const char *header, int code)
{
    struct sm_error err = SM_ERROR_INIT;
    struct challenge ch;

    if (challenge_parse(&ch, &header, 1, &err) != -code)
        fail_msg("not refused, or not as it should: %s", header);
    assert_int_equal(err.code, code);
}

static void test_bad_challenges(void **state)
{
    static const char *const bad[] = {
        "=",
        "\"Basic\"",
        "Basic=x",
        "Basic realm=, x=y",
        "Basic realm=\"x",
        "Basic realm=\"x\\",
        "Basic realm=\"x\\\"",
        "Basic realm=\"x\"y",
        "Basic realm=\"x\" service=\"y\"",
        "Basic realm=\"a\x01\"",
        "Basic realm=\"a\\\x01\"",
        "Basic realm=\"a\nb\"",
        "Basic realm=\"a\x7f\"",
        "Basic realm=a b",
        "Basic realm=a(b",
        "Basic foo bar",
        "Basic realm=\"x\", realm=\"y\"",
        "Basic realm=\"x\"; service=\"y\"",
        "Basic, realm=\"x\"",
        "Basic realm=\"x\", =y",
        "Basic realm=\"x\", (",
        "Newauth realm=\"x",
        "Bearer",
        "Bearer abc==",
        "Bearer service=\"x\"",
        "Bearer realm=\"\"",
        "caf\xc3\xa9 realm=\"x\"",
    };
    const char *many[AUTH_HEADERS_MAX + 1];
    struct sm_error err = SM_ERROR_INIT;
    struct challenge ch;
    char *longest = malloc(AUTH_HEADER_MAX + 2);
    size_t n;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        refuse(bad[i], EBADMSG);
    for (size_t i = 0; i < ARRAY_SIZE(many); i++)
        many[i] = "Basic";
    assert_int_equal(challenge_parse(&ch, many, AUTH_HEADERS_MAX + 1, &err), -E2BIG);
    assert_int_equal(challenge_parse(&ch, many, AUTH_HEADERS_MAX, &err), 0);
    challenge_done(&ch);
    memset(longest, ' ', AUTH_HEADER_MAX + 1);
    longest[AUTH_HEADER_MAX + 1] = '\0';
    refuse(longest, EFBIG);
    memset(longest, 'x', AUTH_HEADER_MAX);
    memcpy(longest, "Basic realm=\"", 13);
    strcpy(longest + AUTH_HEADER_MAX - 1, "\"");
    many[0] = longest;
    assert_int_equal(challenge_parse(&ch, many, 1, &err), 0);
    assert_int_equal(strlen(ch.realm), AUTH_HEADER_MAX - 14);
    challenge_done(&ch);
    n = (size_t)sprintf(longest, "X a=b");
    for (int i = 1; i < AUTH_PARAMS_MAX; i++)
        n += (size_t)sprintf(longest + n, ",a=b");
    assert_int_equal(challenge_parse(&ch, many, 1, &err), 0);
    challenge_done(&ch);
    strcpy(longest + n, ",a=b");
    refuse(longest, E2BIG);
    free(longest);
}

static void test_tokens(void **state)
{
    static const struct {
        const char *json, *value;
        uint64_t life_s;
    } good[] = {
        {"{\"token\": \"abc\"}", "abc", 54},
        {"{\"access_token\": \"abc\"}", "abc", 54},
        {"{\"token\": \"abc\", \"access_token\": \"def\", \"expires_in\": 300}", "abc", 270},
        {"{\"token\": \"\", \"access_token\": \"def\", \"expires_in\": 3600, \"issued_at\": \"nonsense\"}", "def",
         3570},
        {"{\"token\": null, \"access_token\": \"a.b-c_d~e+f/g==\", \"expires_in\": 10}", "a.b-c_d~e+f/g==", 9},
        {"{\"token\": \"abc\", \"expires_in\": 0}", "abc", 54},
        {"{\"token\": \"abc\", \"expires_in\": 9000000000000000000}", "abc", 24 * 3600 - 30},
    };
    static const char *const bad[] = {
        "",
        "[]",
        "{}",
        "{\"token\": \"\"}",
        "{\"token\": 1}",
        "{\"token\": \"a b\"}",
        "{\"token\": \"a\\r\\nX: y\"}",
        "{\"token\": \"caf\xc3\xa9\"}",
        "{\"token\": \"a\", \"expires_in\": -1}",
        "{\"token\": \"a\", \"expires_in\": \"60\"}",
        "{\"token\": \"secret\", \"token\": \"other\"}",
        "{\"token\": \"a\\u0000b\"}",
    };
    struct sm_error err = SM_ERROR_INIT;
    size_t size = AUTH_TOKEN_ANSWER_MAX + 1;
    char *big = malloc(size);
    struct token t;

    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        if (token_parse(&t, good[i].json, strlen(good[i].json), 7 * S, &err) < 0)
            fail_msg("%s: %s", good[i].json, err.text);
        assert_string_equal(t.value, good[i].value);
        assert_int_equal(t.expires_ns, (7 + good[i].life_s) * S);
        token_done(&t);
        assert_null(t.value);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (token_parse(&t, bad[i], strlen(bad[i]), 0, &err) != -EBADMSG)
            fail_msg("accepted: %s", bad[i]);
        assert_null(strstr(err.text, "secret"));
    }
    memset(big, ' ', size);
    memcpy(big, good[0].json, strlen(good[0].json));
    assert_int_equal(token_parse(&t, big, size, 0, &err), -EFBIG);
    assert_int_equal(token_parse(&t, big, size - 1, 0, &err), 0);
    token_done(&t);
    memset(big, 'a', size);
    memcpy(big, "{\"token\": \"", 11);
    memcpy(big + 11 + AUTH_TOKEN_MAX, "\"}", 2);
    assert_int_equal(token_parse(&t, big, 11 + AUTH_TOKEN_MAX + 2, 0, &err), 0);
    token_done(&t);
    big[11 + AUTH_TOKEN_MAX] = 'a';
    memcpy(big + 12 + AUTH_TOKEN_MAX, "\"}", 2);
    assert_int_equal(token_parse(&t, big, 12 + AUTH_TOKEN_MAX + 2, 0, &err), -EBADMSG);
    free(big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_challenges),
        cmocka_unit_test(test_bad_challenges),
        cmocka_unit_test(test_tokens),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
