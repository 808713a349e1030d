/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading and writing a layer's index; the format is in index.h.
 *
 * Theory of operation
 *
 * What: the writer appends records through one buffer and fills the header in at the end, so a layer of any size costs
 * the converting process no more than that. The reader goes the same way, one record at a time, and hashes what it
 * reads; the last call compares the hash.
 *
 * The reader trusts nothing: lengths against what is left, types, names without NUL, small files inside the record,
 * large ones inside the data file. What makes a path good or bad is tree_add's business.
 *
 * Limits: one record <= RECORD_MAX, which follows from the limits of an entry.
 */
#include "oci/index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "base/checked.h"
#include "base/io.h"
#include "oci/digest.h"
#include "oci/disk.h"
#include "oci/limits.h"

#define WRITE_AT   (256 * 1024u) /* flush the buffer from here on */
#define READ_CHUNK (256 * 1024u)
#define RECORD_MAX (OCI_PATH_MAX + OCI_LINK_MAX + OCI_XATTRS_BYTES + OCI_XATTRS_MAX * 8 + OCI_INLINE_MAX + 256)

static const char magic[8] = "SMLAYER";

struct index_writer {
    int fd;
    struct buf buf;
    struct hasher *hash;
    uint64_t written; /* of the body */
    uint32_t entries;
};

struct index_reader {
    int fd;
    struct hasher *hash;
    struct digest want;
    uint8_t *buf; /* READ_CHUNK + RECORD_MAX + 4: always holds one whole record */
    size_t len, pos;
    uint64_t offset; /* file offset of buf[0] */
    uint64_t left;   /* of the body, not yet in buf */
    uint64_t data_size;
    uint32_t entries;
    char path[OCI_PATH_MAX + 1], link[OCI_LINK_MAX + 1];
    char (*names)[OCI_XATTR_NAME_MAX + 1];
    struct oci_xattr xattrs[OCI_XATTRS_MAX];
};

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory for a layer's index");
}

int index_writer_new(struct index_writer **ret, int fd, struct sm_error *err)
{
    struct index_writer *w = calloc(1, sizeof(*w));
    int r;

    if (!w)
        return no_memory(err);
    w->fd = fd;
    w->buf = buf_init(WRITE_AT + RECORD_MAX + 4);
    r = hasher_new(&w->hash, err);
    if (r < 0) {
        index_writer_free(w);
        return r;
    }
    *ret = w;
    return 0;
}

void index_writer_free(struct index_writer *w)
{
    if (!w)
        return;
    buf_done(&w->buf);
    hasher_free(w->hash);
    free(w);
}

static int flush(struct index_writer *w, struct sm_error *err)
{
    int r;

    if (w->written + w->buf.len > OCI_LAYER_MAX_INDEX)
        return sm_error_set(err, EFBIG, "the layer's names and attributes take more than 2 GiB, which is the limit");
    r = io_pwrite_full(w->fd, w->buf.data, w->buf.len, INDEX_HEADER_BYTES + w->written);
    if (r < 0)
        return disk_error(err, -r, "cannot write the layer's index");
    hasher_add(w->hash, w->buf.data, w->buf.len);
    w->written += w->buf.len;
    w->buf.len = 0;
    return 0;
}

static void put_bytes(struct buf *b, const void *data, size_t len)
{
    buf_u32(b, (uint32_t)len);
    buf_bytes(b, data, len);
}

int index_write(struct index_writer *w, const struct oci_entry *e, struct sm_error *err)
{
    struct buf *b = &w->buf;
    size_t start = b->len;

    buf_u32(b, 0);
    buf_u8(b, (uint8_t)e->type);
    buf_u8(b, 0);
    buf_u16(b, e->mode);
    buf_u32(b, e->uid);
    buf_u32(b, e->gid);
    buf_u64(b, (uint64_t)e->mtime);
    buf_u32(b, e->mtime_ns);
    buf_u32(b, e->major);
    buf_u32(b, e->minor);
    buf_u64(b, e->size);
    buf_u64(b, e->data_off);
    buf_str(b, e->path);
    buf_str(b, e->link);
    buf_u16(b, (uint16_t)e->n_xattrs);
    for (unsigned i = 0; i < e->n_xattrs; i++) {
        buf_str(b, e->xattrs[i].name);
        put_bytes(b, e->xattrs[i].value, e->xattrs[i].len);
    }
    if (e->type == OCI_FILE && e->size <= OCI_INLINE_MAX)
        put_bytes(b, e->content, e->size);
    else
        buf_u32(b, 0);
    if (b->bad)
        return no_memory(err);
    buf_patch_u32(b, start, (uint32_t)(b->len - start - 4));
    w->entries++;
    return b->len >= WRITE_AT ? flush(w, err) : 0;
}

