/* SPDX-License-Identifier: Apache-2.0 */
/* What the store takes on disk: see usage.h. */
#include "oci/usage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "oci/gc.h"
#include "oci/graph.h"
#include "oci/record.h"

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory while adding up the image store");
}

void usage_done(struct usage *u)
{
    for (size_t i = 0; i < u->n_images; i++)
        name_records_free(u->images[i].records, u->images[i].n_records);
    free(u->images);
    *u = (struct usage){.images = NULL};
}

/* How many images reach each object: an image's records count once. `last`: whom it was counted for. */
static void count_images(const struct graph *g, uint32_t *images, uint32_t *last)
{
    for (uint32_t i = 0; i < g->n_images; i++) {
        for (uint32_t k = 0; k < g->images[i].n; k++) {
            const struct graph_record *rec = &g->records[g->images[i].first + k];

            for (uint32_t j = 0; j < rec->n_objects; j++) {
                if (last[rec->objects[j]] != i)
                    images[rec->objects[j]]++;
                last[rec->objects[j]] = i;
            }
        }
    }
}

static int add_image(struct usage *u, const struct graph *g, uint32_t number, const uint32_t *images, uint32_t *last,
                     struct sm_error *err)
{
    const struct graph_image *from = &g->images[number];
    struct usage_image *to = &u->images[u->n_images++];

    *to = (struct usage_image){.manifest = from->manifest, .used_s = from->last_use_s};
    to->records = calloc(from->n, sizeof(*to->records));
    if (!to->records)
        return no_memory(err);
    for (uint32_t k = 0; k < from->n; k++) {
        const struct graph_record *rec = &g->records[from->first + k];
        int r = name_record_copy(&to->records[k], &rec->r, err);

        if (r < 0)
            return r;
        to->n_records++;
        for (uint32_t j = 0; j < rec->n_objects; j++) {
            uint32_t o = rec->objects[j];

            if (last[o] != number)
                *(images[o] > 1 ? &to->shared_bytes : &to->unique_bytes) += g->objects[o].bytes;
            last[o] = number;
        }
    }
    return 0;
}

static void add_totals(struct usage *u, const struct graph *g)
{
    struct usage_total *totals[GRAPH_KINDS] = {[GRAPH_BLOB] = &u->blobs,
                                               [GRAPH_LAYER] = &u->layers,
                                               [GRAPH_META] = &u->metas,
                                               [GRAPH_PARTIAL] = &u->partials,
                                               [GRAPH_SNAPSHOT] = &u->snapshots};

    for (uint32_t i = 0; i < g->n_objects; i++) {
        totals[g->objects[i].kind]->count++;
        totals[g->objects[i].kind]->bytes += g->objects[i].bytes;
        u->bytes += g->objects[i].bytes;
    }
}

static int compare_images(const void *a, const void *b)
{
    const struct usage_image *x = a, *y = b;
    int untagged = (int)name_is_untagged(&x->records[0]) - (int)name_is_untagged(&y->records[0]);

    return untagged ? untagged : strcmp(x->records[0].name, y->records[0].name);
}

static int fill(struct usage *u, const struct graph *g, struct sm_error *err)
{
    CLEANUP_FREE uint32_t *images = calloc(g->n_objects + 1, sizeof(*images));
    CLEANUP_FREE uint32_t *last = calloc(g->n_objects + 1, sizeof(*last));
    int r = 0;

    u->images = calloc(g->n_images + 1, sizeof(*u->images));
    if (!images || !last || !u->images)
        return no_memory(err);
    memset(last, 0xff, g->n_objects * sizeof(*last)); /* no image has that number */
    count_images(g, images, last);
    memset(last, 0xff, g->n_objects * sizeof(*last));
    for (uint32_t i = 0; r >= 0 && i < g->n_images; i++)
        r = add_image(u, g, i, images, last, err);
    if (r < 0)
        return r;
    qsort(u->images, u->n_images, sizeof(*u->images), compare_images);
    add_totals(u, g);
    return 0;
}

int usage_of(struct usage *ret, struct oci_store *s, struct sm_error *err)
{
    CLEANUP_FD int lock_fd = gc_enter(s, err);
    struct gc_result prunable = {.bytes = 0};
    struct usage u = {.images = NULL};
    struct graph *g;
    int r;

    if (lock_fd < 0)
        return lock_fd;
    r = graph_new(&g, s, err);
    if (r < 0)
        return r;
    r = fill(&u, g, err);
    graph_free(g);
    if (r >= 0)
        r = gc_prune(s, &(struct prune_options){.dry_run = true}, &prunable, err);
    if (r < 0) {
        usage_done(&u);
        return r;
    }
    u.reclaimable = prunable.bytes;
    gc_result_done(&prunable);
    *ret = u;
    return 0;
}
