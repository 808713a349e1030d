/* SPDX-License-Identifier: Apache-2.0 */
/* Names in the store: what they mean, what becomes of what they meant, and how users may write them. */
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "oci/limits.h"
#include "oci/names.h"
#include "oci/record.h"
#include "oci/store.h"
#include "oci_fixture.h"

#define NGINX "docker.io/library/nginx:latest"
#define REDIS "docker.io/library/redis:7"

struct fixture {
    char *dir;
    struct oci_store *s;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->dir = temp_dir();
    assert_int_equal(oci_store_open(&f->s, f->dir, NULL), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    oci_store_free(f->s);
    temp_dir_remove(f->dir);
    free(f);
    return 0;
}

static void put(struct oci_store *s, const char *name, const char *platform, const char *image)
{
    struct digest d = digest_of_buf(image, strlen(image));
    struct name_record r = {.name = (char *)(uintptr_t)name,
                            .root = d,
                            .manifest = d,
                            .platform = (char *)(uintptr_t)platform,
                            .created_s = 1700000000,
                            .source = (char *)(uintptr_t) "test"};
    struct sm_error err = SM_ERROR_INIT;
    int code = names_put(s, &r, &err);

    if (code < 0)
        fail_msg("%s", err.text);
}

static bool means(struct oci_store *s, const char *name, const char *platform, const char *image)
{
    struct digest d = digest_of_buf(image, strlen(image));
    struct name_record r;
    bool same;

    if (names_get(s, name, platform, &r, NULL) < 0)
        return false;
    same = digest_equal(&r.manifest, &d);
    name_record_done(&r);
    return same;
}

/* All records, "name=platform" one a line; images without a name as "@". */
static char *listed(struct oci_store *s)
{
    static char text[4096];
    struct name_record *list;
    size_t n, len = 0;

    text[0] = '\0';
    assert_int_equal(names_list(s, &list, &n, NULL, NULL), 0);
    for (size_t i = 0; i < n; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s=%s\n",
                                name_is_untagged(&list[i]) ? "@" : list[i].name, list[i].platform);
    name_records_free(list, n);
    return text;
}

static void test_put_and_get(void **state)
{
    struct oci_store *s = ((struct fixture *)*state)->s;
    struct name_record r;

    assert_int_equal(names_get(s, NGINX, NULL, &r, NULL), -ENOENT);
    put(s, NGINX, "linux/amd64", "one");
    assert_int_equal(names_get(s, NGINX, NULL, &r, NULL), 0);
    assert_string_equal(r.name, NGINX);
    assert_string_equal(r.platform, "linux/amd64");
    assert_string_equal(r.source, "test");
    assert_int_equal(r.created_s, 1700000000);
    name_record_done(&r);
    assert_true(means(s, NGINX, "linux/amd64", "one"));
    assert_false(means(s, NGINX, "linux/arm64", "one"));
    assert_int_equal(names_get(s, NGINX, "nonsense", &r, NULL), -EINVAL);
}

static void test_platforms(void **state)
{
    struct oci_store *s = ((struct fixture *)*state)->s;

    put(s, NGINX, "linux/amd64", "one");
    put(s, NGINX, "linux/arm/v7", "two");
    put(s, NGINX, "linux/arm64", "three");
    assert_true(means(s, NGINX, "linux/amd64", "one"));
    assert_true(means(s, NGINX, "linux/arm/v7", "two"));
    assert_true(means(s, NGINX, "linux/arm", "two"));
    assert_true(means(s, NGINX, "linux/aarch64", "three"));
    assert_string_equal(listed(s), NGINX "=linux/amd64\n" NGINX "=linux/arm/v7\n" NGINX "=linux/arm64\n");
    assert_int_equal(names_remove(s, NGINX, "linux/arm/v7", NULL), 0);
    assert_int_equal(names_remove(s, NGINX, "linux/arm/v7", NULL), -ENOENT);
    assert_string_equal(listed(s), NGINX "=linux/amd64\n" NGINX "=linux/arm64\n");
    assert_int_equal(names_remove(s, NGINX, NULL, NULL), 0);
    assert_string_equal(listed(s), "");
    assert_int_equal(names_remove(s, NGINX, NULL, NULL), -ENOENT);
}

/* A name that moves leaves an image without a name, but only when that was its last; and a name given ends it. */
static void test_untagged(void **state)
{
    struct oci_store *s = ((struct fixture *)*state)->s;

    put(s, NGINX, "linux/amd64", "one");
    put(s, NGINX, "linux/amd64", "one");
    assert_string_equal(listed(s), NGINX "=linux/amd64\n");
    put(s, NGINX, "linux/amd64", "two");
    assert_string_equal(listed(s), NGINX "=linux/amd64\n@=linux/amd64\n");
    put(s, REDIS, "linux/amd64", "one"); /* "one" has a name again */
    assert_string_equal(listed(s), NGINX "=linux/amd64\n" REDIS "=linux/amd64\n");
    put(s, NGINX, "linux/amd64", "one");
    put(s, NGINX, "linux/amd64", "three"); /* "one" is still redis */
    assert_string_equal(listed(s), NGINX "=linux/amd64\n" REDIS "=linux/amd64\n@=linux/amd64\n");
    put(s, NULL, "linux/amd64", "one");
    put(s, NULL, "linux/amd64", "four");
    assert_string_equal(listed(s), NGINX "=linux/amd64\n" REDIS "=linux/amd64\n@=linux/amd64\n@=linux/amd64\n");
}

static void write_name_file(const char *dir, const char *name, const char *text)
{
    struct digest d = digest_of_buf(name, strlen(name));
    char hex[DIGEST_HEX_SIZE], path[DIGEST_HEX_SIZE + 8];

    digest_hex(&d, hex);
    snprintf(path, sizeof(path), "names/%s", hex);
    write_file(dir, path, text, strlen(text));
}

#define D                 "\"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\""
#define IMAGE(platform)   "{\"platform\":" platform ",\"root\":" D ",\"manifest\":" D ",\"created\":1}"
#define DOC(name, images) "{\"version\":1,\"name\":\"" name "\",\"images\":[" images "]}"

static void test_damaged(void **state)
{
    struct fixture *f = *state;
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "{}",
        DOC(NGINX, ""),
        DOC("", IMAGE("\"linux/amd64\"")),
        DOC("a b", IMAGE("\"linux/amd64\"")),
        DOC("a\\u001bb", IMAGE("\"linux/amd64\"")),
        DOC("another", IMAGE("\"linux/amd64\"")),
        DOC(NGINX, IMAGE("\"linux\"")),
        DOC(NGINX, IMAGE("\"linux/x86_64\"")), /* not as it is written here */
        DOC(NGINX, IMAGE("7")),
        DOC(NGINX, IMAGE("\"linux/amd64\"") "," IMAGE("\"linux/amd64\"")),
        DOC(NGINX, "{\"platform\":\"linux/amd64\",\"root\":" D ",\"created\":1}"),
        DOC(NGINX, "{\"platform\":\"linux/amd64\",\"root\":\"sha256:1\",\"manifest\":" D ",\"created\":1}"),
        DOC(NGINX, "{\"platform\":\"linux/amd64\",\"root\":" D ",\"manifest\":" D ",\"created\":-1}"),
        "{\"version\":2,\"name\":\"" NGINX "\",\"images\":[" IMAGE("\"linux/amd64\"") "]}",
        DOC(NGINX, IMAGE("\"linux/amd64\"")) "x",
    };
    struct name_record *list;
    struct name_record r;
    size_t n, damaged;

