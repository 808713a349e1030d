/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots of the public interface: listed. A record lies in a struct with everything that its pointers point at. */
#include "lib/snapshot_list.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "lib/snapshot_private.h"
#include "lib/store.h"
#include "oci/gc.h"
#include "oci/json.h"
#include "oci/snapshot_dirs.h"

struct published_snapshot {
    struct sm_snapshot_record r;
    struct snapshot_about about;
    char *image;
};

void sm_snapshot_records_free(struct sm_snapshot_record *list)
{
    while (list) {
        struct published_snapshot *p = CONTAINER_OF(list, struct published_snapshot, r);

        list = list->next;
        snapshot_about_done(&p->about);
        free(p->image);
        free(p);
    }
}

static const char *or_null(const char *s)
{
    return s && s[0] ? s : NULL;
}

static const char *or_empty(const char *s)
{
    return s ? s : "";
}

int snapshot_record_new(struct sm_snapshot_record **ret, struct snapshot_about *about, struct sm_error *err)
{
    static const enum sm_snapshot_kind kinds[] = {
        [SNAPSHOT_BASE] = SM_SNAPSHOT_BASE, [SNAPSHOT_BAKE] = SM_SNAPSHOT_BAKE, [SNAPSHOT_VM] = SM_SNAPSHOT_VM};
    struct published_snapshot *p = calloc(1, sizeof(*p));
    const struct snapshot_meta *m;
    int r;

    if (!p) {
        snapshot_about_done(about);
        return sm_error_set(err, ENOMEM, "out of memory while listing snapshots");
    }
    p->about = *about;
    m = &p->about.meta;
    r = snapshot_image_name(m, &p->image, err);
    if (r < 0) {
        sm_snapshot_records_free(&p->r);
        return r;
    }
    p->r = (struct sm_snapshot_record){
        .kind = kinds[m->kind],
        .key = p->about.key,
        .base = or_null(m->base),
        .image = p->image,
        .image_id = or_null(m->image_digest),
        .platform = or_empty(m->platform),
        .trigger = or_empty(m->trigger),
        .tag = or_empty(m->tag),
        .version = or_empty(m->version),
        .problem = p->about.problem,
        .memory_mib = m->memory_mib,
        .vcpus = m->vcpus,
        .created = m->created_s,
        .used = p->about.used_s,
        .disk_bytes = p->about.disk_bytes,
        .is_workload = m->workload,
    };
    *ret = &p->r;
    return 0;
}

static int compare(const void *a, const void *b)
{
    const struct sm_snapshot_record *x = *(struct sm_snapshot_record *const *)a,
                                    *y = *(struct sm_snapshot_record *const *)b;
    int r = !x->image - !y->image;

    if (!r && x->image)
        r = strcmp(x->image, y->image);
    if (!r && x->created != y->created)
        r = x->created < y->created ? -1 : 1;
    return r ? r : strcmp(x->key, y->key);
}

static int publish(struct sm_snapshot_record **all, struct oci_store *store, char *const *keys, size_t *ret_n,
                   struct sm_error *err)
{
    int r = 0;

    for (; r >= 0 && *keys; keys++) {
        struct snapshot_about about;

        r = snapshot_about_key(&about, store, *keys, err);
        if (r == -ENOENT) { /* no directory: it is no snapshot */
            r = 0;
            continue;
        }
        if (r >= 0)
            r = snapshot_record_new(&all[*ret_n], &about, err);
        *ret_n += r >= 0;
    }
    return r;
}

int sm_snapshot_list(struct sm_snapshot_record **ret, struct sm_store *store, struct sm_error *err)
{
    CLEANUP_FREE struct sm_snapshot_record **all = NULL;
    CLEANUP_FD int lock_fd = gc_enter(store->oci, err);
    struct sm_snapshot_record *first = NULL;
    size_t n, n_all = 0;
    char **keys;
    int r = lock_fd < 0 ? lock_fd : snapshot_dirs_list(store->oci, &keys, &n, err);

    if (r < 0)
        return r;
    all = calloc(n + 1, sizeof(*all));
    r = all ? publish(all, store->oci, keys, &n_all, err)
            : sm_error_set(err, ENOMEM, "out of memory while listing snapshots");
    strings_free(keys);
    if (n_all)
        qsort(all, n_all, sizeof(*all), compare);
    while (n_all) {
        all[--n_all]->next = first;
        first = all[n_all];
    }
    if (r < 0) {
        sm_snapshot_records_free(first);
        return r;
    }
    *ret = first;
    return 0;
}
