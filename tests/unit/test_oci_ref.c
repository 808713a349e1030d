/* SPDX-License-Identifier: Apache-2.0 */
/* References: the vectors of the distribution project, Docker's defaults, and the transports. */
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
#include "oci/limits.h"
#include "oci/ref.h"

#define F64 "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
#define F   "sha256:" F64
#define HEX "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a"

#define A16  "aaaaaaaaaaaaaaaa"
#define A128 A16 A16 A16 A16 A16 A16 A16 A16
#define A247 A128 A16 A16 A16 A16 A16 A16 A16 "aaaaaaa"
#define S16  "a/a/a/a/a/a/a/a/"
#define S126 S16 S16 S16 S16 S16 S16 S16 "a/a/a/a/a/a/a/"

static void same(const char *s, const struct oci_ref *a, const struct oci_ref *b)
{
    if (a->kind != b->kind || strcmp(a->host, b->host) || strcmp(a->path, b->path) || !a->tag != !b->tag ||
        (a->tag && strcmp(a->tag, b->tag)) || a->has_digest != b->has_digest ||
        (a->has_digest && !digest_equal(&a->digest, &b->digest)))
        fail_msg("%s: is another reference when parsed again", s);
}

/* What is put together from a reference is that reference. */
static void check_again(const struct oci_ref *ref, int (*put)(const struct oci_ref *, char **, struct sm_error *),
                        const char *want)
{
    struct sm_error err = SM_ERROR_INIT;
    struct oci_ref again;
    char *s;

    assert_int_equal(put(ref, &s, &err), 0);
    if (want)
        assert_string_equal(s, want);
    if (ref_parse(&again, s, &err) < 0)
        fail_msg("%s: %s", s, err.text);
    same(s, ref, &again);
    ref_done(&again);
    free(s);
}

struct good {
    const char *s, *host, *path, *tag, *digest;
};

static void check_good(const struct good *g)
{
    struct sm_error err = SM_ERROR_INIT;
    char digest[DIGEST_STR_SIZE];
    struct oci_ref ref;

    if (ref_parse(&ref, g->s, &err) < 0)
        fail_msg("%s: %s", g->s, err.text);
    assert_int_equal(ref.kind, REF_REGISTRY);
    assert_string_equal(ref.host, g->host);
    assert_string_equal(ref.path, g->path);
    if (g->tag)
        assert_string_equal(ref.tag, g->tag);
    else
        assert_null(ref.tag);
    assert_int_equal(ref.has_digest, g->digest != NULL);
    if (g->digest) {
        digest_str(&ref.digest, digest);
        assert_string_equal(digest, g->digest);
    }
    check_again(&ref, ref_canonical, NULL);
    check_again(&ref, ref_familiar, NULL);
    ref_done(&ref);
}