    put(f->s, REDIS, "linux/amd64", "one");
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        write_name_file(f->dir, NGINX, bad[i]);
        assert_int_equal(names_get(f->s, NGINX, NULL, &r, NULL), -ENOENT);
        assert_int_equal(names_list(f->s, &list, &n, &damaged, NULL), 0);
        assert_int_equal(n, 1);
        assert_int_equal(damaged, 1);
        name_records_free(list, n);
    }
    write_name_file(f->dir, NGINX, DOC(NGINX, IMAGE("\"linux/amd64\"")));
    assert_int_equal(names_get(f->s, NGINX, NULL, &r, NULL), 0);
    name_record_done(&r);
    write_name_file(f->dir, NGINX, bad[0]);
    put(f->s, NGINX, "linux/amd64", "two"); /* a damaged one can be replaced */
    assert_true(means(f->s, NGINX, NULL, "two"));
}

/* What cannot be read back is not written, and leaves what was there. */
static void test_refused(void **state)
{
    struct fixture *f = *state;
    struct digest d = digest_of_buf("x", 1);
    static const char *const names[] = {"", "a b", "a\tb", "a\xff", "@sha256:00"};
    char *longer = malloc(OCI_REF_MAX + 2);
    struct sm_error err = SM_ERROR_INIT;
    struct name_record r = {.root = d, .manifest = d, .platform = (char *)(uintptr_t) "linux/amd64"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        r.name = (char *)(uintptr_t)names[i];
        assert_true(names_put(f->s, &r, &err) < 0 || names[i][0] == '@');
    }
    memset(longer, 'a', OCI_REF_MAX + 1);
    longer[OCI_REF_MAX + 1] = '\0';
    r.name = longer;
    assert_true(names_put(f->s, &r, &err) < 0);
    free(longer);
    r.name = (char *)(uintptr_t)NGINX;
    r.platform = (char *)(uintptr_t) "nonsense";
    assert_true(names_put(f->s, &r, &err) < 0);
    r.platform = (char *)(uintptr_t) "linux/amd64";
    r.source = (char *)(uintptr_t) "file \xff\x01\"\\ \xc3\xa4"; /* anything may stand in a path */
    assert_int_equal(names_put(f->s, &r, &err), 0);
    assert_int_equal(names_get(f->s, NGINX, NULL, &r, NULL), 0);
    assert_string_equal(r.source, "file \xef\xbf\xbd\x01\"\\ \xc3\xa4");
    assert_true(r.created_s > 1700000000);
    name_record_done(&r);
}

