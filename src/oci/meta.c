/* SPDX-License-Identifier: Apache-2.0 */
/* Merging layers: see meta.h. The work is tree.c's and erofs.c's. */
#include "oci/meta.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "oci/erofs.h"
#include "oci/index.h"
#include "oci/limits.h"
#include "oci/tree.h"

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory while merging layers");
}

int meta_key(const struct digest *diff_ids, size_t n, struct digest *ret, struct sm_error *err)
{
    struct buf b = buf_init(OCI_MAX_LAYERS * DIGEST_BYTES + 64);
    int r;

    buf_str(&b, "supermachine merged image, format 1");
    for (size_t i = 0; i < n; i++)
        buf_bytes(&b, diff_ids[i].bytes, DIGEST_BYTES);
    r = b.bad ? no_memory(err) : digest_of(ret, b.data, b.len, err);
    buf_done(&b);
    return r;
}

static int merge_layer(struct tree *t, int index_fd, struct sm_error *err)
{
    struct index_reader *index;
    struct oci_entry e;
    int r = index_reader_new(&index, index_fd, err);

    if (r < 0)
        return r;
    tree_next_layer(t);
    while ((r = index_read(index, &e, err)) > 0) {
        r = tree_add(t, &e, err);
        if (r < 0)
            break;
    }
    index_reader_free(index);
    return r;
}

static int merge(struct tree *t, const struct meta_layer *layers, size_t n, struct sm_error *err)
{
    char name[DIGEST_STR_SIZE];

    for (size_t i = 0; i < n; i++) {
        int r = merge_layer(t, layers[i].index_fd, err);

        digest_str(&layers[i].diff_id, name);
        if (r == -EBADMSG)
            return sm_error_wrap(err, "the image store is damaged (`supermachine fsck --repair` mends it): layer %s",
                                 name);
        if (r < 0)
            return sm_error_wrap(err, "layer %s", name);
    }
    return 0;
}

static int write_tree(struct tree *t, const struct meta_layer *layers, size_t n, const struct digest *key, int fd,
                      uint64_t *ret_size, struct sm_error *err)
{
    CLEANUP_FREE struct erofs_layer *pieces = calloc(n + 1, sizeof(*pieces));
    uint8_t uuid[16];

    if (!pieces)
        return no_memory(err);
    for (size_t i = 0; i < n; i++)
        pieces[i] = (struct erofs_layer){layers[i].index_fd, layers[i].data_size};
    memcpy(uuid, key->bytes, sizeof(uuid));
    uuid[6] = (uuid[6] & 0x0f) | 0x80; /* RFC 9562 §5.8: version 8, made as its maker likes */
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    return erofs_write(t, pieces, (unsigned)n, uuid, fd, ret_size, err);
}

int meta_write(const struct meta_layer *layers, size_t n, const struct digest *key, int fd, uint64_t *ret_size,
               struct sm_error *err)
{
    struct tree *t;
    int r = tree_new(&t, err);

    if (r < 0)
        return r;
    r = merge(t, layers, n, err);
    if (r >= 0)
        r = write_tree(t, layers, n, key, fd, ret_size, err);
    tree_free(t);
    return r;
}
