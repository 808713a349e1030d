/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entries into a tree, and the tree's invariants afterwards. One entry a line: type (f d l h c b p s), path, and behind
 * a '=' what it links to. A line that begins with '|' is the next layer.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "oci/limits.h"
#include "oci/tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct seen {
    const struct tree_node *dir;
    uint32_t nodes, children, subdirs;
    const char *last;
};

static void check_node(struct tree_node *n, void *ctx)
{
    struct seen *up = ctx, down = {.dir = n};

    assert(n->parent == up->dir && n->depth == up->dir->depth + 1 && n->depth <= OCI_DEPTH_MAX);
    assert(n->name[0] && strlen(n->name) == n->name_len && !strchr(n->name, '/'));
    assert(strcmp(n->name, ".") && strcmp(n->name, ".."));
    assert(!up->last || strcmp(up->last, n->name) < 0);
    assert(n->inode->names && (n->inode->type != OCI_DIR || n->inode->names == 1));
    assert(n->inode->type == OCI_DIR || !n->children);
    assert(n->touched <= n->parent->touched);
    tree_each_child(n, check_node, &down);
    assert(down.children == n->n_children && down.subdirs == n->n_subdirs);
    up->last = n->name;
    up->nodes += 1 + down.nodes;
    up->children++;
    up->subdirs += n->inode->type == OCI_DIR;
}

static void add_line(struct tree *t, char *line)
{
    static const char types[] = " fdlhcbps";
    const char *type = line[0] ? strchr(types + 1, line[0]) : NULL;
    struct oci_entry e = {.mode = 0644, .link = ""};
    char *link;

    if (line[0] == '|')
        tree_next_layer(t);
    if (!type)
        return;
    e.type = (enum oci_type)(type - types);
    e.path = line + 1;
    link = strchr(line, '=');
    if (link) {
        *link = '\0';
        e.link = link + 1;
    }
    tree_add(t, &e, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    char *text = malloc(len + 1), *save = NULL;
    struct seen seen = {.dir = NULL};
    struct tree *t;

    memcpy(text, data, len);
    text[len] = '\0';
    if (tree_new(&t, NULL) < 0)
        abort();
    tree_next_layer(t);
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        add_line(t, line);
    seen.dir = tree_root(t);
    tree_each_child(tree_root(t), check_node, &seen);
    assert(seen.nodes + 1 == tree_count(t) && seen.children == tree_root(t)->n_children);
    tree_free(t);
    free(text);
    return 0;
}
