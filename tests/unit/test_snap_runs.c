/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of page runs: made from bitmaps, written, read back, and refused when they are not right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "file_faults.h"
#include "snap/crc32c.h"
#include "snap/runs.h"

#define PAGES  1000u
#define HEADER 32

static void set(uint64_t *bitmap, uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        snap_bit_set(bitmap, first + i);
}

static void runs_of_a_bitmap(void **state)
{
    uint64_t bitmap[SNAP_BITMAP_WORDS(PAGES)] = {0}, again[SNAP_BITMAP_WORDS(PAGES)] = {0};
    struct snap_runs runs;

    assert_int_equal(snap_runs_make(&runs, bitmap, PAGES, 10, NULL), 0);
    assert_int_equal(runs.n, 0);
    snap_runs_done(&runs);
    set(bitmap, 0, 1);
    set(bitmap, 60, 70); /* over two borders of words */
    set(bitmap, 131, 1);
    set(bitmap, 999, 1);
    assert_int_equal(snap_runs_make(&runs, bitmap, PAGES, 10, NULL), 0);
    static const struct snap_run expected[] = {{0, 1, false}, {60, 70, false}, {131, 1, false}, {999, 1, false}};
    assert_int_equal(runs.n, 4);
    assert_memory_equal(runs.run, expected, sizeof(expected));
    assert_int_equal(snap_runs_total(&runs), 73);
    snap_runs_mark(&runs, again);
    assert_memory_equal(bitmap, again, sizeof(bitmap));
    snap_runs_done(&runs);
    snap_runs_done(&runs);
    set(bitmap, 0, PAGES);
    assert_int_equal(snap_runs_make(&runs, bitmap, PAGES, 1, NULL), 0);
    assert_int_equal(runs.n, 1);
    assert_int_equal(snap_runs_total(&runs), PAGES);
    snap_runs_done(&runs);
}

static void short_gaps_are_joined_first(void **state)
{
    uint64_t bitmap[SNAP_BITMAP_WORDS(PAGES)] = {0};
    struct snap_runs runs;

    set(bitmap, 10, 1);
    set(bitmap, 12, 1); /* one page between */
    set(bitmap, 100, 1);
    set(bitmap, 110, 1); /* nine */
    set(bitmap, 800, 1);
    assert_int_equal(snap_runs_make(&runs, bitmap, PAGES, 4, NULL), 0);
    static const struct snap_run four[] = {{10, 3, false}, {100, 1, false}, {110, 1, false}, {800, 1, false}};
    assert_int_equal(runs.n, 4);
    assert_memory_equal(runs.run, four, sizeof(four));
    snap_runs_done(&runs);
    assert_int_equal(snap_runs_make(&runs, bitmap, PAGES, 3, NULL), 0);
    static const struct snap_run three[] = {{10, 3, false}, {100, 11, false}, {800, 1, false}};
    assert_int_equal(runs.n, 3);
    assert_memory_equal(runs.run, three, sizeof(three));
    snap_runs_done(&runs);
    assert_int_equal(snap_runs_make(&runs, bitmap, PAGES, 1, NULL), 0);
    assert_int_equal(runs.n, 1);
    assert_int_equal(snap_runs_total(&runs), 791);
    snap_runs_done(&runs);
}

/* More than a few are joined as long as it costs little, and no further. */
static void few_runs_are_made_where_it_is_cheap(void **state)
{
    static uint64_t bitmap[SNAP_BITMAP_WORDS(100000)];
    struct snap_runs runs;

    for (uint32_t page = 0; page < 2 * 400 * 50; page += 100) /* 400 runs of 50 pages: gaps of 1, gaps of 49 */
        for (uint32_t k = 0; k < 101; k += 51)
            set(bitmap, page + k, k ? 49 : 50);
    assert_int_equal(snap_runs_make(&runs, bitmap, 100000, 1024, NULL), 0);
    assert_int_equal(runs.n, 1);
    snap_runs_done(&runs);

    memset(bitmap, 0, sizeof(bitmap));
    for (uint32_t page = 0; page < 100000; page += 200) { /* pairs of pages with a gap of 2, far from each other */
        set(bitmap, page, 20);
        set(bitmap, page + 22, 20);
    }
    assert_int_equal(snap_runs_make(&runs, bitmap, 100000, 1024, NULL), 0);
    assert_int_equal(runs.n, 500); /* from a thousand, with 5 % more pages */
    assert_int_equal(snap_runs_total(&runs), 500 * 42);
    snap_runs_done(&runs);
    assert_int_equal(snap_runs_make(&runs, bitmap, 100000, 100, NULL), 0); /* has to be */
    assert_true(runs.n <= 100);
    snap_runs_done(&runs);
}

