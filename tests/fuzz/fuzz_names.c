/* SPDX-License-Identifier: Apache-2.0 */
/* The file behind a name of the image store. What is understood can be written, and is the same when read again. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "oci/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct name_doc doc, again;
    struct buf b;

    if (name_doc_parse(&doc, data, len, NULL) < 0)
        return 0;
    if (name_doc_write(&b, &doc, NULL) >= 0) {
        int r = name_doc_parse(&again, b.data, b.len, NULL);

        assert(r == 0 && again.n == doc.n);
        for (size_t i = 0; i < doc.n; i++) {
            const struct name_record *x = &doc.list[i], *y = &again.list[i];

            assert(!strcmp(x->name, y->name) && !strcmp(x->platform, y->platform) && x->created_s == y->created_s);
            assert(!strcmp(x->source, y->source) && digest_equal(&x->root, &y->root) &&
                   digest_equal(&x->manifest, &y->manifest));
        }
        name_doc_done(&again);
        buf_done(&b);
    }
    name_doc_done(&doc);
    return 0;
}
