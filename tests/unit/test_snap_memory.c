/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory and its file: capture with holes, diffs, merging, mapping, what the kernel says was touched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file_faults.h"
#include "snap/memory.h"

/* Two regions that are no neighbours on the host; the border is inside a word of the bitmaps. */
#define LOW   100u
#define HIGH  3000u
#define PAGES (LOW + HIGH)
#define BYTES ((size_t)PAGES * SNAP_PAGE)

struct guest {
    struct snap_memory m;
    uint64_t bitmap[SNAP_BITMAP_WORDS(PAGES)];
};

static uint8_t *reserve(uint32_t pages)
{
    void *p = mmap(NULL, (size_t)pages * SNAP_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(p != MAP_FAILED);
    /* One page at a time: what is touched is counted. */
    madvise(p, (size_t)pages * SNAP_PAGE, MADV_NOHUGEPAGE);
    return p;
}

static struct guest *guest_new(void)
{
    struct guest *g = calloc(1, sizeof(*g));

    g->m.n = 2;
    g->m.region[0] = (struct snap_region){reserve(LOW), LOW * SNAP_PAGE};
    g->m.region[1] = (struct snap_region){reserve(HIGH), HIGH * SNAP_PAGE};
    assert_int_equal(snap_memory_pages(&g->m), PAGES);
    return g;
}

static void guest_free(struct guest *g)
{
    for (unsigned i = 0; i < 2; i++)
        munmap(g->m.region[i].host, g->m.region[i].size);
    free(g);
}

static uint8_t *page(struct guest *g, uint32_t n)
{
    return n < LOW ? g->m.region[0].host + (size_t)n * SNAP_PAGE : g->m.region[1].host + (size_t)(n - LOW) * SNAP_PAGE;
}

/* Write something of its own into the last byte of a page: the hardest one for a zero test. */
static void touch(struct guest *g, uint32_t n)
{
    page(g, n)[SNAP_PAGE - 1] = (uint8_t)(1 + n % 255);
    snap_bit_set(g->bitmap, n);
}

static int new_file(void)
{
    FILE *f = tmpfile();
    int fd = f ? dup(fileno(f)) : -1;

    assert_true(fd >= 0);
    fclose(f);
    return fd;
}

static int saved(struct guest *g, const uint64_t *bitmap, struct snap_memory_stats *stats)
{
    int fd = new_file();

    assert_int_equal(snap_memory_save(&g->m, bitmap, fd, stats, NULL), 0);
    return fd;
}

static void assert_file_is(struct guest *g, int fd)
{
    uint8_t buf[SNAP_PAGE];

    for (uint32_t n = 0; n < PAGES; n++) {
        assert_int_equal(pread(fd, buf, sizeof(buf), (off_t)n * SNAP_PAGE), sizeof(buf));
        assert_memory_equal(buf, page(g, n), sizeof(buf));
    }
    assert_int_equal(lseek(fd, 0, SEEK_END), BYTES);
}

static void assert_same(struct guest *a, struct guest *b)
{
    for (unsigned i = 0; i < 2; i++)
        assert_memory_equal(a->m.region[i].host, b->m.region[i].host, a->m.region[i].size);
}

static const uint32_t some[] = {0, 1, 2, 63, 64, LOW - 1, LOW, LOW + 1, 1000, 1002, PAGES - 1};
#define N_SOME (sizeof(some) / sizeof(some[0]))

static void capture_is_exact_and_sparse(void **state)
{
    struct guest *g = guest_new();
    struct snap_memory_stats stats;
    struct stat st;

    for (size_t i = 0; i < N_SOME; i++)
        touch(g, some[i]);
    page(g, 500)[0] = 1;
    page(g, 501)[8] = 1;
    page(g, 502)[2047] = 0;
    int fd = saved(g, NULL, &stats);
    assert_file_is(g, fd);
    assert_int_equal(stats.data_pages, N_SOME + 2);
    assert_int_equal(stats.zero_pages, PAGES - N_SOME - 2);
    fstat(fd, &st);
    assert_true((uint64_t)st.st_blocks * 512 <= 4 * stats.data_pages * SNAP_PAGE);
    close(fd);
    guest_free(g);
}

static void only_marked_pages_are_looked_at(void **state)
{
    struct guest *g = guest_new();
    struct snap_memory_stats stats;

    for (size_t i = 0; i < N_SOME; i++)
        touch(g, some[i]);
    snap_bit_set(g->bitmap, 7); /* marked and zero */
    int fd = saved(g, g->bitmap, &stats);
    assert_int_equal(stats.data_pages, N_SOME);
    assert_int_equal(stats.zero_pages, 1);
    assert_file_is(g, fd);
    close(fd);
    guest_free(g);
}

static void writes_are_cut_and_finished(void **state)
{
    struct guest *g = guest_new();
    struct snap_memory_stats stats;

    for (uint32_t n = 0; n < PAGES; n++) /* one run of 12 MiB: more than one write */
        touch(g, n);
    int fd = saved(g, NULL, &stats);
    assert_file_is(g, fd);
    close(fd);
    file_faults.short_max = 300000;
    fd = saved(g, NULL, &stats);
    file_faults.short_max = 0;
    assert_file_is(g, fd);
    assert_int_equal(stats.data_pages, PAGES);
    close(fd);
    guest_free(g);
}

static void failures_are_told(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct guest *g = guest_new();
    struct snap_memory_stats stats;
    int r = -1, at;

    for (size_t i = 0; i < N_SOME; i++)
        touch(g, some[i]);
    for (at = 0; r != 0; at++) {
        int fd = new_file();

        file_faults = (struct file_faults){.fail_at = at, .error = ENOSPC};
        r = snap_memory_save(&g->m, NULL, fd, &stats, &err);
        file_faults.fail_at = -1;
        if (r < 0) {
            assert_int_equal(r, -ENOSPC);
            assert_non_null(strstr(err.text, "snapshot's memory"));
            assert_non_null(strstr(err.text, "No space left"));
        }
        close(fd);
    }
    assert_int_equal(at, 1 + 7 + 1); /* the length, seven runs, and the one that worked */
    int fd = new_file(), fds[2];
    assert_int_equal(write(fd, "x", 1), 1);
    assert_int_equal(snap_memory_save(&g->m, NULL, fd, &stats, &err), -EINVAL);
    assert_non_null(strstr(err.text, "not an empty file"));
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(snap_memory_save(&g->m, NULL, fds[1], &stats, &err), -EINVAL);
    close(fds[0]);
    close(fds[1]);
    close(fd);
    assert_int_equal(snap_memory_save(&g->m, NULL, fd, &stats, &err), -EBADF);
    guest_free(g);
}

static void mapping_is_private(void **state)
{
    struct guest *g = guest_new(), *clone = guest_new(), *other = guest_new();
    struct snap_memory_stats stats;

    for (size_t i = 0; i < N_SOME; i++)
        touch(g, some[i]);
    int fd = saved(g, NULL, &stats);
    assert_int_equal(snap_memory_map(&clone->m, fd, NULL), 0);
    assert_same(g, clone);
    page(clone, 1000)[0] = 0xee;
    assert_int_equal(snap_memory_map(&other->m, fd, NULL), 0);
    assert_same(g, other);
    assert_file_is(g, fd);
    close(fd); /* the mappings stay */
    assert_same(g, other);
    guest_free(g);
    guest_free(clone);
    guest_free(other);
}

static void files_of_another_size_are_refused(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct guest *g = guest_new();
    uint32_t crc;
    int fd = new_file(), fds[2];

    assert_int_equal(ftruncate(fd, (off_t)BYTES - 1), 0);
    assert_int_equal(snap_memory_map(&g->m, fd, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "truncated"));
    assert_int_equal(snap_memory_sum(fd, PAGES, &crc, &err), -EBADMSG);
    assert_int_equal(snap_memory_mark_data(fd, PAGES, g->bitmap, &err), -EBADMSG);
    assert_int_equal(ftruncate(fd, (off_t)BYTES + SNAP_PAGE), 0);
    assert_int_equal(snap_memory_map(&g->m, fd, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "too long"));
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(snap_memory_map(&g->m, fds[0], &err), -EBADMSG);
    close(fds[0]);
    close(fds[1]);
    close(fd);
    assert_int_equal(snap_memory_map(&g->m, fd, &err), -EBADF);
    page(g, 0)[0] = 1; /* still its old self */
    guest_free(g);
}

static int pagemap(void)
{
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        print_message("no /proc/self/pagemap here: %s\n", strerror(errno));
        skip();
    }
    return fd;
}

