/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading an archive.
 *
 * Theory of operation
 *
 * What: a confined process (oci/sandbox.h) reads the descriptor, decompresses, takes the tar apart and sends what it
 * finds as frames over a socket. This side checks the frames and hands them on. So whatever the bytes do to the code
 * that parses them, they get no further than a stream that is checked for itself; and digests are computed here.
 *
 * The process sees files and links only. Sparse files are refused: what is left out in one can be of any size, and no
 * program writes an image's blobs so.
 *
 * Waiting: on the socket, with a time-out when there are events to be told, for a pipe may stay silent for long.
 *
 * Limits: those of frames; what decompresses to more than OCI_LAYER_MAX_RATIO times its size beyond
 * OCI_LAYER_RATIO_FLOOR is taken for a bomb by the confined process; its processor time and memory.
 */
#include "oci/archive.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "oci/events.h"
#include "oci/limits.h"
#include "oci/sandbox.h"
#include "oci/text.h"
#include "oci/unpack.h"

#define CHUNK     (256 * 1024u)
#define HEAD      512u /* of the stream, kept to say what it looks like */
#define SOCKET_SZ (1024 * 1024)

/* In the child */

struct child {
    int in, out;
    uint8_t *buf;
    uint8_t head[HEAD];
    size_t head_len;
    uint64_t bytes_in, bytes_out;
    bool any;                    /* entries were seen */
    char name[OCI_PATH_MAX + 1]; /* of the file that is being read */
    uint64_t size, at;
};

static ssize_t read_piece(void *ctx, const void **ret)
{
    struct child *c = ctx;
    ssize_t n;

    do {
        n = read(c->in, c->buf, CHUNK);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    if (c->head_len < HEAD) {
        size_t more = (size_t)n < HEAD - c->head_len ? (size_t)n : HEAD - c->head_len;

        memcpy(c->head + c->head_len, c->buf, more);
        c->head_len += more;
    }
    c->bytes_in += (uint64_t)n;
    *ret = c->buf;
    return n;
}

static int refuse(struct sm_error *err, int code, const char *name, const char *why)
{
    char shown[TEXT_SHOWN_SIZE];

    return sm_error_set(err, code, "the archive's file \"%s\" %s", text_shown(shown, name), why);
}

/* The receiver has gone away, and knows why. */
static int sent(int r, struct sm_error *err)
{
    return r < 0 ? sm_error_sys(err, -r, "cannot pass the archive on") : 0;
}

static int on_entry(void *ctx, const struct oci_entry *e, struct sm_error *err)
{
    struct child *c = ctx;
    int r;

    c->any = true;
    if (strlen(e->path) > OCI_PATH_MAX || strlen(e->link) > OCI_LINK_MAX)
        return refuse(err, ENAMETOOLONG, e->path, "has a name or a link that is too long");
    if (e->type == OCI_HARDLINK || e->type == OCI_SYMLINK)
        return sent(frames_send_link(c->out, e->path, e->link, e->type == OCI_HARDLINK), err);
    if (e->type != OCI_FILE)
        return 0;
    snprintf(c->name, sizeof(c->name), "%s", e->path);
    c->size = e->size;
    c->at = 0;
    r = frames_send_file(c->out, e->path, e->size);
    if (r >= 0 && !e->size) /* no data and no end will follow */
        r = frames_send_end(c->out);
    return sent(r, err);
}

static int on_data(void *ctx, const void *data, size_t len, uint64_t offset, struct sm_error *err)
{
    struct child *c = ctx;

    if (offset != c->at)
        return refuse(err, ENOTSUP, c->name, "is stored with holes: write the archive without them");
    c->at += len;
    c->bytes_out += len;
    if (c->bytes_out > OCI_LAYER_RATIO_FLOOR && c->bytes_out / OCI_LAYER_MAX_RATIO > c->bytes_in)
        return sm_error_set(err, EFBIG,
                            "the archive decompresses to more than %d times its size: it looks like a decompression "
                            "bomb",
                            OCI_LAYER_MAX_RATIO);
    return sent(frames_send_data(c->out, data, len), err);
}

static int on_end(void *ctx, struct sm_error *err)
{
    struct child *c = ctx;

    if (c->at != c->size)
        return refuse(err, ENOTSUP, c->name, "is stored with holes: write the archive without them");
    return sent(frames_send_end(c->out), err);
}

static bool is_text(const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (p[i] < 0x20 && !strchr("\t\n\r\f", p[i]))
            return false;
        if (!p[i] || p[i] == 0x7f)
            return false;
    }
    return len > 0;
}

/* What is no tar at all, in the words of who might have mistaken it for one. */
static const char *looks_like(const uint8_t *p, size_t len)
{
    static const struct {
        const char *magic;
        size_t len;
        const char *what;
    } known[] = {
        {"\xfd"
         "7zXZ",
         5, "data compressed with xz: decompress it first"},
        {"BZh", 3, "data compressed with bzip2: decompress it first"},
        {"\x04\x22\x4d\x18", 4, "data compressed with lz4: decompress it first"},
        {"\x5d\0\0", 3, "data compressed with lzma: decompress it first"},
        {"PK\x03\x04", 4, "a zip archive"},
        {"7z\xbc\xaf\x27\x1c", 6, "a 7z archive"},
        {"\x7f"
         "ELF",
         4, "a program"},
        {"#!", 2, "a script"},
        {"hsqs", 4, "a squashfs file system"},
        {"QFI\xfb", 4, "a disk image (qcow2)"},
        {"\xed\xab\xee\xdb", 4, "an RPM package"},
        {"!<arch>", 7, "a Debian package or an ar archive"},
        {"070701", 6, "a cpio archive"},
        {"{", 1, "JSON: an image's own document, or an answer of a server"},
        {"<", 1, "a web page"},
        {"\x1f\x8b", 2, "something else compressed with gzip"},
        {"\x28\xb5\x2f\xfd", 4, "something else compressed with zstd"},
    };

    if (!len)
        return "an empty file";
    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if (len >= known[i].len && !memcmp(p, known[i].magic, known[i].len))
            return known[i].what;
    }
    return is_text(p, len) ? "text" : "nothing that is known";
}

