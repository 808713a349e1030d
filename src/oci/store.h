/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store: converted layers and merged images, by digest, shared by every process of a user. Beside them what they
 * were made from (oci/blobs.h), what they are called (oci/names.h), and how they go again (oci/gc.h).
 */
#ifndef SM_OCI_STORE_H
#define SM_OCI_STORE_H

#include <stdint.h>

#include "base/error.h"
#include "oci/digest.h"
#include "oci/image.h"

enum store_kind {
    STORE_LAYER,    /* layers/<diff id>/{data,index} */
    STORE_IMAGE,    /* images/<key>/meta.erofs */
    STORE_BLOB,     /* blobs/<digest>, partial/<digest>: see oci/blobs.h */
    STORE_SNAPSHOT, /* snapshots/<key>/: see oci/snapshot_dirs.h */
};

/*
 * Hold the right to make an object; the caller holds gc_enter() (but for snapshots: see snapshot_lock). Returns a
 * descriptor: closing it gives the right up. Waits for whoever holds it; meanwhile `waiting` (may be NULL) is called
 * some times a second with who that is, "process 123 (supermachine)". Non-zero from it: -ECANCELED.
 */
int store_lock_told(struct oci_store *s, enum store_kind kind, const struct digest *name,
                    int (*waiting)(void *ctx, const char *who), void *ctx, struct sm_error *err);

/* The same without waiting: -EAGAIN without a sentence when another one holds it. */
int store_try_lock(struct oci_store *s, enum store_kind kind, const struct digest *name, struct sm_error *err);

/*
 * Open what is there: 0, or -ENOENT without a sentence when it is missing or damaged, so that it should be made (anew).
 */
int store_open_layer(struct oci_store *s, const struct digest *diff_id, int *ret_data_fd, int *ret_index_fd,
                     uint64_t *ret_data_size, struct sm_error *err);
/* `data_size`: of all layers' data together, which the metadata must fit. */
int store_open_image(struct oci_store *s, const struct digest *key, uint64_t data_size, int *ret_fd, uint64_t *ret_size,
                     struct sm_error *err);

/* An object that is being made, beside the others. A process that dies leaves it to the next store_open to remove. */
struct store_temp {
    struct oci_store *store;
    int dir_fd;    /* locked; -1: none */
    char name[40]; /* below tmp/ */
};

#define STORE_TEMP_INIT                                                                                                \
    {                                                                                                                  \
        .dir_fd = -1                                                                                                   \
    }

int store_temp_new(struct store_temp *ret, struct oci_store *s, struct sm_error *err);
/* A file in it, empty, open for reading and writing. Returns the descriptor. */
int store_temp_file(const struct store_temp *t, const char *name, struct sm_error *err);
/* Write everything to disk and put it in its place; the lock on that name must be held. Frees `t` when it succeeds. */
int store_temp_commit(struct store_temp *t, enum store_kind kind, const struct digest *name, struct sm_error *err);
void store_temp_discard(struct store_temp *t); /* harmless on STORE_TEMP_INIT, and after commit */

#endif
