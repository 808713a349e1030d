/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Diffs, live saves, lists of touched pages, and files that fail, of machines on a scripted hypervisor. Not every
 * kernel tracks writes, so here a copy of memory does (test_snap_memory has the real thing).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "fake_hv.h"
#include "file_faults.h"
#include "lifecycle_regs.h"
#include "machine/coord.h"
#include "machine/machine_private.h"
#include "machine_env.h"

#define PAGES (32u * 256)

static uint8_t *before; /* memory when tracking last began */
static const struct snap_memory *tracked;
static bool can_track;

int __real_snap_memory_scan(const struct snap_memory *m, int fd, enum snap_scan what, uint64_t *bitmap,
                            struct sm_error *err);
int __wrap_snap_memory_scan(const struct snap_memory *m, int fd, enum snap_scan what, uint64_t *bitmap,
                            struct sm_error *err);
int __wrap_snap_memory_track(int fd, struct sm_error *err);
bool __wrap_snap_memory_can_track(int pagemap_fd, int fd);

int __wrap_snap_memory_scan(const struct snap_memory *m, int fd, enum snap_scan what, uint64_t *bitmap,
                            struct sm_error *err)
{
    if (what != SNAP_SCAN_WRITTEN)
        return __real_snap_memory_scan(m, fd, what, bitmap, err);
    assert_int_equal(m->n, 1);
    for (uint32_t n = 0; n < PAGES; n++)
        if (memcmp(m->region[0].host + (size_t)n * SNAP_PAGE, before + (size_t)n * SNAP_PAGE, SNAP_PAGE) != 0)
            snap_bit_set(bitmap, n);
    return 0;
}

int __wrap_snap_memory_track(int fd, struct sm_error *err)
{
    memcpy(before, tracked->region[0].host, (size_t)PAGES * SNAP_PAGE);
    return 0;
}

bool __wrap_snap_memory_can_track(int pagemap_fd, int fd)
{
    return can_track;
}

/* Writes to the present machine can be tracked. */
static void track(struct env *e)
{
    static struct snap_memory memory;

    memory = machine_memory(e->m);
    tracked = &memory;
    can_track = true;
}

static int set_up(void **state)
{
    can_track = false;
    before = malloc((size_t)PAGES * SNAP_PAGE);
    return before ? env_set_up(state) : -1;
}

static int tear_down(void **state)
{
    free(before);
    return env_tear_down(state);
}

static uint8_t *page(struct env *e, uint32_t n)
{
    return mem_ptr(&e->m->mem, (uint64_t)n * SNAP_PAGE, SNAP_PAGE);
}

static void write_page(struct env *e, uint32_t n, uint8_t value)
{
    memset(page(e, n), value, SNAP_PAGE);
}

/* All of the machine's memory, as it is now. */
static uint8_t *copy_memory(struct env *e)
{
    uint8_t *copy = malloc((size_t)PAGES * SNAP_PAGE);

    assert_non_null(copy);
    for (uint32_t n = 0; n < PAGES; n++)
        memcpy(copy + (size_t)n * SNAP_PAGE, page(e, n), SNAP_PAGE);
    return copy;
}

static void assert_memory_is(struct env *e, const uint8_t *want)
{
    for (uint32_t n = 0; n < PAGES; n++)
        if (memcmp(page(e, n), want + (size_t)n * SNAP_PAGE, SNAP_PAGE) != 0)
            fail_msg("page %u differs", n);
}

static void assert_file_is(int fd, const uint8_t *want)
{
    uint8_t *map = mmap(NULL, (size_t)PAGES * SNAP_PAGE, PROT_READ, MAP_SHARED, fd, 0);

    assert_true(map != MAP_FAILED);
    for (uint32_t n = 0; n < PAGES; n++)
        if (memcmp(map + (size_t)n * SNAP_PAGE, want + (size_t)n * SNAP_PAGE, SNAP_PAGE) != 0)
            fail_msg("page %u of the file differs", n);
    munmap(map, (size_t)PAGES * SNAP_PAGE);
}

static void save(struct env *e, const struct machine_files *files, unsigned flags, struct machine_saved *saved)
{
    struct sm_error err = SM_ERROR_INIT;

    if (machine_save(e->m, files, flags, saved, &err) < 0)
        fail_msg("%s", err.text);
}

