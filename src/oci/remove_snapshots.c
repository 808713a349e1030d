/* SPDX-License-Identifier: Apache-2.0 */
/* Removing snapshots by their keys: see gc_remove_snapshots in gc.h. */
#include <errno.h>

#include "oci/gc.h"
#include "oci/removal.h"
#include "oci/snapshot_meta.h"

/* What is a difference to it goes first; such ones are needed by none. */
static int remove_needing(struct removal *r, const struct graph_object *base, struct sm_error *err)
{
    uint32_t first = r->g->n_objects - r->g->n_snapshots;
    int code = 0;

    for (uint32_t i = 0; code >= 0 && base->needed && i < r->g->n_snapshots; i++) {
        if (r->g->snapshots[i].base == base)
            code = removal_object(r, first + i, err);
    }
    return code;
}

static int remove_one(struct removal *r, const char *key, bool force, struct sm_error *err)
{
    const struct graph_object *o;
    struct digest name;
    int code = snapshot_key_digest(&name, key, err);

    if (code < 0)
        return code;
    o = graph_find(r->g, GRAPH_SNAPSHOT, &name);
    if (!o)
        return 0;
    if (o->needed && !force)
        return sm_error_set(err, EEXIST,
                            "the snapshot %.12s is the base of %u other%s, of no use without it: remove %s first, or "
                            "all of them by force",
                            key, o->needed, o->needed > 1 ? "s" : "", o->needed > 1 ? "these" : "that");
    code = remove_needing(r, o, err);
    return code < 0 ? code : removal_object(r, (uint32_t)(o - r->g->objects), err);
}

int gc_remove_snapshots(struct oci_store *s, const char *const *keys, bool force, struct gc_result *ret,
                        struct sm_error *err)
{
    struct removal r;
    int code = removal_init(&r, s, false, err);

    if (code < 0)
        return code;
    for (; code >= 0 && *keys; keys++)
        code = remove_one(&r, *keys, force, err);
    if (code >= 0)
        removal_give(&r, ret);
    removal_done(&r);
    return code;
}
