/* SPDX-License-Identifier: Apache-2.0 */
/* Layers' blobs to converted layers: verified, decompressed and unpacked as a stream, several at a time. */
#ifndef SM_OCI_CONVERT_H
#define SM_OCI_CONVERT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/digest.h"
#include "oci/image.h"

struct convert_job {
    struct digest blob, diff_id; /* what the bytes must hash to, as they are and decompressed */
    uint64_t blob_size;
    bool compressed; /* gzip or zstd, told apart by content */
};

struct convert_files {
    int blob_fd;           /* at its beginning */
    int data_fd, index_fd; /* empty, to be filled */
};

/* Called for each job when its turn comes, and when its files are complete and the digests right. */
struct convert_hooks {
    int (*begin)(void *ctx, unsigned job, struct convert_files *ret,
                 struct sm_error *err); /* descriptors stay its own */
    int (*complete)(void *ctx, unsigned job, struct sm_error *err);
    void *ctx;
};

/* At the first failure everything is stopped; jobs completed before stay so. `progress` may be NULL. */
int convert_layers(const struct convert_job *jobs, unsigned n, const struct convert_hooks *hooks,
                   const struct oci_progress *progress, struct sm_error *err);

#endif
