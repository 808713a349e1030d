/* SPDX-License-Identifier: Apache-2.0 */
/* Is every byte of a snapshot what its metadata says? */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "lib/snapshot_private.h"
#include "oci/limits.h"
#include "snap/crc32c.h"
#include "snap/file.h"
#include "snap/memory.h"

_Static_assert(SNAPSHOT_SMALL_FILE_MAX >= SNAP_STATE_MAX_BYTES && SNAPSHOT_PAGE == SNAP_PAGE, "one and the same");

int snapshot_sum_file(int fd, const char *noun, uint64_t *ret_bytes, uint32_t *ret_crc, struct sm_error *err)
{
    CLEANUP_FREE uint8_t *data = NULL;
    struct stat st;
    ssize_t n;

    if (fstat(fd, &st) < 0)
        return sm_error_sys(err, errno, "its %s cannot be read", noun);
    if (!S_ISREG(st.st_mode) || st.st_size <= 0 || (uint64_t)st.st_size > SNAPSHOT_SMALL_FILE_MAX)
        return sm_error_set(err, EBADMSG, "its %s is empty, or larger than %llu MiB", noun,
                            SNAPSHOT_SMALL_FILE_MAX / MIB);
    data = malloc((size_t)st.st_size);
    if (!data)
        return sm_error_set(err, ENOMEM, "out of memory for a snapshot's %s", noun);
    n = io_pread_full(fd, data, (size_t)st.st_size, 0);
    if (n != (ssize_t)st.st_size)
        return sm_error_sys(err, n < 0 ? (int)-n : EIO, "its %s cannot be read", noun);
    *ret_bytes = (uint64_t)n;
    *ret_crc = crc32c(0, data, (size_t)n);
    return 0;
}

static int measure_state(struct snapshot_meta *ret, int fd, struct sm_error *err)
{
    struct snap_stream *s = malloc(sizeof(*s));
    int r = s ? snapshot_sum_file(fd, "state", &ret->state_bytes, &ret->state_crc, err)
              : sm_error_set(err, ENOMEM, "out of memory for a snapshot's state");

    if (r >= 0)
        r = snap_file_read(s, fd, err);
    if (r >= 0)
        snap_stream_clear(s);
    free(s);
    return r;
}

static int measure_diff(struct snapshot_meta *ret, int fd, uint32_t pages, struct sm_error *err)
{
    struct snap_runs runs;
    int r = snapshot_sum_file(fd, "list of changed pages", &ret->diff_bytes, &ret->diff_crc, err);

    if (r >= 0)
        r = snap_runs_read(&runs, SNAP_RUNS_DIFF, pages, fd, err);
    if (r >= 0)
        snap_runs_done(&runs);
    return r;
}

/* As far as the file system tells holes: bytes that were written. */
static int measure_data(struct snapshot_meta *ret, int fd, uint32_t pages, struct sm_error *err)
{
    CLEANUP_FREE uint64_t *bitmap = calloc(SNAP_BITMAP_WORDS(pages), sizeof(*bitmap));
    uint64_t n = 0;
    int r = bitmap ? snap_memory_mark_data(fd, pages, bitmap, err)
                   : sm_error_set(err, ENOMEM, "out of memory for a snapshot's memory");

    if (r < 0)
        return r;
    for (size_t i = 0; i < SNAP_BITMAP_WORDS(pages); i++)
        n += (uint64_t)__builtin_popcountll(bitmap[i]);
    ret->memory_data = n * SNAP_PAGE;
    return 0;
}

int snapshot_measure(struct snapshot_meta *ret, const struct snapshot_meta *m, int state_fd, int memory_fd, int diff_fd,
                     struct sm_error *err)
{
    uint32_t pages = (uint32_t)(m->memory_mib * MIB / SNAP_PAGE);
    struct snapshot_meta got = {.kind = m->kind};
    int r = measure_state(&got, state_fd, err);

    if (r >= 0 && diff_fd >= 0)
        r = measure_diff(&got, diff_fd, pages, err);
    if (r >= 0)
        r = measure_data(&got, memory_fd, pages, err);
    if (r >= 0)
        r = snap_memory_sum(memory_fd, pages, &got.memory_crc, err);
    if (r < 0)
        return r;
    ret->state_bytes = got.state_bytes;
    ret->state_crc = got.state_crc;
    ret->diff_bytes = got.diff_bytes;
    ret->diff_crc = got.diff_crc;
    ret->memory_data = got.memory_data;
    ret->memory_crc = got.memory_crc;
    return 0;
}

static int damaged(const char *noun, struct sm_error *err)
{
    return sm_error_set(err, EBADMSG, "its %s is not what was saved: the checksum differs", noun);
}

static int check_own_files(const struct snapshot *s, struct sm_error *err)
{
    const struct snapshot_meta *m = &s->meta;
    struct snapshot_meta got;
    int r = snapshot_measure(&got, m, s->state_fd, s->memory_fd, s->diff_fd, err);

    if (r < 0)
        return r;
    if (got.state_crc != m->state_crc || got.state_bytes != m->state_bytes)
        return damaged("state", err);
    if (s->diff_fd >= 0 && (got.diff_crc != m->diff_crc || got.diff_bytes != m->diff_bytes))
        return damaged("list of changed pages", err);
    return got.memory_crc != m->memory_crc ? damaged("memory", err) : 0;
}

static int check_prefetch(const struct snapshot *s, struct sm_error *err)
{
    uint32_t pages = (uint32_t)(s->meta.memory_mib * MIB / SNAP_PAGE);
    struct snap_runs runs;
    int r = 0;

    if (s->prefetch_fd >= 0)
        r = snap_runs_read(&runs, SNAP_RUNS_PREFETCH, pages, s->prefetch_fd, err);
    if (s->prefetch_fd >= 0 && r >= 0)
        snap_runs_done(&runs);
    return r;
}

static int check_base(const struct snapshot *s, struct sm_error *err)
{
    uint32_t pages = (uint32_t)(s->meta.memory_mib * MIB / SNAP_PAGE), crc;
    int r = s->base_memory_fd < 0 ? 0 : snap_memory_sum(s->base_memory_fd, pages, &crc, err);

    return r >= 0 && s->base_memory_fd >= 0 && crc != s->meta.base_crc ? damaged("base's memory", err) : r;
}

int snapshot_verify_own(const struct snapshot *s, struct sm_error *err)
{
    int r = check_own_files(s, err);

    if (r >= 0)
        r = check_prefetch(s, err);
    return r;
}

static int told(int (*step)(void *ctx, uint64_t bytes), void *ctx, uint64_t bytes, struct sm_error *err)
{
    return step && step(ctx, bytes) ? sm_error_set(err, ECANCELED, "checking was stopped") : 0;
}

int snapshot_verify(const struct snapshot *s, int (*step)(void *ctx, uint64_t bytes), void *ctx, struct sm_error *err)
{
    struct sm_error why = SM_ERROR_INIT;
    int r = snapshot_verify_own(s, &why);

    if (r >= 0)
        r = told(step, ctx, s->meta.state_bytes + s->meta.diff_bytes + s->meta.memory_data, &why);
    if (r >= 0)
        r = check_base(s, &why);
    if (r < 0)
        return sm_error_set(err, -r, "the snapshot %.12s: %s", s->meta.key, why.text);
    return 0;
}
