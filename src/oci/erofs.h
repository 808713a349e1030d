/* SPDX-License-Identifier: Apache-2.0 */
/* Writes a tree as an EROFS metadata image, whose file contents lie in the layers' data files behind it. */
#ifndef SM_OCI_EROFS_H
#define SM_OCI_EROFS_H

#include <stdint.h>

#include "base/error.h"
#include "oci/tree.h"

/* One layer's files, in the order of the tree's layer numbers. Its data follow the previous one's on the disk. */
struct erofs_layer {
    int index_fd;       /* holds the small files */
    uint64_t data_size; /* a multiple of 4096 */
};

/*
 * Write to `fd`, empty and seekable. The same tree, layers and uuid give the same bytes. `ret_size`: a multiple of
 * 4096.
 */
int erofs_write(struct tree *t, const struct erofs_layer *layers, unsigned n_layers, const uint8_t uuid[16], int fd,
                uint64_t *ret_size, struct sm_error *err);

/* Is the first block of `fd` a superblock of ours, whole, for a disk of `total_size` bytes (0: of any size)? 1 yes, 0
 * no, -errno. */
int erofs_check(int fd, uint64_t total_size);

#endif
