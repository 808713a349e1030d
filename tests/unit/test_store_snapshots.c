/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots among the other things in a store: what removes them, what they take, and who finds that they are damaged.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "oci/gc.h"
#include "oci/usage.h"
#include "oci_fixture.h"
#include "snap/limits.h"
#include "snapshot_fixture.h"

#define LAYERS(...) ((const char *const[]){__VA_ARGS__, NULL})

static struct sm_error err;

static bool there(const struct store_fixture *f, char key)
{
    return access(snapshot_path(f, key_of(key), ""), F_OK) == 0;
}

/* Used `days` ago. */
static void age(const struct store_fixture *f, char key, int days)
{
    struct timespec t[2] = {{.tv_sec = time(NULL) - days * 86400}, {.tv_sec = time(NULL) - days * 86400}};

    assert_int_equal(utimensat(AT_FDCWD, snapshot_path(f, key_of(key), ""), t, 0), 0);
}

/* A store with an image that has a name, one that has none, bakes of both and of one that is gone, bases, a machine. */
static void fill(struct store_fixture *f)
{
    struct digest app = image_put(f->s, "docker.io/library/app:1.2", LAYERS("base", "top"), "x");
    struct digest old = image_put(f->s, NULL, LAYERS("base", "old"), "x");
    char app_id[DIGEST_STR_SIZE], old_id[DIGEST_STR_SIZE];
    struct snapshot *base = snapshot_put(f->s, key_of('a'), NULL, NULL, 1), *s;
    struct snapshot_meta meta;
    struct snapshot_draft *d;

    name_put(f->s, "docker.io/library/app:latest", &app, NULL);
    digest_str(&app, app_id);
    digest_str(&old, old_id);
    snapshot_unref(snapshot_put(f->s, key_of('b'), app_id, base, 2));
    snapshot_unref(snapshot_put(f->s, key_of('c'), old_id, base, 3));
    snapshot_unref(snapshot_put(f->s, key_of('d'),
                                "sha256:4444444444444444444444444444444444444444444444444444444444444444", base, 4));
    snapshot_unref(snapshot_put(f->s, key_of('e'), NULL, NULL, 5)); /* a base that nothing needs */
    s = snapshot_put(f->s, key_of('f'), app_id, NULL, 6);           /* whole, and what a machine was made of */
    meta = plain_meta(app_id);
    meta.kind = SNAPSHOT_VM;
    snapshot_base_of(&meta, s);
    assert_int_equal(snapshot_draft_new(&d, f->s, key_of('0'), &err), 0);
    fill_draft(d, true, 7);
    if (snapshot_draft_publish(d, &meta, false, NULL, &err) < 0)
        fail_msg("%s", err.text);
    snapshot_draft_free(d);
    snapshot_unref(s);
    snapshot_unref(base);
}

static const char *left(const struct store_fixture *f)
{
    static char keys[8];
    char *p = keys;

    for (const char *c = "abcdef0"; *c; c++) {
        if (there(f, *c))
            *p++ = *c;
    }
    *p = '\0';
    return keys;
}

static void an_image_that_goes_takes_its_bakes_along(void **state)
{
    struct store_fixture *f = *state;
    struct gc_result gone;

    fill(f);
    assert_int_equal(gc_remove(f->s, "app:1.2", false, NULL, &err), 0); /* it has another name */
    assert_string_equal(left(f), "abcdef0");
    assert_int_equal(gc_remove(f->s, "app", false, &gone, &err), 0);
    assert_string_equal(left(f), "acdef0"); /* f is what 0 is a difference to */
    assert_true(gone.bytes > 0);
    gc_result_done(&gone);
}

static void prune_takes_bakes_of_images_that_are_gone(void **state)
{
    struct store_fixture *f = *state;

    fill(f);
    assert_int_equal(gc_prune(f->s, &(struct prune_options){.dry_run = true}, NULL, &err), 0);
    assert_string_equal(left(f), "abcdef0");
    assert_int_equal(gc_prune(f->s, &(struct prune_options){.all = false}, NULL, &err), 0);
    assert_string_equal(left(f), "abef0"); /* c went with its image, which had no name */
    assert_int_equal(gc_prune(f->s, &(struct prune_options){.all = true}, NULL, &err), 0);
    assert_string_equal(left(f), "f0");
    assert_int_equal(count_in(f, "names"), 0);
}

