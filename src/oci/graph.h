/* SPDX-License-Identifier: Apache-2.0 */
/* What is in the store, and what reaches what: records, and the objects that each needs. A picture, taken once. */
#ifndef SM_OCI_GRAPH_H
#define SM_OCI_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/manifest.h"
#include "oci/names.h"

enum graph_kind {
    GRAPH_BLOB,
    GRAPH_LAYER,
    GRAPH_META,
    GRAPH_PARTIAL, /* reached by nothing */
    GRAPH_SNAPSHOT,
    GRAPH_KINDS,
};

struct graph_object {
    enum graph_kind kind;
    struct digest name;
    uint64_t bytes;   /* of disk */
    int64_t made_s;   /* of a snapshot: when it was used last */
    uint32_t records; /* how many reach it */
    uint32_t needed;  /* how many snapshots are differences to it */
};

enum graph_snapshot_kind {
    GRAPH_SNAPSHOT_BAKE, /* reached by its image's records */
    GRAPH_SNAPSHOT_BASE,
    GRAPH_SNAPSHOT_KEPT, /* of a machine, or of another version: nobody here can make it again */
    GRAPH_SNAPSHOT_BAD,
};

/* One for each object of that kind, in the same order. */
struct graph_snapshot {
    enum graph_snapshot_kind kind;
    struct digest image;       /* of a bake: the manifest's */
    struct graph_object *base; /* NULL: it needs none, or it is not there */
};

struct graph_record {
    struct name_record r;
    uint32_t *objects; /* numbers of those it reaches that are there, each once */
    uint32_t n_objects;
};

/* Neighbours in the list of records. */
struct graph_image {
    struct digest manifest;
    uint32_t first, n;
    uint32_t named;     /* of them, how many are not untagged */
    int64_t last_use_s; /* image_last_used */
    int64_t used_s;     /* that, or when its last record was made: whichever is later */
};

struct graph {
    struct graph_object *objects; /* by kind, then name */
    uint32_t n_objects;
    struct graph_snapshot *snapshots; /* of the last n_snapshots objects */
    uint32_t n_snapshots;
    struct graph_record *records; /* by manifest, then as names_list has them */
    uint32_t n_records;
    struct graph_image *images; /* by manifest */
    uint32_t n_images;
};

/* The caller holds gc_enter or gc_alone. Documents that are missing or damaged reach nothing. */
int graph_new(struct graph **ret, struct oci_store *s, struct sm_error *err);
void graph_free(struct graph *g);

/* NULL: it is not there. */
struct graph_object *graph_find(const struct graph *g, enum graph_kind kind, const struct digest *name);

/* What is known of an object that is a snapshot. */
struct graph_snapshot *graph_snapshot(const struct graph *g, const struct graph_object *o);

/* The documents of an image, as far as they are there: `has_config` only with `has_manifest`. */
struct image_parts {
    bool has_manifest, has_config;
    struct manifest_doc manifest;
    struct config_doc config;
};

int image_parts_read(struct image_parts *ret, struct oci_store *s, const struct digest *manifest, struct sm_error *err);
void image_parts_done(struct image_parts *p);

/* Out of the store. The caller holds gc_alone, or that object's lock. */
int graph_object_remove(struct oci_store *s, enum graph_kind kind, const struct digest *name, struct sm_error *err);

#endif
