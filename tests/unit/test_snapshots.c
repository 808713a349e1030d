/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots on disk: made, found, replaced; and every way in which one can be wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "lib/snapshot_cpu.h"
#include "oci_fixture.h"
#include "snap/limits.h"
#include "snapshot_fixture.h"

#define IMAGE "sha256:3333333333333333333333333333333333333333333333333333333333333333"

static struct sm_error err;

/* The snapshot can't be opened, and the sentence says `text`. */
static void assert_refused(const struct store_fixture *f, const char *key, int code, const char *text)
{
    struct snapshot *s;

    memset(&err, 0, sizeof(err));
    assert_int_equal(snapshot_find(&s, f->s, key, &err), -code);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
}

static struct snapshot *find(const struct store_fixture *f, const char *key)
{
    struct snapshot *s;

    if (snapshot_find(&s, f->s, key, &err) < 0)
        fail_msg("%s", err.text);
    return s;
}

static void what_was_published_is_found(void **state)
{
    struct store_fixture *f = *state;
    struct snapshot *base = snapshot_put(f->s, key_of('a'), NULL, NULL, 0x11), *found;
    struct snapshot *bake = snapshot_put(f->s, key_of('b'), IMAGE, base, 0x22);

    found = find(f, key_of('b'));
    assert_int_equal(found->meta.kind, SNAPSHOT_BAKE);
    assert_string_equal(found->meta.key, key_of('b'));
    assert_string_equal(found->meta.base, key_of('a'));
    assert_int_equal(found->meta.base_crc, base->meta.memory_crc);
    assert_string_equal(found->meta.image_digest, IMAGE);
    assert_string_equal(found->meta.trigger, "pre-exec");
    assert_string_equal(found->meta.version, sm_version());
    assert_string_equal(found->meta.cmd[2], "echo \"hello\"\n");
    assert_null(found->meta.cmd[3]);
    assert_null(found->meta.entrypoint[0]);
    assert_string_equal(found->meta.cwd, "");
    assert_true(found->meta.created_s > 1700000000);
    assert_int_equal(found->meta.memory_data, SNAP_PAGE);
    assert_int_equal(byte_of_page(found, 5), 0x11);
    assert_int_equal(byte_of_page(found, 7), 0x22);
    assert_int_equal(byte_of_page(found, 8), 0);
    assert_int_equal(snapshot_verify(found, NULL, NULL, &err), 0);
    assert_int_equal(snapshot_verify(base, NULL, NULL, &err), 0);
    assert_int_equal(count_in(f, "tmp"), 0);
    snapshot_unref(snapshot_ref(found));
    snapshot_unref(found);
    snapshot_unref(bake);
    snapshot_unref(base);
}

static void what_is_not_there_is_no_error_of_its_own(void **state)
{
    struct store_fixture *f = *state;
    struct snapshot *s;

    memset(&err, 0, sizeof(err));
    assert_int_equal(snapshot_find(&s, f->s, key_of('a'), &err), -ENOENT);
    assert_string_equal(err.text, "");
    assert_refused(f, "abc", EINVAL, "64 hex digits");
    assert_refused(f, "../../../../../../../../../../../../../../../../../../etc/passwdxx", EINVAL, "digits");
}

static void a_find_is_a_use(void **state)
{
    struct store_fixture *f = *state;
    struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    struct snapshot *base = snapshot_put(f->s, key_of('a'), NULL, NULL, 1);
    struct stat st;

    snapshot_unref(snapshot_put(f->s, key_of('b'), IMAGE, base, 2));
    snapshot_unref(base);
    for (const char *c = "ab"; *c; c++)
        assert_int_equal(utimensat(AT_FDCWD, snapshot_path(f, key_of(*c), ""), old, 0), 0);
    snapshot_unref(find(f, key_of('b')));
    for (const char *c = "ab"; *c; c++) { /* and of what it needs */
        assert_int_equal(stat(snapshot_path(f, key_of(*c), ""), &st), 0);
        assert_true(st.st_mtime > 1700000000);
    }
}

