/* SPDX-License-Identifier: Apache-2.0 */
/* References. What is put together from one that was understood must be that one again. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "oci/ref.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check(const struct oci_ref *ref, int (*put)(const struct oci_ref *, char **, struct sm_error *))
{
    struct oci_ref again;
    char *s;

    if (put(ref, &s, NULL) < 0)
        return;
    if (ref_parse(&again, s, NULL) < 0)
        abort();
    assert(again.kind == ref->kind && !strcmp(again.host, ref->host) && !strcmp(again.path, ref->path));
    assert(!again.tag == !ref->tag && (!ref->tag || !strcmp(again.tag, ref->tag)));
    assert(again.has_digest == ref->has_digest);
    assert(!ref->has_digest || digest_equal(&again.digest, &ref->digest));
    ref_done(&again);
    free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct sm_error err = SM_ERROR_INIT;
    struct oci_ref ref;
    char *s = malloc(len + 1);

    if (!s)
        return 0;
    memcpy(s, data, len);
    s[len] = '\0';
    if (ref_parse(&ref, s, &err) >= 0) {
        if (ref.kind == REF_REGISTRY) {
            check(&ref, ref_canonical);
            check(&ref, ref_familiar);
        }
        ref_done(&ref);
    }
    free(s);
    return 0;
}
