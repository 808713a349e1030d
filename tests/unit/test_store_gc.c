/* SPDX-License-Identifier: Apache-2.0 */
/* What goes from the store and what stays: blobs, removal, pruning, usage, and the lock between them and the others. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "oci/blobs.h"
#include "oci/gc.h"
#include "oci/lock.h"
#include "oci/meta.h"
#include "oci/names.h"
#include "oci/store_dirs.h"
#include "oci/usage.h"
#include "oci_fixture.h"
#include "store_fixture.h"

#define NGINX "docker.io/library/nginx:latest"
#define REDIS "docker.io/library/redis:7"
#define OTHER "localhost:5000/other:x"

static const char *const ab[] = {"a", "b", NULL}, *const ac[] = {"a", "c", NULL}, *const d_only[] = {"d", NULL};

static void test_blobs(void **state)
{
    struct store_fixture *f = *state;
    struct digest d = digest_of_buf("content", 7);
    char *data;
    uint64_t size;
    size_t len;
    int fd;

    assert_int_equal(blob_open(f->s, &d, &size, NULL), -ENOENT);
    assert_int_equal(blob_read(f->s, &d, 100, (void **)&data, &len, NULL), -ENOENT);
    assert_int_equal(blob_put(f->s, &d, "content", 7, NULL), 0);
    assert_int_equal(blob_put(f->s, &d, "content", 7, NULL), 0);
    assert_int_equal(blob_read(f->s, &d, 7, (void **)&data, &len, NULL), 0);
    assert_true(len == 7 && !memcmp(data, "content", 7));
    free(data);
    assert_int_equal(blob_read(f->s, &d, 6, (void **)&data, &len, NULL), -ENOENT);
    fd = blob_open(f->s, &d, &size, NULL);
    assert_true(fd >= 0 && size == 7);
    close(fd);

    flip(path_in(f, "blobs", &d, ""), 3); /* damaged: as if it were not there, until it is put again */
    assert_int_equal(blob_read(f->s, &d, 7, (void **)&data, &len, NULL), -ENOENT);
    assert_int_equal(blob_put(f->s, &d, "content", 7, NULL), 0);
    assert_int_equal(blob_read(f->s, &d, 7, (void **)&data, &len, NULL), 0);
    free(data);
    assert_int_equal(count_in(f, "tmp"), 0);
}

static void test_partial(void **state)
{
    struct store_fixture *f = *state;
    struct digest d = digest_of_buf("content", 7);
    uint64_t have;
    int fd, lock_fd = store_lock_told(f->s, STORE_BLOB, &d, NULL, NULL, NULL);

    fd = blob_partial_open(f->s, &d, &have, NULL);
    assert_true(fd >= 0 && !have);
    assert_int_equal(write(fd, "cont", 4), 4);
    close(fd); /* a cut */
    fd = blob_partial_open(f->s, &d, &have, NULL);
    assert_true(fd >= 0 && have == 4);
    assert_int_equal(pwrite(fd, "ent", 3, 4), 3);
    assert_int_equal(blob_partial_commit(f->s, &d, fd, NULL), 0);
    close(fd);
    assert_true(is_in(f, "blobs", &d));
    assert_false(is_in(f, "partial", &d));
    fd = blob_partial_open(f->s, &d, &have, NULL);
    assert_true(fd >= 0 && !have);
    close(fd);
    assert_int_equal(blob_partial_discard(f->s, &d, NULL), 0);
    assert_int_equal(blob_partial_discard(f->s, &d, NULL), 0);
    assert_false(is_in(f, "partial", &d));
    close(lock_fd);
}

static bool has_layer(const struct store_fixture *f, const char *layer)
{
    struct digest d = layer_digest(layer);

    assert_true(is_in(f, "layers", &d) == is_in(f, "blobs", &d));
    return is_in(f, "layers", &d);
}

