/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The EROFS writer.
 *
 * Theory of operation
 *
 * What: two passes over the tree. The first gives every inode its place and every block that belongs to the metadata
 * its number; the second writes, front to back, through one buffer. The image:
 *
 *   block 0       superblock at 1024; inodes begin right behind it, the root first (its number has only 16 bits)
 *   ...           inodes, directory by directory, each followed by its attributes and by its inline content
 *   ...           whole blocks: directories and links too large to be inline, in the order of their inodes
 *   (end)         the layers' data files, one after the other: written by nobody here, addressed by block number
 *
 * Layout choices: every inode is extended (nanosecond times, 32-bit owners). Inode, attributes and inline content stay
 * within one block, because Linux wants inline content not to cross one; if they cannot, the content gets blocks of its
 * own. Files are flat: holes are holes of the sparse data file. Attributes are never shared between inodes: images
 * carry few. Directory entries are sorted by bytes, "." and ".." among them.
 *
 * Reproducible: no clock, no random bytes; order comes from names alone.
 *
 * Limits: 2^32 - 1 blocks for metadata and data (16 TiB). The caller's thread; nothing shared.
 */
#include "oci/erofs.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "oci/disk.h"
#include "oci/erofs_format.h"
#include "oci/limits.h"

#define OUT_BUFFER (256 * 1024u)

/* Names of a directory, "." and ".." included, as they go to disk. */
struct dirent_item {
    const char *name;
    size_t len;
    const struct tree_inode *inode;
};

struct writer {
    struct tree *tree;
    const struct erofs_layer *layers;
    unsigned n_layers;
    int fd;

    /* One node per inode, in the order of their places. */
    struct tree_node **order;
    uint32_t n_order;

    /* The directory at hand. */
    struct dirent_item *items;
    uint32_t n_items, cap_items;

    uint64_t place;       /* where the next inode may begin */
    uint64_t n_blocks;    /* whole blocks of metadata content */
    uint64_t first_block; /* of those, counted from the start of the image */
    uint64_t next_block;  /* second pass: the next one to give out */
    uint64_t total_blocks;
    uint64_t *data_block; /* per layer: first block of its data */

    uint8_t *out;
    size_t out_len;
    uint64_t out_pos; /* file offset of out[0] */
};

static void put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, (uint16_t)v);
    put16(p + 2, (uint16_t)(v >> 16));
}

static void put64(uint8_t *p, uint64_t v)
{
    put32(p, (uint32_t)v);
    put32(p + 4, (uint32_t)(v >> 32));
}

