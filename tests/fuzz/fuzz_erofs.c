/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile index, up to a file system: what a damaged store can feed the merge. The input is the index's body; the
 * header is made to fit it, or the checksum would refuse nearly everything.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/io.h"
#include "oci/digest.h"
#include "oci/erofs.h"
#include "oci/index.h"
#include "oci/tree.h"

#define DATA_SIZE (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* How many records are there, if their lengths are to be believed? */
static uint32_t count_records(const uint8_t *data, size_t len)
{
    struct reader r = reader_init(data, len);
    uint32_t n = 0;

    while (r.left) {
        reader_bytes(&r, reader_u32(&r));
        n += !r.bad;
    }
    return n;
}

static int make_index(const uint8_t *data, size_t len)
{
    int fd = memfd_create("index", MFD_CLOEXEC);
    struct buf b = buf_init(len + INDEX_HEADER_BYTES);
    struct digest d;

    if (digest_of(&d, data, len, NULL) < 0)
        abort();
    buf_bytes(&b, "SMLAYER", 8);
    buf_u32(&b, INDEX_VERSION);
    buf_u32(&b, count_records(data, len));
    buf_u64(&b, len);
    buf_u64(&b, DATA_SIZE);
    buf_bytes(&b, d.bytes, sizeof(d.bytes));
    buf_reserve(&b, INDEX_HEADER_BYTES - b.len);
    if (len)
        buf_bytes(&b, data, len);
    if (b.bad || io_pwrite_full(fd, b.data, b.len, 0) < 0)
        abort();
    buf_done(&b);
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    int fd = make_index(data, len), meta_fd = memfd_create("meta", MFD_CLOEXEC), code;
    struct erofs_layer layer = {fd, DATA_SIZE};
    const uint8_t uuid[16] = {0};
    struct index_reader *r;
    struct oci_entry e;
    struct tree *t;
    uint64_t size;

    if (index_reader_new(&r, fd, NULL) < 0 || tree_new(&t, NULL) < 0)
        abort();
    tree_next_layer(t);
    while ((code = index_read(r, &e, NULL)) > 0)
        tree_add(t, &e, NULL);
    if (!code) {
        code = erofs_write(t, &layer, 1, uuid, meta_fd, &size, NULL);
        assert(!code && erofs_check(meta_fd, size + DATA_SIZE) == 1);
    }
    tree_free(t);
    index_reader_free(r);
    close(fd);
    close(meta_fd);
    return 0;
}
