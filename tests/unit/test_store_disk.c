/* SPDX-License-Identifier: Apache-2.0 */
/* The image store on a disk that is full, and on one that can only be read: one sentence, and nothing half-written. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/io.h"
#include "oci/blobs.h"
#include "oci/fsck.h"
#include "oci/gc.h"
#include "oci/json.h"
#include "oci/names.h"
#include "oci/snapshot_dirs.h"
#include "oci/stored.h"
#include "oci_fixture.h"
#include "store_fixture.h"

#define NGINX     "docker.io/library/nginx:latest"
#define DISK_SIZE "size=1m"

static const char *const ab[] = {"a", "b", NULL};
static int no_mounts; /* an errno value: why there are none of our own */

static bool write_proc(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0)
        close(fd);
    return ok;
}

/* Mounts of our own; with a user namespace where we are not root. */
static bool unshare_mounts(void)
{
    unsigned uid = geteuid(), gid = getegid();
    char map[64];

    if (!uid)
        return !unshare(CLONE_NEWNS) && !mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0 || !write_proc("/proc/self/setgroups", "deny"))
        return false;
    snprintf(map, sizeof(map), "0 %u 1", gid);
    if (!write_proc("/proc/self/gid_map", map))
        return false;
    snprintf(map, sizeof(map), "0 %u 1", uid);
    return write_proc("/proc/self/uid_map", map);
}

static int setup(void **state)
{
    struct store_fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    f->dir = temp_dir();
    *state = f;
    if (no_mounts || mount("none", f->dir, "tmpfs", 0, DISK_SIZE) < 0) {
        print_message("no file system can be mounted here: %s\n", strerror(no_mounts ? no_mounts : errno));
        return 0;
    }
    assert_int_equal(oci_store_open(&f->s, f->dir, NULL), 0);
    return 0;
}

static int teardown(void **state)
{
    struct store_fixture *f = *state;

    oci_store_free(f->s);
    if (f->s)
        umount2(f->dir, MNT_DETACH);
    temp_dir_remove(f->dir);
    free(f);
    return 0;
}

static void fill_disk(const struct store_fixture *f)
{
    static const char zeros[4096];
    char path[512];
    int fd;

    snprintf(path, sizeof(path), "%s/filler", f->dir);
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    while (write(fd, zeros, sizeof(zeros)) == (ssize_t)sizeof(zeros))
        ;
    assert_int_equal(errno, ENOSPC);
    close(fd);
}

static void empty_disk(const struct store_fixture *f)
{
    char path[512];

    snprintf(path, sizeof(path), "%s/filler", f->dir);
    assert_int_equal(unlink(path), 0);
}

static bool means(struct oci_store *s, const struct digest *d)
{
    struct name_record r;
    bool same;

    if (names_get(s, NGINX, NULL, &r, NULL) < 0)
        return false;
    same = digest_equal(&r.manifest, d);
    name_record_done(&r);
    return same;
}

/* There is no room to make a layer again: only what they look like can be checked, and the result says so. */
static void assert_sound(const struct store_fixture *f)
{
    struct sm_error err = SM_ERROR_INIT;
    struct fsck_result result;

    if (fsck_store(f->s, &(struct fsck_options){.repair = false}, &result, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(result.problems, 0);
    assert_int_equal(result.unproven, 3);
    fsck_result_done(&result);
    assert_int_equal(count_in(f, "tmp"), 0);
}

static void test_full(void **state)
{
    struct store_fixture *f = *state;
    struct digest d = digest_of_buf("content", 7), one;
    struct name_record r = {
        .name = (char *)(uintptr_t)NGINX, .manifest = d, .root = d, .platform = (char *)(uintptr_t) "linux/amd64"};
    struct sm_error err = SM_ERROR_INIT;

    if (!f->s)
        skip();
    one = image_put(f->s, NGINX, ab, "");
    fill_disk(f);
    assert_int_equal(blob_put(f->s, &d, "content", 7, &err), -ENOSPC);
    assert_non_null(strstr(err.text, "the disk is full"));
    assert_non_null(strstr(err.text, f->dir));
    assert_false(is_in(f, "blobs", &d));
    assert_int_equal(names_put(f->s, &r, &err), -ENOSPC);
    assert_true(means(f->s, &one));
    assert_sound(f);
    assert_int_equal(gc_remove(f->s, "nginx", false, NULL, &err), 0); /* that is how room is made */
    assert_int_equal(blob_put(f->s, &d, "content", 7, &err), 0);
    empty_disk(f);
}

/* One of a version that had no snapshots. */
static void test_old_and_read_only(void **state)
{
    struct store_fixture *f = *state;
    struct sm_error err = SM_ERROR_INIT;
    struct digest key = digest_of_buf("key", 3);
    char path[512], **keys;
    size_t n;

    if (!f->s)
        skip();
    image_put(f->s, NGINX, ab, "");
    oci_store_free(f->s);
    snprintf(path, sizeof(path), "%s/snapshots", f->dir);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mount(NULL, f->dir, NULL, MS_REMOUNT | MS_RDONLY, DISK_SIZE), 0);
    assert_int_equal(oci_store_open(&f->s, f->dir, &err), 0);
    assert_int_equal(snapshot_dirs_list(f->s, &keys, &n, &err), 0);
    assert_int_equal(n, 0);
    strings_free(keys);
    assert_int_equal(snapshot_dir_open(f->s, &key, &err), -ENOENT);
    assert_sound(f);
    assert_int_equal(mount(NULL, f->dir, NULL, MS_REMOUNT, DISK_SIZE), 0);
}

static void test_read_only(void **state)
{
    struct store_fixture *f = *state;
    struct digest d = digest_of_buf("content", 7), one;
    struct sm_error err = SM_ERROR_INIT;
    struct oci_image *img;
    char path[512];
    int fd;

    if (!f->s)
        skip();
    one = image_put(f->s, NGINX, ab, "");
    snprintf(path, sizeof(path), "%s/locks/gc", f->dir);
    for (int i = 0; i < 2; i++) { /* with the lock's file, and where there never was one */
        if (i)
            assert_int_equal(unlink(path), 0);
        oci_store_free(f->s);
        assert_int_equal(mount(NULL, f->dir, NULL, MS_REMOUNT | MS_RDONLY, DISK_SIZE), 0);
        assert_int_equal(oci_store_open(&f->s, f->dir, &err), 0);
        fd = gc_enter(f->s, &err);
        assert_true(fd >= 0);
        assert_true(means(f->s, &one));
        assert_int_equal(image_open_stored(&img, f->s, &one, NULL, NULL, &err), 0);
        image_used(f->s, &one);
        oci_image_free(img);
        close(fd);
        assert_int_equal(blob_put(f->s, &d, "content", 7, &err), -EROFS);
        assert_non_null(strstr(err.text, "read-only"));
        assert_non_null(strstr(err.text, "SUPERMACHINE_HOME"));
        err = (struct sm_error)SM_ERROR_INIT;
        assert_int_equal(gc_remove(f->s, "nginx", false, NULL, &err), -EROFS);
        assert_non_null(strstr(err.text, "read-only"));
        assert_int_equal(gc_prune(f->s, &(struct prune_options){.all = true}, NULL, &err), -EROFS);
        assert_sound(f);
        assert_int_equal(mount(NULL, f->dir, NULL, MS_REMOUNT, DISK_SIZE), 0);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_old_and_read_only, setup, teardown),
    };

    no_mounts = unshare_mounts() ? 0 : errno;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
