/* SPDX-License-Identifier: Apache-2.0 */
/* Sources of blobs that are complete: see source.h. */
#include "oci/source.h"

#include <errno.h>

#include "base/cleanup.h"
#include "oci/blobs.h"
#include "oci/layout.h"

static int open_in_layout(void *ctx, unsigned layer, const struct descriptor *d, struct sm_error *err)
{
    (void)layer;
    return layout_open_blob(ctx, &d->digest, d->size, err);
}

struct layer_source source_of_layout(struct layout *l)
{
    return (struct layer_source){.open = open_in_layout, .ctx = l};
}

static int open_in_store(void *ctx, unsigned layer, const struct descriptor *d, struct sm_error *err)
{
    char name[DIGEST_STR_SIZE];
    uint64_t size;
    CLEANUP_FD int fd = blob_open(ctx, &d->digest, &size, err);

    (void)layer;
    digest_str(&d->digest, name);
    if (fd == -ENOENT || (fd >= 0 && size != d->size))
        return sm_error_set(err, ENOENT, "blob %s is not in the image store: get the image again", name);
    return steal_fd(&fd);
}

struct layer_source source_of_store(struct oci_store *s)
{
    return (struct layer_source){.open = open_in_store, .ctx = s};
}
