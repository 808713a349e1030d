/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whatever happens while a snapshot is made, replaced, imported or removed: the old one is there, or the new one, or
 * where there was none, none; and nothing unfinished stays.
 *
 * What happens, at each step that changes a directory or a file (calls of the C library are wrapped at link time), one
 * after the other: the process is killed; the call fails; the disk is full from there on. And readers look on while
 * snapshots are replaced.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "oci_fixture.h"
#include "snapshot_fixture.h"

#define IMAGE     "sha256:3333333333333333333333333333333333333333333333333333333333333333"
#define MAX_STEPS 200
#define OLD       1
#define NEW       2

/* Steps. `at`: how many are still done before it happens; negative: it never does. */

enum happens { KILLED, FAILS, DISK_FULL };
enum step { WRITES, OTHER };

static struct {
    int at;
    enum happens what;
    int code;
    bool happened;
} plan = {.at = -1};

static bool step(enum step kind)
{
    if (plan.at < 0 || (plan.what == DISK_FULL && kind == OTHER))
        return false;
    if (plan.at > 0) {
        plan.at--;
        return false;
    }
    plan.happened = true;
    if (plan.what == KILLED)
        kill(getpid(), SIGKILL);
    if (plan.what == FAILS)
        plan.at = -1;
    errno = plan.code;
    return true;
}

#define WRAP(kind, type, name, params, args)                                                                           \
    type __real_##name params;                                                                                         \
    type __wrap_##name params;                                                                                         \
    type __wrap_##name params                                                                                          \
    {                                                                                                                  \
        return step(kind) ? -1 : __real_##name args;                                                                   \
    }

WRAP(OTHER, int, renameat, (int from_fd, const char *from, int to_fd, const char *to), (from_fd, from, to_fd, to))
WRAP(OTHER, int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags))
WRAP(WRITES, int, linkat, (int from_fd, const char *from, int to_fd, const char *to, int flags),
     (from_fd, from, to_fd, to, flags))
WRAP(WRITES, int, mkdirat, (int fd, const char *path, mode_t mode), (fd, path, mode))
WRAP(WRITES, ssize_t, write, (int fd, const void *data, size_t len), (fd, data, len))
WRAP(WRITES, ssize_t, pwrite64, (int fd, const void *data, size_t len, off_t off), (fd, data, len, off))
WRAP(WRITES, int, ftruncate64, (int fd, off_t len), (fd, len))

static bool no_exchange; /* as on file systems that can't */
int __real_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags);
int __wrap_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags);
int __wrap_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    if (no_exchange) {
        errno = EINVAL;
        return -1;
    }
    return step(OTHER) ? -1 : __real_renameat2(from_fd, from, to_fd, to, flags);
}

/* Not waited for where it succeeds: no power is cut here. */
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
    return step(WRITES) ? -1 : fcntl(fd, F_GETFD) < 0 ? -1 : 0;
}

/* Those that make files. */
static bool no_tmpfile; /* as on file systems that have no files without names */
int __real_openat64(int fd, const char *path, int flags, mode_t mode);
int __wrap_openat64(int fd, const char *path, int flags, mode_t mode);
int __wrap_openat64(int fd, const char *path, int flags, mode_t mode)
{
    if (no_tmpfile && (flags & O_TMPFILE) == O_TMPFILE) {
        errno = EOPNOTSUPP;
        return -1;
    }
    bool makes = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE;

    return makes && step(WRITES) ? -1 : __real_openat64(fd, path, flags, mode);
}

/* What is done. `ready` is what comes before the first step that is counted; the result is as of the library. */

struct job {
    const char *name;
    bool in_dir;     /* else the key a in the store */
    bool there;      /* one of OLD is there before */
    bool may_vanish; /* it is removed */
    bool fills;      /* what is written counts as steps, too: only where it kills */
    int (*run)(struct store_fixture *f, const struct job *job, struct sm_error *err);
};

static const char *dest_of(const struct store_fixture *f)
{
    static char path[512];

    snprintf(path, sizeof(path), "%s/dest", f->dir);
    return path;
}

static int steps_of_plan(int at)
{
    int before = plan.at;

    plan.at = at;
    return before;
}

static int publish(struct store_fixture *f, const struct job *job, struct sm_error *err)
{
    struct snapshot_meta meta = plain_meta(IMAGE);
    struct snapshot_draft *d;
    int r, at;

    r = job->in_dir ? snapshot_draft_new_dir(&d, f->s, dest_of(f), err)
                    : snapshot_draft_new(&d, f->s, key_of('a'), err);
    if (r < 0)
        return r;
    at = job->fills ? plan.at : steps_of_plan(-1);
    fill_draft(d, false, NEW);
    if (!job->fills)
        steps_of_plan(at);
    r = snapshot_draft_publish(d, &meta, job->there, NULL, err);
    snapshot_draft_free(d);
    return r;
}

