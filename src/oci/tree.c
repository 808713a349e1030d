/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merging layers.
 *
 * Theory of operation
 *
 * What: tree_add takes a layer's entries in the order of its tar and changes an in-memory tree as an unpacker would
 * change a directory. Nothing here touches a file system, so a hostile path can reach nothing but this tree.
 *
 * Rules (those of umoci's and containerd's unpackers; image-spec layer.md):
 *  - A path is relative. Empty and "." components are dropped, so "./a//b/" is "a/b", and "", "." or "/" is the root.
 *    ".." and any other absolute path are refused.
 *  - The parent directory is looked up with symbolic links followed, always inside the tree: an absolute target starts
 *    at the tree's root and ".." stops there. Missing parents are made (root, 0755, mtime 0), also in the place of a
 *    parent that is something else than a directory: so do umoci and, for a lower layer's, an overlay. A chain of more
 *    than OCI_FOLLOW_MAX links is refused.
 *  - The last component is never followed. A directory over a directory replaces its metadata and keeps its children;
 *    anything else removes what was there, with all below it. So of duplicates the last wins.
 *  - A hard link is a further name of an existing inode, its own metadata is ignored. When one of the names is replaced
 *    later, the others keep the old inode.
 *  - ".wh.NAME" removes NAME, ".wh..wh..opq" removes what its directory holds; either leaves alone what this same layer
 *    has put there before (node.touched), whatever the order in the tar. Other names that begin with ".wh..wh." are
 *    bookkeeping of AUFS and skipped. ".wh.", ".wh..", ".wh..." and a ".wh." name as a directory are refused.
 *  - trusted.overlay.* attributes are dropped: they are an overlay's bookkeeping, and would speak to the overlay that
 *    the guest mounts on top.
 *
 * Invariants: inode->names counts the nodes that point at it. A directory's inode has one node. depth(child) =
 * depth(parent) + 1 <= OCI_DEPTH_MAX, which bounds every recursion here.
 *
 * Limits: limits.h; a refused entry leaves the tree usable but half changed: callers give the image up.
 */
#include "oci/tree.h"

#include <assert.h>
#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "oci/erofs_format.h"
#include "oci/limits.h"
#include "oci/text.h"

struct tree {
    struct tree_node *root;
    uint32_t count;
    uint32_t layer; /* 1 + the current layer's number; 0: none yet */
};

static uint32_t encode_dev(uint32_t major, uint32_t minor)
{
    return (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12;
}

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory while merging layers");
}

/* Inodes and nodes */

static void inode_put(struct tree_inode *ino)
{
    if (!ino || --ino->names)
        return;
    free(ino->target);
    free(ino->xattrs);
    free(ino);
}

static int compare_names(const void *a, const void *b)
{
    const struct tree_node *x = a, *y = b;

    return strcmp(x->name, y->name);
}

static void node_free(void *p);

static void node_free_children(struct tree_node *n)
{
    if (n->children)
        tdestroy(n->children, node_free);
    n->children = NULL;
}

static void node_free(void *p)
{
    struct tree_node *n = p;

    node_free_children(n);
    inode_put(n->inode);
    free(n);
}

static uint32_t node_count(const struct tree_node *n);

static void add_count(struct tree_node *child, void *ctx)
{
    *(uint32_t *)ctx += node_count(child);
}

static uint32_t node_count(const struct tree_node *n)
{
    uint32_t count = 1;

    tree_each_child(n, add_count, &count);
    return count;
}

/* Takes the inode over: one of its names, also on failure. */
static int node_new(struct tree *t, struct tree_node **ret, struct tree_node *parent, const char *name,
                    struct tree_inode *ino, struct sm_error *err)
{
    size_t len = strlen(name);
    struct tree_node *n = NULL;
    void *slot;

    assert(len <= OCI_NAME_MAX);
    if (t->count >= OCI_IMAGE_MAX_NODES) {
        inode_put(ino);
        return sm_error_set(err, EFBIG, "the image has more than %u files, which is the limit", OCI_IMAGE_MAX_NODES);
    }
    n = calloc(1, sizeof(*n) + len + 1);
    if (!n)
        goto no_mem;
    memcpy(n->name, name, len + 1);
    n->name_len = (uint8_t)len;
    n->inode = ino;
    n->parent = parent ? parent : n;
    if (parent) {
        n->depth = (uint16_t)(parent->depth + 1);
        slot = tsearch(n, &parent->children, compare_names);
        if (!slot)
            goto no_mem;
        assert(*(struct tree_node **)slot == n);
        parent->n_children++;
        parent->n_subdirs += ino->type == OCI_DIR;
    }
    t->count++;
    *ret = n;
    return 0;
no_mem:
    free(n);
    inode_put(ino);
    return no_memory(err);
}

