/* SPDX-License-Identifier: Apache-2.0 */
/* The merged metadata of an image: what it is called in the store, and how it is made from converted layers. */
#ifndef SM_OCI_META_H
#define SM_OCI_META_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/digest.h"

/* A hash over what it is made from, and how: the diff ids of all layers, the lowest first. */
int meta_key(const struct digest *diff_ids, size_t n, struct digest *ret, struct sm_error *err);

struct meta_layer {
    struct digest diff_id;
    int index_fd;       /* at any place; stays the caller's */
    uint64_t data_size; /* a multiple of 4096 */
};

/* Merge them and write to `fd`, empty and seekable. The same layers give the same bytes. */
int meta_write(const struct meta_layer *layers, size_t n, const struct digest *key, int fd, uint64_t *ret_size,
               struct sm_error *err);

#endif
