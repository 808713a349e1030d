/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots as archives: out, in, and what no archive may be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "lib/snapshot_archive.h"
#include "oci_fixture.h"
#include "snap/limits.h"
#include "snapshot_fixture.h"

#define IMAGE "sha256:3333333333333333333333333333333333333333333333333333333333333333"
#define BLOCK 512

static struct sm_error err;

static struct sm_store *open_store(const struct store_fixture *f)
{
    struct sm_store *store;

    assert_int_equal(sm_store_open(&store, f->dir, &err), 0);
    return store;
}

static int new_file(void)
{
    int fd = memfd_create("archive", MFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static off_t size_of(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    return st.st_size;
}

/* The archive of a diff (key b, base a), and the store without both. */
static int exported(struct store_fixture *f, struct sm_store **ret_store)
{
    struct sm_snapshot_options force = SM_SNAPSHOT_OPTIONS_INIT;
    struct snapshot *base = snapshot_put(f->s, key_of('a'), NULL, NULL, 1);
    int fd = new_file();

    force.force = 1;
    *ret_store = open_store(f);
    snapshot_unref(snapshot_put(f->s, key_of('b'), IMAGE, base, 2));
    snapshot_unref(base);
    if (sm_snapshot_export(*ret_store, "bbbb", fd, NULL, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(sm_snapshot_remove(*ret_store, "aaaa", &force, NULL, &err), 0);
    assert_int_equal(count_in(f, "snapshots"), 0);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    return fd;
}

static void a_difference_comes_back_whole(void **state)
{
    struct store_fixture *f = *state;
    struct sm_store *store;
    struct sm_snapshot_record *list;
    struct snapshot *s;
    int fd = exported(f, &store);

    /* Five pages and what is around them: holes cost nothing. */
    assert_in_range(size_of(fd), 5 * SNAP_PAGE, 5 * SNAP_PAGE + 10 * BLOCK + 8192);
    if (sm_snapshot_import(&list, store, fd, NULL, &err) < 0)
        fail_msg("%s", err.text);
    assert_string_equal(list->key, key_of('b'));
    assert_null(list->base);
    assert_null(list->problem);
    assert_string_equal(list->image_id, IMAGE);
    sm_snapshot_records_free(list);
    assert_int_equal(lseek(fd, 0, SEEK_CUR), size_of(fd));
    assert_int_equal(snapshot_find(&s, f->s, key_of('b'), &err), 0);
    assert_int_equal(snapshot_verify(s, NULL, NULL, &err), 0);
    for (const uint32_t *page = (const uint32_t[]){0, 5, 300, FIXTURE_PAGES - 1, 7, 8}; *page != 8; page++)
        assert_int_equal(byte_of_page(s, *page), *page == 7 ? 2 : 1);
    assert_int_equal(byte_of_page(s, 8), 0);
    assert_int_equal(s->meta.memory_data, 5 * SNAP_PAGE);
    snapshot_unref(s);
    assert_int_equal(count_in(f, "tmp"), 0);

    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_int_equal(sm_snapshot_import(NULL, store, fd, NULL, &err), -EEXIST);
    assert_int_equal(count_in(f, "tmp"), 0);
    close(fd);
    sm_store_free(store);
}

static void the_same_is_the_same_archive(void **state)
{
    struct store_fixture *f = *state;
    struct sm_snapshot_options o = SM_SNAPSHOT_OPTIONS_INIT;
    struct sm_store *store;
    struct sm_snapshot_record *list;
    char dest[600], *a, *b;
    int one = exported(f, &store), two = new_file();

    snprintf(dest, sizeof(dest), "%s/mine", f->dir);
    o.dest = dest;
    if (sm_snapshot_import(&list, store, one, &o, &err) < 0)
        fail_msg("%s", err.text);
    assert_string_equal(list->key, key_of('b'));
    sm_snapshot_records_free(list);
    assert_int_equal(count_in(f, "snapshots"), 0);
    assert_int_equal(sm_snapshot_export(store, dest, two, NULL, &err), 0);
    assert_int_equal(size_of(one), size_of(two));
    a = malloc((size_t)size_of(one));
    b = malloc((size_t)size_of(one));
    assert_int_equal(pread(one, a, (size_t)size_of(one), 0), size_of(one));
    assert_int_equal(pread(two, b, (size_t)size_of(one), 0), size_of(one));
    assert_memory_equal(a, b, (size_t)size_of(one));
    free(a);
    free(b);
    close(one);
    close(two);
    sm_store_free(store);
}

static void a_damaged_snapshot_does_not_go_out(void **state)
{
    struct store_fixture *f = *state;
    struct sm_store *store = open_store(f);
    int fd = new_file();

    snapshot_unref(snapshot_put(f->s, key_of('a'), NULL, NULL, 1));
    flip(snapshot_path(f, key_of('a'), "memory"), 5 * SNAP_PAGE);
    assert_int_equal(sm_snapshot_export(store, "aaaa", fd, NULL, &err), -EBADMSG);
    assert_int_equal(size_of(fd), 0);
    close(fd);
    sm_store_free(store);
}

static void a_reader_that_goes_is_an_error_and_no_signal(void **state)
{
    struct store_fixture *f = *state;
    struct sm_store *store = open_store(f);
    int p[2];

    snapshot_unref(snapshot_put(f->s, key_of('a'), NULL, NULL, 1));
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    close(p[0]);
    assert_int_equal(sm_snapshot_export(store, "aaaa", p[1], NULL, &err), -EPIPE);
    close(p[1]);
    sm_store_free(store);
}

/* Hostile ones. `fix`: the headers' checksums are made right again. */

static void fix_headers(uint8_t *data, size_t len)
{
    for (size_t at = 0; at + BLOCK <= len; at += BLOCK) {
        uint8_t *h = data + at;
        unsigned sum = 0;

        if (memcmp(h + 257, "ustar", 5) != 0)
            continue;
        memset(h + 148, ' ', 8);
        for (size_t i = 0; i < BLOCK; i++)
            sum += h[i];
        snprintf((char *)h + 148, 7, "%06o", sum);
    }
}

static void assert_refused(struct sm_store *store, const struct store_fixture *f, const uint8_t *data, size_t len,
                           const char *text)
{
    int fd = memory_file(data, len), r;

    memset(&err, 0, sizeof(err));
    r = sm_snapshot_import(NULL, store, fd, NULL, &err);
    if (r >= 0)
        fail_msg("what should say \"%s\" was taken", text);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
    close(fd);
    assert_int_equal(count_in(f, "snapshots"), 0);
    assert_int_equal(count_in(f, "tmp"), 0);
}

/* The header of a member. */
static size_t find_header(const uint8_t *data, size_t len, const char *name)
{
    for (size_t at = 0; at < len; at += BLOCK) {
        if (strcmp((const char *)data + at, name) == 0 && memcmp(data + at + 257, "ustar", 5) == 0)
            return at;
    }
    fail_msg("no %s", name);
    return 0;
}

static void wrong_archives_are_refused(void **state)
{
    struct store_fixture *f = *state;
    struct sm_store *store;
    int fd = exported(f, &store);
    size_t len = (size_t)size_of(fd), state_at, pages_at, memory_at, meta_at;
    uint8_t *good = malloc(len), *data = malloc(len + BLOCK);

    assert_int_equal(pread(fd, good, len, 0), len);
    state_at = find_header(good, len, "state");
    pages_at = find_header(good, len, "pages");
    memory_at = find_header(good, len, "memory.00");
    meta_at = find_header(good, len, "metadata.json");
    assert_true(state_at < pages_at && pages_at < memory_at && memory_at < meta_at);

    for (size_t cut = 0; cut < len; cut += cut < 2048 ? 37 : 1111) /* at every kind of place */
        assert_refused(store, f, good, cut, "the archive ends early");
    assert_refused(store, f, good, len - 1, "the archive ends early");

    memset(data, 'x', len);
    assert_refused(store, f, data, len, "is none of a snapshot");
    memset(data, 0, len);
    assert_refused(store, f, data, len, "is none of a snapshot");

#define CASE(change, text)                                                                                             \
    do {                                                                                                               \
        memcpy(data, good, len);                                                                                       \
        change;                                                                                                        \
        fix_headers(data, len);                                                                                        \
        assert_refused(store, f, data, len, text);                                                                     \
    } while (0)
    CASE(data[state_at] = 'S', "its file \"state\" is not where it should be");
    CASE(strcpy((char *)data + state_at, "../state"), "its file \"state\" is not where");
    CASE(data[state_at + 156] = '2', "its file \"state\" is not where"); /* a symbolic link */
    CASE(data[state_at + 157] = '/', "its file \"state\" is not where");
    CASE(data[state_at + 345] = '/', "its file \"state\" is not where");
    CASE(memcpy(data + state_at + 124, "77777777777", 11), "its file \"state\" has an impossible size");
    CASE(memcpy(data + state_at + 124, "00000000000", 11), "its file \"state\" has an impossible size");
    CASE(memcpy(data + state_at + 124, "\x80\0\0\0\0\0\0\0\0\0\1", 11), "has an impossible size");
    CASE(memcpy(data + pages_at + 124, "77777777777", 11), "its file \"pages\" has an impossible size");
    CASE(memcpy(data + pages_at + 124, "00000002001", 11), "its memory is no whole number of MiB");
    CASE(data[pages_at + BLOCK] |= 2, "its file \"memory.00\" has an impossible size"); /* one page more */
    CASE(memcpy(data + memory_at + 124, "77777777777", 11), "its file \"memory.00\" has an impossible size");
    CASE(data[memory_at + BLOCK + 5] ^= 1, "the memory of the snapshot bbbbbbbbbbbb is not what was saved");
    CASE((data[pages_at + BLOCK] ^= 3), "the memory of the snapshot bbbbbbbbbbbb is not what was saved"); /* shifted */
    CASE(data[state_at + BLOCK + 100] ^= 1, "the snapshot bbbbbbbbbbbb is not whole: ");
    CASE(memcpy(data + meta_at + 124, "77777777777", 11), "its file \"metadata.json\" has an impossible size");
    CASE(data[meta_at + BLOCK + 60] ^= 1, "the archive: its metadata is not right");
    CASE(data[len - 1] = 1, "more behind its end");
    memcpy(data, good, len);
    data[state_at + 5] ^= 1;
    assert_refused(store, f, data, len, "a header is not right");
    free(good);
    free(data);
    close(fd);
    sm_store_free(store);
}

/* The metadata is well-formed, and says what is not so. */
static void metadata_that_lies_is_refused(void **state)
{
    struct store_fixture *f = *state;
    struct sm_store *store;
    int fd = exported(f, &store);
    size_t len = (size_t)size_of(fd), at;
    uint8_t *data = malloc(len + 16384);
    struct snapshot_meta m, lie;

    assert_int_equal(pread(fd, data, len, 0), len);
    at = find_header(data, len, "metadata.json");
    assert_int_equal(snapshot_meta_parse(&m, data + at + BLOCK, strlen((char *)data + at + BLOCK), &err), 0);
    for (int i = 0; i < 4; i++) {
        struct buf text;
        size_t padded;
        char size[16];

        lie = m;
        if (i == 0)
            lie.memory_mib = 64;
        else if (i == 1)
            lie.memory_crc++;
        else if (i == 2)
            lie.state_crc++;
        else {
            memcpy(lie.base, key_of('a'), SNAPSHOT_KEY_SIZE);
            lie.diff_bytes = 40;
        }
        assert_int_equal(snapshot_meta_write(&text, &lie, &err), 0);
        padded = (text.len + BLOCK - 1) / BLOCK * BLOCK;
        memset(data + at + BLOCK, 0, padded + 2 * BLOCK);
        memcpy(data + at + BLOCK, text.data, text.len);
        snprintf(size, sizeof(size), "%011zo", text.len);
        memcpy(data + at + 124, size, 11);
        fix_headers(data, at + BLOCK);
        assert_refused(store, f, data, at + BLOCK + padded + 2 * BLOCK,
                       i == 0   ? "there is more memory, or less"
                       : i == 1 ? "the memory of the snapshot bbbbbbbbbbbb is not what was saved"
                       : i == 2 ? "the state of the snapshot bbbbbbbbbbbb is not what was saved"
                                : "a difference to one that is not in it");
        buf_done(&text);
    }
    snapshot_meta_done(&m);
    free(data);
    close(fd);
    sm_store_free(store);
}

static int stop(void *ctx, const struct sm_image_event *e)
{
    ++*(int *)ctx;
    return e->kind == SM_IMAGE_LOADING || e->kind == SM_IMAGE_SAVING;
}

static void both_ways_can_be_stopped(void **state)
{
    struct store_fixture *f = *state;
    struct sm_snapshot_options o = SM_SNAPSHOT_OPTIONS_INIT;
    struct sm_store *store;
    int calls = 0, fd = exported(f, &store), out = new_file();

    o.event = stop;
    o.event_ctx = &calls;
    assert_int_equal(sm_snapshot_import(NULL, store, fd, &o, &err), -ECANCELED);
    assert_int_equal(calls, 1);
    assert_int_equal(count_in(f, "tmp"), 0);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_int_equal(sm_snapshot_import(NULL, store, fd, NULL, &err), 0);
    assert_int_equal(sm_snapshot_export(store, "bbbb", out, &o, &err), -ECANCELED);
    assert_int_equal(calls, 2);
    close(out);
    close(fd);
    sm_store_free(store);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, store_fixture_setup, store_fixture_teardown)
    static const struct CMUnitTest tests[] = {
        TEST(a_difference_comes_back_whole),      TEST(the_same_is_the_same_archive),
        TEST(a_damaged_snapshot_does_not_go_out), TEST(a_reader_that_goes_is_an_error_and_no_signal),
        TEST(wrong_archives_are_refused),         TEST(metadata_that_lies_is_refused),
        TEST(both_ways_can_be_stopped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
