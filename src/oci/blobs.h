/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes as they came, by digest: manifests, indexes, configs, compressed layers. And those that are on their way.
 *
 * Whoever puts something here holds gc_enter() until a name reaches it.
 */
#ifndef SM_OCI_BLOBS_H
#define SM_OCI_BLOBS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/digest.h"
#include "oci/store.h"

/*
 * A blob to be streamed: a descriptor, or -ENOENT without a sentence. Whoever reads it checks the digest; one that is
 * not as long as its descriptor says should be taken for missing.
 */
int blob_open(struct oci_store *s, const struct digest *d, uint64_t *ret_size, struct sm_error *err);

/* All of it, at most `max` bytes, its digest right; to be freed. -ENOENT without a sentence: missing, or damaged. */
int blob_read(struct oci_store *s, const struct digest *d, uint64_t max, void **ret, size_t *ret_len,
              struct sm_error *err);

/* The caller has checked that `d` is the digest of `data`. Takes the place of a damaged one. */
int blob_put(struct oci_store *s, const struct digest *d, const void *data, size_t len, struct sm_error *err);

/* The same for a file that was written below a store_temp (`file`: its name there). Written to disk and renamed. */
int blob_commit(const struct store_temp *t, const char *file, const struct digest *d, struct sm_error *err);

/*
 * A blob that is being fetched; the lock STORE_BLOB on it is held from before this until behind commit or discard.
 * A descriptor (read and write) of what is there so far, of `ret_have` bytes: nobody has checked them. Closing it, or
 * dying, leaves them for the next one.
 */
int blob_partial_open(struct oci_store *s, const struct digest *d, uint64_t *ret_have, struct sm_error *err);
/* It is whole and the caller has checked the digest of all of it: in its place. `fd` stays the caller's. */
int blob_partial_commit(struct oci_store *s, const struct digest *d, int fd, struct sm_error *err);
/* It is wrong, or nobody wants it: gone. */
int blob_partial_discard(struct oci_store *s, const struct digest *d, struct sm_error *err);

#endif
