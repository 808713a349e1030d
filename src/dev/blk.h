/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk (virtio 1.2 §5.2) over files: a read-only disk of back-to-back extents, or one read-write file. */
#ifndef SM_DEV_BLK_H
#define SM_DEV_BLK_H

#include <stdbool.h>
#include <stdint.h>

#include "dev/virtio.h"

#define BLK_SECTOR       512
#define BLK_MAX_EXTENTS  1024
#define BLK_SERIAL_BYTES 20 /* VIRTIO_BLK_ID_BYTES, virtio 1.2 §5.2.6.1 */

/* `length` bytes of `fd` from `offset`; the next extent follows at once on the disk. Length: a multiple of 512. */
struct blk_extent {
    int fd;
    uint64_t offset;
    uint64_t length;
};

struct blk_config {
    const struct blk_extent *extents; /* copied; the descriptors are taken over, also on failure */
    unsigned n_extents;               /* exactly 1 when writable */
    bool writable;
    char serial[BLK_SERIAL_BYTES + 1]; /* "" for none */
};

int blk_new(struct virtio_dev **ret, const struct blk_config *config, struct sm_error *err);

/*
 * Give a disk that is there another content; as read-only or writable as it was. Before its machine runs: a guest of a
 * snapshot learns of a new size when the state is loaded. The descriptors are taken over, also on failure.
 */
int blk_attach(struct virtio_dev *dev, const struct blk_config *config, struct sm_error *err);

#endif
