/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading archives of snapshots.
 *
 * Theory of operation
 *
 * What: a tar whose members have one order, names that are known beforehand, and sizes that each follow from what came
 * before, or have a limit. So a header is compared more than it is parsed: nothing in it decides where something goes.
 * What is not exactly as snapshot_archive_write() makes it is refused (tars that other programs make of the same files
 * usually differ in their order).
 *
 * `pages` tells how long memory is and which pages follow; the file gets its length at once, and pages are written
 * where they belong. So what an archive can make grow on disk is what it brings itself, and one file's length.
 *
 * Limits: state and metadata have theirs, memory is at most SM_VM_MEMORY_MIB_MAX. Nothing is read behind the end mark.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "lib/snapshot_archive.h"
#include "oci/events.h"
#include "oci/limits.h"
#include "snap/memory.h"

#define BLOCK       512u
#define CHUNK_PAGES 256u

/* POSIX.1-1988, table 10-1: offsets and lengths of what is looked at. */
#define AT_SIZE     124
#define AT_CHECKSUM 148
#define AT_TYPE     156
#define AT_LINK     157
#define AT_MAGIC    257
#define AT_PREFIX   345
#define NAME_BYTES  100
#define DIGITS      12

struct archive {
    int fd;
    const struct oci_events *events;
    uint64_t done, told_ns;
};

static int bad(struct sm_error *err, const char *text)
{
    return sm_error_set(err, EBADMSG, "the archive %s", text);
}

/* All of it: a signal must get through to the caller while the other end of a pipe does not write. */
static int read_all(struct archive *a, void *data, size_t len, struct sm_error *err)
{
    char *p = data;
    int r;

    while (len) {
        struct pollfd poll_fd = {.fd = a->fd, .events = POLLIN};
        ssize_t n = read(a->fd, p, len);

        if (n == 0)
            return bad(err, "ends early: it is cut, or is none of a snapshot");
        if (n > 0) {
            p += n;
            len -= (size_t)n;
            a->done += (uint64_t)n;
            if (!event_due(a->events, &a->told_ns))
                continue;
        } else if (errno != EINTR && errno != EAGAIN) {
            return sm_error_sys(err, errno, "cannot read the archive");
        }
        r = event_tell(a->events, OCI_EVENT_LOADING, NULL, a->done, 0, err);
        if (r < 0)
            return r;
        if (n < 0 && poll(&poll_fd, 1, event_timeout(a->events)) < 0 && errno != EINTR)
            return sm_error_sys(err, errno, "cannot read the archive");
    }
    return 0;
}

/* Octal digits, then a NUL or space. */
static bool octal(const uint8_t *p, size_t len, uint64_t *ret)
{
    uint64_t v = 0;
    size_t i = 0;

    for (; i < len && p[i] >= '0' && p[i] <= '7'; i++)
        v = v * 8 + (uint64_t)(p[i] - '0'); /* 12 digits at most */
    *ret = v;
    return i > 0 && (i == len || p[i] == '\0' || p[i] == ' ');
}

static bool is_header(const uint8_t *h)
{
    uint64_t want, sum = 0;

    for (unsigned i = 0; i < BLOCK; i++)
        sum += i >= AT_CHECKSUM && i < AT_CHECKSUM + 8 ? ' ' : h[i];
    return memcmp(h + AT_MAGIC,
                  "ustar\0"
                  "00",
                  8) == 0 &&
           octal(h + AT_CHECKSUM, 8, &want) && want == sum;
}

/* The header of a file `name`; its size must be at least `min` and at most `max`. */
static int read_header(struct archive *a, const char *name, uint64_t min, uint64_t max, uint64_t *ret_size,
                       struct sm_error *err)
{
    uint8_t h[BLOCK];
    char want[NAME_BYTES] = "";
    uint64_t size;
    int r = read_all(a, h, sizeof(h), err);