static void publishing_again_needs_force_and_does_not_disturb_readers(void **state)
{
    struct store_fixture *f = *state;
    struct snapshot *old = snapshot_put(f->s, key_of('a'), NULL, NULL, 1), *new;
    struct snapshot_meta meta = plain_meta(NULL);
    struct snapshot_draft *d;

    assert_int_equal(snapshot_draft_new(&d, f->s, key_of('a'), &err), 0);
    fill_draft(d, false, 2);
    assert_int_equal(snapshot_draft_publish(d, &meta, false, NULL, &err), -EEXIST);
    assert_non_null(strstr(err.text, "already"));
    new = find(f, key_of('a'));
    assert_int_equal(byte_of_page(new, 5), 1);
    snapshot_unref(new);
    assert_int_equal(snapshot_draft_publish(d, &meta, true, &new, &err), 0);
    snapshot_draft_free(d);
    assert_int_equal(byte_of_page(new, 5), 2);
    assert_int_equal(byte_of_page(old, 5), 1);
    assert_int_equal(snapshot_verify(old, NULL, NULL, &err), 0);
    assert_int_equal(count_in(f, "tmp"), 0);
    assert_int_equal(count_in(f, "snapshots"), 1);
    snapshot_unref(old);
    snapshot_unref(new);
}

static void a_draft_that_is_not_whole_is_not_published(void **state)
{
    struct store_fixture *f = *state;
    struct snapshot_meta meta = plain_meta(NULL), bad;
    struct snapshot_draft *d;

    assert_int_equal(snapshot_draft_new(&d, f->s, key_of('a'), &err), 0);
    assert_int_equal(snapshot_draft_publish(d, &meta, true, NULL, &err), -EBADMSG); /* nothing in it */
    fill_draft(d, false, 1);
    assert_int_equal(ftruncate(d->memory_fd, (off_t)(FIXTURE_MIB * MIB) - 1), 0);
    assert_int_equal(snapshot_draft_publish(d, &meta, true, NULL, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "truncated"));
    assert_int_equal(ftruncate(d->memory_fd, (off_t)(FIXTURE_MIB * MIB)), 0);
    assert_int_equal(pwrite(d->state_fd, "x", 1, 80), 1);
    assert_int_equal(snapshot_draft_publish(d, &meta, true, NULL, &err), -EBADMSG);
    assert_int_equal(ftruncate(d->state_fd, 0), 0);
    write_state(d->state_fd, 1);
    bad = meta;
    bad.kernel = "no hash";
    assert_int_equal(snapshot_draft_publish(d, &bad, true, NULL, &err), -EINVAL);
    assert_non_null(strstr(err.text, "\"kernel\" is not 64 hex digits"));
    bad = meta;
    bad.kernel_args = "\xff";
    assert_int_equal(snapshot_draft_publish(d, &bad, true, NULL, &err), -EINVAL);
    assert_non_null(strstr(err.text, "not UTF-8"));
    bad = plain_meta(IMAGE);
    strcpy(bad.base, key_of('c')); /* without a base in the store */
    write_runs(d->diff_fd, (const uint32_t[]){5}, 1, false);
    assert_int_equal(snapshot_draft_publish(d, &bad, true, NULL, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "is not in the store"));
    assert_int_equal(count_in(f, "snapshots"), 0);
    snapshot_draft_free(d);
    assert_int_equal(count_in(f, "tmp"), 0);
}

/* One thing wrong with a snapshot that was good, and what is said. */

static void truncate_file(const struct store_fixture *f, char key, const char *file, int64_t by)
{
    const char *path = snapshot_path(f, key_of(key), file);
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size + by), 0);
}