static void node_remove(struct tree *t, struct tree_node *n)
{
    assert(n->parent != n);
    tdelete(n, &n->parent->children, compare_names);
    n->parent->n_children--;
    n->parent->n_subdirs -= n->inode->type == OCI_DIR;
    t->count -= node_count(n);
    node_free(n);
}

static struct tree_node *node_child(struct tree_node *dir, const char *name, size_t len)
{
    union {
        struct tree_node n;
        char bytes[sizeof(struct tree_node) + OCI_NAME_MAX + 1];
    } key;
    void *slot;

    if (len > OCI_NAME_MAX)
        return NULL;
    memcpy(key.n.name, name, len);
    key.n.name[len] = '\0';
    slot = tfind(&key.n, &dir->children, compare_names);
    return slot ? *(struct tree_node **)slot : NULL;
}

static int make_dir(struct tree *t, struct tree_node **ret, struct tree_node *parent, const char *name,
                    struct sm_error *err)
{
    struct tree_inode *ino = calloc(1, sizeof(*ino));

    if (!ino)
        return no_memory(err);
    ino->type = OCI_DIR;
    ino->mode = 0755;
    ino->names = 1;
    return node_new(t, ret, parent, name, ino, err);
}

int tree_new(struct tree **ret, struct sm_error *err)
{
    struct tree *t = calloc(1, sizeof(*t));
    int r;

    if (!t)
        return no_memory(err);
    r = make_dir(t, &t->root, NULL, "", err);
    if (r < 0) {
        free(t);
        return r;
    }
    *ret = t;
    return 0;
}

void tree_free(struct tree *t)
{
    if (!t)
        return;
    node_free(t->root);
    free(t);
}

void tree_next_layer(struct tree *t)
{
    t->layer++;
}

struct tree_node *tree_root(struct tree *t)
{
    return t->root;
}

uint32_t tree_count(const struct tree *t)
{
    return t->count;
}

struct walk {
    void (*fn)(struct tree_node *, void *);
    void *ctx;
};

static void walk_one(const void *slot, VISIT which, void *closure)
{
    const struct walk *w = closure;

    if (which == postorder || which == leaf)
        w->fn(*(struct tree_node *const *)slot, w->ctx);
}

void tree_each_child(const struct tree_node *dir, void (*fn)(struct tree_node *, void *), void *ctx)
{
    struct walk w = {fn, ctx};

    twalk_r(dir->children, walk_one, &w);
}

/* Paths */

/* The text that is still to be walked while a parent is resolved: link targets are put before what is left. */
struct route {
    char text[2 * (OCI_PATH_MAX + 1) + OCI_LINK_MAX + 1];
    unsigned followed;
};

/*
 * The directory that `path` without its last component names, and that component. With `create`, what is missing is
 * made; without, -ENOENT (and no sentence). The root has no last component: *ret_name is "" and *ret_dir the root.
 */
static int resolve_parent(struct tree *t, const struct oci_entry *e, const char *path, bool create,
                          struct tree_node **ret_dir, char ret_name[OCI_NAME_MAX + 1], struct sm_error *err)
{
    const char *p = path, *c, *last = NULL;
    struct tree_node *cur = t->root;
    CLEANUP_FREE struct route *route = NULL;
    size_t len, last_len = 0;
    char name[OCI_NAME_MAX + 1];

    while ((len = path_next(&p, &c))) {
        last = c;
        last_len = len;
    }
    if (!last) {
        ret_name[0] = '\0';
        *ret_dir = cur;
        return 0;
    }
    route = malloc(sizeof(*route));
    if (!route)
        return no_memory(err);
    route->followed = 0;
    memcpy(route->text, path, (size_t)(last - path));
    route->text[last - path] = '\0';

    for (p = route->text; (len = path_next(&p, &c));) {
        struct tree_node *child;
        int r;

        if (path_is_dotdot(c, len)) { /* only a link's target can hold one: check_path refused the entry's own */
            cur = cur->parent;
            continue;
        }
        child = node_child(cur, c, len);
        if (child && create && child->inode->type != OCI_DIR && child->inode->type != OCI_SYMLINK) {
            node_remove(t, child);
            child = NULL;
        }
        if (!child) {
            if (!create)
                return -ENOENT;
            if (len > OCI_NAME_MAX || cur->depth >= OCI_DEPTH_MAX)
                return entry_refuse(err, ENAMETOOLONG, e, "is refused: the links on its way lead too deep");
            memcpy(name, c, len);
            name[len] = '\0';
            r = make_dir(t, &child, cur, name, err);
            if (r < 0)
                return r;
        }
        if (child->inode->type == OCI_DIR) {
            cur = child;
        } else if (child->inode->type == OCI_SYMLINK) {
            size_t target = strlen(child->inode->target), rest = strlen(p);

            if (++route->followed > OCI_FOLLOW_MAX)
                return entry_refuse(err, ELOOP, e, "is refused: the symbolic links on its way are a loop");
            if (target + 1 + rest + 1 > sizeof(route->text))
                return entry_refuse(err, ENAMETOOLONG, e,
                                    "is refused: the symbolic links on its way lead to a name too long");
            if (child->inode->target[0] == '/')
                cur = t->root;
            memmove(route->text + target + 1, p, rest + 1);
            memcpy(route->text, child->inode->target, target);
            route->text[target] = '/';
            p = route->text;
        } else {
            return -ENOENT;
        }
    }
    memcpy(ret_name, last, last_len);
    ret_name[last_len] = '\0';
    *ret_dir = cur;
    return 0;
}