/* A machine that was booted and has some pages of its own, saved as a base; a clone of it runs. */
static void clone_of_base(struct env *e)
{
    struct machine_saved saved;

    env_start(e, 1);
    if (e->m->pagemap_fd < 0) {
        print_message("no /proc/self/pagemap here\n");
        skip();
    }
    for (uint32_t n = 1000; n < 1100; n++)
        write_page(e, n, (uint8_t)n);
    save(e, &e->files, 0, &saved);
    env_finish(e);
    env_clone(e, &e->files);
}

/* base + diff, and a diff of that again: always against the same base. */
static void full_is_base_and_diff(void **state)
{
    struct env *e = *state;
    struct machine_files first = env_files(true), second = env_files(true), full = env_files(false);
    struct machine_saved saved;

    clone_of_base(e);
    write_page(e, 1001, 0xaa); /* over data */
    write_page(e, 1002, 0);    /* data becomes zero */
    write_page(e, 5000, 0xbb); /* over a hole */
    save(e, &first, MACHINE_SAVE_DIFF, &saved);
    assert_true(saved.data_pages >= 2 && saved.data_pages < 20);
    assert_true(saved.zero_pages >= 1);
    uint8_t *want = copy_memory(e);
    env_finish(e);

    first.base = e->files.memory;
    env_clone(e, &first);
    assert_memory_is(e, want);
    write_page(e, 1001, 0xcc); /* over the diff's */
    write_page(e, 5001, 0xdd);
    save(e, &second, MACHINE_SAVE_DIFF, &saved);
    save(e, &full, 0, &saved);
    free(want);
    want = copy_memory(e);
    assert_file_is(full.memory, want);
    env_finish(e);

    second.base = e->files.memory;
    env_clone(e, &second);
    assert_memory_is(e, want);
    assert_int_equal(page(e, 1002)[0], 0);
    assert_int_equal(page(e, 5000)[7], 0xbb);
    free(want);

    struct snap_runs runs;
    int merged = memfd_create("merged", MFD_CLOEXEC);
    assert_int_equal(snap_runs_read(&runs, SNAP_RUNS_DIFF, PAGES, second.diff, NULL), 0);
    assert_int_equal(snap_memory_merge(e->files.memory, second.memory, &runs, merged, NULL), 0);
    want = copy_memory(e);
    assert_file_is(merged, want);
    free(want);
    snap_runs_done(&runs);
    close(merged);
    env_close(&first);
    env_close(&second);
    env_close(&full);
}

/* What was written back to what it was in the base is no change, even if a diff in between had it otherwise. */
static void what_is_as_in_the_base_is_left_out(void **state)
{
    struct env *e = *state;
    struct machine_files first = env_files(true), second = env_files(true);
    struct machine_saved saved;
    struct snap_runs runs;

    clone_of_base(e);
    write_page(e, 1050, 0x77);
    write_page(e, 1051, (uint8_t)1051); /* as it is */
    write_page(e, 7000, 0);             /* likewise, where there is nothing */
    save(e, &first, MACHINE_SAVE_DIFF, &saved);
    assert_int_equal(snap_runs_read(&runs, SNAP_RUNS_DIFF, PAGES, first.diff, NULL), 0);
    assert_int_equal(runs.n, 1);
    assert_int_equal(runs.run[0].first, 1050);
    assert_int_equal(runs.run[0].count, 1);
    snap_runs_done(&runs);
    env_finish(e);

    first.base = e->files.memory;
    env_clone(e, &first);
    write_page(e, 1050, (uint8_t)1050);
    save(e, &second, MACHINE_SAVE_DIFF, &saved);
    assert_int_equal(saved.data_pages + saved.zero_pages, 0);
    env_finish(e);
    second.base = e->files.memory;
    env_clone(e, &second);
    assert_int_equal(page(e, 1050)[9], (uint8_t)1050);
    env_close(&first);
    env_close(&second);
}

static void a_diff_needs_a_base(void **state)
{
    struct env *e = *state;
    struct machine_files files = env_files(true);
    struct sm_error err = SM_ERROR_INIT;
    struct machine_saved saved;

    env_start(e, 1);
    assert_int_equal(machine_save(e->m, &files, MACHINE_SAVE_DIFF, &saved, &err), -EINVAL);
    assert_non_null(strstr(err.text, "no base"));
    assert_int_equal(machine_touched(e->m, files.diff, &err), -EINVAL);
    save(e, &e->files, 0, &saved); /* it runs on */
    env_close(&files);
}

