/* SPDX-License-Identifier: Apache-2.0 */
/* What the process that reads an archive says, in pieces. The first byte is the size of the pieces. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "oci/archive_frames.h"
#include "oci/limits.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* The order that every sink relies on. */
struct order {
    bool in_file;
    uint64_t left, total;
    uint8_t sum;
};

static int on_file(void *ctx, const char *name, uint64_t size, struct sm_error *err)
{
    struct order *o = ctx;

    assert(!o->in_file && strlen(name) <= OCI_PATH_MAX);
    o->in_file = true;
    o->left = size;
    o->total += size;
    assert(o->total <= OCI_ARCHIVE_MAX_BYTES);
    return 0;
}

static int on_data(void *ctx, const void *data, size_t len, struct sm_error *err)
{
    struct order *o = ctx;

    assert(o->in_file && len && len <= o->left);
    o->left -= len;
    for (size_t i = 0; i < len; i++)
        o->sum ^= ((const uint8_t *)data)[i]; /* every byte can be read */
    return 0;
}

static int on_end(void *ctx, struct sm_error *err)
{
    struct order *o = ctx;

    assert(o->in_file && !o->left);
    o->in_file = false;
    return 0;
}

static int on_link(void *ctx, const char *name, const char *target, bool hard, struct sm_error *err)
{
    assert(!((struct order *)ctx)->in_file && strlen(name) <= OCI_PATH_MAX && strlen(target) <= OCI_LINK_MAX);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct order order = {.left = 0};
    const struct archive_sink sink = {on_file, on_data, on_end, on_link, &order};
    struct frames f = {.sink = &sink};
    size_t step, have = 0;
    ssize_t used = 0;
    uint8_t *buf;

    if (!len)
        return 0;
    step = data[0] + 1u;
    buf = malloc(FRAME_BUF_SIZE);
    assert(buf);
    for (size_t at = 1, n; at < len && used >= 0; at += n) {
        n = len - at < step ? len - at : step;
        n = n < FRAME_BUF_SIZE - have ? n : FRAME_BUF_SIZE - have;
        assert(n); /* a full buffer holds a whole frame, or nonsense */
        memcpy(buf + have, data + at, n);
        have += n;
        used = frames_take(&f, buf, have, NULL);
        if (used > 0) {
            have -= (size_t)used;
            memmove(buf, buf + used, have);
        }
    }
    if (used >= 0 && frames_end(&f, have, NULL) >= 0)
        assert(!order.in_file);
    free(buf);
    return 0;
}