static void the_kernel_tells_what_was_touched(void **state)
{
    struct guest *g = guest_new();
    uint64_t seen[SNAP_BITMAP_WORDS(PAGES)] = {0};
    int maps = pagemap();

    assert_int_equal(snap_memory_scan(&g->m, maps, SNAP_SCAN_TOUCHED, seen, NULL), 0);
    for (size_t i = 0; i < SNAP_BITMAP_WORDS(PAGES); i++)
        assert_int_equal(seen[i], 0);
    for (size_t i = 0; i < N_SOME; i++)
        touch(g, some[i]);
    assert_int_equal(snap_memory_scan(&g->m, maps, SNAP_SCAN_PRIVATE, seen, NULL), 0);
    assert_memory_equal(seen, g->bitmap, sizeof(seen));
    assert_int_equal(snap_memory_scan(&g->m, -1, SNAP_SCAN_PRIVATE, seen, NULL), -EBADF);
    close(maps);
    guest_free(g);
}

/* The whole life of a diff: base, restore, change, diff, restore base + diff, merge, and a diff of that again. */
static void full_is_base_and_diff(void **state)
{
    struct guest *g = guest_new(), *run = guest_new(), *back = guest_new();
    struct snap_memory_stats stats;
    struct snap_runs diff, again;
    volatile uint8_t sink;
    int maps = pagemap();

    for (uint32_t n = 0; n < PAGES; n += 3)
        touch(g, n);
    int base = saved(g, NULL, &stats);
    assert_int_equal(snap_memory_map(&run->m, base, NULL), 0);
    for (uint32_t n = 0; n < PAGES; n += 7)
        sink = page(run, n)[0]; /* reading makes nothing private */
    (void)sink;
    page(run, 3)[17] = 99;              /* over data */
    page(run, 4)[0] = 98;               /* over a hole */
    memset(page(run, 9), 0, SNAP_PAGE); /* data becomes zero */
    memset(page(run, LOW - 2), 7, SNAP_PAGE);
    memset(page(run, LOW - 1), 7, SNAP_PAGE); /* a run over the regions' border */
    memset(page(run, LOW), 7, SNAP_PAGE);
    page(run, PAGES - 1)[1] = 1;
    uint64_t dirty[SNAP_BITMAP_WORDS(PAGES)] = {0};
    assert_int_equal(snap_memory_scan(&run->m, maps, SNAP_SCAN_PRIVATE, dirty, NULL), 0);
    assert_int_equal(snap_runs_make(&diff, dirty, PAGES, SNAP_RUNS_TARGET, NULL), 0);
    assert_int_equal(snap_runs_total(&diff), 7);
    assert_int_equal(diff.n, 4);

    memset(dirty, 0, sizeof(dirty));
    snap_runs_mark(&diff, dirty);
    int changed = saved(run, dirty, &stats);
    assert_int_equal(stats.data_pages, 6);
    assert_int_equal(stats.zero_pages, 1);
    int merged = new_file();
    assert_int_equal(snap_memory_merge(base, changed, &diff, merged, NULL), 0);
    assert_file_is(run, merged);
    int full = saved(run, NULL, &stats);
    uint32_t a, b;
    assert_int_equal(snap_memory_sum(full, PAGES, &a, NULL), 0);
    assert_int_equal(snap_memory_sum(merged, PAGES, &b, NULL), 0);
    assert_int_equal(a, b);
    assert_int_equal(snap_memory_sum(base, PAGES, &b, NULL), 0);
    assert_int_not_equal(a, b);

    assert_int_equal(snap_memory_map(&back->m, base, NULL), 0);
    assert_int_equal(snap_memory_map_diff(&back->m, &diff, changed, NULL), 0);
    assert_same(run, back);
    page(back, 5)[5] = 5;
    page(back, LOW)[5] = 5;
    memset(dirty, 0, sizeof(dirty));
    assert_int_equal(snap_memory_scan(&back->m, maps, SNAP_SCAN_PRIVATE, dirty, NULL), 0);
    assert_int_equal(snap_runs_make(&again, dirty, PAGES, SNAP_RUNS_TARGET, NULL), 0);
    assert_int_equal(snap_runs_total(&again), 2);
    /* Back in place: only what was written is dropped, base and diff show again. */
    assert_int_equal(snap_memory_rewind(&back->m, &again, NULL), 0);
    assert_same(run, back);
    snap_memory_prefetch(&back->m, &diff);
    assert_same(run, back);
    assert_int_equal(ftruncate(changed, SNAP_PAGE), 0);
    assert_int_equal(snap_memory_map_diff(&back->m, &diff, changed, NULL), -EBADMSG);
    assert_int_equal(snap_memory_merge(base, changed, &diff, merged, NULL), -EBADMSG);
    snap_runs_done(&diff);
    snap_runs_done(&again);
    close(base);
    close(changed);
    close(merged);
    close(full);
    close(maps);
    guest_free(g);
    guest_free(run);
    guest_free(back);
}