/* Layers that two images share stay until both are gone; a name too many keeps an image. */
static void test_remove(void **state)
{
    struct store_fixture *f = *state;
    struct digest one = image_put(f->s, NGINX, ab, "");
    struct gc_result result;
    struct sm_error err = SM_ERROR_INIT;
    char id[DIGEST_STR_SIZE];

    image_put(f->s, REDIS, ac, "");
    name_put(f->s, OTHER, &one, NULL);
    image_used(f->s, &one);
    assert_int_equal(count_in(f, "images"), 2);

    digest_str(&one, id);
    assert_int_equal(gc_remove(f->s, id, false, NULL, &err), -EEXIST);
    assert_non_null(strstr(err.text, NGINX));
    assert_non_null(strstr(err.text, OTHER));
    assert_int_equal(count_in(f, "names"), 3);

    assert_int_equal(gc_remove(f->s, "nginx", false, &result, &err), 0);
    assert_int_equal(result.n_records, 1);
    assert_int_equal(result.objects, 0);
    gc_result_done(&result);
    assert_true(has_layer(f, "b"));

    assert_int_equal(gc_remove(f->s, "localhost:5000/other:x", false, &result, &err), 0);
    assert_int_equal(result.n_records, 1);
    assert_string_equal(result.records[0].name, OTHER);
    assert_int_equal(result.objects, 5); /* manifest, config, layer b twice, metadata */
    assert_true(result.bytes > 40000);
    gc_result_done(&result);
    assert_true(has_layer(f, "a") && !has_layer(f, "b") && has_layer(f, "c"));
    assert_int_equal(count_in(f, "images"), 1);
    assert_int_equal(count_in(f, "used"), 0);

    assert_int_equal(gc_remove(f->s, "nginx", false, NULL, &err), -ENOENT);
    assert_int_equal(gc_remove(f->s, "nginx", true, NULL, &err), 0);
    assert_int_equal(gc_remove(f->s, "redis:7", true, NULL, &err), 0);
    assert_int_equal(count_in(f, "blobs"), 0);
    assert_int_equal(count_in(f, "layers"), 0);
    assert_int_equal(count_in(f, "images"), 0);
    assert_int_equal(count_in(f, "names"), 0);
    assert_int_equal(count_in(f, "tmp"), 0);
}

static void test_remove_by_id(void **state)
{
    struct store_fixture *f = *state;
    struct digest one = image_put(f->s, NGINX, ab, "");
    char id[DIGEST_STR_SIZE];

    name_put(f->s, OTHER, &one, NULL);
    image_put(f->s, NULL, ac, "");
    digest_str(&one, id);
    id[7 + 12] = '\0';
    assert_int_equal(gc_remove(f->s, id + 7, true, NULL, NULL), 0); /* both names */
    assert_int_equal(count_in(f, "names"), 1);
    assert_true(has_layer(f, "a") && !has_layer(f, "b"));
}

/* An index, by which the image was found, is the record's too; and goes with it while the image stays. */
static void test_root(void **state)
{
    struct store_fixture *f = *state;
    struct digest one = image_put(f->s, NGINX, ab, ""), root;
    char index[1024], id[DIGEST_STR_SIZE];

    digest_str(&one, id);
    snprintf(index, sizeof(index),
             "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[{"
             "\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"%s\",\"size\":1}]}",
             id);
    root = digest_of_buf(index, strlen(index));
    assert_int_equal(blob_put(f->s, &root, index, strlen(index), NULL), 0);
    name_put(f->s, OTHER, &one, &root);
    assert_int_equal(gc_prune(f->s, &(struct prune_options){.all = false}, NULL, NULL), 0);
    assert_true(is_in(f, "blobs", &root));
    assert_int_equal(gc_remove(f->s, OTHER, false, NULL, NULL), 0);
    assert_false(is_in(f, "blobs", &root));
    assert_true(is_in(f, "blobs", &one));
}