static uint32_t get32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* CRC-32C as the superblock wants it: starts with all ones, no final inversion. 3 KiB an image: no table. */
static uint32_t crc32c(const uint8_t *p, size_t len)
{
    uint32_t crc = ~0u;

    while (len--) {
        crc ^= *p++;
        for (int i = 0; i < 8; i++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return crc;
}

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory while writing the file system");
}

/* Directories */

static void add_item(struct writer *w, const char *name, size_t len, const struct tree_inode *ino)
{
    assert(w->n_items < w->cap_items);
    w->items[w->n_items++] = (struct dirent_item){name, len, ino};
}

static void add_child(struct tree_node *child, void *ctx)
{
    add_item(ctx, child->name, child->name_len, child->inode);
}

static int compare_items(const void *a, const void *b)
{
    const struct dirent_item *x = a, *y = b;

    return strcmp(x->name, y->name);
}

static int list_dir(struct writer *w, const struct tree_node *dir, struct sm_error *err)
{
    if (w->cap_items < dir->n_children + 2) {
        uint32_t cap = dir->n_children + 2 + dir->n_children / 2;
        void *p = realloc(w->items, cap * sizeof(*w->items));

        if (!p)
            return no_memory(err);
        w->items = p;
        w->cap_items = cap;
    }
    w->n_items = 0;
    add_item(w, ".", 1, dir->inode);
    add_item(w, "..", 2, dir->parent->inode);
    tree_each_child(dir, add_child, w);
    qsort(w->items, w->n_items, sizeof(*w->items), compare_items);
    return 0;
}

/* How many items from `first` on fit into one block; *ret_used: the bytes they take. */
static uint32_t fill_block(const struct writer *w, uint32_t first, size_t *ret_used)
{
    size_t used = 0;
    uint32_t i;

    for (i = first; i < w->n_items; i++) {
        size_t need = EROFS_DIRENT_BYTES + w->items[i].len;

        if (used + need > EROFS_BLOCK)
            break;
        used += need;
    }
    *ret_used = used;
    return i - first;
}

static uint64_t dir_size(const struct writer *w)
{
    uint64_t full = 0;
    size_t used = 0;

    for (uint32_t i = 0; i < w->n_items;) {
        if (i)
            full += EROFS_BLOCK;
        i += fill_block(w, i, &used);
    }
    return full + used;
}

static uint8_t dirent_type(enum oci_type type)
{
    switch (type) {
    case OCI_FILE:
        return 1;
    case OCI_DIR:
        return 2;
    case OCI_CHAR:
        return 3;
    case OCI_BLOCK_DEV:
        return 4;
    case OCI_FIFO:
        return 5;
    case OCI_SOCKET:
        return 6;
    case OCI_SYMLINK:
        return 7;
    case OCI_HARDLINK:
    case OCI_TYPE_END:
        break;
    }
    assert(!"a node of a tree is never of this type");
    return 0;
}

static void encode_dir_block(const struct writer *w, uint32_t first, uint32_t n, uint8_t *block)
{
    size_t name_at = n * EROFS_DIRENT_BYTES;

    for (uint32_t i = 0; i < n; i++) {
        const struct dirent_item *item = &w->items[first + i];
        uint8_t *d = block + i * EROFS_DIRENT_BYTES;

        put64(d + EROFS_D_NID, item->inode->place / EROFS_SLOT);
        put16(d + EROFS_D_NAME_OFFSET, (uint16_t)name_at);
        d[EROFS_D_TYPE] = dirent_type(item->inode->type);
        d[EROFS_D_TYPE + 1] = 0;
        memcpy(block + name_at, item->name, item->len);
        name_at += item->len;
    }
}

/* First pass: places */

static uint64_t xattr_bytes(const struct tree_inode *ino)
{
    return ino->xattrs_len ? EROFS_XATTR_HEADER + ino->xattrs_len : 0;
}

/* Content that goes into the metadata image: all of a directory and a link, small files. */
static bool content_is_metadata(const struct tree_inode *ino)
{
    return ino->type == OCI_DIR || ino->type == OCI_SYMLINK || (ino->type == OCI_FILE && ino->size <= OCI_INLINE_MAX);
}

static bool content_is_inline(const struct tree_inode *ino)
{
    return content_is_metadata(ino) && ino->size && EROFS_INODE_BYTES + xattr_bytes(ino) + ino->size <= EROFS_BLOCK;
}

static void give_place(struct writer *w, struct tree_node *n)
{
    struct tree_inode *ino = n->inode;
    uint64_t head = EROFS_INODE_BYTES + xattr_bytes(ino);
    uint64_t bytes = head + (content_is_inline(ino) ? ino->size : 0);
    uint64_t left = EROFS_BLOCK - w->place % EROFS_BLOCK;

    /* Attributes alone may cross a block, an inode's 64 bytes should not. */
    if (left < (content_is_inline(ino) ? bytes : EROFS_INODE_BYTES))
        w->place += left;
    ino->place = w->place;
    w->place = align_up(w->place + bytes, EROFS_SLOT);
    if (content_is_metadata(ino) && !content_is_inline(ino))
        w->n_blocks += align_up(ino->size, EROFS_BLOCK) / EROFS_BLOCK;
    w->order[w->n_order++] = n;
}

struct place_ctx {
    struct writer *w;
    struct sm_error *err;
    int r;
};

/* Places are given directory by directory, so that what is listed together is read together. */
static void place_child(struct tree_node *child, void *ctx)
{
    struct place_ctx *c = ctx;

    if (c->r < 0 || child->inode->place)
        return;
    if (child->inode->type == OCI_DIR) {
        c->r = list_dir(c->w, child, c->err);
        if (c->r < 0)
            return;
        child->inode->size = dir_size(c->w);
    }
    give_place(c->w, child);
}

static int place_all(struct writer *w, struct sm_error *err)
{
    struct place_ctx c = {w, err, 0};

    w->order = calloc(tree_count(w->tree), sizeof(struct tree_node *));
    if (!w->order)
        return no_memory(err);
    w->place = EROFS_SB_OFFSET + EROFS_SB_BYTES;
    place_child(tree_root(w->tree), &c);
    for (uint32_t i = 0; c.r >= 0 && i < w->n_order; i++)
        tree_each_child(w->order[i], place_child, &c);
    return c.r;
}

static int place_data(struct writer *w, struct sm_error *err)
{
    uint64_t at = align_up(w->place, EROFS_BLOCK) / EROFS_BLOCK;

    w->first_block = w->next_block = at;
    at += w->n_blocks;
    w->data_block = calloc(w->n_layers ? w->n_layers : 1, sizeof(*w->data_block));
    if (!w->data_block)
        return no_memory(err);
    for (unsigned i = 0; i < w->n_layers && at <= OCI_IMAGE_MAX_BLOCKS; i++) {
        w->data_block[i] = at;
        at += w->layers[i].data_size / EROFS_BLOCK;
    }
    if (at > OCI_IMAGE_MAX_BLOCKS)
        return sm_error_set(err, EFBIG, "the image is larger than 16 TiB, the most that EROFS can address");
    w->total_blocks = at;
    return 0;
}

/* Second pass: bytes */

static int out_flush(struct writer *w, struct sm_error *err)
{
    int r = io_pwrite_full(w->fd, w->out, w->out_len, w->out_pos);

    if (r < 0)
        return disk_error(err, -r, "cannot write the image's file system");
    w->out_pos += w->out_len;
    w->out_len = 0;
    return 0;
}

/* Zeroed room for `len` bytes at file offset `at`, not before what was given out last. */
static int out_room(struct writer *w, uint64_t at, size_t len, uint8_t **ret, struct sm_error *err)
{
    assert(at >= w->out_pos + w->out_len && len <= OUT_BUFFER);
    while (at + len > w->out_pos + OUT_BUFFER) {
        size_t n = at - w->out_pos < OUT_BUFFER ? at - w->out_pos : OUT_BUFFER;
        int r;

        memset(w->out + w->out_len, 0, n - w->out_len);
        w->out_len = n;
        r = out_flush(w, err);
        if (r < 0)
            return r;
    }
    memset(w->out + w->out_len, 0, (size_t)(at + len - w->out_pos) - w->out_len);
    w->out_len = (size_t)(at + len - w->out_pos);
    *ret = w->out + (at - w->out_pos);
    return 0;
}

static int read_small_file(const struct writer *w, const struct tree_inode *ino, uint8_t *p, struct sm_error *err)
{
    ssize_t n = io_pread_full(w->layers[ino->layer].index_fd, p, ino->size, ino->content_offset);

    if (n < 0)
        return sm_error_sys(err, (int)-n, "cannot read a converted layer");
    if ((uint64_t)n != ino->size)
        return sm_error_set(err, EIO, "a converted layer became shorter while it was read");
    return 0;
}

/* Content of an inode that lives in the metadata, to `p`. A directory must be the one listed. */
static int encode_content(struct writer *w, const struct tree_inode *ino, uint8_t *p, struct sm_error *err)
{
    size_t used;

    if (ino->type == OCI_FILE)
        return read_small_file(w, ino, p, err);
    if (ino->type == OCI_SYMLINK)
        memcpy(p, ino->target, ino->size);
    else
        encode_dir_block(w, 0, fill_block(w, 0, &used), p);
    return 0;
}

static uint16_t type_bits(enum oci_type type)
{
    static const uint16_t bits[OCI_TYPE_END] = {
        [OCI_FILE] = S_IFREG, [OCI_DIR] = S_IFDIR,       [OCI_SYMLINK] = S_IFLNK, [OCI_CHAR] = S_IFCHR,
        [OCI_FIFO] = S_IFIFO, [OCI_BLOCK_DEV] = S_IFBLK, [OCI_SOCKET] = S_IFSOCK,
    };

    return bits[type];
}

static uint32_t block_or_rdev(struct writer *w, const struct tree_inode *ino)
{
    uint64_t block = 0;

    if (ino->type == OCI_CHAR || ino->type == OCI_BLOCK_DEV)
        return ino->rdev;
    if (content_is_metadata(ino)) {
        if (!content_is_inline(ino) && ino->size) {
            block = w->next_block;
            w->next_block += align_up(ino->size, EROFS_BLOCK) / EROFS_BLOCK;
        }
    } else if (ino->type == OCI_FILE) {
        block = w->data_block[ino->layer] + ino->data_off / EROFS_BLOCK;
    }
    return (uint32_t)block;
}

static int write_inode(struct writer *w, uint32_t number, struct sm_error *err)
{
    const struct tree_node *n = w->order[number];
    const struct tree_inode *ino = n->inode;
    bool is_inline = content_is_inline(ino);
    uint64_t at = ino->place;
    uint8_t *p;
    int r = out_room(w, at, EROFS_INODE_BYTES, &p, err);

    if (r < 0)
        return r;
    put16(p + EROFS_I_FORMAT, (uint16_t)(EROFS_EXTENDED | (is_inline ? EROFS_FLAT_INLINE : EROFS_FLAT_PLAIN) << 1));
    put16(p + EROFS_I_XATTRS, (uint16_t)(ino->xattrs_len ? 1 + ino->xattrs_len / 4 : 0));
    put16(p + EROFS_I_MODE, ino->mode | type_bits(ino->type));
    put64(p + EROFS_I_SIZE, ino->size);
    put32(p + EROFS_I_BLOCK_OR_RDEV, block_or_rdev(w, ino));
    put32(p + EROFS_I_INO, number + 1);
    put32(p + EROFS_I_UID, ino->uid);
    put32(p + EROFS_I_GID, ino->gid);
    put64(p + EROFS_I_MTIME, (uint64_t)ino->mtime);
    put32(p + EROFS_I_MTIME_NS, ino->mtime_ns);
    put32(p + EROFS_I_NLINK, ino->type == OCI_DIR ? 2 + n->n_subdirs : ino->names);
    at += EROFS_INODE_BYTES;

    if (ino->xattrs_len) {
        r = out_room(w, at, xattr_bytes(ino), &p, err);
        if (r < 0)
            return r;
        memcpy(p + EROFS_XATTR_HEADER, ino->xattrs, ino->xattrs_len);
        at += xattr_bytes(ino);
    }
    if (!is_inline)
        return 0;
    if (ino->type == OCI_DIR)
        r = list_dir(w, n, err);
    if (r >= 0)
        r = out_room(w, at, ino->size, &p, err);
    return r < 0 ? r : encode_content(w, ino, p, err);
}

/* The content that has whole blocks of its own, from `block` on, which moves on. */
static int write_blocks(struct writer *w, const struct tree_node *n, uint64_t *block, struct sm_error *err)
{
    const struct tree_inode *ino = n->inode;
    uint8_t *p;
    int r = 0;

    if (ino->type != OCI_DIR) {
        r = out_room(w, *block * EROFS_BLOCK, EROFS_BLOCK, &p, err);
        (*block)++;
        return r < 0 ? r : encode_content(w, ino, p, err);
    }
    r = list_dir(w, n, err);
    for (uint32_t i = 0; r >= 0 && i < w->n_items;) {
        size_t used;
        uint32_t fit = fill_block(w, i, &used);

        r = out_room(w, *block * EROFS_BLOCK, EROFS_BLOCK, &p, err);
        if (r < 0)
            break;
        encode_dir_block(w, i, fit, p);
        (*block)++;
        i += fit;
    }
    return r;
}

static int write_superblock(struct writer *w, const uint8_t uuid[16], struct sm_error *err)
{
    uint8_t block[EROFS_BLOCK], *sb = block + EROFS_SB_OFFSET;
    ssize_t n = io_pread_full(w->fd, block, sizeof(block), 0);
    int r;

    if (n != (ssize_t)sizeof(block))
        return sm_error_sys(err, n < 0 ? (int)-n : EIO, "cannot read the image's file system back");
    put32(sb + EROFS_SB_MAGIC, EROFS_MAGIC);
    put32(sb + EROFS_SB_COMPAT, EROFS_COMPAT_CHECKSUM | EROFS_COMPAT_MTIME);
    sb[EROFS_SB_BLOCK_BITS] = EROFS_BLOCK_BITS;
    put16(sb + EROFS_SB_ROOT_NID, (uint16_t)(tree_root(w->tree)->inode->place / EROFS_SLOT));
    put64(sb + EROFS_SB_INODES, w->n_order);
    put32(sb + EROFS_SB_BLOCKS, (uint32_t)w->total_blocks);
    memcpy(sb + EROFS_SB_UUID, uuid, 16);
    put32(sb + EROFS_SB_CHECKSUM, crc32c(sb, EROFS_BLOCK - EROFS_SB_OFFSET));
    r = io_pwrite_full(w->fd, block, sizeof(block), 0);
    return r < 0 ? disk_error(err, -r, "cannot write the image's file system") : 0;
}

static int write_all(struct writer *w, const uint8_t uuid[16], struct sm_error *err)
{
    uint64_t block = w->first_block;
    uint8_t *p;
    int r = 0;

    w->out = malloc(OUT_BUFFER);
    if (!w->out)
        return no_memory(err);
    for (uint32_t i = 0; r >= 0 && i < w->n_order; i++)
        r = write_inode(w, i, err);
    for (uint32_t i = 0; r >= 0 && i < w->n_order; i++) {
        const struct tree_inode *ino = w->order[i]->inode;

        if (content_is_metadata(ino) && ino->size && !content_is_inline(ino))
            r = write_blocks(w, w->order[i], &block, err);
    }
    assert(r < 0 || (block == w->next_block && block == w->first_block + w->n_blocks));
    if (r >= 0) /* the last block is whole, also when only inodes are in it */
        r = out_room(w, block * EROFS_BLOCK, 0, &p, err);
    if (r >= 0)
        r = out_flush(w, err);
    return r < 0 ? r : write_superblock(w, uuid, err);
}

int erofs_write(struct tree *t, const struct erofs_layer *layers, unsigned n_layers, const uint8_t uuid[16], int fd,
                uint64_t *ret_size, struct sm_error *err)
{
    struct writer w = {.tree = t, .layers = layers, .n_layers = n_layers, .fd = fd};
    int r = place_all(&w, err);

    if (r >= 0)
        r = place_data(&w, err);
    if (r >= 0)
        r = write_all(&w, uuid, err);
    if (r >= 0)
        *ret_size = (w.first_block + w.n_blocks) * EROFS_BLOCK;
    free(w.order);
    free(w.items);
    free(w.data_block);
    free(w.out);
    return r;
}

int erofs_check(int fd, uint64_t total_size)
{
    uint8_t block[EROFS_BLOCK], *sb = block + EROFS_SB_OFFSET;
    ssize_t n = io_pread_full(fd, block, sizeof(block), 0);
    uint32_t crc;

    if (n < 0)
        return (int)n;
    if (n != (ssize_t)sizeof(block))
        return 0;
    crc = get32(sb + EROFS_SB_CHECKSUM);
    put32(sb + EROFS_SB_CHECKSUM, 0);
    return get32(sb + EROFS_SB_MAGIC) == EROFS_MAGIC && crc == crc32c(sb, EROFS_BLOCK - EROFS_SB_OFFSET) &&
           (!total_size || (uint64_t)get32(sb + EROFS_SB_BLOCKS) * EROFS_BLOCK == total_size);
}
