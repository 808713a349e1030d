/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saving a machine while it runs on.
 *
 * Theory of operation
 *
 * Writes are tracked (snap/memory.h) from the moment before the first page is looked at. Then, in rounds:
 *
 *     1. all pages that the snapshot is to hold are copied while the guest runs, in slices of SLICE_NS on the loop, so
 *        that devices are served in between
 *     2. while a round has left more than FEW_PAGES behind, but much less than it copied, another one follows: the
 *        machine pauses only to list what was written and to start tracking anew, without which a write in between
 *        would be lost
 *     3. the machine pauses; what was written since the last round is copied, state is saved; it runs on
 *
 * A page may be read while it is being written: it is then on the next list. The pause depends on how fast the guest
 * writes, and on the size of memory only by the list (8 bytes a page, which the kernel fills in).
 *
 * A guest that writes faster than it is copied gets its pause after MAX_ROUNDS, as long as what is then left takes.
 * Huge pages count as written as a whole; memory that came from a snapshot has none.
 *
 * Threads: the loop's. Not done: two live saves of a machine at once; writing to the files in a thread of its own, so a
 * disk that holds a write up holds the devices up, too.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "machine/coord.h"
#include "machine/machine_private.h"
#include "snap/memory.h"

#define SLICE_NS    2000000u /* of copying, then the loop has its turn */
#define SLICE_PAGES 256u     /* copied between two looks at the clock */
#define FEW_PAGES   2048u    /* 8 MiB: another round would not make the pause much shorter */
#define MAX_ROUNDS  4u

struct live {
    struct machine *m;
    struct machine_files files;
    unsigned flags;
    machine_saved_fn *done;
    void *ctx;
    struct loop_timer next; /* slice */
    struct snap_memory memory;
    uint32_t pages, at; /* of this round: the next page to look at */
    uint64_t *wanted;   /* pages that the snapshot is to hold */
    uint64_t *round;    /* pages that this round copies */
    uint64_t *has;      /* pages of which the file has data */
    uint32_t in_round;
    unsigned rounds; /* done */
    struct machine_saved saved;
    uint64_t start_ns;
};

static void live_free(struct live *l)
{
    if (!l)
        return;
    loop_timer_cancel(&l->next);
    free(l->wanted);
    free(l->round);
    free(l->has);
    free(l);
}

static void finish(struct live *l, int r, struct sm_error *err)
{
    l->m->live = NULL;
    l->saved.total_ns = io_now_ns() - l->start_ns;
    if (r < 0)
        sm_error_wrap(err, "saving the machine");
    l->done(l->ctx, r, &l->saved, err);
    live_free(l);
}

/* --- the last round --- */

static void add_bits(uint64_t *to, const uint64_t *from, uint32_t pages)
{
    for (size_t i = 0; i < SNAP_BITMAP_WORDS(pages); i++)
        to[i] |= from[i];
}

/* Of a diff: its list, and pages that have come into the list by joining runs and are copied with this round. */
static int make_runs(struct live *l, struct snap_runs *ret, struct sm_error *err)
{
    int r = snap_runs_make(ret, l->wanted, l->pages, SNAP_RUNS_TARGET, err);

    if (r < 0)
        return r;
    CLEANUP_FREE uint64_t *listed = machine_pages_new(l->m, err);
    if (!listed)
        return -ENOMEM;
    snap_runs_mark(ret, listed);
    for (size_t i = 0; i < SNAP_BITMAP_WORDS(l->pages); i++)
        l->round[i] |= listed[i] & ~l->wanted[i];
    add_bits(l->wanted, listed, l->pages);
    return 0;
}

/* While nothing runs. */
static int save_rest(struct live *l, struct snap_stream *s, struct snap_runs *runs, struct sm_error *err)
{
    int r = machine_save_state(l->m, s, err);

    if (r == 0)
        r = machine_pages_written(l->m, l->round, err);
    if (r < 0)
        return r;
    add_bits(l->wanted, l->round, l->pages);
    if (l->flags & MACHINE_SAVE_DIFF)
        r = make_runs(l, runs, err);
    if (r == 0)
        r = snap_memory_update(&l->memory, l->round, 0, l->pages, l->has, l->files.memory, err);
    return r == 0 ? machine_check_memory(l->m, err) : r;
}

static int last_round(struct live *l, struct sm_error *err)
{
    bool stay = l->flags & MACHINE_SAVE_STAY;
    struct machine *m = l->m;
    struct snap_runs runs = {0};
    struct snap_stream s;
    uint64_t start = io_now_ns();
    int r = machine_rest(m, NULL);

    if (r < 0)
        return sm_error_set(err, -r, "the machine has ended and can't be saved");
    snap_stream_init(&s);
    machine_pause_devices(m);
    l->saved.live_pages = snap_bits_count(l->has, l->pages);
    l->saved.listeners = atomic_load(&m->listeners);
    r = save_rest(l, &s, &runs, err);
    if (r == 0 && stay)
        r = machine_write_lists(&s, &runs, &l->files, l->flags, err);
    l->saved.pause_ns += io_now_ns() - start;
    if (r < 0 || !stay) {
        machine_resume_devices(m);
        machine_go_on(m);
    }
    if (r == 0 && !stay)
        r = machine_write_lists(&s, &runs, &l->files, l->flags, err);
    l->saved.data_pages = snap_bits_count(l->has, l->pages);
    l->saved.zero_pages = snap_bits_count(l->wanted, l->pages) - l->saved.data_pages;
    snap_runs_done(&runs);
    snap_stream_clear(&s);
    return r;
}