/* What has no record is a cache: removal of something else leaves it, prune takes it. */
static void test_prune(void **state)
{
    struct store_fixture *f = *state;
    struct digest one = image_put(f->s, NGINX, ab, ""), half = digest_of_buf("half", 4);
    struct gc_result result;
    uint64_t have;
    int fd;

    image_put(f->s, NULL, ac, "");
    image_put(f->s, "x/y:z", d_only, "");
    assert_int_equal(names_remove(f->s, "x/y:z", NULL, NULL), 0); /* as a killed removal leaves it */
    fd = blob_partial_open(f->s, &half, &have, NULL);
    assert_true(fd >= 0 && write(fd, "half", 4) == 4);
    close(fd);
    image_put(f->s, REDIS, ab, "another config");
    assert_int_equal(gc_remove(f->s, "redis:7", false, NULL, NULL), 0);
    assert_true(has_layer(f, "a") && has_layer(f, "b") && has_layer(f, "c") && has_layer(f, "d"));

    assert_int_equal(gc_prune(f->s, &(struct prune_options){.dry_run = true}, &result, NULL), 0);
    assert_int_equal(result.n_records, 1);
    assert_int_equal(result.objects, 11); /* 5 of c, 5 of d, the half */
    gc_result_done(&result);
    assert_true(has_layer(f, "c") && has_layer(f, "d") && is_in(f, "partial", &half));

    assert_int_equal(gc_prune(f->s, &(struct prune_options){.all = false}, &result, NULL), 0);
    assert_int_equal(result.n_records, 1);
    assert_int_equal(result.objects, 11);
    gc_result_done(&result);
    assert_true(has_layer(f, "a") && has_layer(f, "b") && !has_layer(f, "c") && !has_layer(f, "d"));
    assert_false(is_in(f, "partial", &half));
    assert_int_equal(count_in(f, "names"), 1);
    assert_true(is_in(f, "blobs", &one));

    assert_int_equal(gc_prune(f->s, &(struct prune_options){.all = true}, NULL, NULL), 0);
    assert_int_equal(count_in(f, "names") + count_in(f, "blobs") + count_in(f, "layers") + count_in(f, "images"), 0);
    assert_true(count_in(f, "locks") <= 2);
}

static void set_used(const struct store_fixture *f, const struct digest *image, int64_t ago_s)
{
    struct timespec t[2] = {{.tv_sec = time(NULL) - ago_s}, {.tv_sec = time(NULL) - ago_s}};

    image_used(f->s, image);
    assert_int_equal(utimensat(AT_FDCWD, path_in(f, "used", image, ""), t, 0), 0);
}

/* A record that is as old as one likes. */
static void name_put_old(struct oci_store *s, const char *name, const struct digest *manifest)
{
    struct name_record r = {.name = (char *)(uintptr_t)name,
                            .manifest = *manifest,
                            .root = *manifest,
                            .platform = (char *)(uintptr_t) "linux/amd64",
                            .created_s = 1};

    assert_int_equal(names_put(s, &r, NULL), 0);
}

static void test_prune_by_age(void **state)
{
    struct store_fixture *f = *state;
    struct digest one = image_put(f->s, NGINX, ab, ""), two = image_put(f->s, REDIS, ac, ""),
                  three = image_put(f->s, OTHER, d_only, "");

    name_put_old(f->s, NGINX, &one);
    name_put_old(f->s, REDIS, &two); /* OTHER is as new as its record */
    set_used(f, &one, 1000);
    set_used(f, &two, 100);
    set_used(f, &three, 100000);
    assert_int_equal(gc_prune(f->s, &(struct prune_options){.older_than_s = 500}, NULL, NULL), 0);
    assert_int_equal(count_in(f, "names"), 3); /* they have names */
    assert_int_equal(gc_prune(f->s, &(struct prune_options){.all = true, .older_than_s = 5000}, NULL, NULL), 0);
    assert_int_equal(count_in(f, "names"), 3);
    assert_int_equal(gc_prune(f->s, &(struct prune_options){.all = true, .older_than_s = 500}, NULL, NULL), 0);
    assert_int_equal(count_in(f, "names"), 2);
    assert_true(has_layer(f, "a") && !has_layer(f, "b") && has_layer(f, "c") && has_layer(f, "d"));
}

