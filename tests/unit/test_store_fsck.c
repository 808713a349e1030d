/* SPDX-License-Identifier: Apache-2.0 */
/* One bit wrong anywhere in the store is found, told about once, and what can be made right is. */
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

#include "oci/blobs.h"
#include "oci/fsck.h"
#include "oci/gc.h"
#include "oci/manifest.h"
#include "oci/meta.h"
#include "oci/stored.h"
#include "oci_fixture.h"
#include "store_fixture.h"

#define NGINX "docker.io/library/nginx:latest"
#define REDIS "docker.io/library/redis:7"

static const char *const ab[] = {"a", "b", NULL}, *const ac[] = {"a", "c", NULL};

struct seen {
    unsigned kinds[FSCK_IMAGE + 1], removed, unproven;
    char last[512]; /* "object: text" */
    uint64_t done, total;
};

static void on_problem(void *ctx, const struct fsck_problem *p)
{
    struct seen *seen = ctx;

    seen->kinds[p->kind]++;
    seen->removed += p->removed;
    snprintf(seen->last, sizeof(seen->last), "%s: %s", p->object, p->text);
}

static int on_step(void *ctx, uint64_t done, uint64_t total)
{
    struct seen *seen = ctx;

    assert_true(done >= seen->done && done <= total);
    seen->done = done;
    seen->total = total;
    return 0;
}