static void a_diff_that_does_not_fit_is_refused(void **state)
{
    struct env *e = *state;
    struct machine_files files = env_files(true);
    struct sm_error err = SM_ERROR_INIT;
    struct machine_saved saved;

    clone_of_base(e);
    save(e, &files, MACHINE_SAVE_DIFF, &saved);
    env_finish(e);
    files.base = e->files.memory;
    env_build(e, 32, 1);
    int list = files.diff;
    files.diff = files.state; /* something else */
    assert_int_equal(machine_restore(e->m, &files, env_generation, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "changed pages"));
    env_finish(e);
    env_build(e, 32, 1);
    files.diff = list;
    assert_int_equal(ftruncate(files.memory, 4096), 0);
    assert_int_equal(machine_restore(e->m, &files, env_generation, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "truncated"));
    env_close(&files);
}

static bool is_written(const struct snap_runs *runs, uint32_t page)
{
    for (uint32_t i = 0; i < runs->n; i++)
        if (page >= runs->run[i].first && page - runs->run[i].first < runs->run[i].count)
            return runs->run[i].written;
    return false;
}

static void touched_pages_are_listed_and_read_ahead(void **state)
{
    struct env *e = *state;
    struct snap_runs runs;
    volatile uint8_t sink;

    clone_of_base(e);
    sink = page(e, 1050)[0];
    (void)sink;
    write_page(e, 6000, 1);
    e->files.prefetch = memfd_create("prefetch", MFD_CLOEXEC);
    assert_int_equal(machine_touched(e->m, e->files.prefetch, NULL), 0);
    assert_int_equal(snap_runs_read(&runs, SNAP_RUNS_PREFETCH, PAGES, e->files.prefetch, NULL), 0);
    uint64_t listed[SNAP_BITMAP_WORDS(PAGES)] = {0};
    snap_runs_mark(&runs, listed);
    assert_true(snap_bit(listed, 1050));
    assert_true(snap_bit(listed, 6000));
    assert_false(snap_bit(listed, 3000));
    assert_false(is_written(&runs, 1050));
    assert_true(is_written(&runs, 6000));
    snap_runs_done(&runs);
    env_finish(e);

    /* The next one has those that were written to, before it does anything. */
    env_clone(e, &e->files);
    int again = memfd_create("again", MFD_CLOEXEC);
    assert_int_equal(machine_touched(e->m, again, NULL), 0);
    assert_int_equal(snap_runs_read(&runs, SNAP_RUNS_PREFETCH, PAGES, again, NULL), 0);
    assert_true(is_written(&runs, 6000));
    assert_false(is_written(&runs, 1050));
    snap_runs_done(&runs);
    close(again);
    assert_int_equal(page(e, 1050)[0], (uint8_t)1050);
    assert_int_equal(page(e, 6000)[0], 0); /* and not what the other wrote */
    env_finish(e);
    assert_int_equal(pwrite(e->files.prefetch, "x", 1, 40), 1); /* only advice: the clone is as good without */
    env_clone(e, &e->files);
    assert_int_equal(page(e, 1050)[0], (uint8_t)1050);
    close(e->files.prefetch);
}

struct outcome {
    struct loop *loop;
    int calls, r;
    struct machine_saved saved;
    char text[256];
};

static void on_saved(void *ctx, int r, const struct machine_saved *saved, struct sm_error *err)
{
    struct outcome *o = ctx;

    o->calls++;
    o->r = r;
    o->saved = *saved;
    snprintf(o->text, sizeof(o->text), "%.200s", r < 0 ? err->text : "");
    loop_stop(o->loop);
}

static void a_live_save_is_exact(void **state)
{
    struct env *e = *state;
    struct outcome o = {.loop = e->loop};
    struct machine_files files = env_files(true);
    struct machine_saved saved;

    clone_of_base(e);
    track(e);
    for (uint32_t n = 2000; n < 7000; n++)
        write_page(e, n, (uint8_t)(1 + n % 200));
    assert_int_equal(machine_save_live(e->m, &files, MACHINE_SAVE_DIFF, on_saved, &o, NULL), 0);
    assert_true(machine_is_saving(e->m));
    assert_int_equal(machine_save(e->m, &e->files, 0, &saved, NULL), -EBUSY);
    assert_int_equal(machine_save_live(e->m, &e->files, 0, on_saved, &o, NULL), -EBUSY);
    while (o.calls == 0) { /* the guest writes while it is copied */
        static uint32_t round;

        assert_false(atomic_load(&e->m->group.pause));
        if (round < 20) {
            write_page(e, 2000 + round * 7, (uint8_t)(200 + round)); /* copied, perhaps */
            write_page(e, 2001 + round * 7, 0);                      /* copied, and zero now */
            write_page(e, 6900 - round, 0xee);                       /* not copied yet */
            write_page(e, 7500 + round * 2, 0xdd);                   /* was no part of it before */
        }
        round++;
        assert_true(loop_once(e->loop, 1000) >= 0);
    }
    assert_int_equal(o.r, 0);
    assert_false(machine_is_saving(e->m));
    assert_false(atomic_load(&e->m->group.pause)); /* it runs on */
    assert_true(o.saved.live_pages > 4000);
    assert_true(o.saved.data_pages >= 4900 && o.saved.data_pages < 6000);
    assert_true(o.saved.pause_ns > 0 && o.saved.pause_ns < o.saved.total_ns);
    uint8_t *want = copy_memory(e);
    write_page(e, 2500, 0); /* after it */
    env_finish(e);
    files.base = e->files.memory;
    env_clone(e, &files);
    assert_memory_is(e, want);
    free(want);
    env_close(&files);
}