static void prune_takes_what_was_not_used(void **state)
{
    struct store_fixture *f = *state;

    fill(f);
    age(f, 'b', 10);
    age(f, 'a', 10);
    age(f, '0', 10);
    age(f, 'd', 3);
    assert_int_equal(gc_prune(f->s, &(struct prune_options){.older_than_s = 5 * 86400}, NULL, &err), 0);
    assert_string_equal(left(f), "acdef0"); /* a is old, but c needs it */
    age(f, 'c', 10);
    age(f, 'd', 10);
    age(f, 'a', 10);
    assert_int_equal(gc_prune(f->s, &(struct prune_options){.older_than_s = 5 * 86400}, NULL, &err), 0);
    assert_string_equal(left(f), "ef0");
}

static uint64_t total(const struct store_fixture *f, struct usage_total *ret_snapshots)
{
    struct usage u;
    uint64_t bytes;

    assert_int_equal(usage_of(&u, f->s, &err), 0);
    bytes = u.bytes;
    if (ret_snapshots)
        *ret_snapshots = u.snapshots;
    usage_done(&u);
    return bytes;
}

static void prune_to_a_size_begins_with_what_was_used_longest_ago(void **state)
{
    struct store_fixture *f = *state;
    struct prune_options o = {.all = true};

    fill(f);
    snapshot_unref(snapshot_put(f->s, key_of('d'), NULL, NULL, 1)); /* another base in its place: nothing is loose */
    age(f, 'd', 1);
    age(f, 'c', 2);
    age(f, 'b', 3);
    o.max_bytes = total(f, NULL) - 1;
    assert_int_equal(gc_prune(f->s, &o, NULL, &err), 0);
    assert_string_equal(left(f), "acdef0");
    o.max_bytes = total(f, NULL) - 1;
    assert_int_equal(gc_prune(f->s, &o, NULL, &err), 0);
    assert_string_equal(left(f), "adef0");
    assert_int_equal(count_in(f, "images"), 2); /* images wait until no bake is left */
}

static void usage_counts_blocks(void **state)
{
    struct store_fixture *f = *state;
    uint64_t before = total(f, NULL), after, own = 0;
    struct usage_total snapshots;
    struct usage u;
    struct stat st;

    fill(f);
    after = total(f, &snapshots);
    assert_int_equal(snapshots.count, 7);
    assert_true(snapshots.bytes > 7 * SNAP_PAGE && snapshots.bytes < FIXTURE_MIB * MIB);
    assert_true(after > before + snapshots.bytes);
    for (const char *const *file = (const char *const[]){"state", "memory", "diff", "metadata.json", NULL}; *file;
         file++) {
        assert_int_equal(stat(snapshot_path(f, key_of('b'), *file), &st), 0);
        own += (uint64_t)st.st_blocks * 512;
    }
    assert_int_equal(usage_of(&u, f->s, &err), 0);
    after = u.images[0].unique_bytes;
    usage_done(&u);
    assert_int_equal(unlink(snapshot_path(f, key_of('b'), "metadata.json")), 0); /* it is nobody's any more */
    assert_int_equal(usage_of(&u, f->s, &err), 0);
    assert_int_equal(after - u.images[0].unique_bytes, own);
    usage_done(&u);
}

static void the_public_usage_tells_them_apart(void **state)
{
    struct sm_store_usage u = {.size = sizeof(u)}, old = {.size = offsetof(struct sm_store_usage, snapshots)};
    struct store_fixture *f = *state;
    struct usage_total snapshots;
    struct sm_store *store;

    fill(f);
    total(f, &snapshots);
    assert_int_equal(sm_store_open(&store, f->dir, &err), 0);
    assert_int_equal(sm_store_usage(NULL, store, &u, &err), 0);
    assert_int_equal(u.snapshots, 7);
    assert_int_equal(u.snapshot_bytes, snapshots.bytes);
    assert_int_equal(u.total_bytes,
                     u.layer_bytes + u.file_system_bytes + u.blob_bytes + u.partial_bytes + u.snapshot_bytes);
    assert_int_equal(sm_store_usage(NULL, store, &old, &err), 0); /* a caller that does not know of them */
    assert_int_equal(old.total_bytes, u.total_bytes);
    assert_int_equal(old.snapshots, 0);
    sm_store_free(store);
}

static void a_lock_that_is_held_stays(void **state)
{
    struct store_fixture *f = *state;
    int fd = snapshot_lock(f->s, key_of('a'), NULL, NULL, &err);
    struct stat st;

    assert_true(fd >= 0);
    close(snapshot_lock(f->s, key_of('b'), NULL, NULL, &err));
    assert_int_equal(gc_prune(f->s, &(struct prune_options){.all = true}, NULL, &err), 0); /* it is not waited for */
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_nlink, 1);
    assert_int_equal(count_in(f, "locks"), 2); /* gc, this */
    close(fd);
}

