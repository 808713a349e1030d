/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The `state` file: see file.h, and docs/snapshot-format.md for every byte.
 *
 * Theory of operation
 *
 *   header (64 bytes) | one entry of 24 bytes for each section | the sections' bytes, back to back
 *
 * Nothing in the file is free: sections follow each other without gaps in the order of their entries, what is not used
 * is zero, and the file ends with the last section. The header holds its own checksum and the table's, each entry its
 * section's. So every bit of the file is under exactly one checksum, and a flipped one is always found.
 *
 * Reading takes the file whole into one buffer of its size, which is limited, and believes nothing before its checksum
 * is right; after that it believes no more than before: a checksum is easily made. The magic and the place of the
 * header's checksum are the same in every version, so that a file of another version is told from a damaged one.
 */
#include "snap/file.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/io.h"
#include "snap/crc32c.h"

#define MAGIC_BYTES  8
#define HEADER_BYTES 64
#define HEADER_CRC   60 /* its offset; over what is before it */
#define ENTRY_BYTES  24

static const struct {
    char magic[MAGIC_BYTES];
    const char *name;
} arches[] = {
    {{'S', 'M', 's', 't', 'x', '8', '6', '\n'}, "x86-64"},
    {{'S', 'M', 's', 't', 'a', '6', '4', '\n'}, "arm64"},
};

#if defined(__x86_64__)
#define OWN_ARCH 0
#elif defined(__aarch64__)
#define OWN_ARCH 1
#else
#error "no magic for this architecture"
#endif

static size_t first_section(unsigned n_sections)
{
    return HEADER_BYTES + ENTRY_BYTES * (size_t)n_sections;
}

static void put_header(struct buf *b, const struct snap_stream *s, uint32_t table_crc)
{
    buf_bytes(b, arches[OWN_ARCH].magic, MAGIC_BYTES);
    buf_u32(b, SNAP_FILE_VERSION);
    buf_u32(b, SNAP_PAGE);
    buf_u64(b, first_section(s->n_sections) + s->data.len);
    buf_u32(b, s->n_sections);
    buf_u32(b, table_crc);
    buf_reserve(b, HEADER_CRC - b->len);
    buf_u32(b, b->bad ? 0 : crc32c(0, b->data, HEADER_CRC));
}

static void put_table(struct buf *b, const struct snap_stream *s)
{
    uint32_t at = (uint32_t)first_section(s->n_sections);

    for (unsigned i = 0; i < s->n_sections; i++) {
        const struct snap_section *sec = &s->section[i];

        buf_u32(b, sec->tag);
        buf_u16(b, sec->index);
        buf_u16(b, sec->version);
        buf_u32(b, at + sec->offset);
        buf_u32(b, sec->length);
        buf_u32(b, crc32c(0, s->data.data + sec->offset, sec->length));
        buf_u32(b, 0);
    }
}

int snap_file_write(const struct snap_stream *s, int fd, struct sm_error *err)
{
    struct buf head = buf_init(HEADER_BYTES), table = buf_init(ENTRY_BYTES * SNAP_STATE_MAX_SECTIONS);
    int r = snap_done(s, err);

    if (r < 0)
        return r;
    put_table(&table, s);
    put_header(&head, s, table.bad ? 0 : crc32c(0, table.data, table.len));
    if (table.bad || head.bad) {
        r = sm_error_set(err, ENOMEM, "no memory to write a snapshot's state");
        goto out;
    }
    r = io_pwrite_full(fd, head.data, head.len, 0);
    if (r == 0)
        r = io_pwrite_full(fd, table.data, table.len, head.len);
    if (r == 0)
        r = io_pwrite_full(fd, s->data.data, s->data.len, head.len + table.len);
    if (r < 0)
        sm_error_sys(err, -r, "cannot write the snapshot's state");
out:
    buf_done(&table);
    buf_done(&head);
    return r;
}

static int damaged(struct sm_error *err, const char *what)
{
    return sm_error_set(err, EBADMSG, "the snapshot's state is damaged: %s; make the snapshot anew", what);
}

/* The whole file in `data`, which is empty. */
static int read_whole(struct buf *data, int fd, struct sm_error *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return sm_error_sys(err, errno, "cannot read the snapshot's state");
    if (!S_ISREG(st.st_mode))
        return sm_error_set(err, EBADMSG, "the snapshot's state is not a file");
    if (st.st_size < HEADER_BYTES)
        return sm_error_set(err, EBADMSG, "the snapshot's state is truncated: it has %lld bytes, its header alone %d",
                            (long long)st.st_size, HEADER_BYTES);
    if ((uint64_t)st.st_size > SNAP_STATE_MAX_BYTES)
        return sm_error_set(err, EBADMSG, "the snapshot's state has %lld bytes; at most %llu MiB are allowed",
                            (long long)st.st_size, SNAP_STATE_MAX_BYTES / MIB);
    void *p = buf_reserve(data, (size_t)st.st_size);
    if (!p)
        return sm_error_set(err, ENOMEM, "no memory to read a snapshot's state");
    ssize_t n = io_pread_full(fd, p, data->len, 0);
    if (n < 0)
        return sm_error_sys(err, (int)-n, "cannot read the snapshot's state");
    if ((size_t)n != data->len)
        return sm_error_set(err, EBADMSG, "the snapshot's state became shorter while it was read");
    return 0;
}