static void a_full_capture_of_a_clone_needs_no_holes(void **state)
{
    struct guest *g = guest_new(), *clone = guest_new();
    uint64_t look[SNAP_BITMAP_WORDS(PAGES)] = {0};
    struct snap_memory_stats stats;
    int maps = pagemap();

    for (size_t i = 0; i < N_SOME; i++)
        touch(g, some[i]);
    int base = saved(g, NULL, &stats);
    assert_int_equal(snap_memory_map(&clone->m, base, NULL), 0);
    touch(clone, 2000);
    assert_int_equal(snap_memory_mark_data(base, PAGES, look, NULL), 0);
    assert_int_equal(snap_memory_scan(&clone->m, maps, SNAP_SCAN_PRIVATE, look, NULL), 0);
    int fd = saved(clone, look, &stats);
    assert_file_is(clone, fd);
    assert_true(stats.data_pages == N_SOME + 1);
    close(fd);
    close(base);
    close(maps);
    guest_free(g);
    guest_free(clone);
}

static void a_merge_that_fails_is_told(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct guest *g = guest_new();
    struct snap_memory_stats stats;
    struct snap_run one = {2, 1, false};
    struct snap_runs runs = {.run = &one, .n = 1, .pages = PAGES};
    int r = -1, at;

    for (size_t i = 0; i < N_SOME; i++)
        touch(g, some[i]);
    int fd = saved(g, NULL, &stats);
    for (at = 0; r != 0; at++) {
        int out = new_file();

        file_faults = (struct file_faults){.fail_at = at, .error = EDQUOT};
        r = snap_memory_merge(fd, fd, &runs, out, &err);
        file_faults.fail_at = -1;
        assert_true(r == 0 || r == -EDQUOT);
        if (r == 0)
            assert_file_is(g, out);
        close(out);
    }
    assert_true(at > 5);
    assert_int_equal(snap_memory_merge(fd, fd, &runs, fd, &err), -EINVAL);
    close(fd);
    guest_free(g);
}