static bool is_tar(const uint8_t *p, size_t len)
{
    return len == HEAD && !memcmp(p + 257, "ustar", 5); /* POSIX.1-1988, 10.1.1; GNU's begins alike */
}

static int child_main(void *ctx, struct sm_error *err)
{
    struct child *c = ctx;
    const struct unpack_tar_sink sink = {on_entry, on_data, on_end, c};
    int r;

    c->buf = malloc(CHUNK);
    if (!c->buf)
        return sm_error_set(err, ENOMEM, "out of memory while reading an archive");
    r = unpack_archive(&(struct unpack_source){read_piece, c}, &sink, err);
    if (c->any || (r != -EBADMSG && c->bytes_in) || is_tar(c->head, c->head_len))
        return r;
    return sm_error_set(err, EBADMSG, "it is no tar archive, but looks like %s", looks_like(c->head, c->head_len));
}

/* On this side */

static const struct sandbox_limits limits = {
    .memory = OCI_CHILD_MAX_MEMORY,
    .seconds = OCI_CHILD_MAX_SECONDS,
    .file_size = 0,
};

struct reading {
    int fd, sock;
    struct frames frames;
    const struct oci_events *events;
    uint64_t told_ns, size; /* size: 0 when it is not known */
};

static int tell(struct reading *rd, bool now, struct sm_error *err)
{
    off_t at;

    if (!event_due(rd->events, &rd->told_ns) && !now)
        return 0;
    at = rd->size ? lseek(rd->fd, 0, SEEK_CUR) : -1; /* the child's reading moves it: it is the same open file */
    return event_tell(rd->events, OCI_EVENT_LOADING, NULL, at > 0 ? (uint64_t)at : rd->frames.bytes - rd->frames.left,
                      rd->size, err);
}

/* Bytes received; 0 at the end. */
static ssize_t receive(struct reading *rd, void *buf, size_t len, struct sm_error *err)
{
    for (;;) {
        struct pollfd p = {.fd = rd->sock, .events = POLLIN};
        ssize_t n = recv(rd->sock, buf, len, MSG_DONTWAIT);
        int r;

        if (n >= 0)
            return n;
        if (errno != EAGAIN && errno != EINTR)
            return sm_error_sys(err, errno, "cannot read from the process that reads the archive");
        if (poll(&p, 1, event_timeout(rd->events)) < 0 && errno != EINTR)
            return sm_error_sys(err, errno, "cannot wait for the process that reads the archive");
        r = tell(rd, true, err);
        if (r < 0)
            return r;
    }
}

/* Everything that the child sends. *ret_rest: bytes that were no whole frame. */
static int take_all(struct reading *rd, size_t *ret_rest, struct sm_error *err)
{
    CLEANUP_FREE uint8_t *buf = malloc(FRAME_BUF_SIZE);
    size_t have = 0;
    ssize_t n, used;
    int r = 0;

    if (!buf)
        return sm_error_set(err, ENOMEM, "out of memory while reading an archive");
    while ((n = receive(rd, buf + have, FRAME_BUF_SIZE - have, err)) > 0) {
        have += (size_t)n;
        used = frames_take(&rd->frames, buf, have, err);
        if (used < 0)
            return (int)used;
        have -= (size_t)used;
        memmove(buf, buf + used, have);
        r = tell(rd, false, err);
        if (r < 0)
            return r;
    }
    *ret_rest = have;
    return n < 0 ? (int)n : tell(rd, true, err); /* what stops this may have ended the child, too */
}

static int check_fd(struct reading *rd, struct sm_error *err)
{
    struct stat st;

    if (fstat(rd->fd, &st) < 0)
        return sm_error_sys(err, errno, "cannot look at the archive");
    if (S_ISDIR(st.st_mode))
        return sm_error_set(err, EISDIR, "it is a directory: write oci:DIRECTORY for an image layout");
    rd->size = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
    return 0;
}

int archive_read(int fd, const struct archive_sink *sink, const struct oci_events *events, struct sm_error *err)
{
    struct reading rd = {.fd = fd, .sock = -1, .frames = {.sink = sink}, .events = events};
    struct sandbox box = SANDBOX_INIT;
    CLEANUP_FREE struct child *child = calloc(1, sizeof(*child));
    CLEANUP_FD int ours = -1;
    CLEANUP_FD int theirs = -1;
    int pair[2], size = SOCKET_SZ, r;
    size_t rest = 0;

    if (!child)
        return sm_error_set(err, ENOMEM, "out of memory while reading an archive");
    r = check_fd(&rd, err);
    if (r >= 0)
        r = tell(&rd, true, err);
    if (r < 0)
        return r;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return sm_error_sys(err, errno, "cannot make a socket pair");
    ours = rd.sock = pair[0];
    theirs = pair[1];
    setsockopt(theirs, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)); /* as large as the system allows */
    child->in = fd;
    child->out = theirs;
    r = sandbox_start(&box, &limits, (int[]){fd, theirs}, 2, child_main, child, err);
    close_fd(&theirs);
    if (r >= 0)
        r = take_all(&rd, &rest, err);
    if (r >= 0)
        r = sandbox_end(&box, "reading the archive", err);
    if (r >= 0)
        r = frames_end(&rd.frames, rest, err);
    sandbox_kill(&box);
    return r;
}
