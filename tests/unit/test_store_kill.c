/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that is killed at any point leaves a store that works.
 *
 * Two ways: one process killed before each single step that changes the store's directory (calls of the C library are
 * wrapped at link time), one after the other; and several at work on the same store at once, all killed at a random
 * moment. After each kill the store is opened and checked: nothing is damaged, no image lacks anything, and nothing
 * unfinished stays.
 */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "oci/blobs.h"
#include "oci/fsck.h"
#include "oci/gc.h"
#include "oci/names.h"
#include "oci_fixture.h"
#include "store_fixture.h"

#define NGINX       "docker.io/library/nginx:latest"
#define REDIS       "docker.io/library/redis:7"
#define MAX_STEPS   400
#define ROUNDS      25
#define WORKERS     3
#define DEADLINE_MS 60000

/* Steps. `left`: how many may still be done before the process is killed; negative: no end. Only set in children. */

static int left = -1;

static void step(void)
{
    if (left >= 0 && !left--)
        kill(getpid(), SIGKILL);
}

int __real_renameat(int from_fd, const char *from, int to_fd, const char *to);
int __wrap_renameat(int from_fd, const char *from, int to_fd, const char *to);
int __real_unlinkat(int fd, const char *path, int flags);
int __wrap_unlinkat(int fd, const char *path, int flags);
int __real_mkdirat(int fd, const char *path, mode_t mode);
int __wrap_mkdirat(int fd, const char *path, mode_t mode);
int __real_fsync(int fd);
int __wrap_fsync(int fd);
ssize_t __real_write(int fd, const void *data, size_t len);
ssize_t __wrap_write(int fd, const void *data, size_t len);

int __wrap_renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    step();
    return __real_renameat(from_fd, from, to_fd, to);
}

int __wrap_unlinkat(int fd, const char *path, int flags)
{
    step();
    return __real_unlinkat(fd, path, flags);
}

int __wrap_mkdirat(int fd, const char *path, mode_t mode)
{
    step();
    return __real_mkdirat(fd, path, mode);
}

int __wrap_fsync(int fd)
{
    step();
    return __real_fsync(fd);
}

ssize_t __wrap_write(int fd, const void *data, size_t len)
{
    step();
    return __real_write(fd, data, len);
}

/* What is done. Nothing in it may fail. */

static const char *const layers[][3] = {{"a", "b"}, {"a", "c"}, {"d"}};

static void put(struct oci_store *s, const char *name, unsigned layer_list, unsigned note)
{
    char text[16];

    snprintf(text, sizeof(text), "%u", note);
    image_put(s, name, layers[layer_list], text);
}

static void fetch_blob(struct oci_store *s, const char *content)
{
    struct digest d = digest_of_buf(content, strlen(content));
    int gc_fd = gc_enter(s, NULL), lock_fd = store_lock_told(s, STORE_BLOB, &d, NULL, NULL, NULL), fd;
    uint64_t have;

    fd = blob_partial_open(s, &d, &have, NULL);
    assert_true(fd >= 0 && have <= strlen(content));
    assert_int_equal(lseek(fd, (off_t)have, SEEK_SET), have);
    for (; have < strlen(content); have++)
        assert_int_equal(write(fd, content + have, 1), 1);
    assert_int_equal(blob_partial_commit(s, &d, fd, NULL), 0);
    close(fd);
    close(lock_fd);
    close(gc_fd);
}

static void forget(struct oci_store *s, const char *name)
{
    struct sm_error err = SM_ERROR_INIT;

    if (gc_remove(s, name, true, NULL, &err) < 0)
        fail_msg("%s", err.text);
}

static void clean(struct oci_store *s, bool all)
{
    struct sm_error err = SM_ERROR_INIT;

    if (gc_prune(s, &(struct prune_options){.all = all}, NULL, &err) < 0)
        fail_msg("%s", err.text);
}

/* A killed process's converters end with it, but a moment later: they are ours then (main makes it so). */
static void reap_all(void)
{
    while (waitpid(-1, NULL, 0) > 0)
        ;
    assert_int_equal(errno, ECHILD);
}

/* What must hold afterwards. */

static void on_problem(void *ctx, const struct fsck_problem *p)
{
    (void)ctx;
    print_error("%s: %s\n", p->object, p->text);
}