static unsigned char resident(const uint8_t *p)
{
    unsigned char there = 0;

    assert_int_equal(mincore((void *)(uintptr_t)p, SNAP_PAGE, &there), 0);
    return there & 1;
}

/* Page faults of this process for which a disk had to be asked. */
static long faults_from_disk(void)
{
    struct rusage used;

    assert_int_equal(getrusage(RUSAGE_SELF, &used), 0);
    return used.ru_majflt;
}

/* What is listed and not in the page cache comes there before it is touched. */
static void pages_are_read_ahead(void **state)
{
    struct guest *g = guest_new();
    struct snap_memory_stats stats;
    struct snap_run run[] = {{10, 2, false}, {LOW - 1, 2, false}, {2000, 8, false}};
    const struct snap_runs runs = {.run = run, .n = 3, .pages = PAGES};
    char path[] = "/var/tmp/sm-snap-XXXXXX"; /* on a disk, where there is one */
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    unlink(path);
    for (uint32_t n = 0; n < PAGES; n++)
        touch(g, n);
    assert_int_equal(snap_memory_save(&g->m, NULL, fd, &stats, NULL), 0);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    assert_int_equal(snap_memory_map(&g->m, fd, NULL), 0);
    bool on_disk = !resident(page(g, 2000)) && !resident(page(g, 1500));
    snap_memory_prefetch(&g->m, &runs);
    long before = faults_from_disk();
    for (uint32_t i = 0; i < runs.n; i++)
        for (uint32_t n = run[i].first; n < run[i].first + run[i].count; n++)
            assert_int_equal(page(g, n)[SNAP_PAGE - 1], 1 + n % 255);
    /* One for each run, if nothing had been read ahead. A busy machine may owe this program a page of its own, too. */
    assert_true(faults_from_disk() - before < runs.n);
    if (on_disk && !resident(page(g, 1500))) { /* so such faults are counted here */
        before = faults_from_disk();
        assert_int_equal(page(g, 1500)[SNAP_PAGE - 1], 1 + 1500 % 255);
        assert_true(faults_from_disk() > before);
    }
    snap_memory_prefetch(&g->m, &runs); /* all there: nothing to do */
    close(fd);
    guest_free(g);
}