static int add_prefetch(struct store_fixture *f, const struct job *job, struct sm_error *err)
{
    int at = steps_of_plan(-1), fd, r;
    struct snapshot *s;

    (void)job;
    assert_int_equal(snapshot_find(&s, f->s, key_of('a'), err), 0);
    steps_of_plan(at);
    fd = r = snapshot_prefetch_file(s, err);
    if (r >= 0) {
        at = steps_of_plan(-1);
        write_runs(fd, (const uint32_t[]){1, 2}, 2, true);
        steps_of_plan(at);
        r = snapshot_prefetch_add(s, fd, err);
        close(fd);
    }
    snapshot_unref(s);
    return r;
}

static struct sm_store *open_store(const struct store_fixture *f)
{
    struct sm_store *store;
    int at = steps_of_plan(-1);

    assert_int_equal(sm_store_open(&store, f->dir, NULL), 0);
    steps_of_plan(at);
    return store;
}

static int remove_it(struct store_fixture *f, const struct job *job, struct sm_error *err)
{
    struct sm_store *store = open_store(f);
    int r = sm_snapshot_remove(store, "aaaa", NULL, NULL, err);

    (void)job;
    sm_store_free(store);
    return r;
}

/* The archive of a snapshot of NEW. */
static int new_archive(const struct store_fixture *f)
{
    int fd = memfd_create("archive", MFD_CLOEXEC);
    struct sm_store *store = open_store(f);

    snapshot_unref(snapshot_put(f->s, key_of('a'), IMAGE, NULL, NEW));
    assert_int_equal(sm_snapshot_export(store, "aaaa", fd, NULL, NULL), 0);
    assert_int_equal(sm_snapshot_remove(store, "aaaa", NULL, NULL, NULL), 0);
    sm_store_free(store);
    return fd;
}

static int archive_fd = -1; /* made before the steps */

static int import(struct store_fixture *f, const struct job *job, struct sm_error *err)
{
    struct sm_snapshot_options o = SM_SNAPSHOT_OPTIONS_INIT;
    struct sm_store *store = open_store(f);
    int r;

    o.force = 1;
    o.dest = job->in_dir ? dest_of(f) : NULL;
    assert_int_equal(lseek(archive_fd, 0, SEEK_SET), 0);
    r = sm_snapshot_import(NULL, store, archive_fd, &o, err);
    sm_store_free(store);
    return r;
}

static const struct job jobs[] = {
    {"publish to the store", .fills = true, .run = publish},
    {"replace in the store", .fills = true, .there = true, .run = publish},
    {"publish to a directory", .in_dir = true, .run = publish},
    {"replace a directory", .in_dir = true, .there = true, .run = publish},
    {"add a prefetch list", .there = true, .run = add_prefetch},
    {"remove", .there = true, .may_vanish = true, .run = remove_it},
    {"import", .run = import},
    {"import over it", .there = true, .run = import},
    {"import to a directory", .in_dir = true, .there = true, .run = import},
};

static const char *only; /* the name of the one that is done; NULL: all */

static bool is_done(const struct job *job)
{
    return !only || strcmp(job->name, only) == 0;
}

/* Before and after */

static void prepare(struct store_fixture *f, const struct job *job)
{
    struct snapshot_meta meta = plain_meta(IMAGE);
    struct sm_store *store = open_store(f);
    struct sm_snapshot_options force = SM_SNAPSHOT_OPTIONS_INIT;
    struct snapshot_draft *d;
    char path[600];

    force.force = 1;
    assert_int_equal(sm_snapshot_remove(store, "aaaa", &force, NULL, NULL), 0);
    sm_store_free(store);
    for (const char *const *name = (const char *const[]){"state", "memory", "metadata.json", NULL}; *name; name++) {
        snprintf(path, sizeof(path), "%s/%s", dest_of(f), *name);
        unlink(path);
    }
    rmdir(dest_of(f));
    if (job->there && job->in_dir) {
        assert_int_equal(snapshot_draft_new_dir(&d, f->s, dest_of(f), NULL), 0);
        fill_draft(d, false, OLD);
        assert_int_equal(snapshot_draft_publish(d, &meta, false, NULL, NULL), 0);
        snapshot_draft_free(d);
    } else if (job->there) {
        snapshot_unref(snapshot_put(f->s, key_of('a'), IMAGE, NULL, OLD));
    }
}

static void on_problem(void *ctx, const struct sm_store_problem *p)
{
    (void)ctx;
    print_error("%s: %s\n", p->object, p->text);
}