static void files_of_another_size_are_refused(void **state)
{
    static const struct {
        const char *file, *noun;
    } files[] = {{"state", "state"}, {"memory", "memory"}, {"diff", "list of changed pages"}};
    struct store_fixture *f = *state;
    struct snapshot *base = snapshot_put(f->s, key_of('a'), NULL, NULL, 1);
    char text[64];

    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        for (int by = -1; by <= 1; by += 2) {
            snapshot_unref(snapshot_put(f->s, key_of('b'), IMAGE, base, 2));
            truncate_file(f, 'b', files[i].file, by);
            snprintf(text, sizeof(text), "its %s is %s", files[i].noun, by < 0 ? "truncated" : "too long");
            assert_refused(f, key_of('b'), EBADMSG, text);
        }
        snapshot_unref(snapshot_put(f->s, key_of('b'), IMAGE, base, 2));
        assert_int_equal(unlink(snapshot_path(f, key_of('b'), files[i].file)), 0);
        snprintf(text, sizeof(text), "its %s is not there", files[i].noun);
        assert_refused(f, key_of('b'), EBADMSG, text);
        assert_int_equal(mkfifo(snapshot_path(f, key_of('b'), files[i].file), 0600), 0);
        assert_refused(f, key_of('b'), EBADMSG, text);
        assert_int_equal(unlink(snapshot_path(f, key_of('b'), files[i].file)), 0);
        assert_int_equal(symlink("/dev/zero", snapshot_path(f, key_of('b'), files[i].file)), 0);
        assert_refused(f, key_of('b'), EBADMSG, text);
    }
    snapshot_unref(snapshot_put(f->s, key_of('b'), IMAGE, base, 2));
    truncate_file(f, 'a', "memory", 1);
    assert_refused(f, key_of('b'), EBADMSG, "base's memory is too long");
    snapshot_unref(base);
}

static void a_base_that_is_gone_or_another_one_is_refused(void **state)
{
    struct store_fixture *f = *state;
    struct snapshot *base = snapshot_put(f->s, key_of('a'), NULL, NULL, 1);
    char path[600];

    snapshot_unref(snapshot_put(f->s, key_of('b'), IMAGE, base, 2));
    snapshot_unref(snapshot_put(f->s, key_of('a'), NULL, NULL, 3)); /* made anew, with other pages */
    assert_refused(f, key_of('b'), EBADMSG, "its base was made anew");
    snapshot_unref(snapshot_put(f->s, key_of('a'), NULL, NULL, 1));
    snapshot_unref(find(f, key_of('b')));

    snprintf(path, sizeof(path), "%s/snapshots/%s", f->dir, key_of('c'));
    assert_int_equal(rename(snapshot_path(f, key_of('a'), ""), path), 0);
    assert_refused(f, key_of('b'), EBADMSG, "its base aaaaaaaaaaaa is not in the store");
    assert_refused(f, key_of('c'), EBADMSG, "of another snapshot");

    /* A base that is a difference itself. */
    snapshot_unref(base);
    base = snapshot_put(f->s, key_of('a'), NULL, NULL, 1);
    struct snapshot *bake = snapshot_put(f->s, key_of('b'), IMAGE, base, 2);
    struct snapshot fake = {.meta = bake->meta};
    fake.meta.base[0] = '\0';
    struct snapshot_meta meta = plain_meta(IMAGE);
    struct snapshot_draft *d;
    snapshot_base_of(&meta, &fake);
    assert_string_equal(meta.base, key_of('b'));
    assert_int_equal(snapshot_draft_new(&d, f->s, key_of('d'), &err), 0);
    fill_draft(d, true, 4);
    assert_int_equal(snapshot_draft_publish(d, &meta, true, NULL, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "not a full snapshot"));
    snapshot_draft_free(d);
    snapshot_unref(bake);
    snapshot_unref(base);
}

static void write_meta(const struct store_fixture *f, char key, const struct snapshot_meta *meta)
{
    struct buf text;

    if (snapshot_meta_write(&text, meta, &err) < 0)
        fail_msg("%s", err.text);
    write_file(f->dir, strstr(snapshot_path(f, key_of(key), "metadata.json"), "snapshots"), text.data, text.len);
    buf_done(&text);
}

static void what_was_made_elsewhere_is_refused(void **state)
{
    struct store_fixture *f = *state;
    struct snapshot *s = snapshot_put(f->s, key_of('a'), NULL, NULL, 1);
    struct snapshot_meta meta = s->meta;

    meta.arch = "riscv64";
    write_meta(f, 'a', &meta);
    assert_refused(f, key_of('a'), ENOTSUP, "made for the architecture riscv64");
    meta = s->meta;
    meta.cpu = "SomebodyElse 1.c=0 1.d=0 7.b=0 7.c=0 7.d=0 7.1.a=0 d.1.a=0 80000001.c=0 80000001.d=0";
    write_meta(f, 'a', &meta);
    assert_refused(f, key_of('a'), ENOTSUP, "processor of SomebodyElse");
    meta.cpu = "what";
    write_meta(f, 'a', &meta);
    assert_refused(f, key_of('a'), ENOTSUP, "cannot be understood");
    meta.cpu = s->meta.cpu;
    write_meta(f, 'a', &meta);
    snapshot_unref(find(f, key_of('a')));
    meta.key[0] = 'f';
    write_meta(f, 'a', &meta);
    assert_refused(f, key_of('a'), EBADMSG, "of another snapshot");
    assert_int_equal(unlink(snapshot_path(f, key_of('a'), "metadata.json")), 0);
    assert_refused(f, key_of('a'), EBADMSG, "its metadata is not there");
    snapshot_unref(s);
}