static void assert_sound(const struct store_fixture *f)
{
    struct sm_error err = SM_ERROR_INIT;
    struct fsck_result result;
    struct oci_store *s;

    if (oci_store_open(&s, f->dir, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(count_in(f, "tmp"), 0);
    if (fsck_store(s, &(struct fsck_options){.problem = on_problem}, &result, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(result.problems, 0);
    fsck_result_done(&result);
    oci_store_free(s);
}

/* One process, every step */

static void do_put(struct oci_store *s, unsigned round)
{
    put(s, NGINX, round % 2, round);
}

static void do_fetch(struct oci_store *s, unsigned round)
{
    char text[32];

    snprintf(text, sizeof(text), "blob %u", round);
    fetch_blob(s, text);
}

static void do_remove(struct oci_store *s, unsigned round)
{
    (void)round;
    forget(s, "nginx");
}

static void do_prune(struct oci_store *s, unsigned round)
{
    clean(s, round % 2);
}

static bool is_killed_at(struct oci_store *s, void (*fn)(struct oci_store *s, unsigned round), unsigned at)
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (!pid) {
        left = (int)at;
        fn(s, at);
        left = -1;
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    reap_all();
    if (WIFSIGNALED(status))
        assert_int_equal(WTERMSIG(status), SIGKILL);
    else
        assert_int_equal(WEXITSTATUS(status), 0);
    return WIFSIGNALED(status);
}

/* `before`: what there has to be. Returns how many steps there were. */
static unsigned kill_everywhere(const struct store_fixture *f, void (*fn)(struct oci_store *s, unsigned round),
                                void (*before)(struct oci_store *s, unsigned round))
{
    unsigned at = 0;

    do {
        if (before)
            before(f->s, at);
        assert_in_range(at, 0, MAX_STEPS);
        if (!is_killed_at(f->s, fn, at))
            break;
        assert_sound(f);
    } while (++at);
    assert_sound(f);
    return at;
}

static void test_put(void **state)
{
    assert_true(kill_everywhere(*state, do_put, NULL) > 10);
}

static void test_fetch(void **state)
{
    assert_true(kill_everywhere(*state, do_fetch, NULL) > 5);
}

static void one_image(struct oci_store *s, unsigned round)
{
    clean(s, false);
    put(s, NGINX, 0, round);
}

static void test_remove(void **state)
{
    assert_true(kill_everywhere(*state, do_remove, one_image) > 10);
}

static void two_images(struct oci_store *s, unsigned round)
{
    put(s, NGINX, 0, round);
    put(s, NGINX, 1, round); /* the first has no name any more */
}

static void test_prune(void **state)
{
    assert_true(kill_everywhere(*state, do_prune, two_images) > 10);
}

/* Several, at random */

static void work(const char *dir, unsigned seed, int done_fd)
{
    struct oci_store *s;
    char text[32];

    srandom(seed);
    assert_int_equal(oci_store_open(&s, dir, NULL), 0);
    for (;;) {
        long what = random() % 12;

        if (what < 6)
            put(s, what % 2 ? NGINX : REDIS, (unsigned)random() % ARRAY_SIZE(layers), (unsigned)random() % 3);
        else if (what == 6)
            forget(s, random() % 2 ? "nginx" : "redis:7");
        else if (what == 7)
            clean(s, random() % 2);
        else {
            snprintf(text, sizeof(text), "blob %ld", random() % 3);
            fetch_blob(s, text);
        }
        if (write(done_fd, "x", 1) != 1)
            _exit(0);
    }
}

static void test_random(void **state)
{
    struct store_fixture *f = *state;
    const char *given = getenv("STORE_KILL_SEED");
    unsigned seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)getpid();

    print_message("STORE_KILL_SEED=%u\n", seed);
    srandom(seed);
    for (int round = 0; round < ROUNDS; round++) {
        long n = random() % 8;
        int done[2], status;
        pid_t pids[WORKERS];
        char c;

        assert_int_equal(pipe(done), 0);
        for (unsigned i = 0; i < WORKERS; i++) {
            unsigned own = (unsigned)random();

            pids[i] = fork();
            assert_true(pids[i] >= 0);
            if (!pids[i])
                work(f->dir, own, done[1]);
        }
        for (; n; n--) { /* so many things done, by whomever; then, in the midst of others: */
            struct pollfd p = {.fd = done[0], .events = POLLIN};

            assert_int_equal(poll(&p, 1, DEADLINE_MS), 1);
            assert_int_equal(read(done[0], &c, 1), 1);
        }
        for (unsigned i = 0; i < WORKERS; i++)
            kill(pids[i], SIGKILL);
        for (unsigned i = 0; i < WORKERS; i++) {
            assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
            assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        }
        reap_all();
        close(done[0]);
        close(done[1]);
        assert_sound(f);
    }
    clean(f->s, true);
    assert_int_equal(count_in(f, "blobs") + count_in(f, "layers") + count_in(f, "images") + count_in(f, "names") +
                         count_in(f, "partial"),
                     0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_put), TEST(test_fetch), TEST(test_remove), TEST(test_prune), TEST(test_random),
    };

    if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
        print_error("converters that outlive their process by a moment cannot be waited for: %s\n", strerror(errno));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