static void test_prune_by_size(void **state)
{
    struct store_fixture *f = *state;
    struct digest one = image_put(f->s, NGINX, ab, ""), two = image_put(f->s, REDIS, ac, ""),
                  three = image_put(f->s, OTHER, d_only, "");
    struct usage u;

    name_put_old(f->s, NGINX, &one);
    name_put_old(f->s, REDIS, &two);
    name_put_old(f->s, OTHER, &three);
    set_used(f, &one, 100);
    set_used(f, &two, 300);
    set_used(f, &three, 200);
    assert_int_equal(usage_of(&u, f->s, NULL), 0);
    usage_done(&u);
    assert_int_equal(gc_prune(f->s, &(struct prune_options){.all = true, .max_bytes = u.bytes + 1000000}, NULL, NULL),
                     0);
    assert_int_equal(count_in(f, "names"), 3);
    assert_int_equal(usage_of(&u, f->s, NULL), 0);
    assert_int_equal(gc_prune(f->s, &(struct prune_options){.all = true, .max_bytes = u.bytes - 1}, NULL, NULL), 0);
    usage_done(&u);
    assert_int_equal(count_in(f, "names"), 2); /* the least recently used is enough */
    assert_false(has_layer(f, "c"));
    assert_int_equal(gc_prune(f->s, &(struct prune_options){.all = true, .max_bytes = 1}, NULL, NULL), 0);
    assert_int_equal(count_in(f, "names"), 0);
}

static void test_usage(void **state)
{
    struct store_fixture *f = *state;
    struct digest one = image_put(f->s, NGINX, ab, "");
    struct usage u;

    name_put(f->s, OTHER, &one, NULL);
    image_put(f->s, REDIS, ac, "");
    image_put(f->s, NULL, d_only, "");
    assert_int_equal(usage_of(&u, f->s, NULL), 0);
    assert_int_equal(u.n_images, 3);
    assert_int_equal(u.images[0].n_records, 2);
    assert_string_equal(u.images[0].records[0].name, NGINX);
    assert_string_equal(u.images[1].records[0].name, REDIS);
    assert_true(name_is_untagged(&u.images[2].records[0]));
    assert_true(digest_equal(&u.images[0].manifest, &one));
    assert_int_equal(u.images[0].shared_bytes, u.images[1].shared_bytes); /* layer a, as it came and converted */
    assert_true(u.images[0].shared_bytes > 40000);
    assert_int_equal(u.images[2].shared_bytes, 0);
    assert_int_equal(u.reclaimable, u.images[2].unique_bytes);
    assert_int_equal(u.layers.count, 4);
    assert_int_equal(u.blobs.count, 10);
    assert_int_equal(u.metas.count, 3);
    assert_int_equal(u.bytes, u.layers.bytes + u.blobs.bytes + u.metas.bytes);
    assert_int_equal(u.bytes, u.images[0].shared_bytes + u.images[0].unique_bytes + u.images[1].unique_bytes +
                                  u.images[2].unique_bytes);
    usage_done(&u);
}

/* Another process that holds the lock until it is told to end. */
static pid_t hold(struct oci_store *s, int (*take)(struct oci_store *s, struct sm_error *err), int *ret_end)
{
    int ready[2], end[2];
    char c;
    pid_t pid;

    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    assert_int_equal(pipe2(end, O_CLOEXEC), 0);
    pid = fork();
    if (!pid) {
        close(end[1]);
        if (take(s, NULL) >= 0 && write(ready[1], "x", 1) == 1)
            (void)!read(end[0], &c, 1);
        _exit(0);
    }
    close(ready[1]);
    close(end[0]);
    assert_int_equal(read(ready[0], &c, 1), 1);
    close(ready[0]);
    *ret_end = end[1];
    return pid;
}

