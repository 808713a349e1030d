/* SPDX-License-Identifier: Apache-2.0 */
/* The public image store: opening, listing, naming. Objects and records are oci's: see oci/names.h, gc.h. */
#include "lib/store.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "oci/gc.h"
#include "oci/ref.h"
#include "oci/text.h"

int sm_store_open(struct sm_store **ret, const char *dir, struct sm_error *err)
{
    struct sm_store *store = calloc(1, sizeof(*store));
    int r;

    if (!store)
        return sm_error_set(err, ENOMEM, "out of memory while opening the image store");
    r = oci_store_open(&store->oci, dir, err);
    if (r < 0) {
        free(store);
        return r;
    }
    *ret = store;
    return 0;
}

void sm_store_free(struct sm_store *store)
{
    if (!store)
        return;
    oci_store_free(store->oci);
    free(store);
}

const char *sm_store_path(const struct sm_store *store)
{
    return oci_store_path(store->oci);
}

int sm_store_list(struct sm_image_record **ret, struct sm_store *store, struct sm_error *err)
{
    struct name_record *list;
    size_t n;
    int r = names_list(store->oci, &list, &n, NULL, err);

    if (r < 0)
        return r;
    r = records_publish(ret, store->oci, list, n, err);
    name_records_free(list, n);
    return r;
}

/* A name that an image may be given: of the registry kind, without a digest. */
static int name_to_give(const char *name, char **ret, struct sm_error *err)
{
    struct oci_ref ref = {.kind = REF_REGISTRY};
    char shown[TEXT_SHOWN_SIZE];
    int r = ref_parse(&ref, name, err);

    if (r < 0)
        return r;
    if (ref.kind != REF_REGISTRY || ref.has_digest)
        r = sm_error_set(err, EINVAL, "\"%s\" can't be given to an image: a name is like app:1.2 or host/app, %s",
                         text_shown(shown, name), ref.has_digest ? "without a digest" : "not a file or directory");
    else
        r = ref_canonical(&ref, ret, err);
    ref_done(&ref);
    return r;
}

int sm_store_tag(struct sm_store *store, const char *source, const char *name, struct sm_error *err)
{
    CLEANUP_FREE char *canonical = NULL;
    CLEANUP_FD int lock = -1;
    struct name_record *list;
    size_t n;
    bool by_id;
    int r = name_to_give(name, &canonical, err);

    if (r < 0)
        return r;
    lock = gc_enter(store->oci, err);
    if (lock < 0)
        return lock;
    r = names_find(store->oci, source, &list, &n, &by_id, err);
    if (r < 0)
        return r;
    /* A name stands for an image on each of its platforms, an id for one. */
    for (size_t i = 0; r >= 0 && i < (by_id ? 1 : n); i++) {
        struct name_record record = list[i];

        record.name = canonical;
        record.created_s = 0;
        r = names_put(store->oci, &record, err);
    }
    name_records_free(list, n);
    return r;
}