/* reference_test.go and regexp_test.go of github.com/distribution/reference, with the defaults of its normalize.go. */
static void test_good(void **state)
{
    static const struct good good[] = {
        {"test_com", "docker.io", "library/test_com", "latest", NULL},
        {"test.com:tag", "docker.io", "library/test.com", "tag", NULL},
        {"test.com:5000", "docker.io", "library/test.com", "5000", NULL},
        {"test.com/repo:tag", "test.com", "repo", "tag", NULL},
        {"test:5000/repo", "test:5000", "repo", "latest", NULL},
        {"test:5000/repo:tag", "test:5000", "repo", "tag", NULL},
        {"test:5000/repo@" F, "test:5000", "repo", NULL, F},
        {"test:5000/repo:tag@" F, "test:5000", "repo", "tag", F},
        {"lowercase:Uppercase", "docker.io", "library/lowercase", "Uppercase", NULL},
        {"sub-dom1.foo.com/bar/baz/quux", "sub-dom1.foo.com", "bar/baz/quux", "latest", NULL},
        {"sub-dom1.foo.com/bar/baz/quux:some-long-tag", "sub-dom1.foo.com", "bar/baz/quux", "some-long-tag", NULL},
        {"b.gcr.io/test.example.com/my-app:test.example.com", "b.gcr.io", "test.example.com/my-app", "test.example.com",
         NULL},
        {"xn--n3h.com/myimage:xn--n3h.com", "xn--n3h.com", "myimage", "xn--n3h.com", NULL},
        {"xn--7o8h.com/myimage:xn--7o8h.com@" F, "xn--7o8h.com", "myimage", "xn--7o8h.com", F},
        {"foo_bar.com:8080", "docker.io", "library/foo_bar.com", "8080", NULL},
        {"foo/foo_bar.com:8080", "docker.io", "foo/foo_bar.com", "8080", NULL},
        {"192.168.1.1", "docker.io", "library/192.168.1.1", "latest", NULL},
        {"192.168.1.1:5000", "docker.io", "library/192.168.1.1", "5000", NULL},
        {"192.168.1.1/repo", "192.168.1.1", "repo", "latest", NULL},
        {"192.168.1.1:5000/repo:5050", "192.168.1.1:5000", "repo", "5050", NULL},
        {"[2001:db8::1]/repo", "[2001:db8::1]", "repo", "latest", NULL},
        {"[2001:db8:1:2:3:4:5:6]/repo:tag", "[2001:db8:1:2:3:4:5:6]", "repo", "tag", NULL},
        {"[2001:db8::1]:5000/repo", "[2001:db8::1]:5000", "repo", "latest", NULL},
        {"[2001:db8::1]:5000/repo:tag@" F, "[2001:db8::1]:5000", "repo", "tag", F},
        {"[2001:db8::]:5000/repo", "[2001:db8::]:5000", "repo", "latest", NULL},
        {"[::1]:5000/repo", "[::1]:5000", "repo", "latest", NULL},
        {"example.com/" A247 "aaaaaaaa:tag", "example.com", A247 "aaaaaaaa", "tag", NULL},
        {"example.com/" S126 S126 "a/a:tag", "example.com", S126 S126 "a/a", "tag", NULL},
        {"registry.com:8080/myapp:tag2@" F, "registry.com:8080", "myapp", "tag2", F},
        {"localhost:8080@" F, "docker.io", "library/localhost", "8080", F},
        {"localhost:8080/name@" F, "localhost:8080", "name", NULL, F},
        {"localhost@" F, "docker.io", "library/localhost", NULL, F},
        {"short", "docker.io", "library/short", "latest", NULL},
        {"docker/stevvooe/app", "docker.io", "docker/stevvooe/app", "latest", NULL},
        {"aa-a/a", "docker.io", "aa-a/a", "latest", NULL},
        {"a/a/a/a", "docker.io", "a/a/a/a", "latest", NULL},
        {"a-b.com/x", "a-b.com", "x", "latest", NULL},
        {"ab.c-om/x", "ab.c-om", "x", "latest", NULL},
        {"0101.com/x", "0101.com", "x", "latest", NULL},
        {"001a.com/x", "001a.com", "x", "latest", NULL},
        {"b.gbc.io:443/x", "b.gbc.io:443", "x", "latest", NULL},
        {"foo.com/foo_bar", "foo.com", "foo_bar", "latest", NULL},
        {"example.com/xn--7o8h.com/myimage", "example.com", "xn--7o8h.com/myimage", "latest", NULL},
        {"example.com/some_separator__underscore/myimage", "example.com", "some_separator__underscore/myimage",
         "latest", NULL},
        {"do__cker/docker", "docker.io", "do__cker/docker", "latest", NULL},
        {"registry.io/foo/project--id.module--name.ver---sion--name", "registry.io",
         "foo/project--id.module--name.ver---sion--name", "latest", NULL},
        {"Asdf.com/foo/bar", "Asdf.com", "foo/bar", "latest", NULL},
        {"a:_", "docker.io", "library/a", "_", NULL},
        {"a:" A128, "docker.io", "library/a", A128, NULL},
        {"a.b:1.0-rc.1_x", "docker.io", "library/a.b", "1.0-rc.1_x", NULL},
        {"h:65535/a", "h:65535", "a", "latest", NULL},
        {"h:0080/a", "h:0080", "a", "latest", NULL},
    };

    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        check_good(&good[i]);
}

