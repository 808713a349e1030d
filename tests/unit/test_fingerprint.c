/* SPDX-License-Identifier: Apache-2.0 */
/* Keys of snapshots, and the sums of files that are part of them. */
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
#include "lib/filesum.h"
#include "lib/fingerprint.h"
#include "oci_fixture.h"
#include "store_fixture.h"

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})

static struct sm_error err;

/* Real time, moved: files of a test are new. */
static int64_t moved_s;
int __real_clock_gettime(clockid_t clock, struct timespec *ret);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret);

int __wrap_clock_gettime(clockid_t clock, struct timespec *ret)
{
    int r = __real_clock_gettime(clock, ret);

    if (clock == CLOCK_REALTIME)
        ret->tv_sec += moved_s;
    return r;
}

static const struct fingerprint_file files[] = {{"/a", 0644, 0, 0, "1"}, {"/b", 0600, 1, 2, "2"}};

static struct fingerprint_input plain(void)
{
    static const char *const entrypoint[] = {"e", "f", NULL}, *const cmd[] = {"c", NULL}, *const env[] = {"X=1", NULL},
                             *const warmup[] = {"w", NULL};

    return (struct fingerprint_input){
        .image_digest = "sha256:1",
        .platform = "linux/amd64",
        .kernel = "k",
        .initramfs = "i",
        .kernel_args = "a",
        .memory_mib = 256,
        .vcpus = 1,
        .entrypoint = entrypoint,
        .cmd = cmd,
        .env = env,
        .cwd = "/",
        .user = "0",
        .workload = true,
        .files = files,
        .n_files = 2,
        .trigger = "listener",
        .after_ms = 7000,
        .quiesce_ms = 100,
        .warmup = warmup,
        .tag = "t",
    };
}

static const char *key(const struct fingerprint_input *in)
{
    static char keys[4][SNAPSHOT_KEY_SIZE];
    static unsigned next;
    char *ret = keys[next++ % 4];

    assert_int_equal(fingerprint_key(in, ret, &err), 0);
    assert_int_equal(strspn(ret, "0123456789abcdef"), 64);
    return ret;
}

static void everything_counts(void **state)
{
    static const struct fingerprint_file other[] = {{"/a", 0644, 0, 0, "1"}, {"/b", 0600, 1, 3, "2"}},
                                         swapped[] = {{"/b", 0600, 1, 2, "2"}, {"/a", 0644, 0, 0, "1"}};
    struct fingerprint_input base = plain(), in;
    char seen[40][SNAPSHOT_KEY_SIZE];
    size_t n = 0;

    (void)state;
    strcpy(seen[n++], key(&base));
#define CHANGED(change)                                                                                                \
    do {                                                                                                               \
        in = base;                                                                                                     \
        in.change;                                                                                                     \
        strcpy(seen[n++], key(&in));                                                                                   \
    } while (0)
    CHANGED(image_digest = "sha256:2");
    CHANGED(image_digest = NULL);
    CHANGED(platform = "linux/arm64");
    CHANGED(kernel = "K");
    CHANGED(initramfs = "I");
    CHANGED(kernel_args = NULL);
    CHANGED(kernel_args = "");
    CHANGED(memory_mib = 512);
    CHANGED(vcpus = 2);
    CHANGED(entrypoint = LIST("ef"));
    CHANGED(entrypoint = LIST("e"));
    CHANGED(entrypoint = NULL);
    CHANGED(entrypoint = LIST("e", "f", ""));
    CHANGED(cmd = LIST("f", "c"));
    CHANGED(env = LIST("X=1", "Y=2"));
    CHANGED(cwd = "/x");
    CHANGED(user = "1");
    CHANGED(workload = false);
    CHANGED(files = other);
    CHANGED(files = swapped);
    CHANGED(n_files = 1);
    CHANGED(trigger = "parked");
    CHANGED(after_ms = 1);
    CHANGED(quiesce_ms = 1);
    CHANGED(heartbeat_target = 1);
    CHANGED(require_listener = true);
    CHANGED(warmup = NULL);
    CHANGED(warmup = LIST("w", "x"));
    CHANGED(tag = "");
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < i; k++) {
            if (strcmp(seen[i], seen[k]) == 0)
                fail_msg("%zu and %zu have the same key", k, i);
        }
    }
    in = plain();
    assert_string_equal(key(&in), seen[0]);
}

static void what_does_not_count(void **state)
{
    struct fingerprint_input a = plain(), b = plain();

    (void)state;
    a.workload = b.workload = false; /* before any command: that comes later */
    b.entrypoint = b.cmd = b.env = NULL;
    b.cwd = b.user = NULL;
    assert_string_equal(key(&a), key(&b));
    a.image_digest = b.image_digest = NULL; /* a base is of the machine only */
    b.files = NULL;
    b.n_files = 0;
    b.trigger = b.tag = NULL;
    b.warmup = NULL;
    assert_string_equal(key(&a), key(&b));
}