static int check_arch(const uint8_t *magic, struct sm_error *err)
{
    for (size_t i = 0; i < ARRAY_SIZE(arches); i++) {
        if (memcmp(magic, arches[i].magic, MAGIC_BYTES))
            continue;
        if (i == OWN_ARCH)
            return 0;
        return sm_error_set(err, ENOTSUP, "the snapshot was made on %s, this host is %s; make it anew here",
                            arches[i].name, arches[OWN_ARCH].name);
    }
    return sm_error_set(err, EBADMSG, "this is not a snapshot's state, or its first bytes are damaged");
}

struct head {
    uint32_t version, page, n_sections, table_crc, crc;
    uint64_t length;
};

static int read_header(struct head *ret, const struct buf *data, struct sm_error *err)
{
    static const uint8_t zeros[HEADER_CRC];
    struct reader r = reader_init(data->data, HEADER_BYTES);
    int code = check_arch(reader_bytes(&r, MAGIC_BYTES), err);

    if (code < 0)
        return code;
    ret->version = reader_u32(&r);
    ret->page = reader_u32(&r);
    ret->length = reader_u64(&r);
    ret->n_sections = reader_u32(&r);
    ret->table_crc = reader_u32(&r);
    size_t spare = r.left - 4;
    const uint8_t *p = reader_bytes(&r, spare);
    ret->crc = reader_u32(&r);

    if (ret->crc != crc32c(0, data->data, HEADER_CRC))
        return damaged(err, "its header does not fit its checksum");
    if (ret->version != SNAP_FILE_VERSION)
        return sm_error_set(err, ENOTSUP,
                            "the snapshot has format version %u, this supermachine reads version %u; make it anew",
                            ret->version, SNAP_FILE_VERSION);
    if (ret->page != SNAP_PAGE)
        return sm_error_set(err, ENOTSUP, "the snapshot was made with pages of %u bytes, this host has %u", ret->page,
                            SNAP_PAGE);
    if (ret->length != data->len)
        return sm_error_set(err, EBADMSG, "the snapshot's state is %s: it has %zu bytes and should have %llu",
                            data->len < ret->length ? "truncated" : "too long", data->len,
                            (unsigned long long)ret->length);
    if (ret->n_sections > SNAP_STATE_MAX_SECTIONS)
        return sm_error_set(err, EBADMSG, "the snapshot's state has %u sections; at most %u are allowed",
                            ret->n_sections, SNAP_STATE_MAX_SECTIONS);
    if (memcmp(p, zeros, spare) != 0)
        return damaged(err, "its header has bytes that should be zero");
    if (first_section(ret->n_sections) > data->len)
        return damaged(err, "it is too short for its table of sections");
    return 0;
}

static int read_entry(struct snap_stream *s, struct reader *r, uint64_t expected, struct sm_error *err)
{
    struct snap_section sec = {.tag = reader_u32(r), .index = reader_u16(r), .version = reader_u16(r)};

    sec.offset = reader_u32(r);
    sec.length = reader_u32(r);
    uint32_t crc = reader_u32(r), spare = reader_u32(r);

    if (sec.offset != expected || !range_within(sec.offset, sec.length, s->data.len) || spare)
        return sm_error_set(err, EBADMSG, "the snapshot's state is damaged: section %u is not where it should be",
                            s->n_sections);
    if (sec.length > SNAP_SECTION_MAX_BYTES)
        return sm_error_set(err, EBADMSG, "the snapshot's state has a section of %u bytes; at most %u are allowed",
                            sec.length, SNAP_SECTION_MAX_BYTES);
    if (crc != crc32c(0, s->data.data + sec.offset, sec.length))
        return sm_error_set(err, EBADMSG,
                            "the snapshot's state is damaged: section %u does not fit its checksum; make the snapshot "
                            "anew",
                            s->n_sections);
    if (snap_has(s, sec.tag, sec.index))
        return sm_error_set(err, EBADMSG, "the snapshot's state has section %u twice", s->n_sections);
    s->section[s->n_sections++] = sec;
    return 0;
}

static int read_sections(struct snap_stream *s, const struct head *head, struct sm_error *err)
{
    struct reader r = reader_init(s->data.data + HEADER_BYTES, ENTRY_BYTES * (size_t)head->n_sections);
    uint64_t at = first_section(head->n_sections);

    if (head->table_crc != crc32c(0, r.p, r.left))
        return damaged(err, "its table of sections does not fit its checksum");
    while (s->n_sections < head->n_sections) {
        int code = read_entry(s, &r, at, err);

        if (code < 0)
            return code;
        at += s->section[s->n_sections - 1].length;
    }
    return at == s->data.len ? 0 : damaged(err, "there are bytes behind its last section");
}

int snap_file_read(struct snap_stream *ret, int fd, struct sm_error *err)
{
    struct snap_stream s;
    struct head head;

    snap_stream_init(&s);
    s.loading = true;
    int r = read_whole(&s.data, fd, err);
    if (r == 0)
        r = read_header(&head, &s.data, err);
    if (r == 0)
        r = read_sections(&s, &head, err);
    if (r < 0) {
        snap_stream_clear(&s);
        return r;
    }
    *ret = s;
    return 0;
}
