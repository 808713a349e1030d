/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots of the public interface: opened, checked, removed. */
#include "lib/snapshot_object.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "lib/options.h"
#include "lib/snapshot_private.h"
#include "lib/store.h"
#include "oci/gc.h"
#include "oci/json.h"
#include "oci/snapshot_dirs.h"

int sm_snapshot_open(struct sm_snapshot **ret, struct sm_store *store, const char *name, struct sm_error *err)
{
    struct sm_snapshot *snapshot = calloc(1, sizeof(*snapshot));
    int r;

    if (!snapshot)
        return sm_error_set(err, ENOMEM, "out of memory while opening a snapshot");
    r = oci_store_open(&snapshot->store, oci_store_path(store->oci), err);
    if (r >= 0)
        r = snapshot_open_typed(&snapshot->s, snapshot->store, name, true, err);
    if (r < 0) {
        sm_snapshot_free(snapshot);
        return r;
    }
    snapshot_dir_used(snapshot->s->dir_fd);
    *ret = snapshot;
    return 0;
}

void sm_snapshot_free(struct sm_snapshot *snapshot)
{
    if (!snapshot)
        return;
    snapshot_unref(snapshot->s);
    oci_store_free(snapshot->store);
    free(snapshot);
}

struct checking {
    const struct sm_snapshot_options *o;
    uint64_t done, total;
};

static int on_step(void *ctx, uint64_t bytes)
{
    struct checking *c = ctx;

    c->done += bytes;
    return c->o->event
               ? c->o->event(c->o->event_ctx,
                             &(struct sm_image_event){.kind = SM_IMAGE_CHECKING, .done = c->done, .total = c->total})
               : 0;
}

int sm_snapshot_verify(struct sm_store *store, const char *name, const struct sm_snapshot_options *given,
                       struct sm_error *err)
{
    struct sm_snapshot_options o = {0};
    struct checking c = {.o = &o};
    struct snapshot *s;
    int r = OPTIONS_COPY(&o, given, err);

    if (r >= 0)
        r = snapshot_open_typed(&s, store->oci, name, false, err);
    if (r < 0)
        return r;
    c.total = s->meta.memory_data + s->meta.state_bytes + s->meta.diff_bytes;
    r = snapshot_verify(s, on_step, &c, err);
    snapshot_unref(s);
    return r;
}

static int remove_keys(struct oci_store *s, const char *name, bool force, struct gc_result *ret, struct sm_error *err)
{
    char **keys = NULL, key[SNAPSHOT_KEY_SIZE];
    CLEANUP_FD int lock_fd = gc_alone(s, err);
    struct sm_error why = SM_ERROR_INIT;
    size_t n;
    int r;

    if (lock_fd < 0)
        return lock_fd;
    if (!force) {
        r = snapshot_key_find(s, name, key, err);
        return r < 0 ? r : gc_remove_snapshots(s, (const char *const[]){key, NULL}, false, ret, err);
    }
    r = snapshot_keys_find(s, name, &keys, &n, &why);
    if (r >= 0)
        r = gc_remove_snapshots(s, (const char *const *)keys, true, ret, &why);
    strings_free(keys);
    if (r == -ENOENT)
        return 0;
    if (r < 0 && err)
        *err = why;
    return r;
}

int sm_snapshot_remove(struct sm_store *store, const char *name, const struct sm_snapshot_options *given,
                       struct sm_removal *removal, struct sm_error *err)
{
    struct sm_snapshot_options o = {0};
    struct gc_result gone = {.bytes = 0};
    struct sm_removal ours;
    int r = OPTIONS_COPY(&o, given, err);

    if (r >= 0 && snapshot_is_dir(name))
        r = sm_error_set(err, EINVAL, "\"%s\" is a directory and not in the store: remove it as one", name);
    if (r >= 0)
        r = remove_keys(store->oci, name, o.force != 0, &gone, err);
    if (r < 0)
        return r;
    ours = (struct sm_removal){.freed_bytes = gone.bytes, .objects = gone.objects};
    gc_result_done(&gone);
    if (removal)
        options_give(removal, &ours, sizeof(ours));
    return 0;
}
