/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Removal.
 *
 * Theory of operation
 *
 * What: a record goes first, on disk, then the objects that only it reached. A process that is killed in between
 * leaves objects that nothing reaches: they do no harm, and prune takes them. The other order would leave an image that
 * lacks something.
 *
 * Machines that run have the files open: for them nothing goes.
 */
#include "oci/removal.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "oci/record.h"
#include "oci/store_dirs.h"

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory while removing images");
}

void gc_result_done(struct gc_result *r)
{
    name_records_free(r->records, r->n_records);
    *r = (struct gc_result){.bytes = 0};
}

int removal_init(struct removal *ret, struct oci_store *s, bool dry_run, struct sm_error *err)
{
    struct removal r = {.store = s, .dry_run = dry_run};
    int code = graph_new(&r.g, s, err);

    if (code < 0)
        return code;
    r.gone = calloc(r.g->n_objects + 1, sizeof(*r.gone));
    r.result.records = calloc(r.g->n_records + 1, sizeof(*r.result.records));
    if (!r.gone || !r.result.records) {
        removal_done(&r);
        return no_memory(err);
    }
    *ret = r;
    return 0;
}

void removal_done(struct removal *r)
{
    graph_free(r->g);
    free(r->gone);
    gc_result_done(&r->result);
    *r = (struct removal){.store = NULL};
}

void removal_give(struct removal *r, struct gc_result *ret)
{
    if (!ret)
        return;
    *ret = r->result;
    r->result = (struct gc_result){.bytes = 0};
}

int removal_object(struct removal *r, uint32_t object, struct sm_error *err)
{
    const struct graph_object *o = &r->g->objects[object];
    struct graph_object *base;
    int code = 0;

    if (r->gone[object])
        return 0;
    if (!r->dry_run)
        code = graph_object_remove(r->store, o->kind, &o->name, err);
    if (code < 0)
        return code;
    base = o->kind == GRAPH_SNAPSHOT ? graph_snapshot(r->g, o)->base : NULL;
    if (base)
        base->needed--;
    r->gone[object] = true;
    r->result.bytes += o->bytes;
    r->result.objects++;
    return 0;
}

static int forget_name(struct removal *r, const char *name, const char *platform, struct sm_error *err)
{
    int code = r->dry_run ? 0 : names_remove(r->store, name, platform, err);

    return code == -ENOENT ? 0 : code;
}

int removal_record(struct removal *r, uint32_t record, struct sm_error *err)
{
    struct graph_record *rec = &r->g->records[record];
    int code = forget_name(r, rec->r.name, rec->r.platform, err);

    if (code >= 0)
        code = name_record_copy(&r->result.records[r->result.n_records], &rec->r, err);
    if (code < 0)
        return code;
    r->result.n_records++;
    for (uint32_t i = 0; code >= 0 && i < rec->n_objects; i++) {
        const struct graph_object *o = &r->g->objects[rec->objects[i]];

        /* A bake that a saved machine is a difference to stays until that goes. */
        if (!--r->g->objects[rec->objects[i]].records && !o->needed)
            code = removal_object(r, rec->objects[i], err);
    }
    rec->n_objects = 0;
    return code;
}

int removal_image(struct removal *r, const struct graph_image *image, struct sm_error *err)
{
    char name[NAME_UNTAGGED_SIZE], hex[DIGEST_HEX_SIZE];
    int code;

    /* One that a killed process left would come to light when the last name goes (see names.c). */
    code = image->named ? forget_name(r, name_untagged(name, &image->manifest), NULL, err) : 0;
    for (uint32_t i = 0; code >= 0 && i < image->n; i++)
        code = removal_record(r, image->first + i, err);
    digest_hex(&image->manifest, hex);
    if (code >= 0 && !r->dry_run)
        unlinkat(r->store->used_fd, hex, 0);
    return code;
}
