/* SPDX-License-Identifier: Apache-2.0 */
/* An archive's files below the store's tmp, hashed as they came: from there to be read, or put among the blobs. */
#ifndef SM_OCI_SPOOL_H
#define SM_OCI_SPOOL_H

#include "base/error.h"
#include "oci/archive_files.h"
#include "oci/archive_frames.h"
#include "oci/store.h"

struct hasher;

struct spool {
    struct store_temp temp;
    struct archive_files files;

    /* the file that is coming */
    int fd; /* -1: none */
    struct hasher *hash;
    char *name;
    struct archive_file file;
    uint8_t head[4];
    size_t head_len;
};

#define SPOOL_INIT                                                                                                     \
    {                                                                                                                  \
        .temp = STORE_TEMP_INIT, .fd = -1                                                                              \
    }

int spool_init(struct spool *ret, struct oci_store *store, struct sm_error *err);
void spool_done(struct spool *s); /* takes SPOOL_INIT; what was not put elsewhere is gone */
struct archive_sink spool_sink(struct spool *s);

/* A file as a document: at most OCI_JSON_MAX_BYTES, with a zero byte behind it; to be freed. */
int spool_read(const struct spool *s, const struct archive_file *f, void **ret, struct sm_error *err);
/* To be streamed: a descriptor at its beginning. */
int spool_open(const struct spool *s, const struct archive_file *f, struct sm_error *err);
/* Into the store's blobs; it is no more here. */
int spool_commit(const struct spool *s, const struct archive_file *f, struct sm_error *err);

#endif