int index_finish(struct index_writer *w, uint64_t data_size, struct sm_error *err)
{
    struct digest digest;
    struct buf h = buf_init(INDEX_HEADER_BYTES);
    int r = flush(w, err);

    if (r < 0)
        return r;
    hasher_end(w->hash, &digest);
    buf_bytes(&h, magic, sizeof(magic));
    buf_u32(&h, INDEX_VERSION);
    buf_u32(&h, w->entries);
    buf_u64(&h, w->written);
    buf_u64(&h, data_size);
    buf_bytes(&h, digest.bytes, sizeof(digest.bytes));
    buf_reserve(&h, INDEX_HEADER_BYTES - h.len);
    r = h.bad ? -ENOMEM : io_pwrite_full(w->fd, h.data, h.len, 0);
    buf_done(&h);
    return r < 0 ? disk_error(err, -r, "cannot write the layer's index") : 0;
}

static int damaged(struct sm_error *err, const char *what)
{
    return sm_error_set(err, EBADMSG, "the layer's index is damaged: %s", what);
}

int index_reader_new(struct index_reader **ret, int fd, struct sm_error *err)
{
    uint8_t header[INDEX_HEADER_BYTES];
    struct index_reader *r = NULL;
    struct reader in = reader_init(header, sizeof(header));
    struct stat st;
    ssize_t n = io_pread_full(fd, header, sizeof(header), 0);
    int code;

    if (n < 0 || fstat(fd, &st) < 0)
        return sm_error_sys(err, n < 0 ? (int)-n : errno, "cannot read a layer's index");
    if (n != (ssize_t)sizeof(header) || memcmp(reader_bytes(&in, sizeof(magic)), magic, sizeof(magic)))
        return damaged(err, "it does not begin as one");
    if (reader_u32(&in) != INDEX_VERSION)
        return damaged(err, "it is of another version");
    r = calloc(1, sizeof(*r));
    if (!r)
        return no_memory(err);
    r->fd = fd;
    r->entries = reader_u32(&in);
    r->left = reader_u64(&in);
    r->data_size = reader_u64(&in);
    memcpy(r->want.bytes, reader_bytes(&in, DIGEST_BYTES), DIGEST_BYTES);
    r->offset = INDEX_HEADER_BYTES;
    if (r->entries > OCI_LAYER_MAX_ENTRIES || r->left > OCI_LAYER_MAX_INDEX || !is_aligned(r->data_size, OCI_BLOCK) ||
        r->data_size > 2 * OCI_LAYER_MAX_DATA || st.st_size < 0 ||
        (uint64_t)st.st_size != INDEX_HEADER_BYTES + r->left) {
        code = damaged(err, "its header does not fit the file");
        goto fail;
    }
    code = hasher_new(&r->hash, err);
    if (code < 0)
        goto fail;
    r->buf = malloc(READ_CHUNK + RECORD_MAX + 4);
    r->names = calloc(OCI_XATTRS_MAX, sizeof(*r->names));
    if (!r->buf || !r->names) {
        code = no_memory(err);
        goto fail;
    }
    *ret = r;
    return 0;
fail:
    index_reader_free(r);
    return code;
}

void index_reader_free(struct index_reader *r)
{
    if (!r)
        return;
    hasher_free(r->hash);
    free(r->buf);
    free(r->names);
    free(r);
}

uint64_t index_data_size(const struct index_reader *r)
{
    return r->data_size;
}

