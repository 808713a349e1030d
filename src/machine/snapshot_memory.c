/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's memory and the files of snapshots: see snapshot_memory.h.
 *
 * Theory of operation
 *
 * A restored machine keeps the descriptors of its files, all read-only: which pages have data there is asked when a
 * full snapshot of it is made, its state is read again when it is put back, and their lengths tell whether somebody has
 * cut them short. The list of a diff is kept in memory.
 *
 * A diff of a machine holds what is its own (written since it was restored), and, of a machine that came from a diff,
 * that diff's pages: so it goes with the same base, and there are no chains. Pages that are as in the base all the same
 * (written back to what they were, a fifth of a small change) are left out. A full snapshot of a restored machine
 * holds what is its own and what its files have. Of a machine that was booted, it is what was ever touched.
 */
#include "machine/snapshot_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "machine/machine_private.h"

struct snap_memory machine_memory(const struct machine *m)
{
    struct snap_memory ret = {.n = m->mem.n_regions};

    for (unsigned i = 0; i < ret.n; i++)
        ret.region[i] = (struct snap_region){.host = m->mem.region[i].host, .size = m->mem.region[i].size};
    return ret;
}

static uint32_t page_count(const struct machine *m)
{
    const struct snap_memory memory = machine_memory(m);

    return snap_memory_pages(&memory);
}

uint64_t *machine_pages_new(const struct machine *m, struct sm_error *err)
{
    uint64_t *bitmap = calloc(SNAP_BITMAP_WORDS(page_count(m)), sizeof(*bitmap));

    if (!bitmap)
        sm_error_sys(err, ENOMEM, "no memory for a list of pages");
    return bitmap;
}

/* --- where it came from --- */

static int keep(int *ret, int fd, struct sm_error *err)
{
    *ret = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return *ret < 0 ? sm_error_sys(err, errno, "cannot keep a snapshot's file open") : 0;
}

static int keep_files(struct origin *o, const struct machine_files *files, struct sm_error *err)
{
    int r = keep(&o->state_fd, files->state, err);

    if (r == 0)
        r = keep(&o->memory_fd, files->memory, err);
    if (r == 0 && files->base >= 0)
        r = keep(&o->base_fd, files->base, err);
    return r;
}

int origin_map(struct machine *m, const struct machine_files *files, struct sm_error *err)
{
    const struct snap_memory memory = machine_memory(m);
    struct origin *o = &m->origin;
    bool is_diff = files->base >= 0;
    int r;

    *o = (struct origin){.known = true, .state_fd = -1, .memory_fd = -1, .base_fd = -1};
    r = keep_files(o, files, err);
    if (r == 0 && is_diff)
        r = snap_runs_read(&o->diff, SNAP_RUNS_DIFF, page_count(m), files->diff, err);
    if (r == 0)
        r = snap_memory_map(&memory, is_diff ? files->base : files->memory, err);
    if (r == 0 && is_diff)
        r = snap_memory_map_diff(&memory, &o->diff, files->memory, err);
    return r;
}

void origin_done(struct origin *o)
{
    if (!o->known)
        return;
    close_fd(&o->state_fd);
    close_fd(&o->memory_fd);
    close_fd(&o->base_fd);
    snap_runs_done(&o->diff);
}

bool machine_has_address(const struct machine *m, const void *host)
{
    const uint8_t *p = host;

    for (unsigned i = 0; i < m->mem.n_regions; i++)
        if (p >= m->mem.region[i].host && p < m->mem.region[i].host + m->mem.region[i].size)
            return true;
    return false;
}

static bool is_short(int fd, uint32_t pages)
{
    struct stat st;

    return fd >= 0 && fstat(fd, &st) == 0 && (uint64_t)st.st_size < (uint64_t)pages * SNAP_PAGE;
}

bool machine_memory_cut(const struct machine *m)
{
    const struct origin *o = &m->origin;

    return o->known && (is_short(o->memory_fd, page_count(m)) || is_short(o->base_fd, page_count(m)));
}