static void processors(void **state)
{
    char own[SNAPSHOT_CPU_SIZE], more[SNAPSHOT_CPU_SIZE];

    snapshot_cpu(own);
    assert_int_equal(snapshot_cpu_suits(own, own, &err), 0);
    (void)state;
#ifdef __x86_64__
    static const char have[] = "V 1.c=3 1.d=0 7.b=f0 7.c=0 7.d=0 7.1.a=0 d.1.a=0 80000001.c=0 80000001.d=1";

    assert_int_equal(snapshot_cpu_suits(have, have, &err), 0);
    strcpy(more, have);
    more[6] = '1';
    assert_int_equal(snapshot_cpu_suits(more, have, &err), 0);
    assert_int_equal(snapshot_cpu_suits(have, more, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "CPUID 1.c, bits 2"));
    strcpy(more, have);
    more[strlen(more) - 1] = '\0';
    assert_int_equal(snapshot_cpu_suits(more, have, &err), -ENOTSUP);
    strcpy(more, have);
    strcat(more, " ");
    assert_int_equal(snapshot_cpu_suits(more, have, &err), -ENOTSUP);
    assert_int_equal(snapshot_cpu_suits("", have, &err), -ENOTSUP);
#else
    (void)more;
#endif
}

static void what_a_caller_wants_is_compared(void **state)
{
    struct store_fixture *f = *state;
    struct snapshot *s = snapshot_put(f->s, key_of('a'), IMAGE, NULL, 1);
    static const struct {
        struct snapshot_want want;
        const char *text;
    } cases[] = {
        {{.image_digest = "sha256:0"}, "of another image, docker.io/library/app:1.2"},
        {{.kernel = "0"}, "another guest kernel"},
        {{.initramfs = "0"}, "another guest agent"},
        {{.memory_mib = 64}, "has 32 MiB of memory, not 64"},
        {{.vcpus = 1}, "has 2 vCPUs, not 1"},
    };

    assert_int_equal(snapshot_suits(s, &(struct snapshot_want){.image_digest = IMAGE, .vcpus = 2}, &err), 0);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(snapshot_suits(s, &cases[i].want, &err), -ENOTSUP);
        assert_non_null(strstr(err.text, cases[i].text));
    }
    snapshot_unref(s);
}

static void verifying_finds_what_opening_does_not(void **state)
{
    static const struct {
        char key;
        const char *file;
        int64_t at;
        const char *text;
    } cases[] = {
        {'b', "state", 100, "the snapshot bbbbbbbbbbbb: "},
        {'b', "memory", 7 * SNAP_PAGE + 5, "its memory is not what was saved"},
        {'b', "memory", 9 * SNAP_PAGE, "its memory is not what was saved"}, /* where a hole was */
        {'b', "diff", 33, "list of changed pages"},
        {'b', "prefetch", 33, "prefetch list"},
        {'a', "memory", 300 * SNAP_PAGE, "its base's memory is not what was saved"},
    };
    struct store_fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct snapshot *base = snapshot_put(f->s, key_of('a'), NULL, NULL, 1);
        struct snapshot *s = snapshot_put(f->s, key_of('b'), IMAGE, base, 2);
        int fd = snapshot_prefetch_file(s, &err);

        assert_true(fd >= 0);
        write_runs(fd, (const uint32_t[]){1, 2, 300}, 3, true);
        assert_int_equal(snapshot_prefetch_add(s, fd, &err), 0);
        close(fd);
        snapshot_unref(s);
        s = find(f, key_of('b'));
        assert_int_equal(snapshot_verify(s, NULL, NULL, &err), 0);
        flip(snapshot_path(f, key_of(cases[i].key), cases[i].file), cases[i].at);
        assert_int_equal(snapshot_verify(s, NULL, NULL, &err), -EBADMSG);
        if (!strstr(err.text, cases[i].text))
            fail_msg("\"%s\" does not say \"%s\"", err.text, cases[i].text);
        snapshot_unref(s);
        snapshot_unref(base);
    }
}

