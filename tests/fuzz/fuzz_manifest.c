/* SPDX-License-Identifier: Apache-2.0 */
/* An image's JSON documents. The first byte chooses the kind. */
#include <stdint.h>

#include "oci/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct manifest_doc manifest;
    struct config_doc config;
    struct index_doc idx;
    enum media media;

    if (!len)
        return 0;
    switch (data[0] & 3) {
    case 0:
        if (index_doc_parse(&idx, data + 1, len - 1, NULL) >= 0)
            index_doc_done(&idx);
        break;
    case 1:
        if (manifest_doc_parse(&manifest, data + 1, len - 1, NULL) >= 0)
            manifest_doc_done(&manifest);
        break;
    case 2:
        if (config_doc_parse(&config, data + 1, len - 1, NULL) >= 0)
            config_doc_done(&config);
        break;
    default:
        layout_doc_check(data + 1, len - 1, NULL);
        doc_media(&media, data + 1, len - 1, NULL);
        break;
    }
    return 0;
}