/* --- rounds --- */

/* 1: another round is worth its pause. */
static int is_worth_another(struct live *l, struct sm_error *err)
{
    CLEANUP_FREE uint64_t *left = machine_pages_new(l->m, err);
    int r = left ? machine_pages_written(l->m, left, err) : -ENOMEM;
    uint32_t n = r == 0 ? snap_bits_count(left, l->pages) : 0;

    return r < 0 ? r : l->rounds < MAX_ROUNDS && n > FEW_PAGES && n < l->in_round / 2;
}

/* Its pages are in l->round. */
static void begin_round(struct live *l)
{
    l->at = 0;
    l->in_round = snap_bits_count(l->round, l->pages);
    add_bits(l->wanted, l->round, l->pages);
}

static int another_round(struct live *l, struct sm_error *err)
{
    struct machine *m = l->m;
    uint64_t start = io_now_ns();
    int r = coord_pause(m->vcpu, m->n_vcpus);

    if (r < 0)
        return sm_error_set(err, -r, "the machine has ended and can't be saved");
    machine_pause_devices(m);
    r = machine_pages_written(m, l->round, err);
    if (r == 0)
        r = snap_memory_track(m->clear_refs_fd, err);
    l->saved.pause_ns += io_now_ns() - start;
    machine_resume_devices(m);
    coord_resume(m->vcpu, m->n_vcpus);
    if (r == 0)
        begin_round(l);
    return r;
}

static void on_next(struct loop_timer *timer)
{
    struct live *l = timer->ctx;
    struct sm_error err = SM_ERROR_INIT;
    uint64_t end_ns = io_now_ns() + SLICE_NS;
    int r = 0;

    while (r == 0 && l->at < l->pages && io_now_ns() < end_ns) {
        uint32_t end = l->pages - l->at < SLICE_PAGES ? l->pages : l->at + SLICE_PAGES;

        r = snap_memory_update(&l->memory, l->round, l->at, end, l->has, l->files.memory, &err);
        l->at = end;
    }
    if (r == 0 && l->at == l->pages) {
        l->rounds++;
        memset(l->round, 0, SNAP_BITMAP_WORDS(l->pages) * sizeof(*l->round));
        r = is_worth_another(l, &err);
        if (r == 0) {
            finish(l, last_round(l, &err), &err);
            return;
        }
        if (r > 0)
            r = another_round(l, &err);
    }
    if (r < 0)
        finish(l, r, &err);
    else
        loop_timer_set(l->m->config.loop, &l->next, io_now_ns(), on_next, l);
}

static int first_round(struct live *l, struct sm_error *err)
{
    bool diff = l->flags & MACHINE_SAVE_DIFF;
    struct snap_runs runs = {0};
    int r = snap_memory_begin(&l->memory, l->files.memory, err);

    if (r == 0)
        r = snap_memory_track(l->m->clear_refs_fd, err);
    if (r == 0)
        r = machine_pages_wanted(l->m, diff, l->round, err);
    if (r == 0 && diff)
        r = snap_runs_make(&runs, l->round, l->pages, SNAP_RUNS_TARGET, err);
    if (r < 0)
        return r;
    snap_runs_mark(&runs, l->round);
    snap_runs_done(&runs);
    begin_round(l);
    return 0;
}

static int save_at_rest(struct machine *m, const struct machine_files *files, unsigned flags, machine_saved_fn *done,
                        void *ctx, struct sm_error *err)
{
    struct machine_saved saved;
    int r = machine_save(m, files, flags, &saved, err);

    if (r < 0)
        return r;
    done(ctx, 0, &saved, err);
    return 0;
}

int machine_save_live(struct machine *m, const struct machine_files *files, unsigned flags, machine_saved_fn *done,
                      void *ctx, struct sm_error *err)
{
    if (m->live)
        return sm_error_set(err, EBUSY, "the machine is being saved already");
    if (m->pagemap_fd < 0 || m->clear_refs_fd < 0 || !snap_memory_can_track(m->pagemap_fd, m->clear_refs_fd))
        return save_at_rest(m, files, flags, done, ctx, err);
    struct live *l = calloc(1, sizeof(*l));
    if (!l)
        return sm_error_sys(err, ENOMEM, "no memory to save a machine");
    *l = (struct live){.m = m,
                       .files = *files,
                       .flags = flags,
                       .done = done,
                       .ctx = ctx,
                       .memory = machine_memory(m),
                       .saved = {.devices = m->n_slots},
                       .start_ns = io_now_ns()};
    l->pages = snap_memory_pages(&l->memory);
    l->wanted = machine_pages_new(m, err);
    l->round = machine_pages_new(m, err);
    l->has = machine_pages_new(m, err);
    int r = l->wanted && l->round && l->has ? first_round(l, err) : -ENOMEM;
    if (r < 0) {
        live_free(l);
        return sm_error_wrap(err, "saving the machine");
    }
    m->live = l;
    loop_timer_set(m->config.loop, &l->next, l->start_ns, on_next, l);
    return 0;
}

bool machine_is_saving(const struct machine *m)
{
    return m->live;
}

void live_ended(struct machine *m)
{
    struct sm_error err = SM_ERROR_INIT;

    if (m->live)
        finish(m->live, sm_error_set(&err, ESHUTDOWN, "the machine has ended and can't be saved"), &err);
}
