/* SPDX-License-Identifier: Apache-2.0 */
/* A layer's bytes, compressed or not, up to a file system. The first byte says whether they are decompressed first. */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buf.h"
#include "oci/erofs.h"
#include "oci/index.h"
#include "oci/layer.h"
#include "oci/tree.h"
#include "oci/unpack.h"

#define TAR_MAX (4u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct piece {
    const uint8_t *p;
    size_t left;
};

static ssize_t next_piece(void *ctx, const void **ret)
{
    struct piece *s = ctx;
    size_t n = s->left < 4096 ? s->left : 4096;

    *ret = s->p;
    s->p = n ? s->p + n : s->p;
    s->left -= n;
    return (ssize_t)n;
}

static int append(void *ctx, const void *data, size_t len, struct sm_error *err)
{
    struct buf *b = ctx;

    buf_bytes(b, data, len);
    return b->bad ? sm_error_set(err, EFBIG, "enough") : 0;
}

static void merge(int index_fd, int meta_fd)
{
    struct erofs_layer layer = {.index_fd = index_fd};
    const uint8_t uuid[16] = {0};
    struct index_reader *r;
    struct oci_entry e;
    struct tree *t;
    uint64_t size;
    int code = index_reader_new(&r, index_fd, NULL);

    assert(!code); /* what the writer made, the reader takes */
    layer.data_size = index_data_size(r);
    code = tree_new(&t, NULL);
    assert(!code);
    tree_next_layer(t);
    while ((code = index_read(r, &e, NULL)) > 0) {
        if (tree_add(t, &e, NULL) < 0)
            break;
    }
    assert(code >= 0);
    if (!code) {
        code = erofs_write(t, &layer, 1, uuid, meta_fd, &size, NULL);
        assert(!code && erofs_check(meta_fd, size + layer.data_size) == 1);
    }
    tree_free(t);
    index_reader_free(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct buf tar = buf_init(TAR_MAX);
    struct piece in = {data + 1, len - 1};
    int data_fd, index_fd, meta_fd, r;

    if (!len)
        return 0;
    if (data[0] & 1) {
        r = unpack_decompress(&(struct unpack_source){next_piece, &in}, &(struct unpack_sink){append, &tar}, NULL);
        in = (struct piece){tar.data, tar.len};
        if (r < 0)
            goto out;
    }
    data_fd = memfd_create("data", MFD_CLOEXEC);
    index_fd = memfd_create("index", MFD_CLOEXEC);
    meta_fd = memfd_create("meta", MFD_CLOEXEC);
    if (layer_convert(&(struct unpack_source){next_piece, &in}, data_fd, index_fd, NULL) >= 0)
        merge(index_fd, meta_fd);
    close(data_fd);
    close(index_fd);
    close(meta_fd);
out:
    buf_done(&tar);
    return 0;
}
