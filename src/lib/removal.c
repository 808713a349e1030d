/* SPDX-License-Identifier: Apache-2.0 */
/* The public image store: removing images, and making room. What goes when is oci/gc.h's to decide. */
#include "base/error.h"
#include "lib/options.h"
#include "lib/store.h"
#include "oci/gc.h"

/* gc's result in the public form; frees it. */
static int publish_removal(struct sm_image_record **ret, struct sm_removal *removal, struct oci_store *s,
                           struct gc_result *gone, struct sm_error *err)
{
    struct sm_removal ours = {
        .freed_bytes = gone->bytes,
        .names = (uint32_t)gone->n_records,
        .objects = gone->objects,
    };
    int r = ret ? records_publish(ret, s, gone->records, gone->n_records, err) : 0;

    gc_result_done(gone);
    if (r >= 0 && removal)
        options_give(removal, &ours, sizeof(ours));
    return r;
}

int sm_store_remove(struct sm_image_record **ret, struct sm_store *store, const char *name,
                    const struct sm_remove_options *given, struct sm_removal *removal, struct sm_error *err)
{
    struct sm_remove_options o = {0};
    struct gc_result gone = {0};
    int r = OPTIONS_COPY(&o, given, err);

    if (r >= 0)
        r = gc_remove(store->oci, name, o.force != 0, &gone, err);
    return r < 0 ? r : publish_removal(ret, removal, store->oci, &gone, err);
}

int sm_store_prune(struct sm_image_record **ret, struct sm_store *store, const struct sm_prune_options *given,
                   struct sm_removal *removal, struct sm_error *err)
{
    struct sm_prune_options o = {0};
    struct gc_result gone = {0};
    int r = OPTIONS_COPY(&o, given, err);

    if (r < 0)
        return r;
    r = gc_prune(
        store->oci,
        &(struct prune_options){
            .all = o.all != 0, .dry_run = o.dry_run != 0, .older_than_s = o.older_than, .max_bytes = o.max_size},
        &gone, err);
    return r < 0 ? r : publish_removal(ret, removal, store->oci, &gone, err);
}