static void assert_clean(const struct store_fixture *f)
{
    struct sm_fsck_options o = SM_FSCK_OPTIONS_INIT;
    struct sm_fsck_result result = {.size = sizeof(result)};
    struct sm_store *store = open_store(f);

    o.problem = on_problem;
    assert_int_equal(count_in(f, "tmp"), 0);
    assert_int_equal(sm_store_fsck(store, &o, &result, NULL), 0);
    assert_int_equal(result.problems, 0);
    sm_store_free(store);
}

static unsigned hidden_in(const struct store_fixture *f)
{
    DIR *dir = opendir(f->dir);
    unsigned n = 0;

    for (struct dirent *e; (e = readdir(dir));)
        n += e->d_name[0] == '.' && strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    closedir(dir);
    return n;
}

/* What is there now: OLD, NEW, or 0: none. Whatever there is, is whole. */
static int what_is_there(const struct store_fixture *f, const struct job *job)
{
    struct sm_error err = SM_ERROR_INIT;
    struct snapshot_draft *d;
    struct snapshot *s;
    int r, byte;

    assert_clean(f);
    if (job->in_dir) { /* who comes next sweeps */
        assert_int_equal(snapshot_draft_new_dir(&d, f->s, dest_of(f), NULL), 0);
        snapshot_draft_free(d);
        assert_int_equal(hidden_in(f), 0);
        r = snapshot_open_dir(&s, f->s, dest_of(f), &err);
    } else {
        r = snapshot_find(&s, f->s, key_of('a'), &err);
    }
    if (r == -ENOENT)
        return 0;
    if (r < 0 || snapshot_verify(s, NULL, NULL, &err) < 0)
        fail_msg("%s: %s", job->name, err.text);
    byte = byte_of_page(s, 5);
    snapshot_unref(s);
    return byte;
}

static void assert_outcome(const struct store_fixture *f, const struct job *job, int at)
{
    int there = what_is_there(f, job), was = job->there ? OLD : 0;

    if (there != was && there != (job->may_vanish ? 0 : NEW) && !(no_exchange && !there))
        fail_msg("%s, step %d: %d is there", job->name, at, there);
}

static void kill_at_every_step(void **state)
{
    struct store_fixture *f = *state;

    archive_fd = new_archive(f);
    for (size_t i = 0; i < ARRAY_SIZE(jobs); i++) {
        for (int at = 0; is_done(&jobs[i]); at++) {
            int status;
            pid_t pid;

            assert_in_range(at, 0, MAX_STEPS);
            prepare(f, &jobs[i]);
            pid = fork();
            assert_true(pid >= 0);
            if (!pid) {
                plan.at = at;
                plan.what = KILLED;
                _exit(jobs[i].run(f, &jobs[i], NULL) < 0);
            }
            assert_int_equal(waitpid(pid, &status, 0), pid);
            assert_outcome(f, &jobs[i], at);
            if (!WIFSIGNALED(status)) {
                assert_int_equal(WEXITSTATUS(status), 0);
                assert_true(at > 2);
                break;
            }
        }
    }
    close(archive_fd);
}

static void fail_at_every_step(struct store_fixture *f, enum happens what, int code)
{
    archive_fd = new_archive(f);
    for (size_t i = 0; i < ARRAY_SIZE(jobs); i++) {
        struct job job = jobs[i];
        struct sm_error err;
        int r;

        job.fills = false;
        for (int at = 0; is_done(&job); at++) {
            int there;

            assert_in_range(at, 0, MAX_STEPS);
            prepare(f, &job);
            memset(&err, 0, sizeof(err));
            plan.happened = false;
            plan.what = what;
            plan.code = code;
            plan.at = at;
            r = job.run(f, &job, &err);
            plan.at = -1;
            there = what_is_there(f, &job);
            if (r < 0 && !job.may_vanish) {
                if (!err.text[0] || there != (job.there ? OLD : 0))
                    fail_msg("%s, step %d: %d is there (%s)", job.name, at, there, err.text);
                if (code == ENOSPC && !strstr(err.text, "disk is full") && job.run != add_prefetch)
                    fail_msg("%s, step %d: %s", job.name, at, err.text);
            } else if (job.run != add_prefetch && !job.may_vanish) {
                assert_int_equal(there, NEW);
            }
            if (!plan.happened) {
                assert_int_equal(r, 0);
                break;
            }
        }
    }
    close(archive_fd);
}

static void calls_that_fail(void **state)
{
    fail_at_every_step(*state, FAILS, EIO);
}

static void a_disk_that_fills(void **state)
{
    fail_at_every_step(*state, DISK_FULL, ENOSPC);
}