/* normalize_test.go: TestValidateReferenceName, TestValidateRemoteName, TestParseRepositoryInfo and the others. */
static void test_normal(void **state)
{
    static const struct {
        const char *s, *canonical, *familiar;
    } table[] = {
        {"localhost/fooo", "localhost/fooo", "localhost/fooo"},
        {"localhost/fooo/bar", "localhost/fooo/bar", "localhost/fooo/bar"},
        {"LOCALDOMAIN/fooo", "LOCALDOMAIN/fooo", "LOCALDOMAIN/fooo"},
        {"fooo/bar", "docker.io/fooo/bar", "fooo/bar"},
        {"docker.io/fooo/bar", "docker.io/fooo/bar", "fooo/bar"},
        {"index.docker.io/fooo/bar", "docker.io/fooo/bar", "fooo/bar"},
        {"registry-1.docker.io/library/ubuntu", "docker.io/library/ubuntu", "ubuntu"},
        {"index.docker.io/ubuntu", "docker.io/library/ubuntu", "ubuntu"},
        {"ubuntu", "docker.io/library/ubuntu", "ubuntu"},
        {"library/ubuntu", "docker.io/library/ubuntu", "ubuntu"},
        {"docker.io/library/ubuntu", "docker.io/library/ubuntu", "ubuntu"},
        {"docker.io/foo", "docker.io/library/foo", "foo"},
        {"nonlibrary/ubuntu", "docker.io/nonlibrary/ubuntu", "nonlibrary/ubuntu"},
        {"other/library", "docker.io/other/library", "other/library"},
        {"library", "docker.io/library/library", "library"},
        {"127.0.0.1:8000/private/moonbase", "127.0.0.1:8000/private/moonbase", "127.0.0.1:8000/private/moonbase"},
        {"127.0.0.1:8000/privatebase", "127.0.0.1:8000/privatebase", "127.0.0.1:8000/privatebase"},
        {"example.com/privatebase", "example.com/privatebase", "example.com/privatebase"},
        {"example.com:8000/library/x", "example.com:8000/library/x", "example.com:8000/library/x"},
        {"index.docker.io/library/ubuntu-12.04-base", "docker.io/library/ubuntu-12.04-base", "ubuntu-12.04-base"},
        {"library/foo/bar", "docker.io/library/foo/bar", "library/foo/bar"},
        {"store/foo/bar", "docker.io/store/foo/bar", "store/foo/bar"},
        {"Foo/bar", "Foo/bar", "Foo/bar"},
        {"FOO/bar", "FOO/bar", "FOO/bar"},
        {"Docker/docker", "Docker/docker", "Docker/docker"},
        {"test_com/foo", "docker.io/test_com/foo", "test_com/foo"},
        {"docker/migrator", "docker.io/docker/migrator", "docker/migrator"},
        {"test-com:8080/foo", "test-com:8080/foo", "test-com:8080/foo"},
        {"thisisthesongthatneverendsitgoesonandonandonthisisthesongthatnev",
         "docker.io/library/thisisthesongthatneverendsitgoesonandonandonthisisthesongthatnev",
         "thisisthesongthatneverendsitgoesonandonandonthisisthesongthatnev"},
        {"docker---rules/docker", "docker.io/docker---rules/docker", "docker---rules/docker"},
        {"docker.io/" HEX, "docker.io/library/" HEX, HEX},
        {"dbcc1", "docker.io/library/dbcc1", "dbcc1"},
        {"[fc00:1:2:3:4:5:6:7]:5000/library/debian", "[fc00:1:2:3:4:5:6:7]:5000/library/debian",
         "[fc00:1:2:3:4:5:6:7]:5000/library/debian"},
        /* Short forms that would mean something else stay longer. */
        {"docker.io/localhost/x", "docker.io/localhost/x", "docker.io/localhost/x"},
        {"docker.io/test.com/x", "docker.io/test.com/x", "docker.io/test.com/x"},
        {"docker.io/library/oci", "docker.io/library/oci", "library/oci"},
        {"library/docker-archive", "docker.io/library/docker-archive", "library/docker-archive"},
    };
    static const char *const tails[][2] = {{"", ":latest"}, {":x", ":x"}, {":latest@" F, ":latest@" F}};

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        for (size_t k = 0; k < ARRAY_SIZE(tails); k++) {
            struct sm_error err = SM_ERROR_INIT;
            char s[400], canonical[400], familiar[400];
            struct oci_ref ref;

            snprintf(s, sizeof(s), "%s%s", table[i].s, tails[k][0]);
            snprintf(canonical, sizeof(canonical), "%s%s", table[i].canonical, tails[k][1]);
            snprintf(familiar, sizeof(familiar), "%s%s", table[i].familiar, tails[k][1]);
            if (ref_parse(&ref, s, &err) < 0)
                fail_msg("%s: %s", s, err.text);
            check_again(&ref, ref_canonical, canonical);
            check_again(&ref, ref_familiar, familiar);
            ref_done(&ref);
        }
    }
}