    if (r < 0)
        return r;
    if (!is_header(h))
        return bad(err, "is none of a snapshot, or damaged: a header is not right");
    snprintf(want, sizeof(want), "%s", name);
    if (memcmp(h, want, sizeof(want)) != 0 || h[AT_PREFIX] || h[AT_LINK] || h[AT_TYPE] != '0')
        return sm_error_set(err, EBADMSG,
                            "the archive is none of a snapshot: its file \"%s\" is not where it should be", name);
    if (!octal(h + AT_SIZE, DIGITS, &size) || size < min || size > max)
        return sm_error_set(err, EBADMSG, "the archive is not right: its file \"%s\" has an impossible size", name);
    *ret_size = size;
    return 0;
}

static int skip_padding(struct archive *a, uint64_t size, struct sm_error *err)
{
    uint8_t rest[BLOCK];

    return size % BLOCK ? read_all(a, rest, BLOCK - size % BLOCK, err) : 0;
}

/* A whole small file. To be freed. */
static int read_file(struct archive *a, const char *name, uint64_t min, uint64_t max, uint8_t **ret, uint64_t *ret_size,
                     struct sm_error *err)
{
    CLEANUP_FREE uint8_t *data = NULL;
    int r = read_header(a, name, min, max, ret_size, err);

    if (r < 0)
        return r;
    data = malloc(*ret_size);
    if (!data)
        return sm_error_set(err, ENOMEM, "out of memory while reading an archive");
    r = read_all(a, data, *ret_size, err);
    if (r >= 0)
        r = skip_padding(a, *ret_size, err);
    if (r >= 0)
        *ret = STEAL_PTR(data);
    return r;
}

static int write_failed(int code, struct sm_error *err)
{
    if (code == ENOSPC || code == EDQUOT)
        return sm_error_set(err, code,
                            "cannot store a snapshot: the disk is full; make room there, for example with "
                            "`supermachine prune`");
    return sm_error_sys(err, code, "cannot store a snapshot");
}

static int read_state(struct archive *a, int state_fd, struct sm_error *err)
{
    CLEANUP_FREE uint8_t *data = NULL;
    uint64_t size;
    int r = read_file(a, ARCHIVE_STATE, 1, SNAP_STATE_MAX_BYTES, &data, &size, err);

    if (r < 0)
        return r;
    r = io_pwrite_full(state_fd, data, size, 0);
    return r < 0 ? write_failed(-r, err) : 0;
}

/* Memory */

struct memory {
    int fd;
    const uint8_t *bits; /* of pages that come */
    uint32_t pages, at;  /* the next one that is not there yet */
    uint8_t *buf;        /* CHUNK_PAGES */
    uint64_t left;       /* bytes of all parts that are to come */
};

static bool comes(const struct memory *m, uint32_t page)
{
    return m->bits[page / 8] >> (page % 8) & 1;
}

/* The next neighbouring pages: how many, at m->at. */
static uint32_t next_pages(struct memory *m, uint32_t max)
{
    uint32_t n = 0;

    while (m->at < m->pages && !comes(m, m->at))
        m->at += m->bits[m->at / 8] || m->at % 8 ? 1 : 8;
    while (n < max && m->at + n < m->pages && comes(m, m->at + n))
        n++;
    return n;
}

static int read_part(struct archive *a, struct memory *m, unsigned number, struct sm_error *err)
{
    uint64_t want = m->left < ARCHIVE_PART_BYTES ? m->left : ARCHIVE_PART_BYTES, size;
    char name[32];
    int r;

    snprintf(name, sizeof(name), ARCHIVE_PART, number);
    r = read_header(a, name, want, want, &size, err);
    for (uint64_t left = size; r >= 0 && left;) {
        uint32_t n = next_pages(m, left / SNAP_PAGE < CHUNK_PAGES ? (uint32_t)(left / SNAP_PAGE) : CHUNK_PAGES);
        size_t len = (size_t)n * SNAP_PAGE;

        assert(n > 0); /* as many bits are set as pages come */
        r = read_all(a, m->buf, len, err);
        if (r < 0)
            return r;
        r = io_pwrite_full(m->fd, m->buf, len, (uint64_t)m->at * SNAP_PAGE);
        if (r < 0)
            return write_failed(-r, err);
        m->at += n;
        left -= len;
    }
    if (r >= 0)
        m->left -= size;
    return r;
}

