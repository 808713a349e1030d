/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames: see archive_frames.h.
 *
 * Theory of operation
 *
 * What: a frame is a u32 kind, a u32 length and that many bytes, little-endian. FILE (u64 size, string name) is
 * followed by DATA frames with exactly that many bytes in all, and END. LINK (u8 hard, string name, string target)
 * stands alone. Strings are a u32 length and bytes (base/buf.h).
 *
 * Limits: the number of entries, the bytes of all names, the bytes of all files: OCI_ARCHIVE_MAX_*. They are counted
 * here and not where the archive is read, because that process is the one that is not trusted.
 */
#include "oci/archive_frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "oci/limits.h"

enum kind {
    FRAME_FILE = 1,
    FRAME_DATA,
    FRAME_END,
    FRAME_LINK,
};

static int nonsense(struct sm_error *err)
{
    return sm_error_set(err, EPROTO, "the process that reads the archive reported nonsense");
}

static int count_entry(struct frames *f, size_t names, struct sm_error *err)
{
    f->names += names;
    if (++f->entries > OCI_ARCHIVE_MAX_ENTRIES)
        return sm_error_set(err, E2BIG, "the archive holds more than %u files, which is the limit",
                            OCI_ARCHIVE_MAX_ENTRIES);
    if (f->names > OCI_ARCHIVE_MAX_NAMES)
        return sm_error_set(err, E2BIG, "the names in the archive take more than %llu MiB, which is the limit",
                            OCI_ARCHIVE_MAX_NAMES / MIB);
    return 0;
}

static int take_file(struct frames *f, struct reader *r, struct sm_error *err)
{
    uint64_t size = reader_u64(r);
    CLEANUP_FREE char *name = reader_str(r, OCI_PATH_MAX);
    int code;

    if (!name || r->left || f->in_file)
        return nonsense(err);
    code = count_entry(f, strlen(name), err);
    if (code < 0)
        return code;
    if (size > OCI_ARCHIVE_MAX_BYTES - f->bytes)
        return sm_error_set(err, EFBIG,
                            "the files in the archive are larger than %llu GiB together, which is the limit",
                            OCI_ARCHIVE_MAX_BYTES / GIB);
    f->bytes += size;
    f->left = size;
    f->in_file = true;
    return f->sink->file(f->sink->ctx, name, size, err);
}

static int take_link(struct frames *f, struct reader *r, struct sm_error *err)
{
    uint8_t hard = reader_u8(r);
    CLEANUP_FREE char *name = reader_str(r, OCI_PATH_MAX);
    CLEANUP_FREE char *target = reader_str(r, OCI_LINK_MAX);
    int code;

    if (!name || !target || hard > 1 || r->left || f->in_file)
        return nonsense(err);
    code = count_entry(f, strlen(name) + strlen(target), err);
    return code < 0 ? code : f->sink->link(f->sink->ctx, name, target, hard, err);
}

static int take_data(struct frames *f, struct reader *r, struct sm_error *err)
{
    size_t len = r->left;

    if (!f->in_file || !len || len > f->left)
        return nonsense(err);
    f->left -= len;
    return f->sink->data(f->sink->ctx, r->p, len, err);
}

static int take_end(struct frames *f, const struct reader *r, struct sm_error *err)
{
    if (!f->in_file || f->left || r->left)
        return nonsense(err);
    f->in_file = false;
    return f->sink->end(f->sink->ctx, err);
}

static int take_frame(struct frames *f, uint32_t kind, struct reader body, struct sm_error *err)
{
    switch (kind) {
    case FRAME_FILE:
        return take_file(f, &body, err);
    case FRAME_DATA:
        return take_data(f, &body, err);
    case FRAME_END:
        return take_end(f, &body, err);
    case FRAME_LINK:
        return take_link(f, &body, err);
    default:
        return nonsense(err);
    }
}

ssize_t frames_take(struct frames *f, const void *data, size_t len, struct sm_error *err)
{
    struct reader r = reader_init(data, len);

    while (r.left >= FRAME_HEAD) {
        struct reader head = r;
        uint32_t kind = reader_u32(&head), size = reader_u32(&head);
        int code;

        if (size > FRAME_MAX)
            return nonsense(err);
        if (head.left < size)
            break;
        code = take_frame(f, kind, reader_init(head.p, size), err);
        if (code < 0)
            return code;
        r = reader_init(head.p + size, head.left - size);
    }
    return (ssize_t)(len - r.left);
}

int frames_end(const struct frames *f, size_t rest, struct sm_error *err)
{
    return f->in_file || rest ? nonsense(err) : 0;
}

/* Sending */

static int send_frame(int fd, uint32_t kind, struct buf *body)
{
    struct buf b = buf_init(FRAME_BUF_SIZE);
    int r;

    buf_u32(&b, kind);
    buf_u32(&b, (uint32_t)body->len);
    buf_bytes(&b, body->data, body->len);
    r = b.bad || body->bad ? -ENOMEM : io_write_full(fd, b.data, b.len);
    buf_done(&b);
    buf_done(body);
    return r;
}

int frames_send_file(int fd, const char *name, uint64_t size)
{
    struct buf b = buf_init(FRAME_MAX);

    buf_u64(&b, size);
    buf_str(&b, name);
    return send_frame(fd, FRAME_FILE, &b);
}

int frames_send_link(int fd, const char *name, const char *target, bool hard)
{
    struct buf b = buf_init(FRAME_MAX);

    buf_u8(&b, hard);
    buf_str(&b, name);
    buf_str(&b, target);
    return send_frame(fd, FRAME_LINK, &b);
}

int frames_send_data(int fd, const void *data, size_t len)
{
    const uint8_t *p = data;
    int r = 0;

    while (!r && len) {
        size_t n = len < FRAME_MAX ? len : FRAME_MAX;
        struct buf head = buf_init(FRAME_HEAD);

        buf_u32(&head, FRAME_DATA);
        buf_u32(&head, (uint32_t)n);
        r = head.bad ? -ENOMEM : io_write_full(fd, head.data, head.len);
        buf_done(&head);
        if (!r)
            r = io_write_full(fd, p, n);
        p += n;
        len -= n;
    }
    return r;
}

int frames_send_end(int fd)
{
    struct buf none = buf_init(0);

    return send_frame(fd, FRAME_END, &none);
}
