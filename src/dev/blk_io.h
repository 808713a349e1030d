/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk's bytes: positions on the disk to offsets in files. Positions are checked by the caller; files are not
 * trusted to be as long as they were.
 */
#ifndef SM_DEV_BLK_IO_H
#define SM_DEV_BLK_IO_H

#include <stdint.h>

#include "dev/blk.h"
#include "dev/iov.h"

struct blk_piece {
    int fd; /* one descriptor may be in several pieces: the first of them owns it */
    bool owns;
    uint64_t offset; /* in the file */
    uint64_t start;  /* on the disk */
    uint64_t length;
};

struct blk_disk {
    struct blk_piece *piece; /* back to back */
    unsigned n;
    uint64_t length; /* bytes */
};

/* Takes the extents' descriptors over, also on failure. */
int blk_disk_init(struct blk_disk *disk, const struct blk_extent *extents, unsigned n, struct sm_error *err);
void blk_disk_done(struct blk_disk *disk);

/*
 * Fill `run` from `pos`. 0 or -errno (-EIO when a file ends early); *ret_moved: bytes filled from the start, also on
 * failure.
 */
int blk_disk_read(struct blk_disk *disk, uint64_t pos, struct iov_run *run, uint64_t *ret_moved);
int blk_disk_write(struct blk_disk *disk, uint64_t pos, struct iov_run *run);
int blk_disk_flush(struct blk_disk *disk);

/* Give the space back if the file system can; what is read there later is undefined, in practice zeros. */
int blk_disk_discard(struct blk_disk *disk, uint64_t pos, uint64_t len);

/* Make it read as zeros; `unmap`: the space may be given back. */
int blk_disk_zero(struct blk_disk *disk, uint64_t pos, uint64_t len, bool unmap);

#endif