/* Sums of files */

static int open_in(const struct store_fixture *f, const char *name, int flags)
{
    char path[600];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", f->dir, name);
    fd = open(path, flags | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static const char *sum(const struct store_fixture *f, const char *name)
{
    static char hex[4][DIGEST_HEX_SIZE];
    static unsigned next;
    char *ret = hex[next++ % 4];
    int fd = open_in(f, name, O_RDONLY);

    if (file_digest_cached(f->s, fd, "the file", ret, &err) < 0)
        fail_msg("%s", err.text);
    close(fd);
    return ret;
}

static const char *right_sum(const char *content)
{
    static char hex[DIGEST_HEX_SIZE];
    struct digest d = digest_of_buf(content, strlen(content));

    digest_hex(&d, hex);
    return hex;
}

/* What is remembered is told from what is read by making it say something else. */
static void spoil(const struct store_fixture *f)
{
    char path[600];

    for (unsigned i = 0; i < 256; i++) {
        struct stat st;
        int fd;

        snprintf(path, sizeof(path), "%s/sums/%02x", f->dir, i);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(pwrite(fd, "0000", 4, st.st_size - 5), 4);
        close(fd);
    }
}

static bool is_remembered(const struct store_fixture *f, const char *name)
{
    spoil(f);
    return strcmp(sum(f, name) + 60, "0000") == 0;
}

static void a_sum_is_remembered_by_what_the_file_is(void **state)
{
    struct store_fixture *f = *state;
    struct timespec times[2];
    struct stat st;
    int fd;

    moved_s = 0;
    write_file(f->dir, "kernel", "one", 3);
    assert_string_equal(sum(f, "kernel"), right_sum("one"));
    assert_false(is_remembered(f, "kernel")); /* it was written just now, and may be written again in the same tick */
    moved_s = 10;
    assert_string_equal(sum(f, "kernel"), right_sum("one"));
    assert_int_equal(count_in(f, "sums"), 1);
    assert_int_equal(count_in(f, "tmp"), 0);
    assert_true(is_remembered(f, "kernel"));

    /* Another content of the same length, and dated back. */
    fd = open_in(f, "kernel", O_RDWR);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(pwrite(fd, "two", 3, 0), 3);
    times[0] = st.st_atim;
    times[1] = st.st_mtim;
    assert_int_equal(futimens(fd, times), 0);
    close(fd);
    assert_string_equal(sum(f, "kernel"), right_sum("two"));

    /* Another file of the same name. */
    write_file(f->dir, "other", "six", 3);
    char a[600], b[600];
    snprintf(a, sizeof(a), "%s/other", f->dir);
    snprintf(b, sizeof(b), "%s/kernel", f->dir);
    assert_int_equal(rename(a, b), 0);
    assert_string_equal(sum(f, "kernel"), right_sum("six"));
    moved_s = 0;
}

static void a_clock_that_was_set_back_remembers_nothing(void **state)
{
    struct store_fixture *f = *state;

    write_file(f->dir, "kernel", "one", 3);
    moved_s = -1000;
    assert_string_equal(sum(f, "kernel"), right_sum("one"));
    assert_false(is_remembered(f, "kernel"));
    moved_s = 0;
}

static void damaged_lines_count_for_nothing(void **state)
{
    struct store_fixture *f = *state;
    char path[600] = "";

    write_file(f->dir, "kernel", "one", 3);
    moved_s = 10;
    for (off_t len = 0; len < 200; len += 7) {
        assert_string_equal(sum(f, "kernel"), right_sum("one"));
        for (unsigned i = 0; i < 256; i++) {
            snprintf(path, sizeof(path), "%s/sums/%02x", f->dir, i);
            if (access(path, F_OK) == 0)
                assert_int_equal(truncate(path, len), 0);
        }
    }
    assert_string_equal(sum(f, "kernel"), right_sum("one"));
    moved_s = 0;
}

static void what_is_no_file_has_no_sum(void **state)
{
    struct store_fixture *f = *state;
    char hex[DIGEST_HEX_SIZE];
    int fd = open_in(f, "", O_RDONLY | O_DIRECTORY);

    assert_int_equal(file_digest_cached(f->s, fd, "the kernel", hex, &err), -EINVAL);
    assert_string_equal(err.text, "the kernel is not a file");
    close(fd);
}

int main(void)
{
#define STORE_TEST(fn) cmocka_unit_test_setup_teardown(fn, store_fixture_setup, store_fixture_teardown)
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_counts),
        cmocka_unit_test(what_does_not_count),
        STORE_TEST(a_sum_is_remembered_by_what_the_file_is),
        STORE_TEST(a_clock_that_was_set_back_remembers_nothing),
        STORE_TEST(damaged_lines_count_for_nothing),
        STORE_TEST(what_is_no_file_has_no_sum),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
