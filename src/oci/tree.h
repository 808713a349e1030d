/* SPDX-License-Identifier: Apache-2.0 */
/* An image's files, merged from its layers in memory. tree_add is the one door that a layer's paths come through. */
#ifndef SM_OCI_TREE_H
#define SM_OCI_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/entry.h"

struct tree;

/* What a name stands for. Several names may share one; a directory has exactly one. */
struct tree_inode {
    enum oci_type type; /* never OCI_HARDLINK */
    uint16_t mode;
    uint32_t uid, gid;
    int64_t mtime;
    uint32_t mtime_ns;
    uint32_t rdev; /* in Linux's 32-bit on-disk form */
    uint32_t names;
    uint32_t layer;          /* whose data_off or content_offset it is */
    uint64_t size;           /* of a file; of a symlink the length of its target */
    uint64_t data_off;       /* file over OCI_INLINE_MAX: in the layer's data */
    uint64_t content_offset; /* file up to that: in the layer's index */
    char *target;            /* symlink */
    uint8_t *xattrs;         /* as EROFS wants them: entries one after the other, each padded to 4 bytes */
    uint32_t xattrs_len;
    uint64_t place; /* for erofs.c: where the inode goes in the image; 0: not placed yet */
};

struct tree_node {
    struct tree_node *parent; /* the root's: itself */
    struct tree_inode *inode;
    void *children; /* tsearch(3) root over struct tree_node, by name */
    uint32_t n_children, n_subdirs;
    uint32_t touched; /* number of the last layer that named this path or one below, from 1 */
    uint16_t depth;
    uint8_t name_len;
    char name[]; /* "" for the root */
};

int tree_new(struct tree **ret, struct sm_error *err);
void tree_free(struct tree *t);

/* What is added from here on belongs to the next layer (before the first: layer 0). Call once a layer. */
void tree_next_layer(struct tree *t);

/* Everything from the entry is copied. -errno and a sentence naming the path when the entry is refused. */
int tree_add(struct tree *t, const struct oci_entry *e, struct sm_error *err);

struct tree_node *tree_root(struct tree *t);
uint32_t tree_count(const struct tree *t); /* nodes */

/* The node at a path without following links; NULL when there is none. */
struct tree_node *tree_find(struct tree *t, const char *path);

/* Call `fn` for each child in the order of the bytes of their names. The tree must not change meanwhile. */
void tree_each_child(const struct tree_node *dir, void (*fn)(struct tree_node *child, void *ctx), void *ctx);

#endif