static void pages_that_are_the_same_are_dropped(void **state)
{
    struct guest *g = guest_new();
    struct snap_memory_stats stats;
    struct sm_error err = SM_ERROR_INIT;
    uint64_t want[SNAP_BITMAP_WORDS(PAGES)] = {0};

    for (uint32_t n = 0; n < 900; n++) /* longer than what is read at once, and over the regions' border */
        touch(g, n);
    int fd = saved(g, NULL, &stats);
    page(g, 0)[0] ^= 1;
    page(g, LOW)[7] ^= 1;
    page(g, 899)[SNAP_PAGE - 1] ^= 1;
    static const uint32_t changed[] = {0, LOW, 899, 2000, PAGES - 1};
    touch(g, 2000);                /* over a hole */
    touch(g, PAGES - 1);           /* likewise */
    snap_bit_set(g->bitmap, 2500); /* zero over a hole */
    for (size_t i = 0; i < sizeof(changed) / sizeof(changed[0]); i++)
        snap_bit_set(want, changed[i]);
    page(g, 3000)[0] = 1; /* is not asked about */
    assert_int_equal(snap_memory_drop_same(&g->m, fd, g->bitmap, NULL), 0);
    assert_memory_equal(g->bitmap, want, sizeof(want));
    assert_int_equal(ftruncate(fd, SNAP_PAGE), 0);
    assert_int_equal(snap_memory_drop_same(&g->m, fd, g->bitmap, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "truncated"));
    close(fd);
    guest_free(g);
}

