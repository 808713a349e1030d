/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots of the public interface: as archives, out and in. What goes out is verified before its first byte is
 * written; what comes in is measured against its metadata before it has a name.
 */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "lib/options.h"
#include "lib/pipe_guard.h"
#include "lib/snapshot_archive.h"
#include "lib/snapshot_list.h"
#include "lib/store.h"
#include "oci/gc.h"

int sm_snapshot_export(struct sm_store *store, const char *name, int fd, const struct sm_snapshot_options *given,
                       struct sm_error *err)
{
    struct sm_snapshot_options o = {0};
    struct event_bridge bridge;
    struct pipe_guard guard;
    struct snapshot *s;
    int r = OPTIONS_COPY(&o, given, err);

    if (r >= 0)
        r = snapshot_open_typed(&s, store->oci, name, false, err);
    if (r < 0)
        return r;
    r = snapshot_verify(s, NULL, NULL, err);
    pipe_guard_enter(&guard);
    if (r >= 0)
        r = snapshot_archive_write(s, fd, event_bridge(&bridge, o.event, o.event_ctx), err);
    pipe_guard_leave(&guard);
    snapshot_unref(s);
    return r;
}

static int on_waiting(void *ctx, const char *who)
{
    const struct sm_snapshot_options *o = ctx;

    (void)who;
    return o->event ? o->event(o->event_ctx, &(struct sm_image_event){.kind = SM_IMAGE_WAITING}) : 0;
}

static int put(struct snapshot_draft *d, const struct snapshot_meta *meta, struct sm_snapshot_options *o,
               struct sm_error *err)
{
    CLEANUP_FD int lock_fd = -1;

    memcpy(d->key, meta->key, sizeof(d->key));
    if (!o->dest) {
        lock_fd = snapshot_lock(d->store, d->key, on_waiting, o, err);
        if (lock_fd < 0)
            return lock_fd;
    }
    return snapshot_draft_publish_as(d, meta, o->force != 0, NULL, err);
}

/* Of what is in its place now. */
static int give_record(struct sm_snapshot_record **ret, struct oci_store *s, const char *key, const char *dest,
                       struct sm_error *err)
{
    CLEANUP_FD int lock_fd = gc_enter(s, err);
    struct snapshot_about about;
    int r = lock_fd;

    if (r >= 0)
        r = dest ? snapshot_about_dir(&about, s, dest, err) : snapshot_about_key(&about, s, key, err);
    if (r == -ENOENT && !dest)
        return sm_error_set(err, ENOENT, "the snapshot %.12s was imported, and is gone again", key);
    return r < 0 ? r : snapshot_record_new(ret, &about, err);
}

int sm_snapshot_import(struct sm_snapshot_record **ret, struct sm_store *store, int fd,
                       const struct sm_snapshot_options *given, struct sm_error *err)
{
    struct sm_snapshot_options o = {0};
    struct snapshot_draft *d;
    struct snapshot_meta meta;
    struct event_bridge bridge;
    int r = OPTIONS_COPY(&o, given, err);

    if (r >= 0)
        r = o.dest ? snapshot_draft_new_dir(&d, store->oci, o.dest, err)
                   : snapshot_draft_new(&d, store->oci, NULL, err);
    if (r < 0)
        return r;
    r = snapshot_archive_read(fd, d->state_fd, d->memory_fd, &meta, event_bridge(&bridge, o.event, o.event_ctx), err);
    if (r >= 0) {
        r = put(d, &meta, &o, err);
        snapshot_meta_done(&meta);
    }
    if (r >= 0 && ret)
        r = give_record(ret, store->oci, d->key, o.dest, err);
    snapshot_draft_free(d);
    return r < 0 ? r : 0;
}
