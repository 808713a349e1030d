/* SPDX-License-Identifier: Apache-2.0 */
/* Layers' blobs to converted layers: verified, decompressed and unpacked as a stream, several at a time. */
#ifndef SM_OCI_CONVERT_H
#define SM_OCI_CONVERT_H

#include <poll.h>
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
    int blob_fd;           /* read from offset 0 on; its file position does not matter */
    int data_fd, index_fd; /* empty, to be filled */
};

/* A blob that is still being fetched. */
struct convert_growth {
    uint64_t available;  /* bytes of the file that may be read */
    bool done;           /* there will be no more */
    unsigned generation; /* another number than before: the file began anew, what was read of it is void */
};

struct convert_hooks {
    /* Called for each job when its turn comes, and when its files are complete and the digests right. Descriptors stay
     * the hooks' own. */
    int (*begin)(void *ctx, unsigned job, struct convert_files *ret, struct sm_error *err);
    int (*complete)(void *ctx, unsigned job, struct sm_error *err);
    void *ctx;

    /* How much of the blob is there; between begin and complete. NULL: files are complete from the beginning. */
    int (*growth)(void *ctx, unsigned job, struct convert_growth *ret, struct sm_error *err);
    /* As poll; may return early. Needed with `growth`, and must wake up when a blob grows. NULL: poll(2). */
    int (*wait)(void *ctx, struct pollfd *fds, unsigned n, int timeout_ms, struct sm_error *err);
    /* The whole blob is there and is not what it should be. True: it begins anew, with another generation. NULL: that
     * was its only chance. */
    bool (*mismatch)(void *ctx, unsigned job);
};

/* At the first failure everything is stopped; jobs completed before stay so. `events` may be NULL. */
int convert_layers(const struct convert_job *jobs, unsigned n, const struct convert_hooks *hooks,
                   const struct oci_events *events, struct sm_error *err);

#endif