/* What those same tests refuse, with what our sentence says. */
static void test_bad(void **state)
{
    static const struct {
        const char *s, *says;
    } bad[] = {
        {"", "empty"},
        {":justtag", "names no repository"},
        {"@" F, "names no repository"},
        {"repo@sha256:ffffffffffffffffffffffffffffffffff", "64 lower-case hex digits"},
        {"registry.com:8080/myapp@sha256:badbadbadbad", "64 lower-case hex digits"},
        {"registry.com:8080/myapp@bad", "not a digest"},
        {"registry.com:8080/myapp@2bad", "not a digest"},
        {"a@" F "@" F, "64 lower-case hex digits"},
        {"registry.com:8080/myapp:invalid~tag", "the tag"},
        {"a:.b", "the tag"},
        {"a:-b", "the tag"},
        {"a:", "empty tag"},
        {"a:@" F, "empty tag"},
        {"a: b", "the tag"},
        {"a b", "\"a b\""},
        {" a", "\" a\""},
        {"a\n", "\"a"},
        {"Uppercase:tag", "upper-case"},
        {"test:5000/Uppercase/lowercase:tag", "upper-case"},
        {"docker/Docker", "upper-case"},
        {"docker.io/docker/Docker", "upper-case"},
        {"Foo/FarB", "upper-case"},
        {"bad_hostname.com:8080/myapp:tag", "host"},
        {"foo_bar.com:8080/app", "host"},
        {"do__cker:8080/docker", "host"},
        {"localhost:http/name@" F, "port"},
        {"foo.com:http/bar", "port"},
        {"foo.com:/bar", "port"},
        {"foo.com:0/bar", "port"},
        {"192.168.1.1:75050/a", "port"},
        {"192.168.1.1:750050/a", "port"},
        {"h:65536/a", "port"},
        {"h:99999999999999999999/a", "port"},
        {"h:+1/a", "port"},
        {"[2001:db8::1]", "only a host"},
        {"[2001:db8::1]:5000", "only a host"},
        {"[2001:db8::1]:tag", "only a host"},
        {"[fe80::1%eth0]:5000/repo", "host"},
        {"[fe80::1%@invalidzone]:5000/repo", "not a digest"},
        {"[fd00:1:2::3]75050/a", "host"},
        {"[fd00:1:2::3]::75050/a", "port"},
        {"[fd00123123123]:75050/a", "host"},
        {"[2001:db8:3:4::192.0.2.33]:5000/debian", "host"},
        {"[::1/a", "host"},
        {"[]/a", "[]"},
        {"[1]/a", "[1]"},
        {"fd00:1:2::3:75050/a", "brackets"},
        {"fc00::1:5000/debian", "brackets"},
        {"https://github.com/docker/docker", "://"},
        {"docker://nginx", "://"},
        {HEX, "image's id"},
        {F, "without a name"},
        {"-docker", "\"-docker\""},
        {"-docker/docker", "\"-docker\""},
        {"docker-/docker", "\"docker-\""},
        {"-docker.io/docker/docker", "\"-docker.io\""},
        {"-ab.com/x", "host"},
        {"ab-.com/x", "host"},
        {"ab.-com/x", "host"},
        {"ab.com-/x", "host"},
        {"docker./docker", "host"},
        {".docker/docker", "host"},
        {"..docker/docker", "host"},
        {"do..cker/docker", "host"},
        {"/docker", "looks like a path"},
        {"docker///docker", "empty component"},
        {"docker.io/docker///docker", "empty component"},
        {"docker/", "empty component"},
        {"foo.com/", "names no repository"},
        {"a/a/a/a/", "empty component"},
        {"a//a/a", "empty component"},
        {"aa/asdf$$^/aa", "asdf$$^"},
        {"asdf$$^/aa", "asdf$$^"},
        {"a^a", "a^a"},
        {"foo.com/a-/a/a", "\"a-\""},
        {"foo/bar-", "\"bar-\""},
        {"_foo/bar", "\"_foo\""},
        {"____/____", "\"____\""},
        {"docker_/docker_", "\"docker_\""},
        {"a___b", "\"a___b\""},
        {"a_.b", "\"a_.b\""},
        {"x/dock-.er", "\"dock-.er\""},
        {"example.com/__underscore/myimage", "\"__underscore\""},
        {"example.com/..dots/myimage", "\"..dots\""},
        {"example.com/nodouble..dots/myimage", "\"nodouble..dots\""},
        {"../x", "looks like a path"},
        {"./x", "looks like a path"},
        {"caf\xc3\xa9", "caf\xc3\xa9"},
        {"oci:", "names no directory"},
        {"oci::tag", "names no directory"},
        {"oci:dir:", "empty tag"},
        {"oci-archive:", "names no file"},
        {"docker-archive::tag", "names no file"},
        {"docker-archive:x:", "empty tag"},
    };
    static const char *const others[] = {"validname@invaliddigest:" F64, "validname@sha512:" F64 F64};
    static const char *const longer[] = {
        "a:" A128 "a",
        "domain.example/" A247 "aaaaaaaaa:tag",
        "domain/" A247 "aa:tag",
        "docker.io/" A247 "a",
        A247 ".example" A16 "/a",
    };
    struct sm_error err = SM_ERROR_INIT;
    struct oci_ref ref;
    char *longest = malloc(OCI_REF_MAX + 10);

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (ref_parse(&ref, bad[i].s, &err) != -EINVAL)
            fail_msg("not refused, or not as it should: %s", bad[i].s);
        if (!strstr(err.text, bad[i].says))
            fail_msg("%s: %s", bad[i].s, err.text);
    }
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        assert_int_equal(ref_parse(&ref, others[i], &err), -ENOTSUP);
        assert_non_null(strstr(err.text, "only sha256"));
    }
    for (size_t i = 0; i < ARRAY_SIZE(longer); i++)
        assert_int_equal(ref_parse(&ref, longer[i], &err), -ENAMETOOLONG);
    memset(longest, 'a', OCI_REF_MAX + 9);
    longest[OCI_REF_MAX + 9] = '\0';
    assert_int_equal(ref_parse(&ref, longest, &err), -ENAMETOOLONG);
    memcpy(longest, "oci:", 4);
    assert_int_equal(ref_parse(&ref, longest, &err), -ENAMETOOLONG);
    free(longest);
}

