/* SPDX-License-Identifier: Apache-2.0 */
/* An OCI image layout directory (image-spec image-layout.md): blobs by digest, every byte checked. */
#ifndef SM_OCI_LAYOUT_H
#define SM_OCI_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/digest.h"
#include "oci/documents.h"

struct layout {
    int dir_fd; /* -1: none */
};

#define LAYOUT_INIT                                                                                                    \
    {                                                                                                                  \
        .dir_fd = -1                                                                                                   \
    }

/* Checks that it is one. */
int layout_open(struct layout *ret, const char *dir, struct sm_error *err);
void layout_done(struct layout *l);

/* index.json, unverified: nothing says what it should be. To be freed. */
int layout_read_index(const struct layout *l, void **ret, size_t *ret_len, struct sm_error *err);

/* A whole blob of at most OCI_JSON_MAX_BYTES, its size and digest right. To be freed. */
int layout_read_blob(const struct layout *l, const struct digest *digest, uint64_t size, void **ret,
                     struct sm_error *err);

/* The same, for select.h. Good for as long as the layout is. */
struct documents layout_documents(struct layout *l);

/* A blob to be streamed: a regular file of the right size. Whoever reads it checks the digest. Returns the descriptor.
 */
int layout_open_blob(const struct layout *l, const struct digest *digest, uint64_t size, struct sm_error *err);

#endif