static void every_bitmap_is_covered(void **state)
{
    uint32_t seed = 1;

    for (unsigned round = 0; round < 200; round++) {
        uint64_t bitmap[SNAP_BITMAP_WORDS(PAGES)] = {0}, covered[SNAP_BITMAP_WORDS(PAGES)] = {0};
        struct snap_runs runs;
        uint32_t target = 1 + round % 40;

        for (uint32_t page = 0; page < PAGES; page++) {
            seed = seed * 1664525 + 1013904223;
            if ((seed >> 16) % 100 < round / 2)
                snap_bit_set(bitmap, page);
        }
        assert_int_equal(snap_runs_make(&runs, bitmap, PAGES, target, NULL), 0);
        assert_true(runs.n <= target);
        snap_runs_mark(&runs, covered);
        for (size_t i = 0; i < SNAP_BITMAP_WORDS(PAGES); i++)
            assert_int_equal(bitmap[i] & ~covered[i], 0);
        snap_runs_done(&runs);
    }
}

static struct snap_run sample_runs[] = {{3, 2, false}, {5, 1, false}, {900, 100, false}};
static const struct snap_runs sample = {.run = sample_runs, .n = 3, .pages = PAGES};

struct image {
    uint8_t bytes[256];
    size_t len;
};

static int memory_file(void)
{
    int fd = memfd_create("runs", MFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static struct image written(enum snap_runs_kind kind)
{
    struct image img;
    int fd = memory_file();

    assert_int_equal(snap_runs_write(&sample, kind, fd, NULL), 0);
    img.len = (size_t)pread(fd, img.bytes, sizeof(img.bytes), 0);
    assert_int_equal(img.len, HEADER + 3 * 8);
    close(fd);
    return img;
}

static void assert_runs_equal(const struct snap_run *a, const struct snap_run *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(a[i].first, b[i].first);
        assert_int_equal(a[i].count, b[i].count);
        assert_int_equal(a[i].written, b[i].written);
    }
}

static const char *verdict(const struct image *img, enum snap_runs_kind kind, uint32_t pages)
{
    static struct sm_error err;
    struct snap_runs runs;
    int fd = memory_file();

    memset(&err, 0, sizeof(err));
    assert_int_equal(write(fd, img->bytes, img->len), img->len);
    int r = snap_runs_read(&runs, kind, pages, fd, &err);
    close(fd);
    if (r == 0) {
        assert_int_equal(runs.n, 3);
        assert_int_equal(runs.pages, PAGES);
        assert_runs_equal(runs.run, sample_runs, 3);
        snap_runs_done(&runs);
        return NULL;
    }
    assert_int_equal(err.code, -r);
    return err.text;
}

static void put32(struct image *img, size_t at, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        img->bytes[at + i] = (uint8_t)(v >> (8 * i));
    v = crc32c(crc32c(0, img->bytes, 28), img->bytes + HEADER, img->len - HEADER);
    for (unsigned i = 0; i < 4; i++)
        img->bytes[28 + i] = (uint8_t)(v >> (8 * i));
}

static void comes_back(void **state)
{
    struct image diff = written(SNAP_RUNS_DIFF), prefetch = written(SNAP_RUNS_PREFETCH);

    assert_null(verdict(&diff, SNAP_RUNS_DIFF, PAGES));
    assert_null(verdict(&prefetch, SNAP_RUNS_PREFETCH, PAGES));
    assert_non_null(strstr(verdict(&prefetch, SNAP_RUNS_DIFF, PAGES), "list of changed pages is something else"));
    assert_non_null(strstr(verdict(&diff, SNAP_RUNS_PREFETCH, PAGES), "prefetch list is something else"));
    assert_non_null(strstr(verdict(&diff, SNAP_RUNS_DIFF, PAGES + 1), "memory of 1000 pages, not 1001"));
}

static void runs_are_split_by_what_was_written(void **state)
{
    static struct snap_run written_runs[] = {{0, 2, false},    {8, 4, false},   {20, 1, false}, {25, 100, false},
                                             {890, 20, false}, {950, 5, false}, {999, 1, false}};
    static const struct snap_runs all_written = {.run = written_runs, .n = 7, .pages = PAGES};
    static const struct snap_runs nothing = {.pages = PAGES};
    const struct snap_run expected[] = {{1, 1, true},   {2, 6, false},    {8, 2, true},    {20, 1, true},
                                        {21, 4, false}, {25, 5, true},    {900, 10, true}, {910, 40, false},
                                        {950, 5, true}, {955, 44, false}, {999, 1, true}};
    struct snap_run some[] = {{1, 9, false}, {20, 10, false}, {900, 100, false}};
    struct snap_runs runs = {.run = calloc(3, sizeof(some[0])), .n = 3, .pages = PAGES}, back;
    int fd = memory_file();

    memcpy(runs.run, some, sizeof(some));
    assert_int_equal(snap_runs_mark_written(&runs, &nothing, NULL), 0);
    assert_int_equal(runs.n, 3);
    assert_runs_equal(runs.run, some, 3);
    assert_int_equal(snap_runs_written(&runs), 0);
    assert_int_equal(snap_runs_mark_written(&runs, &all_written, NULL), 0);
    assert_int_equal(runs.n, ARRAY_SIZE(expected));
    assert_runs_equal(runs.run, expected, runs.n);
    assert_int_equal(snap_runs_total(&runs), 119);
    assert_int_equal(snap_runs_written(&runs), 25);

    assert_int_equal(snap_runs_write(&runs, SNAP_RUNS_PREFETCH, fd, NULL), 0);
    assert_int_equal(snap_runs_read(&back, SNAP_RUNS_PREFETCH, PAGES, fd, NULL), 0);
    assert_int_equal(back.n, runs.n);
    assert_runs_equal(back.run, runs.run, runs.n);
    snap_runs_done(&back);
    close(fd);
    fd = memory_file();
    assert_int_equal(snap_runs_write(&runs, SNAP_RUNS_DIFF, fd, NULL), 0);
    assert_int_equal(snap_runs_read(&back, SNAP_RUNS_DIFF, PAGES, fd, NULL), -EBADMSG); /* a diff knows no such mark */
    close(fd);
    snap_runs_done(&runs);
}

static void damage_is_refused(void **state)
{
    const struct image whole = written(SNAP_RUNS_DIFF);

    for (size_t bit = 0; bit < 8 * whole.len; bit++) {
        struct image img = whole;

        img.bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_non_null(verdict(&img, SNAP_RUNS_DIFF, PAGES));
    }
    for (size_t len = 0; len <= whole.len + 8; len++) {
        struct image img = whole;

        img.len = len;
        memset(img.bytes + whole.len, 0, 8);
        if (len != whole.len)
            assert_non_null(verdict(&img, SNAP_RUNS_DIFF, PAGES));
    }
}

static void hostile_lists_are_refused(void **state)
{
    static const struct {
        size_t at;
        uint32_t value;
        const char *sentence;
    } bad[] = {
        {8, 2, "has version 2"},
        {12, 65536, "pages of 65536 bytes"},
        {16, 999, "memory of 999 pages"},
        {20, 2, "says 2 runs"},
        {20, 4, "says 4 runs"},
        {20, 0x20000003, "does not fit its size"}, /* times 8: 3 runs again */
        {24, 1, "does not fit its size"},
        {HEADER, 4, "run 1"},              /* overlaps the next */
        {HEADER + 4, 3, "run 1"},          /* likewise */
        {HEADER + 4, 0, "run 0"},          /* empty */
        {HEADER + 4, 0xffffffff, "run 0"}, /* wraps */
        {HEADER + 16, 901, "run 2"},       /* sticks out */
        {HEADER + 20, 101, "run 2"},
        {HEADER + 16, 0xffffffff, "run 2"},
        {HEADER + 16, 0, "run 2"}, /* not sorted */
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct image img = written(SNAP_RUNS_DIFF);

        put32(&img, bad[i].at, bad[i].value);
        const char *text = verdict(&img, SNAP_RUNS_DIFF, PAGES);
        assert_non_null(text);
        assert_non_null(strstr(text, bad[i].sentence));
    }
}

static void more_runs_than_allowed(void **state)
{
    uint32_t n = SNAP_RUNS_MAX + 1;
    struct snap_runs many = {.run = calloc(n, sizeof(struct snap_run)), .n = n, .pages = 2 * n}, got;
    struct sm_error err = SM_ERROR_INIT;

    for (uint32_t i = 0; i < n; i++)
        many.run[i] = (struct snap_run){2 * i, 1, false};
    for (; many.n >= SNAP_RUNS_MAX; many.n--) {
        int fd = memory_file();

        assert_int_equal(snap_runs_write(&many, SNAP_RUNS_DIFF, fd, NULL), 0);
        int r = snap_runs_read(&got, SNAP_RUNS_DIFF, many.pages, fd, &err);
        assert_int_equal(r, many.n > SNAP_RUNS_MAX ? -EBADMSG : 0);
        if (r == 0)
            snap_runs_done(&got);
        close(fd);
    }
    free(many.run);
}

static void writes_that_fail_are_told(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    int fd = memory_file();

    for (int at = 0; at < 2; at++) {
        file_faults = (struct file_faults){.fail_at = at, .error = ENOSPC};
        assert_int_equal(snap_runs_write(&sample, SNAP_RUNS_PREFETCH, fd, &err), at < 1 ? -ENOSPC : 0);
    }
    assert_string_equal(err.text, "cannot write the snapshot's prefetch list: No space left on device");
    file_faults = (struct file_faults){.fail_at = -1};
    const struct image whole = written(SNAP_RUNS_DIFF);
    file_faults.short_max = 5;
    struct image img = written(SNAP_RUNS_DIFF);
    file_faults.short_max = 0;
    assert_memory_equal(img.bytes, whole.bytes, whole.len);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_of_a_bitmap),
        cmocka_unit_test(short_gaps_are_joined_first),
        cmocka_unit_test(few_runs_are_made_where_it_is_cheap),
        cmocka_unit_test(every_bitmap_is_covered),
        cmocka_unit_test(comes_back),
        cmocka_unit_test(runs_are_split_by_what_was_written),
        cmocka_unit_test(damage_is_refused),
        cmocka_unit_test(hostile_lists_are_refused),
        cmocka_unit_test(more_runs_than_allowed),
        cmocka_unit_test(writes_that_fail_are_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