static void test_transports(void **state)
{
    static const struct {
        const char *s;
        enum ref_kind kind;
        const char *path, *tag;
    } good[] = {
        {"oci:dir", REF_OCI_DIR, "dir", NULL},
        {"oci:/a/b c:latest", REF_OCI_DIR, "/a/b c", "latest"},
        {"oci:../x:reg.example/a/b:1.0", REF_OCI_DIR, "../x", "reg.example/a/b:1.0"},
        {"oci:UPPER", REF_OCI_DIR, "UPPER", NULL},
        {"oci-archive:a.tar", REF_OCI_ARCHIVE, "a.tar", NULL},
        {"oci-archive:/x/a.tar:1.0", REF_OCI_ARCHIVE, "/x/a.tar", "1.0"},
        {"oci-archive:-", REF_OCI_ARCHIVE, "-", NULL},
        {"docker-archive:-", REF_DOCKER_ARCHIVE, "-", NULL},
        {"docker-archive:-:nginx", REF_DOCKER_ARCHIVE, "-", "nginx"},
        {"docker-archive:a.tar:docker.io/library/nginx:1.27", REF_DOCKER_ARCHIVE, "a.tar",
         "docker.io/library/nginx:1.27"},
        {"docker-archive:a.tar:[::1]:5000/a:b", REF_DOCKER_ARCHIVE, "a.tar", "[::1]:5000/a:b"},
    };
    struct sm_error err = SM_ERROR_INIT;
    struct oci_ref ref;

    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        assert_int_equal(ref_parse(&ref, good[i].s, &err), 0);
        assert_int_equal(ref.kind, good[i].kind);
        assert_null(ref.host);
        assert_string_equal(ref.path, good[i].path);
        if (good[i].tag)
            assert_string_equal(ref.tag, good[i].tag);
        else
            assert_null(ref.tag);
        assert_false(ref.has_digest);
        ref_done(&ref);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_normal),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_transports),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
