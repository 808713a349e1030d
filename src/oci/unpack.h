/* SPDX-License-Identifier: Apache-2.0 */
/* Decompressing, and reading tar. To be called in a confined process only (oci/sandbox.h), and by fuzzers. */
#ifndef SM_OCI_UNPACK_H
#define SM_OCI_UNPACK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "oci/entry.h"

/* Where bytes come from: the next piece, valid until the next call. Its length, 0 at the end, -errno. */
struct unpack_source {
    ssize_t (*next)(void *ctx, const void **ret);
    void *ctx;
};

/* Where they go. */
struct unpack_sink {
    int (*write)(void *ctx, const void *data, size_t len, struct sm_error *err);
    void *ctx;
};

/* gzip, zstd, or neither: told by the first bytes, as other programs do. Reads the source to its end. */
int unpack_decompress(const struct unpack_source *in, const struct unpack_sink *out, struct sm_error *err);

/* Called for each entry of a tar: entry, then for a file with a size data (ascending offsets, holes left out), end. */
struct unpack_tar_sink {
    int (*entry)(void *ctx, const struct oci_entry *e, struct sm_error *err);
    int (*data)(void *ctx, const void *data, size_t len, uint64_t offset, struct sm_error *err);
    int (*end)(void *ctx, struct sm_error *err);
    void *ctx;
};

/* ustar, pax and GNU tar. Reads the source to its end, so that what feeds it is never cut off. */
int unpack_tar(const struct unpack_source *in, const struct unpack_tar_sink *sink, struct sm_error *err);

/* The same, for the tar that holds an image's blobs: plain, gzip or zstd. */
int unpack_archive(const struct unpack_source *in, const struct unpack_tar_sink *sink, struct sm_error *err);

#endif
