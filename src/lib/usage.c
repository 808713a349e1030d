/* SPDX-License-Identifier: Apache-2.0 */
/* The public image store: what it takes on disk. */
#include <stdlib.h>

#include "base/checked.h"
#include "base/error.h"
#include "lib/options.h"
#include "lib/store.h"
#include "oci/usage.h"

struct published_usage {
    struct sm_image_usage u;
    char *name;
    char id[DIGEST_STR_SIZE];
};

void sm_image_usages_free(struct sm_image_usage *list)
{
    while (list) {
        struct published_usage *p = CONTAINER_OF(list, struct published_usage, u);

        list = list->next;
        free(p->name);
        free(p);
    }
}

static int publish_usage(struct sm_image_usage **ret, const struct usage *usage, struct sm_error *err)
{
    struct sm_image_usage *first = NULL, **end = &first;
    int r = 0;

    for (size_t i = 0; r >= 0 && i < usage->n_images; i++) {
        const struct usage_image *from = &usage->images[i];
        struct published_usage *p = calloc(1, sizeof(*p));

        if (!p) {
            r = sm_error_set(err, ENOMEM, "out of memory while adding up the image store");
            break;
        }
        *end = &p->u;
        end = &p->u.next;
        r = record_familiar(&from->records[0], &p->name, err);
        digest_str(&from->manifest, p->id);
        p->u.name = p->name;
        p->u.id = p->id;
        p->u.used = from->used_s;
        p->u.unique_bytes = from->unique_bytes;
        p->u.shared_bytes = from->shared_bytes;
    }
    if (r < 0) {
        sm_image_usages_free(first);
        return r;
    }
    *ret = first;
    return 0;
}

int sm_store_usage(struct sm_image_usage **ret, struct sm_store *store, struct sm_store_usage *total,
                   struct sm_error *err)
{
    struct sm_store_usage ours;
    struct usage usage = {.n_images = 0};
    int r = usage_of(&usage, store->oci, err);

    if (r < 0)
        return r;
    ours = (struct sm_store_usage){
        .images = (uint32_t)usage.n_images,
        .layers = usage.layers.count,
        .file_systems = usage.metas.count,
        .blobs = usage.blobs.count,
        .partials = usage.partials.count,
        .snapshots = usage.snapshots.count,
        .snapshot_bytes = usage.snapshots.bytes,
        .layer_bytes = usage.layers.bytes,
        .file_system_bytes = usage.metas.bytes,
        .blob_bytes = usage.blobs.bytes,
        .partial_bytes = usage.partials.bytes,
        .total_bytes = usage.bytes,
        .reclaimable_bytes = usage.reclaimable,
    };
    r = ret ? publish_usage(ret, &usage, err) : 0;
    usage_done(&usage);
    if (r >= 0 && total)
        options_give(total, &ours, sizeof(ours));
    return r;
}