static int read_parts(struct archive *a, struct memory *m, struct sm_error *err)
{
    int r = 0;

    if (ftruncate(m->fd, (off_t)m->pages * SNAP_PAGE) < 0)
        return write_failed(errno, err);
    m->buf = malloc((size_t)CHUNK_PAGES * SNAP_PAGE);
    if (!m->buf)
        return sm_error_set(err, ENOMEM, "out of memory while reading an archive");
    for (unsigned i = 0; r >= 0 && m->left; i++)
        r = read_part(a, m, i, err);
    free(m->buf);
    return r;
}

static int read_memory(struct archive *a, int memory_fd, uint32_t *ret_mib, struct sm_error *err)
{
    CLEANUP_FREE uint8_t *bits = NULL;
    struct memory m = {.fd = memory_fd};
    uint64_t size;
    int r = read_file(a, ARCHIVE_PAGES, ARCHIVE_PAGES_BYTES(1), ARCHIVE_PAGES_BYTES(SM_VM_MEMORY_MIB_MAX), &bits, &size,
                      err);

    if (r < 0)
        return r;
    if (size % ARCHIVE_PAGES_BYTES(1))
        return bad(err, "is not right: its memory is no whole number of MiB");
    for (uint64_t i = 0; i < size; i++)
        m.left += (uint64_t)__builtin_popcount(bits[i]) * SNAP_PAGE;
    m.bits = bits;
    m.pages = (uint32_t)(8 * size);
    *ret_mib = (uint32_t)(size / ARCHIVE_PAGES_BYTES(1));
    return read_parts(a, &m, err);
}

static int read_metadata(struct archive *a, uint32_t mib, struct snapshot_meta *ret, struct sm_error *err)
{
    CLEANUP_FREE uint8_t *data = NULL;
    struct snapshot_meta m;
    uint64_t size;
    int r = read_file(a, ARCHIVE_METADATA, 1, OCI_JSON_MAX_BYTES, &data, &size, err);

    if (r >= 0)
        r = snapshot_meta_parse(&m, data, size, err);
    if (r < 0)
        return err && r != -ECANCELED && strncmp(err->text, "its ", 4) == 0 ? sm_error_wrap(err, "the archive") : r;
    if (m.base[0])
        r = bad(err, "is not right: its snapshot is a difference to one that is not in it");
    else if (m.memory_mib != mib)
        r = bad(err, "is not right: its metadata says that there is more memory, or less");
    if (r < 0)
        snapshot_meta_done(&m);
    else
        *ret = m;
    return r;
}

static int read_end(struct archive *a, struct sm_error *err)
{
    static const uint8_t zeros[2 * BLOCK];
    uint8_t end[sizeof(zeros)];
    int r = read_all(a, end, sizeof(end), err);

    return r >= 0 && memcmp(end, zeros, sizeof(end)) != 0 ? bad(err, "has more behind its end") : r;
}

int snapshot_archive_read(int fd, int state_fd, int memory_fd, struct snapshot_meta *ret,
                          const struct oci_events *events, struct sm_error *err)
{
    struct archive a = {.fd = fd, .events = events};
    uint32_t mib = 0;
    int r = read_state(&a, state_fd, err);

    if (r >= 0)
        r = read_memory(&a, memory_fd, &mib, err);
    if (r >= 0)
        r = read_metadata(&a, mib, ret, err);
    if (r < 0)
        return r;
    r = read_end(&a, err);
    if (r < 0)
        snapshot_meta_done(ret);
    return r;
}