/* Make sure that a whole record is in the buffer, if there is one. */
static int fill(struct index_reader *r, struct sm_error *err)
{
    size_t want;
    ssize_t n;

    if (r->len - r->pos >= RECORD_MAX + 4 || !r->left)
        return 0;
    memmove(r->buf, r->buf + r->pos, r->len - r->pos);
    r->offset += r->pos;
    r->len -= r->pos;
    r->pos = 0;
    want = r->left < READ_CHUNK ? r->left : READ_CHUNK;
    n = io_pread_full(r->fd, r->buf + r->len, want, r->offset + r->len);
    if (n < 0)
        return sm_error_sys(err, (int)-n, "cannot read a layer's index");
    if ((size_t)n != want)
        return damaged(err, "it ends early");
    hasher_add(r->hash, r->buf + r->len, want);
    r->len += want;
    r->left -= want;
    return 0;
}

/* A string into a fixed place. */
static const char *take_str(struct reader *in, char *to, size_t max)
{
    uint32_t len = reader_u32(in);
    const char *p = len <= max ? reader_bytes(in, len) : NULL;

    if (!p || memchr(p, '\0', len)) {
        in->bad = true;
        len = 0;
    } else {
        memcpy(to, p, len);
    }
    to[len] = '\0';
    return to;
}

static void take_xattrs(struct index_reader *r, struct reader *in, struct oci_entry *e)
{
    e->n_xattrs = reader_u16(in);
    if (e->n_xattrs > OCI_XATTRS_MAX) {
        in->bad = true;
        e->n_xattrs = 0;
    }
    for (unsigned i = 0; i < e->n_xattrs; i++) {
        r->xattrs[i].name = take_str(in, r->names[i], OCI_XATTR_NAME_MAX);
        r->xattrs[i].len = reader_u32(in);
        r->xattrs[i].value = reader_bytes(in, r->xattrs[i].len);
    }
    e->xattrs = r->xattrs;
}

/* Where the content is must lie inside what holds it. */
static bool take_content(const struct index_reader *r, struct reader *in, struct oci_entry *e)
{
    uint32_t len = reader_u32(in);
    const uint8_t *content = reader_bytes(in, len);

    if (in->bad)
        return false;
    if (e->type != OCI_FILE)
        return !len && !e->size && !e->data_off;
    if (e->size > OCI_INLINE_MAX)
        return !len && is_aligned(e->data_off, OCI_BLOCK) && range_within(e->data_off, e->size, r->data_size);
    e->content = content;
    e->content_offset = r->offset + (uint64_t)(content - r->buf);
    return len == e->size && !e->data_off;
}

static bool parse_record(struct index_reader *r, struct reader *in, struct oci_entry *e)
{
    uint8_t type = reader_u8(in), zero = reader_u8(in);
    bool ok;

    *e = (struct oci_entry){.type = (enum oci_type)type};
    e->mode = reader_u16(in);
    e->uid = reader_u32(in);
    e->gid = reader_u32(in);
    e->mtime = (int64_t)reader_u64(in);
    e->mtime_ns = reader_u32(in);
    e->major = reader_u32(in);
    e->minor = reader_u32(in);
    e->size = reader_u64(in);
    e->data_off = reader_u64(in);
    e->path = take_str(in, r->path, OCI_PATH_MAX);
    e->link = take_str(in, r->link, OCI_LINK_MAX);
    take_xattrs(r, in, e);
    ok = type >= OCI_FILE && type < OCI_TYPE_END && !zero && e->mode <= 07777 && take_content(r, in, e);
    return ok && !in->bad && !in->left;
}

int index_read(struct index_reader *r, struct oci_entry *ret, struct sm_error *err)
{
    struct digest got;
    struct reader in;
    uint32_t len;
    int code = fill(r, err);

    if (code < 0)
        return code;
    if (r->pos == r->len) {
        if (r->entries)
            return damaged(err, "entries are missing");
        if (!r->hash)
            return 0;
        hasher_end(r->hash, &got);
        hasher_free(r->hash);
        r->hash = NULL;
        return digest_equal(&got, &r->want) ? 0 : damaged(err, "its checksum is wrong");
    }
    in = reader_init(r->buf + r->pos, r->len - r->pos);
    len = reader_u32(&in);
    if (in.bad || len > RECORD_MAX || len > in.left || !r->entries)
        return damaged(err, "an entry leaves its bounds");
    in.left = len;
    if (!parse_record(r, &in, ret))
        return damaged(err, "an entry is malformed");
    r->pos += 4 + len;
    r->entries--;
    return 1;
}