/* Returns how many problems; the images that lack something in *ret_lacking. */
static unsigned check(struct oci_store *s, bool repair, struct seen *seen, size_t *ret_lacking)
{
    struct fsck_options o = {.repair = repair, .problem = on_problem, .step = on_step, .ctx = seen};
    struct sm_error err = SM_ERROR_INIT;
    struct fsck_result result;
    unsigned problems;

    *seen = (struct seen){.removed = 0};
    if (fsck_store(s, &o, &result, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(result.checked > 0);
    assert_int_equal(seen->done, seen->total);
    assert_int_equal(result.removed, seen->removed);
    seen->unproven = result.unproven;
    problems = result.problems;
    *ret_lacking = result.n_lacking;
    fsck_result_done(&result);
    return problems;
}

static void put_two(struct oci_store *s)
{
    image_put(s, NGINX, ab, "");
    image_put(s, REDIS, ac, "");
}

static void assert_clean(struct oci_store *s, unsigned unproven)
{
    struct seen seen;
    size_t lacking;

    if (check(s, false, &seen, &lacking))
        fail_msg("%s", seen.last);
    assert_int_equal(lacking, 0);
    assert_int_equal(seen.unproven, unproven);
}

static void test_clean(void **state)
{
    struct store_fixture *f = *state;
    struct digest half = digest_of_buf("half", 4);
    uint64_t have;

    put_two(f->s);
    close(blob_partial_open(f->s, &half, &have, NULL));
    assert_clean(f->s, 0);
    assert_int_equal(count_in(f, "tmp"), 0);
}

/* What is wrong here is one `kind`; told twice the same, then repaired, after which only `lacking` images are left. */
static void expect(const struct store_fixture *f, enum fsck_kind kind, size_t lacking_before, size_t lacking_after)
{
    struct seen seen;
    size_t lacking;

    for (int i = 0; i < 2; i++) {
        assert_int_equal(check(f->s, false, &seen, &lacking), 1 + lacking_before);
        assert_int_equal(seen.kinds[kind], 1);
        assert_int_equal(seen.kinds[FSCK_IMAGE], lacking_before);
        assert_int_equal(lacking, lacking_before);
        assert_int_equal(seen.removed, 0);
    }
    assert_int_equal(check(f->s, true, &seen, &lacking), 1 + lacking_after);
    assert_int_equal(seen.kinds[kind], 1);
    assert_int_equal(seen.removed, 1);
    assert_int_equal(lacking, lacking_after);
    assert_int_equal(check(f->s, false, &seen, &lacking), lacking_after);
    assert_int_equal(count_in(f, "tmp"), 0);
}

static void test_layer_blob(void **state)
{
    struct store_fixture *f = *state;
    struct digest d = layer_digest("b");

    put_two(f->s);
    flip(path_in(f, "blobs", &d, ""), 700);
    expect(f, FSCK_BLOB, 0, 0); /* the converted layer is there: the image works */
    assert_false(is_in(f, "blobs", &d));
    assert_true(is_in(f, "layers", &d));
}

static void test_documents(void **state)
{
    struct store_fixture *f = *state;
    struct digest d;

    put_two(f->s);
    d = image_put(f->s, NGINX, ab, "");
    flip(path_in(f, "blobs", &d, ""), 20);
    expect(f, FSCK_BLOB, 1, 1);
    assert_false(is_in(f, "blobs", &d));
    image_blobs(f->s, ab, ""); /* fetched again */
    assert_clean(f->s, 0);
}

static void test_config(void **state)
{
    struct store_fixture *f = *state;
    struct digest d = image_put(f->s, NGINX, ab, ""), config;
    struct manifest_doc m;
    size_t len;
    void *data;

    assert_int_equal(blob_read(f->s, &d, 10000, &data, &len, NULL), 0);
    assert_int_equal(manifest_doc_parse(&m, data, len, NULL), 0);
    config = m.config.digest;
    manifest_doc_done(&m);
    free(data);
    assert_int_equal(unlink(path_in(f, "blobs", &config, "")), 0); /* gone, not damaged */
    {
        struct seen seen;
        size_t lacking;

        assert_int_equal(check(f->s, true, &seen, &lacking), 1);
        assert_int_equal(seen.kinds[FSCK_IMAGE], 1);
        assert_non_null(strstr(seen.last, NGINX ": its configuration"));
        assert_int_equal(lacking, 1);
    }
    image_blobs(f->s, ab, "");
    assert_clean(f->s, 0);
}

/* A bit in a converted layer is found by making it again, and put right the same way. */
static void test_layer_data(void **state)
{
    struct store_fixture *f = *state;
    struct digest d = layer_digest("a");
    struct stat before, after;

    put_two(f->s);
    assert_int_equal(stat(path_in(f, "layers", &d, "data"), &before), 0);
    flip(path_in(f, "layers", &d, "data"), 12345);
    expect(f, FSCK_LAYER, 0, 0);
    assert_clean(f->s, 0);
    assert_int_equal(stat(path_in(f, "layers", &d, "data"), &after), 0);
    assert_int_equal(before.st_size, after.st_size);
}

static void test_layer_index(void **state)
{
    struct store_fixture *f = *state;
    struct digest d = layer_digest("a");

    put_two(f->s);
    flip(path_in(f, "layers", &d, "index"), 130);
    expect(f, FSCK_LAYER, 0, 0);
    assert_int_equal(truncate(path_in(f, "layers", &d, "data"), 4096), 0);
    expect(f, FSCK_LAYER, 0, 0);
    assert_int_equal(unlink(path_in(f, "layers", &d, "index")), 0);
    expect(f, FSCK_LAYER, 0, 0);
    assert_clean(f->s, 0);
}

/* Neither is there what it could be made from: the images that need it lack something. */
static void test_layer_without_blob(void **state)
{
    struct store_fixture *f = *state;
    struct digest d = layer_digest("a");

    put_two(f->s);
    assert_int_equal(unlink(path_in(f, "blobs", &d, "")), 0);
    assert_clean(f->s, 1);
    flip(path_in(f, "layers", &d, "index"), 130);
    expect(f, FSCK_LAYER, 2, 2);
    assert_false(is_in(f, "layers", &d));
    image_blobs(f->s, ac, "");
    assert_clean(f->s, 2); /* what was merged from it */
}

static void test_meta(void **state)
{
    struct store_fixture *f = *state;
    struct digest ids[2] = {layer_digest("a"), layer_digest("b")}, key;
    struct stat st;

    put_two(f->s);
    assert_int_equal(meta_key(ids, 2, &key, NULL), 0);
    assert_int_equal(stat(path_in(f, "images", &key, "meta.erofs"), &st), 0);
    flip(path_in(f, "images", &key, "meta.erofs"), st.st_size / 2);
    expect(f, FSCK_META, 0, 0);
    flip(path_in(f, "images", &key, "meta.erofs"), 1030);
    expect(f, FSCK_META, 0, 0);
    assert_int_equal(truncate(path_in(f, "images", &key, "meta.erofs"), 100), 0);
    expect(f, FSCK_META, 0, 0);
    assert_clean(f->s, 0);
}

/* Of an image that has no record, only the structure is known. */
static void test_without_record(void **state)
{
    struct store_fixture *f = *state;
    struct digest ids[2] = {layer_digest("a"), layer_digest("b")}, key;

    image_put(f->s, NGINX, ab, "");
    assert_int_equal(names_remove(f->s, NGINX, NULL, NULL), 0);
    assert_clean(f->s, 3);
    assert_int_equal(meta_key(ids, 2, &key, NULL), 0);
    flip(path_in(f, "images", &key, "meta.erofs"), 1030);
    expect(f, FSCK_META, 0, 0);
    flip(path_in(f, "layers", &ids[0], "index"), 130);
    expect(f, FSCK_LAYER, 0, 0);
    assert_false(is_in(f, "layers", &ids[0]));
    assert_clean(f->s, 1);
}

static void test_name(void **state)
{
    struct store_fixture *f = *state;
    struct digest name = digest_of_buf(NGINX, strlen(NGINX));

    put_two(f->s);
    flip(path_in(f, "names", &name, ""), 0);
    expect(f, FSCK_NAME, 0, 0);
    assert_false(is_in(f, "names", &name));
    assert_int_equal(count_in(f, "names"), 1);
}

static void test_partial(void **state)
{
    struct store_fixture *f = *state;
    struct digest half = digest_of_buf("half", 4);

    put_two(f->s);
    assert_int_equal(mkdir(path_in(f, "partial", &half, ""), 0700), 0);
    expect(f, FSCK_PARTIAL, 0, 0);
    assert_false(is_in(f, "partial", &half));
}

static int stop(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    (void)done;
    (void)total;
    return 1;
}

static void test_stop(void **state)
{
    struct store_fixture *f = *state;
    struct sm_error err = SM_ERROR_INIT;
    struct fsck_result result;

    put_two(f->s);
    assert_int_equal(fsck_store(f->s, &(struct fsck_options){.step = stop}, &result, &err), -ECANCELED);
    assert_int_equal(err.code, ECANCELED);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_clean),
        TEST(test_layer_blob),
        TEST(test_documents),
        TEST(test_config),
        TEST(test_layer_data),
        TEST(test_layer_index),
        TEST(test_layer_without_blob),
        TEST(test_meta),
        TEST(test_without_record),
        TEST(test_name),
        TEST(test_partial),
        TEST(test_stop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