static int find(struct oci_store *s, const char *typed, size_t *ret_n, bool *ret_by_id)
{
    struct sm_error err = SM_ERROR_INIT;
    struct name_record *list;
    int r = names_find(s, typed, &list, ret_n, ret_by_id, &err);

    if (r >= 0)
        name_records_free(list, *ret_n);
    else
        assert_true(err.code == -r && err.text[0]);
    return r;
}

static void test_find(void **state)
{
    struct oci_store *s = ((struct fixture *)*state)->s;
    struct digest one = digest_of_buf("one", 3);
    char id[DIGEST_STR_SIZE], text[256];
    bool by_id;
    size_t n;

    digest_str(&one, id);
    put(s, NGINX, "linux/amd64", "one");
    put(s, NGINX, "linux/arm64", "two");
    put(s, REDIS, "linux/amd64", "one");
    assert_int_equal(find(s, "nginx", &n, &by_id), 0);
    assert_true(n == 2 && !by_id);
    assert_int_equal(find(s, NGINX, &n, &by_id), 0);
    assert_int_equal(find(s, "redis:7", &n, &by_id), 0);
    assert_true(n == 1 && !by_id);
    assert_int_equal(find(s, id, &n, &by_id), 0);
    assert_true(n == 2 && by_id);
    assert_int_equal(find(s, id + 7, &n, &by_id), 0);
    assert_true(n == 2 && by_id);
    snprintf(text, sizeof(text), "%.12s", id + 7);
    assert_int_equal(find(s, text, &n, &by_id), 0);
    assert_true(n == 2 && by_id);
    snprintf(text, sizeof(text), "%.12s", id);
    assert_int_equal(find(s, text, &n, &by_id), 0);
    snprintf(text, sizeof(text), "nginx@%s", id);
    assert_int_equal(find(s, text, &n, &by_id), 0);
    assert_true(n == 1 && by_id);
    assert_int_equal(find(s, "sha256:abc", &n, &by_id), -EINVAL);
    assert_int_equal(find(s, "redis", &n, &by_id), -ENOENT);
    assert_int_equal(find(s, "0000", &n, &by_id), -ENOENT);
    assert_int_equal(find(s, "oci:dir", &n, &by_id), -EINVAL);
    assert_int_equal(find(s, "Not A Name", &n, &by_id), -EINVAL);
}

/* Digits that several images begin with; and a name that looks like digits goes before them. */
static void test_find_ambiguous(void **state)
{
    struct oci_store *s = ((struct fixture *)*state)->s;
    struct name_record *list, r = {.platform = (char *)(uintptr_t) "linux/amd64"};
    struct sm_error err = SM_ERROR_INIT;
    size_t n;
    bool by_id;

    for (uint8_t i = 0; i < 3; i++) {
        char name[32];

        r.manifest = (struct digest){.bytes = {0xbe, 0xef, i}};
        r.root = r.manifest;
        snprintf(name, sizeof(name), "localhost/image%u:x", i);
        r.name = name;
        assert_int_equal(names_put(s, &r, NULL), 0);
    }
    assert_int_equal(names_find(s, "beef", &list, &n, NULL, &err), -EEXIST);
    assert_non_null(strstr(err.text, "beef00"));
    assert_non_null(strstr(err.text, "localhost/image2:x"));
    assert_int_equal(find(s, "beef01", &n, &by_id), 0);
    put(s, "docker.io/library/beef:latest", "linux/amd64", "steak");
    assert_int_equal(find(s, "beef", &n, &by_id), 0);
    assert_true(n == 1 && !by_id);
}

static void test_used(void **state)
{
    struct oci_store *s = ((struct fixture *)*state)->s;
    struct digest d = digest_of_buf("one", 3);
    int64_t first;

    assert_int_equal(image_last_used(s, &d), 0);
    image_used(s, &d);
    first = image_last_used(s, &d);
    assert_true(first > 1700000000);
    image_used(s, &d);
    assert_true(image_last_used(s, &d) >= first);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_put_and_get, setup, teardown),
        cmocka_unit_test_setup_teardown(test_platforms, setup, teardown),
        cmocka_unit_test_setup_teardown(test_untagged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_find, setup, teardown),
        cmocka_unit_test_setup_teardown(test_find_ambiguous, setup, teardown),
        cmocka_unit_test_setup_teardown(test_used, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
