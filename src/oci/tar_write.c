/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tar writer: ustar (POSIX.1-1988, 10.1.1), and before a file of 8 GiB or more, whose size does not fit into 11
 * octal digits, a pax header (POSIX.1-2001, pax) with its size.
 */
#include "oci/tar_write.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "oci/events.h"

#define BLOCK     512u
#define USTAR_MAX 077777777777ull /* 11 digits */

/* POSIX.1-1988, table 10-1. Numbers are octal digits with a NUL behind. */
struct ustar {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[6], version[2],
        uname[32], gname[32], major[8], minor[8], prefix[155], zero[12];
};

_Static_assert(sizeof(struct ustar) == BLOCK, "one block");

static int tell(struct tar_writer *w, struct sm_error *err)
{
    return event_tell(w->events, OCI_EVENT_SAVING, NULL, w->written, w->total, err);
}

/* A signal must get through to the caller while the other end of a pipe does not read: hence not io_write_full. */
static int write_all(struct tar_writer *w, const void *data, size_t len, struct sm_error *err)
{
    const char *p = data;
    int r = 0;

    while (len) {
        struct pollfd poll_fd = {.fd = w->fd, .events = POLLOUT};
        ssize_t n = write(w->fd, p, len);

        if (n >= 0) {
            p += n;
            len -= (size_t)n;
            continue;
        }
        if (errno != EINTR && errno != EAGAIN)
            return sm_error_sys(err, errno, "cannot write the archive");
        r = tell(w, err);
        if (r < 0)
            return r;
        if (poll(&poll_fd, 1, event_timeout(w->events)) < 0 && errno != EINTR)
            return sm_error_sys(err, errno, "cannot write the archive");
    }
    return 0;
}

static int write_header(struct tar_writer *w, const char *name, char type, unsigned mode, uint64_t size,
                        struct sm_error *err)
{
    struct ustar h = {.type = type, .magic = "ustar", .version = {'0', '0'}};
    const unsigned char *bytes = (const unsigned char *)&h;
    size_t len = strlen(name);
    unsigned sum = 0;

    assert(len <= sizeof(h.name));
    memcpy(h.name, name, len);
    snprintf(h.mode, sizeof(h.mode), "%07o", mode);
    snprintf(h.uid, sizeof(h.uid), "%07o", 0);
    snprintf(h.gid, sizeof(h.gid), "%07o", 0);
    snprintf(h.size, sizeof(h.size), "%011llo", (unsigned long long)size);
    snprintf(h.mtime, sizeof(h.mtime), "%011o", 0);
    snprintf(h.major, sizeof(h.major), "%07o", 0);
    snprintf(h.minor, sizeof(h.minor), "%07o", 0);
    memset(h.checksum, ' ', sizeof(h.checksum));
    for (size_t i = 0; i < sizeof(h); i++)
        sum += bytes[i];
    snprintf(h.checksum, sizeof(h.checksum), "%06o", sum); /* six digits, NUL, and the space that is there */
    return write_all(w, &h, sizeof(h), err);
}

static int write_padding(struct tar_writer *w, uint64_t size, struct sm_error *err)
{
    static const char zeros[BLOCK];

    return write_all(w, zeros, (BLOCK - size % BLOCK) % BLOCK, err);
}

/* One record, "LENGTH size=SIZE\n", where LENGTH counts itself. */
static int write_pax_size(struct tar_writer *w, uint64_t size, struct sm_error *err)
{
    char record[64];
    int len = snprintf(record, sizeof(record), " size=%llu\n", (unsigned long long)size), r;

    len += 2; /* of two digits: the number has 11 to 20 */
    len = snprintf(record, sizeof(record), "%d size=%llu\n", len, (unsigned long long)size);
    r = write_header(w, "pax", 'x', 0444, (uint64_t)len, err);
    if (r >= 0)
        r = write_all(w, record, (size_t)len, err);
    return r < 0 ? r : write_padding(w, (uint64_t)len, err);
}

int tar_dir(struct tar_writer *w, const char *name, struct sm_error *err)
{
    assert(!w->left);
    return write_header(w, name, '5', 0755, 0, err);
}

int tar_file(struct tar_writer *w, const char *name, uint64_t size, struct sm_error *err)
{
    int r = size > USTAR_MAX ? write_pax_size(w, size, err) : 0;

    assert(!w->left);
    w->left = w->size = size;
    return r < 0 ? r : write_header(w, name, '0', 0444, size > USTAR_MAX ? 0 : size, err);
}

int tar_data(struct tar_writer *w, const void *data, size_t len, struct sm_error *err)
{
    int r = write_all(w, data, len, err);

    assert(len <= w->left);
    if (r < 0)
        return r;
    w->left -= len;
    w->written += len;
    if (!w->left && len)
        r = write_padding(w, w->size, err);
    return r >= 0 && event_due(w->events, &w->told_ns) ? tell(w, err) : r;
}

int tar_finish(struct tar_writer *w, struct sm_error *err)
{
    static const char end[2 * BLOCK];
    int r = write_all(w, end, sizeof(end), err);

    assert(!w->left);
    return r < 0 ? r : tell(w, err);
}