int machine_check_memory(const struct machine *m, struct sm_error *err)
{
    return machine_memory_cut(m) ? sm_error_set(err, EIO, "%s", MACHINE_CUT_SENTENCE) : 0;
}

/* --- pages --- */

static int scan(const struct machine *m, enum snap_scan what, uint64_t *bitmap, struct sm_error *err)
{
    const struct snap_memory memory = machine_memory(m);

    if (m->pagemap_fd < 0)
        return sm_error_set(err, ENOTSUP,
                            "this host does not tell which pages of memory are in use (/proc/self/pagemap), which this "
                            "kind of snapshot needs");
    return snap_memory_scan(&memory, m->pagemap_fd, what, bitmap, err);
}

static int wanted_of_diff(const struct machine *m, uint64_t *bitmap, struct sm_error *err)
{
    const struct snap_memory memory = machine_memory(m);
    const struct origin *o = &m->origin;

    if (!o->known)
        return sm_error_set(err, EINVAL, "a machine that was booted has no base that a diff could be made against");
    snap_runs_mark(&o->diff, bitmap);
    int r = scan(m, SNAP_SCAN_PRIVATE, bitmap, err);
    return r < 0 ? r : snap_memory_drop_same(&memory, o->base_fd >= 0 ? o->base_fd : o->memory_fd, bitmap, err);
}

static int wanted_of_clone(const struct machine *m, uint64_t *bitmap, struct sm_error *err)
{
    int r = snap_memory_mark_data(m->origin.memory_fd, page_count(m), bitmap, err);

    if (r == 0 && m->origin.base_fd >= 0)
        r = snap_memory_mark_data(m->origin.base_fd, page_count(m), bitmap, err);
    return r < 0 ? r : scan(m, SNAP_SCAN_PRIVATE, bitmap, err);
}

int machine_pages_wanted(const struct machine *m, bool diff, uint64_t *bitmap, struct sm_error *err)
{
    if (diff)
        return wanted_of_diff(m, bitmap, err);
    if (m->pagemap_fd < 0) { /* all: slower, and as right */
        for (uint32_t page = 0; page < page_count(m); page++)
            snap_bit_set(bitmap, page);
        return 0;
    }
    return m->origin.known ? wanted_of_clone(m, bitmap, err) : scan(m, SNAP_SCAN_TOUCHED, bitmap, err);
}

int machine_pages_written(const struct machine *m, uint64_t *bitmap, struct sm_error *err)
{
    return scan(m, SNAP_SCAN_WRITTEN, bitmap, err);
}

int machine_touched(struct machine *m, int fd, struct sm_error *err)
{
    CLEANUP_FREE uint64_t *bitmap = machine_pages_new(m, err);
    struct snap_runs runs = {0}, written = {0};
    int r = bitmap ? 0 : -ENOMEM;

    if (r == 0 && !m->origin.known)
        r = sm_error_set(err, EINVAL, "a machine that was booted has no pages that a restore would need");
    if (r == 0)
        r = scan(m, SNAP_SCAN_TOUCHED, bitmap, err);
    if (r == 0)
        r = snap_runs_make(&runs, bitmap, page_count(m), SNAP_RUNS_TARGET, err);
    if (r == 0) {
        memset(bitmap, 0, SNAP_BITMAP_WORDS(page_count(m)) * sizeof(*bitmap));
        r = scan(m, SNAP_SCAN_PRIVATE, bitmap, err);
    }
    if (r == 0)
        r = snap_runs_make(&written, bitmap, page_count(m), SNAP_RUNS_TARGET, err);
    if (r == 0)
        r = snap_runs_mark_written(&runs, &written, err);
    if (r == 0)
        r = snap_runs_write(&runs, SNAP_RUNS_PREFETCH, fd, err);
    snap_runs_done(&runs);
    snap_runs_done(&written);
    return r;
}