static int stop(void *ctx, uint64_t bytes)
{
    *(uint64_t *)ctx += bytes;
    return 1;
}

static void verifying_can_be_stopped(void **state)
{
    struct store_fixture *f = *state;
    struct snapshot *s = snapshot_put(f->s, key_of('a'), NULL, NULL, 1);
    uint64_t bytes = 0;

    assert_int_equal(snapshot_verify(s, stop, &bytes, &err), -ECANCELED);
    assert_true(bytes >= 5 * SNAP_PAGE);
    snapshot_unref(s);
}

static void a_prefetch_list_comes_once(void **state)
{
    struct store_fixture *f = *state;
    struct snapshot *s = snapshot_put(f->s, key_of('a'), NULL, NULL, 1);
    int one = snapshot_prefetch_file(s, &err), two = snapshot_prefetch_file(s, &err), bad;
    char first[64] = "", second[64] = "";

    assert_int_equal(s->prefetch_fd, -1);
    write_runs(one, (const uint32_t[]){1}, 1, true);
    write_runs(two, (const uint32_t[]){2}, 1, true);
    assert_int_equal(snapshot_prefetch_add(s, one, &err), 0);
    assert_int_equal(snapshot_prefetch_add(s, two, &err), 0);
    snapshot_unref(s);
    s = find(f, key_of('a'));
    assert_int_equal(pread(one, first, sizeof(first), 0), 40);
    assert_int_equal(pread(s->prefetch_fd, second, sizeof(second), 0), 40);
    assert_memory_equal(first, second, sizeof(first));
    bad = snapshot_prefetch_file(s, &err);
    assert_int_equal(write(bad, "no list", 7), 7);
    assert_int_equal(snapshot_prefetch_add(s, bad, &err), -EBADMSG);
    close(bad);
    close(one);
    close(two);
    snapshot_unref(s);
}

static int told(void *ctx, const char *who)
{
    assert_non_null(strstr(who, "process"));
    ++*(int *)ctx;
    return 1;
}

static void a_key_has_one_maker(void **state)
{
    struct store_fixture *f = *state;
    int calls = 0, fd = snapshot_lock(f->s, key_of('a'), NULL, NULL, &err), other;

    assert_true(fd >= 0);
    assert_int_equal(snapshot_lock(f->s, key_of('a'), told, &calls, &err), -ECANCELED);
    assert_int_equal(calls, 1);
    other = snapshot_lock(f->s, key_of('b'), told, &calls, &err);
    assert_true(other >= 0);
    close(other);
    close(fd);
    fd = snapshot_lock(f->s, key_of('a'), told, &calls, &err);
    assert_true(fd >= 0);
    close(fd);
}

/* Directories of a user's */

static const char *in_dir(const struct store_fixture *f, const char *name)
{
    static char path[512];

    snprintf(path, sizeof(path), "%s/%s", f->dir, name);
    return path;
}

static void a_directory_anywhere(void **state)
{
    struct store_fixture *f = *state;
    struct snapshot *base = snapshot_put(f->s, key_of('a'), NULL, NULL, 1), *s, *again;
    struct snapshot_meta meta = plain_meta(IMAGE);
    struct snapshot_draft *d;

    meta.kind = SNAPSHOT_VM;
    snapshot_base_of(&meta, base);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(snapshot_draft_new_dir(&d, f->s, in_dir(f, "mine/"), &err), 0);
        fill_draft(d, true, (uint8_t)(5 + round));
        if (round)
            assert_int_equal(snapshot_draft_publish(d, &meta, false, &s, &err), -EEXIST);
        assert_int_equal(snapshot_draft_publish(d, &meta, round, &s, &err), 0);
        snapshot_draft_free(d);
        assert_int_equal(byte_of_page(s, 7), 5 + round);
        assert_int_equal(strlen(s->meta.key), 64);
        assert_int_equal(snapshot_open_dir(&again, f->s, in_dir(f, "mine"), &err), 0);
        assert_string_equal(again->meta.key, s->meta.key);
        assert_int_equal(snapshot_verify(again, NULL, NULL, &err), 0);
        snapshot_unref(again);
        snapshot_unref(s);
    }
    assert_int_equal(snapshot_open_dir(&s, f->s, in_dir(f, "nothing"), &err), -ENOENT);
    assert_non_null(strstr(err.text, "nothing"));
    snapshot_unref(base);
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

