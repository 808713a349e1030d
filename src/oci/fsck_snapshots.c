/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Are snapshots what they say of themselves? See fsck.c. Full ones come first: what is damaged may be the base of
 * others, which are no good then either.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "oci/fsck_parts.h"
#include "oci/snapshot_dirs.h"
#include "oci/store_dirs.h"

/* Under its maker's lock, if it is still the one that was looked at. */
static bool remove_snapshot(struct check *c, const struct digest *key, const struct stat *looked_at)
{
    CLEANUP_FD int lock_fd = store_try_lock(c->store, STORE_SNAPSHOT, key, NULL);
    CLEANUP_FD int dir_fd = lock_fd < 0 ? -1 : snapshot_dir_open(c->store, key, NULL);
    struct stat st;

    return dir_fd >= 0 && !fstat(dir_fd, &st) && st.st_ino == looked_at->st_ino &&
           snapshot_dir_remove(c->store, key, NULL) == 0;
}

/* Sentences: as check_problem wants them. */
static int look_at(struct check *c, const struct graph_snapshot *s, const struct digest *key, int dir_fd,
                   struct sm_error *err)
{
    struct snapshot_meta m;
    char hex[DIGEST_HEX_SIZE];
    int r = snapshot_dir_meta(dir_fd, &m, err);

    if (r < 0)
        return r;
    digest_hex(key, hex);
    if (strcmp(m.key, hex) != 0)
        r = sm_error_set(err, EBADMSG, "its metadata is of another snapshot");
    else if (m.base[0] && !s->base)
        r = sm_error_set(err, EBADMSG, "its base %.12s is not in the store", m.base);
    else if (s->base && c->bad[s->base - c->g->objects])
        r = sm_error_set(err, EBADMSG, "its base %.12s is damaged", m.base);
    snapshot_meta_done(&m);
    return r >= 0 && c->o->snapshot ? c->o->snapshot(c->o->ctx, c->store, hex, err) : r;
}

static int check_snapshot(struct check *c, struct graph_object *o, struct sm_error *err)
{
    char hex[DIGEST_HEX_SIZE], object[DIGEST_HEX_SIZE + 16];
    struct sm_error why = SM_ERROR_INIT;
    CLEANUP_FD int dir_fd = -1;
    struct stat st;
    int r;

    dir_fd = snapshot_dir_open(c->store, &o->name, &why);
    r = dir_fd;
    if (r >= 0 && fstat(dir_fd, &st) < 0)
        r = store_fail(c->store, &why, errno, "cannot look at a snapshot");
    if (r >= 0)
        r = look_at(c, graph_snapshot(c->g, o), &o->name, dir_fd, &why);
    if (r == -EBADMSG && !snapshot_dir_is(c->store, &o->name, dir_fd))
        r = -ENOENT;
    if (r == -EBADMSG) {
        c->bad[o - c->g->objects] = true;
        digest_hex(&o->name, hex);
        snprintf(object, sizeof(object), "snapshot %s", hex);
        check_problem(c, FSCK_SNAPSHOT, object, NULL, why.text, c->o->repair && remove_snapshot(c, &o->name, &st));
        r = 0;
    } else if (r == -ENOTSUP) {
        c->result.unproven++;
        r = 0;
    } else if (r == -ENOENT) { /* it went meanwhile, or another one came */
        c->bad[o - c->g->objects] = true;
        r = 0;
    }
    if (r < 0 && err)
        *err = why;
    return r < 0 ? r : check_step(c, o->bytes, err);
}

int check_snapshots(struct check *c, struct sm_error *err)
{
    uint32_t first = c->g->n_objects - c->g->n_snapshots;
    int r = 0;

    for (int based = 0; based < 2; based++) {
        for (uint32_t i = 0; r >= 0 && i < c->g->n_snapshots; i++) {
            if (!c->g->snapshots[i].base == !based)
                r = check_snapshot(c, &c->g->objects[first + i], err);
        }
    }
    return r;
}
