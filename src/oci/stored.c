/* SPDX-License-Identifier: Apache-2.0 */
/* Images of the store: see stored.h. */
#include "oci/stored.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "oci/blobs.h"
#include "oci/ensure.h"
#include "oci/limits.h"
#include "oci/select.h"

static int read_document(struct oci_store *s, const struct digest *digest, void **ret, size_t *ret_len,
                         struct sm_error *err)
{
    char name[DIGEST_STR_SIZE];
    int r = blob_read(s, digest, OCI_JSON_MAX_BYTES, ret, ret_len, err);

    digest_str(digest, name);
    if (r == -ENOENT)
        return sm_error_set(err, ENOENT, "document %s is missing from the image store", name);
    return r;
}

static int read_described(void *ctx, const struct descriptor *d, void **ret, struct sm_error *err)
{
    char name[DIGEST_STR_SIZE];
    void *data;
    size_t len;
    int r = read_document(ctx, &d->digest, &data, &len, err);

    if (r < 0)
        return r;
    if (len != d->size) {
        free(data);
        digest_str(&d->digest, name);
        return sm_error_set(err, EBADMSG, "document %s is %zu bytes long, but its descriptor says %llu", name, len,
                            (unsigned long long)d->size);
    }
    *ret = data;
    return 0;
}

struct documents documents_of_store(struct oci_store *s)
{
    return (struct documents){read_described, s};
}

int image_open_stored(struct oci_image **ret, struct oci_store *store, const struct digest *manifest,
                      const struct platform *want, const struct oci_events *events, struct sm_error *err)
{
    struct documents docs = documents_of_store(store);
    struct layer_source source = source_of_store(store);
    CLEANUP_FREE void *data = NULL;
    struct selected sel;
    size_t len;
    int r = read_document(store, manifest, &data, &len, err);

    if (r >= 0)
        r = select_manifest(&sel, &docs, manifest, data, len, want, err);
    return r < 0 ? r : image_assemble(ret, store, &sel, &source, events, err);
}