static void a_directory_that_is_something_else_is_left_alone(void **state)
{
    struct store_fixture *f = *state;
    struct snapshot_draft *d;
    struct snapshot_meta meta = plain_meta(NULL);
    struct snapshot *s;

    write_file(f->dir, "docs/letter", "dear", 4);
    assert_int_equal(snapshot_draft_new_dir(&d, f->s, in_dir(f, "docs"), &err), -EEXIST);
    assert_non_null(strstr(err.text, "is not a snapshot"));
    assert_int_equal(snapshot_draft_new_dir(&d, f->s, in_dir(f, "docs/letter"), &err), -EEXIST);
    assert_int_equal(snapshot_draft_new_dir(&d, f->s, in_dir(f, "no/such"), &err), -ENOENT);
    assert_int_equal(snapshot_draft_new_dir(&d, f->s, "/", &err), -EINVAL);
    assert_int_equal(snapshot_draft_new_dir(&d, f->s, in_dir(f, ".."), &err), -EINVAL);
    assert_int_equal(access(in_dir(f, "docs/letter"), F_OK), 0);

    assert_int_equal(mkdir(in_dir(f, "empty"), 0700), 0);
    assert_int_equal(snapshot_draft_new_dir(&d, f->s, in_dir(f, "empty"), &err), 0);
    assert_int_equal(hidden_in(f), 1);
    fill_draft(d, false, 1);
    assert_int_equal(snapshot_draft_publish(d, &meta, false, &s, &err), 0);
    snapshot_draft_free(d);
    snapshot_unref(s);
    assert_int_equal(hidden_in(f), 0);

    /* It turns up while the draft is filled. */
    assert_int_equal(snapshot_draft_new_dir(&d, f->s, in_dir(f, "late"), &err), 0);
    fill_draft(d, false, 1);
    write_file(f->dir, "late/letter", "dear", 4);
    assert_int_equal(snapshot_draft_publish(d, &meta, true, NULL, &err), -EEXIST);
    snapshot_draft_free(d);
    assert_int_equal(access(in_dir(f, "late/letter"), F_OK), 0);
    assert_int_equal(hidden_in(f), 0);
}

static void what_a_killed_process_left_beside_goes(void **state)
{
    struct store_fixture *f = *state;
    struct snapshot_draft *d, *other;

    write_file(f->dir, ".mine.snapshot-0123456789abcdef/memory", "x", 1);
    write_file(f->dir, ".yours.snapshot-0123456789abcdef/memory", "x", 1);
    assert_int_equal(snapshot_draft_new_dir(&other, f->s, in_dir(f, "mine"), &err), 0);
    assert_int_equal(hidden_in(f), 2);
    assert_int_equal(snapshot_draft_new_dir(&d, f->s, in_dir(f, "mine"), &err), 0);
    assert_int_equal(hidden_in(f), 3); /* one at work is not taken for one that is left */
    snapshot_draft_free(d);
    snapshot_draft_free(other);
    assert_int_equal(hidden_in(f), 1);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, store_fixture_setup, store_fixture_teardown)
    static const struct CMUnitTest tests[] = {
        TEST(what_was_published_is_found),
        TEST(what_is_not_there_is_no_error_of_its_own),
        TEST(a_find_is_a_use),
        TEST(publishing_again_needs_force_and_does_not_disturb_readers),
        TEST(a_draft_that_is_not_whole_is_not_published),
        TEST(files_of_another_size_are_refused),
        TEST(a_base_that_is_gone_or_another_one_is_refused),
        TEST(what_was_made_elsewhere_is_refused),
        TEST(processors),
        TEST(what_a_caller_wants_is_compared),
        TEST(verifying_finds_what_opening_does_not),
        TEST(verifying_can_be_stopped),
        TEST(a_prefetch_list_comes_once),
        TEST(a_key_has_one_maker),
        TEST(a_directory_anywhere),
        TEST(a_directory_that_is_something_else_is_left_alone),
        TEST(what_a_killed_process_left_beside_goes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