static void a_full_live_save_may_stay(void **state)
{
    struct env *e = *state;
    struct outcome o = {.loop = e->loop};

    env_start(e, 2);
    track(e);
    write_page(e, 3000, 1);
    assert_int_equal(machine_save_live(e->m, &e->files, MACHINE_SAVE_STAY, on_saved, &o, NULL), 0);
    write_page(e, 3001, 2);
    assert_int_equal(loop_run(e->loop), 0);
    assert_int_equal(o.r, 0);
    assert_true(atomic_load(&e->m->group.pause));
    uint8_t *want = copy_memory(e);
    assert_file_is(e->files.memory, want);
    free(want);
}

static void without_tracking_a_plain_save_has_to_do(void **state)
{
    struct env *e = *state;
    struct outcome o = {.loop = e->loop};

    env_start(e, 1);
    assert_int_equal(machine_save_live(e->m, &e->files, 0, on_saved, &o, NULL), 0);
    assert_int_equal(o.calls, 1);
    assert_int_equal(o.r, 0);
    assert_int_equal(o.saved.live_pages, 0);
    assert_true(o.saved.data_pages > 0);
}

static void the_end_of_the_machine_ends_a_live_save(void **state)
{
    struct env *e = *state;
    struct outcome o = {.loop = e->loop};

    env_start(e, 1);
    track(e);
    assert_int_equal(machine_save_live(e->m, &e->files, 0, on_saved, &o, NULL), 0);
    machine_stop(e->m);
    while (e->ends == 0)
        assert_true(loop_once(e->loop, 1000) >= 0);
    assert_int_equal(o.calls, 1);
    assert_int_equal(o.r, -ESHUTDOWN);
    assert_non_null(strstr(o.text, "has ended"));
    env_finish(e);

    o = (struct outcome){.loop = e->loop};
    env_start(e, 1);
    assert_int_equal(ftruncate(e->files.memory, 0), 0);
    assert_int_equal(machine_save_live(e->m, &e->files, 0, on_saved, &o, NULL), 0);
    machine_free(e->m);
    e->m = NULL;
    assert_int_equal(o.r, -ESHUTDOWN);
}

/* Every write and every change of length fails once: a sentence, and the machine runs on. */
static void every_file_operation_may_fail(void **state)
{
    struct env *e = *state;
    int failures[2] = {0};

    clone_of_base(e);
    track(e);
    write_page(e, 5000, 0xbb);
    for (unsigned live = 0; live < 2; live++) {
        struct outcome o = {.r = -1};

        for (int at = 0; o.r < 0; at++) {
            struct machine_files files = env_files(true);
            struct sm_error err = SM_ERROR_INIT;

            o = (struct outcome){.loop = e->loop};
            file_faults = (struct file_faults){.fail_at = at, .error = ENOSPC};
            if (live)
                o.r = machine_save_live(e->m, &files, MACHINE_SAVE_DIFF, on_saved, &o, &err);
            else
                o.r = machine_save(e->m, &files, MACHINE_SAVE_DIFF | MACHINE_SAVE_STAY, &o.saved, &err);
            while (o.r == 0 && live && o.calls == 0)
                assert_true(loop_once(e->loop, 1000) >= 0);
            file_faults.fail_at = -1;
            if (o.r < 0) {
                const char *text = o.calls ? o.text : err.text;

                assert_int_equal(o.r, -ENOSPC);
                assert_non_null(strstr(text, "saving the machine: cannot "));
                assert_non_null(strstr(text, "No space left"));
                assert_false(atomic_load(&e->m->group.pause));
                assert_false(machine_is_saving(e->m));
                failures[live]++;
            }
            env_close(&files);
        }
        if (!live) {
            machine_resume_devices(e->m);
            coord_resume(e->m->vcpu, e->m->n_vcpus);
        }
    }
    assert_true(failures[0] >= 1 + 1 + 3 + 1); /* length, memory, state, list */
    assert_true(failures[1] >= 1 + 1 + 3 + 1);
}