static void touch(struct tree *t, struct tree_node *n)
{
    for (; n->touched != t->layer; n = n->parent)
        n->touched = t->layer;
}

struct tree_node *tree_find(struct tree *t, const char *path)
{
    struct tree_node *n = t->root;
    const char *p = path, *c;
    size_t len;

    while (n && (len = path_next(&p, &c)))
        n = node_child(n, c, len);
    return n;
}

/* Whiteouts */

struct node_list {
    struct tree_node **nodes;
    uint32_t n;
};

static void list_add(struct tree_node *n, void *ctx)
{
    struct node_list *list = ctx;

    list->nodes[list->n++] = n;
}

/* Remove what lower layers have put below `dir`; what this layer touched stays. */
static int remove_lower_children(struct tree *t, struct tree_node *dir, struct sm_error *err)
{
    CLEANUP_FREE struct tree_node **nodes = NULL;
    struct node_list list = {.n = 0};
    int r = 0;

    if (!dir->n_children)
        return 0;
    nodes = list.nodes = malloc(dir->n_children * sizeof(struct tree_node *));
    if (!nodes)
        return no_memory(err);
    tree_each_child(dir, list_add, &list);
    for (uint32_t i = 0; r >= 0 && i < list.n; i++) {
        if (nodes[i]->touched != t->layer)
            node_remove(t, nodes[i]);
        else
            r = remove_lower_children(t, nodes[i], err);
    }
    return r;
}

static int white_out(struct tree *t, struct tree_node *dir, const char *name, struct sm_error *err)
{
    const char *victim = name + sizeof(ENTRY_WHITEOUT) - 1;
    struct tree_node *n;

    if (!strcmp(name, ENTRY_OPAQUE))
        return remove_lower_children(t, dir, err);
    n = node_child(dir, victim, strlen(victim));
    if (!n)
        return 0;
    if (n->touched == t->layer)
        return remove_lower_children(t, n, err);
    node_remove(t, n);
    return 0;
}

/* Adding */

static const struct {
    const char *prefix;
    uint8_t index;
    bool whole; /* nothing may follow the prefix */
} xattr_kinds[] = {
    {"user.", EROFS_XATTR_USER, false},
    {"system.posix_acl_access", EROFS_XATTR_ACL_ACCESS, true},
    {"system.posix_acl_default", EROFS_XATTR_ACL_DEFAULT, true},
    {"trusted.", EROFS_XATTR_TRUSTED, false},
    {"security.", EROFS_XATTR_SECURITY, false},
};

/* The attribute's name as EROFS splits it. NULL: Linux knows no such namespace, or it is not for the guest. */
static const char *split_xattr(const char *name, uint8_t *ret_index)
{
    if (!strncmp(name, "trusted.overlay.", strlen("trusted.overlay.")))
        return NULL;
    for (size_t i = 0; i < ARRAY_SIZE(xattr_kinds); i++) {
        size_t len = strlen(xattr_kinds[i].prefix);

        if (strncmp(name, xattr_kinds[i].prefix, len) || xattr_kinds[i].whole != !name[len])
            continue;
        *ret_index = xattr_kinds[i].index;
        return name + len;
    }
    return NULL;
}

static bool xattr_seen_before(const struct oci_entry *e, unsigned i)
{
    for (unsigned k = 0; k < i; k++) {
        if (!strcmp(e->xattrs[k].name, e->xattrs[i].name))
            return true;
    }
    return false;
}

