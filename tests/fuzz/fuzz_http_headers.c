/* SPDX-License-Identifier: Apache-2.0 */
/* The head of an HTTP answer, line by line, and then the challenges in it. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "oci/auth.h"
#include "oci/http_headers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check_text(const char *s)
{
    for (; s && *s; s++)
        assert(((unsigned char)*s >= 0x20 || *s == '\t') && *s != 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct http_head h = {0};
    struct challenge c;
    int r = 0;

    while (len > 0 && r >= 0) {
        const uint8_t *end = memchr(data, '\n', len);
        size_t n = end ? (size_t)(end - data) + 1 : len;

        r = http_head_line(&h, data, n, 784111770, NULL);
        data += n;
        len -= n;
    }
    check_text(h.location);
    check_text(h.digest);
    check_text(h.type);
    assert(!h.has_range || (h.range_first <= h.range_last && h.range_last < h.range_total));
    assert(h.status == 0 || (h.status >= 100 && h.status <= 599));
    if (challenge_parse(&c, (const char *const *)h.challenges, h.n_challenges, NULL) >= 0)
        challenge_done(&c);
    http_head_done(&h);
    return 0;
}