static void a_file_that_is_cut_short_is_told(void **state)
{
    struct env *e = *state;

    clone_of_base(e);
    assert_false(machine_memory_cut(e->m));
    env_finish(e);
    fake.run_error = -EFAULT; /* what KVM says when a page cannot be had */
    env_build(e, 32, 1);
    assert_int_equal(machine_restore(e->m, &e->files, env_generation, NULL), 0);
    assert_int_equal(ftruncate(e->files.memory, 1 << 20), 0);
    assert_true(machine_memory_cut(e->m));
    assert_true(machine_has_address(e->m, page(e, PAGES - 1) + SNAP_PAGE - 1));
    assert_false(machine_has_address(e->m, page(e, PAGES - 1) + SNAP_PAGE));
    assert_false(machine_has_address(e->m, e));
    assert_int_equal(machine_spawn(e->m, NULL), 0);
    machine_run(e->m);
    assert_int_equal(loop_run(e->loop), 0);
    assert_string_equal(e->end_text, MACHINE_CUT_SENTENCE);
}

/* Some hypervisors take memory that cannot be had for a device that is not there. */
static void memory_is_no_missing_device(void **state)
{
    static const enum hv_exit_kind kinds[] = {HV_EXIT_MMIO_READ, HV_EXIT_MMIO_WRITE};
    struct env *e = *state;

    for (size_t i = 0; i < 2; i++) {
        fake_hv_exit(0, kinds[i], 0xd8000000, 4, 0); /* nobody is there: the guest goes on */
        fake_hv_exit(0, kinds[i], 5000 * SNAP_PAGE, 4, 0);
        env_start(e, 1);
        assert_int_equal(loop_run(e->loop), 0);
        assert_string_equal(e->end_text, "the guest's memory can't be reached");
        assert_int_equal(fake.at[0], 2);
        env_finish(e);
    }
}

/* Its pages are gone from memory with the file's, and what is left may look like a small change. */
static void what_was_cut_short_is_not_saved(void **state)
{
    struct env *e = *state;
    struct machine_files files = env_files(true);
    struct sm_error err = SM_ERROR_INIT;
    struct machine_saved saved;

    clone_of_base(e);
    write_page(e, 5000, 1);
    assert_int_equal(ftruncate(e->files.memory, 2000 * SNAP_PAGE), 0);
    write_page(e, 1000, 1);
    assert_int_equal(machine_save(e->m, &files, MACHINE_SAVE_DIFF, &saved, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "truncated"));
    assert_int_equal(machine_check_memory(e->m, &err), -EIO); /* what it says when the cut comes later */
    assert_string_equal(err.text, MACHINE_CUT_SENTENCE);
    assert_false(atomic_load(&e->m->group.pause));
    env_close(&files);
}

static void listeners_are_counted(void **state)
{
    struct env *e = *state;
    struct machine_saved saved;

    env_build(e, 32, 1);
    lifecycle_write(e->m->lifecycle, SM_LC_EVENT_ARG, 8, 8080);
    lifecycle_write(e->m->lifecycle, SM_LC_EVENT, 4, SM_LC_EV_LISTENER);
    assert_int_equal(machine_spawn(e->m, NULL), 0);
    machine_run(e->m);
    save(e, &e->files, 0, &saved);
    assert_int_equal(saved.listeners, 1);
    assert_int_equal(saved.devices, 1);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(full_is_base_and_diff),
        TEST(what_is_as_in_the_base_is_left_out),
        TEST(a_diff_needs_a_base),
        TEST(a_diff_that_does_not_fit_is_refused),
        TEST(touched_pages_are_listed_and_read_ahead),
        TEST(a_live_save_is_exact),
        TEST(a_full_live_save_may_stay),
        TEST(without_tracking_a_plain_save_has_to_do),
        TEST(the_end_of_the_machine_ends_a_live_save),
        TEST(every_file_operation_may_fail),
        TEST(a_file_that_is_cut_short_is_told),
        TEST(memory_is_no_missing_device),
        TEST(what_was_cut_short_is_not_saved),
        TEST(listeners_are_counted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