static int encode_xattrs(struct tree_inode *ino, const struct oci_entry *e, struct sm_error *err)
{
    uint8_t *buf, *p;
    size_t len = 0;

    for (unsigned i = 0; i < e->n_xattrs; i++)
        len += align_up(4 + strlen(e->xattrs[i].name) + e->xattrs[i].len, 4);
    if (!len)
        return 0;
    p = buf = calloc(1, len);
    if (!buf)
        return no_memory(err);
    for (unsigned i = 0; i < e->n_xattrs; i++) {
        const struct oci_xattr *x = &e->xattrs[i];
        uint8_t index = 0;
        const char *name = split_xattr(x->name, &index);
        size_t name_len;

        if (!name || xattr_seen_before(e, i))
            continue;
        name_len = strlen(name);
        p[0] = (uint8_t)name_len;
        p[1] = index;
        p[2] = (uint8_t)x->len;
        p[3] = (uint8_t)(x->len >> 8);
        memcpy(p + 4, name, name_len);
        if (x->len)
            memcpy(p + 4 + name_len, x->value, x->len);
        p += align_up(4 + name_len + x->len, 4);
    }
    ino->xattrs_len = (uint32_t)(p - buf);
    ino->xattrs = ino->xattrs_len ? STEAL_PTR(buf) : NULL;
    free(buf);
    return 0;
}

static int inode_from_entry(struct tree *t, struct tree_inode **ret, const struct oci_entry *e, struct sm_error *err)
{
    struct tree_inode *ino = calloc(1, sizeof(*ino));
    int r;

    if (!ino)
        return no_memory(err);
    *ino = (struct tree_inode){
        .type = e->type,
        .mode = e->type == OCI_SYMLINK ? 0777 : e->mode,
        .uid = e->uid,
        .gid = e->gid,
        .mtime = e->mtime,
        .mtime_ns = e->mtime_ns,
        .names = 1,
        .layer = t->layer - 1,
    };
    if (e->type == OCI_FILE) {
        ino->size = e->size;
        ino->data_off = e->data_off;
        ino->content_offset = e->content_offset;
    }
    if (e->type == OCI_CHAR || e->type == OCI_BLOCK_DEV)
        ino->rdev = encode_dev(e->major, e->minor);
    r = encode_xattrs(ino, e, err);
    if (r >= 0 && e->type == OCI_SYMLINK) {
        ino->size = strlen(e->link);
        ino->target = strdup(e->link);
        if (!ino->target)
            r = no_memory(err);
    }
    if (r < 0) {
        inode_put(ino);
        return r;
    }
    *ret = ino;
    return 0;
}

/* The inode that a hard link means; one more name of it is counted. */
static int link_target(struct tree *t, struct tree_inode **ret, const struct oci_entry *e, struct sm_error *err)
{
    char name[OCI_NAME_MAX + 1], shown[TEXT_SHOWN_SIZE], shown_link[TEXT_SHOWN_SIZE];
    struct tree_node *dir, *n = NULL;
    int r = resolve_parent(t, e, e->link, false, &dir, name, err);

    if (r < 0 && r != -ENOENT)
        return r;
    if (!r)
        n = name[0] ? node_child(dir, name, strlen(name)) : t->root;
    if (!n || n->inode->type == OCI_DIR)
        return sm_error_set(err, EINVAL, "the layer's entry \"%s\" is refused: it is a hard link to \"%s\", which %s",
                            text_shown(shown, e->path), text_shown(shown_link, e->link),
                            n ? "is a directory" : "does not exist");
    n->inode->names++;
    *ret = n->inode;
    return 0;
}

/* Metadata of a directory that was there before: all of it is replaced. */
static void adopt_dir(struct tree_node *n, struct tree_inode *ino)
{
    inode_put(n->inode);
    n->inode = ino;
}

int tree_add(struct tree *t, const struct oci_entry *e, struct sm_error *err)
{
    struct tree_inode *ino = NULL;
    struct tree_node *dir, *n;
    char name[OCI_NAME_MAX + 1];
    bool whiteout, skip;
    int r;

    assert(t->layer);
    r = entry_check(e, err);
    if (r >= 0)
        r = entry_classify(e, &whiteout, &skip, err);
    if (r < 0 || skip)
        return r;
    r = resolve_parent(t, e, e->path, !whiteout, &dir, name, err);
    if (whiteout && r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    if (whiteout)
        return white_out(t, dir, name, err);
    if (!name[0] && e->type != OCI_DIR)
        return entry_refuse(err, EINVAL, e, "is refused: the root must stay a directory");
    if (dir->depth >= OCI_DEPTH_MAX && name[0])
        return entry_refuse(err, ENAMETOOLONG, e, "is refused: the links on its way lead too deep");
    r = e->type == OCI_HARDLINK ? link_target(t, &ino, e, err) : inode_from_entry(t, &ino, e, err);
    if (r < 0)
        return r;

    n = name[0] ? node_child(dir, name, strlen(name)) : t->root;
    if (n && n->inode->type == OCI_DIR && ino->type == OCI_DIR) {
        adopt_dir(n, ino);
    } else {
        if (n)
            node_remove(t, n);
        r = node_new(t, &n, dir, name, ino, err);
        if (r < 0)
            return r;
    }
    touch(t, n);
    return 0;
}