/* fsck */

static char problems[4096];

static void on_problem(void *ctx, const struct sm_store_problem *p)
{
    (void)ctx;
    snprintf(problems + strlen(problems), sizeof(problems) - strlen(problems), "%s: %s\n", p->object, p->text);
}

static struct sm_fsck_result check(const struct store_fixture *f, bool repair)
{
    struct sm_fsck_options o = SM_FSCK_OPTIONS_INIT;
    struct sm_fsck_result result = {.size = sizeof(result)};
    struct sm_store *store;

    o.repair = repair;
    o.problem = on_problem;
    problems[0] = '\0';
    assert_int_equal(sm_store_open(&store, f->dir, &err), 0);
    if (sm_store_fsck(store, &o, &result, &err) < 0)
        fail_msg("%s", err.text);
    sm_store_free(store);
    return result;
}

static void assert_said(const char *text)
{
    if (!strstr(problems, text))
        fail_msg("\"%s\" does not say \"%s\"", problems, text);
}

static void fsck_reads_snapshots(void **state)
{
    struct store_fixture *f = *state;
    char path[600];

    fill(f);
    assert_int_equal(check(f, false).problems, 0);
    flip(snapshot_path(f, key_of('b'), "state"), 90);
    flip(snapshot_path(f, key_of('c'), "memory"), 7 * SNAP_PAGE);
    flip(snapshot_path(f, key_of('d'), "metadata.json"), 40);
    snprintf(path, sizeof(path), "%s/snapshots/%s", f->dir, key_of('9'));
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(check(f, false).problems, 4);
    assert_said("snapshot bbbbbbbb");
    assert_said("cc: its memory is not what was saved");
    assert_said("dd: its metadata is not right");
    assert_said("99: its metadata is not there");
    assert_string_equal(left(f), "abcdef0");
    assert_int_equal(check(f, true).unrepaired, 0);
    assert_string_equal(left(f), "aef0");
    assert_int_equal(check(f, false).problems, 0);
}

static void fsck_knows_that_a_damaged_base_is_no_base(void **state)
{
    struct store_fixture *f = *state;

    fill(f);
    flip(snapshot_path(f, key_of('a'), "memory"), 5 * SNAP_PAGE);
    assert_int_equal(check(f, false).problems, 4);
    assert_said("bb: its base aaaaaaaaaaaa is damaged");
    assert_int_equal(check(f, true).unrepaired, 0);
    assert_string_equal(left(f), "ef0");
    assert_int_equal(unlink(snapshot_path(f, key_of('f'), "metadata.json")), 0);
    assert_int_equal(check(f, false).problems, 2);
    assert_said("00: its base ffffffffffff is damaged");
}

static void fsck_leaves_other_versions_alone(void **state)
{
    struct store_fixture *f = *state;
    struct sm_fsck_result r;
    char text[4096];
    ssize_t n;
    int fd;

    fill(f);
    fd = open(snapshot_path(f, key_of('a'), "metadata.json"), O_RDWR | O_CLOEXEC);
    n = read(fd, text, sizeof(text));
    assert_true(n > 12);
    text[10] = '2';
    assert_int_equal(pwrite(fd, text, (size_t)n, 0), n);
    close(fd);
    r = check(f, true);
    assert_int_equal(r.unproven, 4); /* a, and the three that need it */
    assert_int_equal(r.problems, 0);
    assert_string_equal(left(f), "abcdef0");
    assert_int_equal(gc_prune(f->s, &(struct prune_options){.all = true}, NULL, &err), 0);
    assert_string_equal(left(f), "af0");
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, store_fixture_setup, store_fixture_teardown)
    static const struct CMUnitTest tests[] = {
        TEST(an_image_that_goes_takes_its_bakes_along),
        TEST(prune_takes_bakes_of_images_that_are_gone),
        TEST(prune_takes_what_was_not_used),
        TEST(prune_to_a_size_begins_with_what_was_used_longest_ago),
        TEST(usage_counts_blocks),
        TEST(the_public_usage_tells_them_apart),
        TEST(a_lock_that_is_held_stays),
        TEST(fsck_reads_snapshots),
        TEST(fsck_knows_that_a_damaged_base_is_no_base),
        TEST(fsck_leaves_other_versions_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
