/* SPDX-License-Identifier: Apache-2.0 */
/* Control frames, both doors. What was decoded must encode to the same bytes again. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/control.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void request(const uint8_t *frame, size_t len, unsigned n_fds)
{
    struct sm_error err = SM_ERROR_INIT;
    struct control_request req;

    if (control_request_decode(frame, len, n_fds, &req, &err) < 0) {
        assert(err.text[0]);
        return;
    }
    struct buf out = buf_init(CONTROL_MAX_FRAME);
    int r = control_request_encode(&req, &out, &err);
    assert(r == 0 && out.len == len && memcmp(out.data, frame, len) == 0);
    buf_done(&out);
    control_request_done(&req);
}

static void report(const uint8_t *frame, size_t len)
{
    struct sm_error err = SM_ERROR_INIT;
    struct control_report rep;

    if (control_report_decode(frame, len, &rep, &err) < 0) {
        assert(err.text[0]);
        return;
    }
    struct buf out = buf_init(CONTROL_MAX_FRAME);
    int r = control_report_encode(&rep, &out, &err);
    assert(r == 0 && out.len == len && memcmp(out.data, frame, len) == 0);
    buf_done(&out);
    control_report_done(&rep);
}

/* First byte: how many descriptors came along. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    control_frame_id(data + 1, size - 1);
    request(data + 1, size - 1, data[0]);
    report(data + 1, size - 1);
    return 0;
}
