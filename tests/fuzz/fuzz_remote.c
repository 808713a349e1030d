/* SPDX-License-Identifier: Apache-2.0 */
/* Packets about named machines, both doors. What was decoded must encode to the same bytes again. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "lib/remote_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void same(struct buf *out, const uint8_t *data, size_t size)
{
    assert(out->len == size && memcmp(out->data, data, size) == 0);
    buf_done(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sm_error err = SM_ERROR_INIT;
    struct buf out = buf_init(REMOTE_MAX_FRAME);
    struct remote_request req;
    struct remote_reply rep;

    if (size > REMOTE_MAX_FRAME)
        return 0;
    if (remote_request_decode(data, size, &req, &err) < 0) {
        assert(err.text[0]);
    } else {
        assert(remote_request_encode(&req, &out, NULL) == 0);
        same(&out, data, size);
        remote_request_done(&req);
    }
    out = buf_init(REMOTE_MAX_FRAME);
    if (remote_reply_decode(data, size, &rep, &err) < 0) {
        assert(err.text[0]);
    } else {
        assert(remote_reply_encode(&rep, &out, NULL) == 0);
        same(&out, data, size);
        remote_reply_done(&rep);
    }
    return 0;
}