static void test_lock(void **state)
{
    struct store_fixture *f = *state;
    char who[LOCK_WHO_SIZE], path[512], want[64], other[64];
    int fd, end, end2, status;
    pid_t pid, second;

    pid = hold(f->s, gc_enter, &end);
    second = hold(f->s, gc_enter, &end2);
    fd = gc_enter(f->s, NULL); /* any number of those at work */
    assert_true(fd >= 0);
    close(fd);

    snprintf(path, sizeof(path), "%s/locks/gc", f->dir);
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(lock_take(fd, LOCK_EX, &(struct lock_wait){.timeout_ms = 20}), -ETIMEDOUT);
    lock_who(who, fd);
    snprintf(want, sizeof(want), "process %d (", pid);
    snprintf(other, sizeof(other), "process %d (", second);
    if (strncmp(who, "another process", 15)) { /* what a file system of odd numbers gives */
        assert_true(strstr(who, want) == who || strstr(who, other) == who);
        assert_non_null(strstr(who, ") and 1 other"));
    }
    close(end);
    close(end2);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(waitpid(second, &status, 0), second);
    assert_int_equal(lock_take(fd, LOCK_EX, &(struct lock_wait){.timeout_ms = 10000}), 0);
    close(fd);
}

static int stop_after_three(void *ctx, const char *who)
{
    assert_true(who[0]);
    return ++*(int *)ctx == 3;
}

static void test_lock_told(void **state)
{
    struct store_fixture *f = *state;
    struct digest d = digest_of_buf("x", 1);
    struct sm_error err = SM_ERROR_INIT;
    int calls = 0, fd = store_lock_told(f->s, STORE_BLOB, &d, NULL, NULL, NULL);

    assert_true(fd >= 0);
    assert_int_equal(store_lock_told(f->s, STORE_BLOB, &d, stop_after_three, &calls, &err), -ECANCELED);
    assert_int_equal(calls, 3);
    close(fd);
    fd = store_lock_told(f->s, STORE_BLOB, &d, stop_after_three, &calls, &err);
    assert_true(fd >= 0 && calls == 3);
    close(fd);
}

/* A removal that cannot have the store to itself changes nothing, and says who is there. */
static void test_busy(void **state)
{
    struct store_fixture *f = *state;
    struct sm_error err = SM_ERROR_INIT;
    char want[64];
    int end, status;
    pid_t pid;

    image_put(f->s, NGINX, ab, "");
    f->s->alone_ms = 30;
    pid = hold(f->s, gc_enter, &end);
    assert_int_equal(gc_remove(f->s, "nginx", false, NULL, &err), -EBUSY);
    snprintf(want, sizeof(want), "process %d (", pid);
    assert_true(strstr(err.text, want) || strstr(err.text, "another process"));
    assert_int_equal(count_in(f, "names"), 1);
    assert_true(has_layer(f, "a"));
    close(end);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(gc_remove(f->s, "nginx", false, NULL, &err), 0);

    pid = hold(f->s, gc_alone, &end);
    f->s->enter_ms = 30;
    assert_int_equal(gc_enter(f->s, &err), -EBUSY);
    assert_true(strstr(err.text, "process ") || strstr(err.text, "another process"));
    close(end);
    assert_int_equal(waitpid(pid, &status, 0), pid);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_blobs, store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(test_partial, store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(test_remove, store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(test_remove_by_id, store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(test_root, store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(test_prune, store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(test_prune_by_age, store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(test_prune_by_size, store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(test_usage, store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(test_lock, store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(test_lock_told, store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(test_busy, store_fixture_setup, store_fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