static void without_nameless_files(void **state)
{
    struct store_fixture *f = *state;
    struct snapshot *s;
    int one, two;

    no_tmpfile = true;
    only = "add a prefetch list";
    kill_at_every_step(state);
    fail_at_every_step(f, FAILS, EIO);
    s = snapshot_put(f->s, key_of('a'), IMAGE, NULL, OLD);
    one = snapshot_prefetch_file(s, NULL);
    two = snapshot_prefetch_file(s, NULL); /* takes the name */
    assert_true(one >= 0 && two >= 0);
    write_runs(one, (const uint32_t[]){1}, 1, true);
    write_runs(two, (const uint32_t[]){2}, 1, true);
    assert_int_equal(snapshot_prefetch_add(s, one, NULL), -ENOENT);
    assert_int_equal(snapshot_prefetch_add(s, two, NULL), 0);
    assert_int_equal(access(snapshot_path(f, key_of('a'), "prefetch"), F_OK), 0);
    assert_int_equal(access(snapshot_path(f, key_of('a'), "prefetch.new"), F_OK), -1);
    close(one);
    close(two);
    snapshot_unref(s);
    only = NULL;
    no_tmpfile = false;
}

/* Then there may be none after a kill; but a call that fails leaves the old one all the same. */
static void without_an_exchange(void **state)
{
    no_exchange = true;
    kill_at_every_step(state);
    fail_at_every_step(*state, FAILS, EIO);
    fail_at_every_step(*state, DISK_FULL, ENOSPC);
    no_exchange = false;
}

static void where_nothing_can_be_written(void **state)
{
    struct store_fixture *f = *state;
    struct sm_error err = SM_ERROR_INIT;
    struct snapshot_draft *d;

    plan.what = DISK_FULL;
    plan.code = EROFS;
    plan.at = 0;
    assert_int_equal(snapshot_draft_new(&d, f->s, NULL, &err), -EROFS);
    assert_non_null(strstr(err.text, "read-only"));
    assert_int_equal(snapshot_draft_new_dir(&d, f->s, dest_of(f), &err), -EROFS);
    assert_non_null(strstr(err.text, "its file system is read-only; choose another directory"));
    plan.at = -1;
}

/* Readers */

#define ROUNDS 60

/* All of one: pages of both files, as often as it is opened. */
static void read_on(const char *dir, int stop_fd)
{
    struct oci_store *s;
    char byte;

    if (oci_store_open(&s, dir, NULL) < 0)
        _exit(1);
    while (read(stop_fd, &byte, 1) < 0) {
        struct sm_error err = SM_ERROR_INIT;
        struct snapshot *snapshot;
        int r = snapshot_find(&snapshot, s, key_of('b'), &err);

        if (r == -EBADMSG && strstr(err.text, "made anew"))
            continue; /* the base is new already, the difference not yet: that is told, and not mixed */
        if (r < 0) {
            print_error("%d %s\n", r, err.text);
            _exit(2);
        }
        if (byte_of_page(snapshot, 5) != byte_of_page(snapshot, 7) || snapshot_verify(snapshot, NULL, NULL, NULL) < 0)
            _exit(3);
        snapshot_unref(snapshot);
    }
    _exit(0);
}

static void readers_see_the_old_or_the_new(void **state)
{
    struct store_fixture *f = *state;
    pid_t pids[2];
    int p[2], status;

    assert_int_equal(pipe2(p, O_CLOEXEC | O_NONBLOCK), 0);
    snapshot_unref(snapshot_put(f->s, key_of('b'), IMAGE, NULL, 1));
    for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (!pids[i]) {
            close(p[1]);
            read_on(f->dir, p[0]);
        }
    }
    for (int round = 0; round < ROUNDS; round++) {
        uint8_t byte = (uint8_t)(1 + round % 7);

        if (round % 3 == 2) { /* a difference, whose bytes are its base's */
            struct snapshot *base = snapshot_put(f->s, key_of('a'), NULL, NULL, byte);

            snapshot_unref(snapshot_put(f->s, key_of('b'), IMAGE, base, byte));
            snapshot_unref(base);
        } else {
            snapshot_unref(snapshot_put(f->s, key_of('b'), IMAGE, NULL, byte));
        }
    }
    close(p[1]);
    for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
    close(p[0]);
    assert_clean(f);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, store_fixture_setup, store_fixture_teardown)
    static const struct CMUnitTest tests[] = {
        TEST(kill_at_every_step),
        TEST(calls_that_fail),
        TEST(a_disk_that_fills),
        TEST(without_an_exchange),
        TEST(without_nameless_files),
        TEST(where_nothing_can_be_written),
        TEST(readers_see_the_old_or_the_new),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