/* A file that is brought up to date while memory changes: what is zero now is zero there, too. */
static void an_update_is_exact(void **state)
{
    struct guest *g = guest_new();
    uint64_t has[SNAP_BITMAP_WORDS(PAGES)] = {0}, changed[SNAP_BITMAP_WORDS(PAGES)] = {0};
    int fd = new_file();

    for (size_t i = 0; i < N_SOME; i++)
        touch(g, some[i]);
    assert_int_equal(snap_memory_begin(&g->m, fd, NULL), 0);
    assert_int_equal(snap_memory_begin(&g->m, fd, NULL), -EINVAL); /* is not empty any more */
    for (uint32_t at = 0; at < PAGES; at += 77)                    /* pieces that end anywhere */
        assert_int_equal(snap_memory_update(&g->m, g->bitmap, at, at + 77 < PAGES ? at + 77 : PAGES, has, fd, NULL), 0);
    assert_file_is(g, fd);
    assert_int_equal(snap_bits_count(has, PAGES), N_SOME);

    memset(page(g, LOW - 1), 0, SNAP_PAGE);
    memset(page(g, LOW), 0, SNAP_PAGE);
    page(g, 3)[0] = 1;
    page(g, 1000)[9] = 9;
    static const uint32_t list[] = {3, 4, LOW - 1, LOW, 1000};
    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
        snap_bit_set(changed, list[i]);
    assert_int_equal(snap_memory_update(&g->m, changed, 0, PAGES, has, fd, NULL), 0);
    assert_file_is(g, fd);
    assert_int_equal(snap_bits_count(has, PAGES), N_SOME + 1 - 2);
    assert_false(snap_bit(has, LOW));
    close(fd);
    guest_free(g);
}

static void writes_are_tracked(void **state)
{
    struct guest *g = guest_new();
    uint64_t seen[SNAP_BITMAP_WORDS(PAGES)] = {0}, want[SNAP_BITMAP_WORDS(PAGES)] = {0};
    struct snap_memory_stats stats;
    int maps = pagemap(), clear = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);

    assert_false(snap_memory_can_track(-1, clear));
    assert_false(snap_memory_can_track(maps, -1));
    assert_int_equal(snap_memory_track(-1, NULL), -EBADF);
    if (!snap_memory_can_track(maps, clear)) {
        close(maps);
        close(clear);
        guest_free(g);
        print_message("this kernel does not track writes (soft-dirty)\n");
        skip();
    }
    /* Of memory that came from a file, and of memory that did not. */
    for (uint32_t n = 0; n < PAGES; n += 2)
        touch(g, n);
    int fd = saved(g, NULL, &stats);
    for (int mapped = 0; mapped < 2; mapped++) {
        volatile uint8_t sink = 0;

        if (mapped)
            assert_int_equal(snap_memory_map(&g->m, fd, NULL), 0);
        for (int round = 0; round < 2; round++) {
            memset(seen, 0, sizeof(seen));
            memset(want, 0, sizeof(want));
            assert_int_equal(snap_memory_track(clear, NULL), 0);
            for (uint32_t n = 0; n < PAGES; n += 3)
                sink = page(g, n)[5];
            for (uint32_t n = (uint32_t)round; n < PAGES; n += 5) {
                page(g, n)[0]++;
                snap_bit_set(want, n);
            }
            assert_int_equal(snap_memory_scan(&g->m, maps, SNAP_SCAN_WRITTEN, seen, NULL), 0);
            assert_memory_equal(seen, want, sizeof(seen));
        }
        (void)sink;
    }
    close(fd);
    close(maps);
    close(clear);
    guest_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(capture_is_exact_and_sparse),
        cmocka_unit_test(only_marked_pages_are_looked_at),
        cmocka_unit_test(writes_are_cut_and_finished),
        cmocka_unit_test(failures_are_told),
        cmocka_unit_test(mapping_is_private),
        cmocka_unit_test(files_of_another_size_are_refused),
        cmocka_unit_test(the_kernel_tells_what_was_touched),
        cmocka_unit_test(full_is_base_and_diff),
        cmocka_unit_test(a_full_capture_of_a_clone_needs_no_holes),
        cmocka_unit_test(a_merge_that_fails_is_told),
        cmocka_unit_test(pages_are_read_ahead),
        cmocka_unit_test(pages_that_are_the_same_are_dropped),
        cmocka_unit_test(an_update_is_exact),
        cmocka_unit_test(writes_are_tracked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
