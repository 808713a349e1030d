/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk's bytes: see blk_io.h.
 *
 * Theory of operation
 *
 * The disk is a sorted array of pieces, found by binary search. Bytes move by preadv and pwritev between the file and
 * the guest's own pages, without a copy of ours, and never through a mapping of the file: a file that was cut short
 * gives a short read and so an I/O error, not a SIGBUS. A request that spans pieces is done piece by piece.
 * System calls: preadv, pwritev, fdatasync, fallocate, pwrite64.
 */
#include "dev/blk_io.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"

#define ZERO_BYTES (64 * 1024)

static int add_piece(struct blk_disk *disk, unsigned i, const struct blk_extent *e, struct sm_error *err)
{
    uint64_t end;

    if (e->length == 0 || e->length % BLK_SECTOR || !CHECKED_ADD(e->offset, e->length, &end) || end > INT64_MAX ||
        !CHECKED_ADD(disk->length, e->length, &end) || end > INT64_MAX)
        return sm_error_set(err, EINVAL, "disk extent %u is bad: %" PRIu64 " bytes at offset %" PRIu64, i, e->length,
                            e->offset);
    disk->piece[i] =
        (struct blk_piece){.fd = e->fd, .owns = true, .offset = e->offset, .start = disk->length, .length = e->length};
    for (unsigned k = 0; k < i; k++)
        if (disk->piece[k].fd == e->fd)
            disk->piece[i].owns = false;
    disk->n = i + 1;
    disk->length = end;
    return 0;
}

static void close_extents(const struct blk_extent *extents, unsigned from, unsigned n)
{
    for (unsigned i = from; i < n; i++) {
        bool seen = extents[i].fd < 0;

        for (unsigned k = 0; k < i && !seen; k++)
            seen = extents[k].fd == extents[i].fd;
        if (!seen)
            close(extents[i].fd);
    }
}

int blk_disk_init(struct blk_disk *disk, const struct blk_extent *extents, unsigned n, struct sm_error *err)
{
    int r;

    *disk = (struct blk_disk){.n = 0};
    if (n == 0 || n > BLK_MAX_EXTENTS) {
        close_extents(extents, 0, n);
        return sm_error_set(err, EINVAL, "a disk has 1 to %d extents, not %u", BLK_MAX_EXTENTS, n);
    }
    disk->piece = calloc(n, sizeof(*disk->piece));
    if (!disk->piece) {
        close_extents(extents, 0, n);
        return sm_error_set(err, ENOMEM, "no memory for a disk of %u extents", n);
    }
    for (unsigned i = 0; i < n; i++) {
        r = add_piece(disk, i, &extents[i], err);
        if (r < 0) {
            close_extents(extents, i, n);
            blk_disk_done(disk);
            return r;
        }
    }
    return 0;
}

void blk_disk_done(struct blk_disk *disk)
{
    for (unsigned i = 0; i < disk->n; i++)
        if (disk->piece[i].owns)
            close(disk->piece[i].fd);
    free(disk->piece);
    *disk = (struct blk_disk){.n = 0};
}

/* The piece that holds `pos` (< disk->length). */
static const struct blk_piece *find(const struct blk_disk *disk, uint64_t pos)
{
    unsigned low = 0, high = disk->n; /* piece[low].start <= pos, pos < start of piece[high] */

    assert(pos < disk->length);
    while (high - low > 1) {
        unsigned mid = low + (high - low) / 2;

        if (disk->piece[mid].start <= pos)
            low = mid;
        else
            high = mid;
    }
    return &disk->piece[low];
}

static ssize_t move_some(const struct blk_piece *p, uint64_t off, const struct iovec *iov, unsigned n, bool write)
{
    ssize_t done;

    do
        done = write ? pwritev(p->fd, iov, (int)n, (off_t)off) : preadv(p->fd, iov, (int)n, (off_t)off);
    while (done < 0 && errno == EINTR);
    if (done == 0)
        return -EIO; /* the file ends before its extent */
    return done < 0 ? -errno : done;
}

static int move(struct blk_disk *disk, uint64_t pos, struct iov_run *run, bool write, uint64_t *ret_moved)
{
    struct iovec part[VIRTQ_MAX_IOV];

    *ret_moved = 0;
    while (run->len > 0) {
        const struct blk_piece *p = find(disk, pos);
        uint64_t within = pos - p->start, left = p->length - within;
        ssize_t n;

        if (run->len <= left)
            n = move_some(p, p->offset + within, run->iov, run->n, write);
        else
            n = move_some(p, p->offset + within, part, iov_first(run, left, part), write);
        if (n < 0)
            return (int)n;
        iov_skip(run, (uint64_t)n);
        pos += (uint64_t)n;
        *ret_moved += (uint64_t)n;
    }
    return 0;
}

int blk_disk_read(struct blk_disk *disk, uint64_t pos, struct iov_run *run, uint64_t *ret_moved)
{
    return move(disk, pos, run, false, ret_moved);
}

int blk_disk_write(struct blk_disk *disk, uint64_t pos, struct iov_run *run)
{
    uint64_t moved;

    return move(disk, pos, run, true, &moved);
}

int blk_disk_flush(struct blk_disk *disk)
{
    return fdatasync(disk->piece[0].fd) < 0 ? -errno : 0;
}

static int file_range(const struct blk_disk *disk, int mode, uint64_t pos, uint64_t len)
{
    const struct blk_piece *p = &disk->piece[0]; /* writable disks have one */
    int r;

    do
        r = fallocate(p->fd, mode, (off_t)(p->offset + pos), (off_t)len);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

int blk_disk_discard(struct blk_disk *disk, uint64_t pos, uint64_t len)
{
    int r = len ? file_range(disk, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, pos, len) : 0;

    return r == -EOPNOTSUPP ? 0 : r; /* it is a hint */
}

static int write_zeros(const struct blk_disk *disk, uint64_t pos, uint64_t len)
{
    static const uint8_t zeros[ZERO_BYTES];
    const struct blk_piece *p = &disk->piece[0];

    while (len > 0) {
        size_t n = len < sizeof(zeros) ? (size_t)len : sizeof(zeros);
        int r = io_pwrite_full(p->fd, zeros, n, p->offset + pos);

        if (r < 0)
            return r;
        pos += n;
        len -= n;
    }
    return 0;
}

int blk_disk_zero(struct blk_disk *disk, uint64_t pos, uint64_t len, bool unmap)
{
    int r = -EOPNOTSUPP;

    if (len == 0)
        return 0;
    if (unmap)
        r = file_range(disk, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, pos, len);
    if (r == -EOPNOTSUPP)
        r = file_range(disk, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, pos, len);
    return r == -EOPNOTSUPP ? write_zeros(disk, pos, len) : r;
}
