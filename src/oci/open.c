/* SPDX-License-Identifier: Apache-2.0 */
/* From a reference to an opened image. */
#include "oci/image.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "oci/ensure.h"
#include "oci/layout.h"
#include "oci/ref.h"
#include "oci/select.h"
#include "oci/text.h"

static int select_in_layout(struct selected *ret, struct layout *l, const char *tag, const struct platform *want,
                            struct sm_error *err)
{
    struct documents docs = layout_documents(l);
    CLEANUP_FREE void *data = NULL;
    struct index_doc list;
    size_t len;
    int r = layout_read_index(l, &data, &len, err);

    if (r < 0)
        return r;
    r = index_doc_parse(&list, data, len, err);
    if (r < 0)
        return sm_error_wrap(err, "index.json");
    r = select_image(ret, &docs, &list, tag, want, err);
    index_doc_done(&list);
    return r;
}

static int open_layout(struct oci_image **ret, struct oci_store *store, const struct oci_ref *ref,
                       const struct platform *want, const struct oci_events *events, struct sm_error *err)
{
    struct layout layout = LAYOUT_INIT;
    struct layer_source source = source_of_layout(&layout);
    struct selected sel;
    int r = layout_open(&layout, ref->path, err);

    if (r >= 0)
        r = select_in_layout(&sel, &layout, ref->tag, want, err);
    if (r >= 0)
        r = image_assemble(ret, store, &sel, &source, events, err);
    layout_done(&layout);
    return r;
}

int oci_image_open(struct oci_image **ret, struct oci_store *store, const char *ref,
                   const struct oci_open_options *options, struct sm_error *err)
{
    struct oci_ref parsed = OCI_REF_INIT;
    struct platform want;
    char shown[TEXT_SHOWN_SIZE];
    int r = ref_parse(&parsed, ref, err);

    if (r >= 0 && parsed.kind != REF_OCI_DIR)
        r = sm_error_set(err, ENOTSUP, "image \"%s\" is not in a directory: write oci:DIRECTORY or oci:DIRECTORY:TAG",
                         text_shown(shown, ref));
    if (r >= 0)
        r = platform_parse(&want, options ? options->platform : NULL, err);
    if (r >= 0) {
        r = open_layout(ret, store, &parsed, &want, options ? options->events : NULL, err);
        if (r < 0)
            r = sm_error_wrap(err, "image \"%s\"", text_shown(shown, ref));
    }
    ref_done(&parsed);
    return r;
}
