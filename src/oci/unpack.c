/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decompressing and reading tar: the one file that sees libarchive.
 *
 * Theory of operation
 *
 * What: two separate uses of libarchive for a layer. One has the filters gzip and zstd and the format "raw"; the other
 * has no filter and the format tar. They are apart so that every byte of the decompressed tar passes through our hands
 * once: its hash is the layer's diff id, and a reader of tar alone would leave out what follows the end mark. The tar
 * around an image's files has no digest, so for that both are one.
 *
 * Names: Linux names are bytes. libarchive converts the names of pax headers to the locale's character set, and on
 * the way composes what is decomposed; two different names could become one. In the "C" locale it can't convert,
 * warns, and hands out the bytes as they are. So unpack_tar runs in that locale and takes that one warning.
 *
 * Limits: those of an entry (limits.h) are the receiver's business, as are sums; memory is bounded by libarchive's own
 * limits on extended headers and by the process's.
 */
#include "oci/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "oci/limits.h"
#include "oci/text.h"

static const char layer[] = "the layer";

static void archive_freep(struct archive **a)
{
    archive_read_free(*a); /* takes NULL */
}

static la_ssize_t read_source(struct archive *a, void *ctx, const void **ret)
{
    const struct unpack_source *in = ctx;
    ssize_t n = in->next(in->ctx, ret);

    if (n < 0)
        archive_set_error(a, (int)-n, "cannot read: %s", strerror((int)-n));
    return n < 0 ? -1 : n;
}

static int corrupt(struct sm_error *err, struct archive *a, const char *what, const char *is)
{
    const char *why = archive_error_string(a);
    char shown[TEXT_SHOWN_SIZE];

    return sm_error_set(err, EBADMSG, "%s%s: %s", what, is, text_shown(shown, why ? why : "unknown error"));
}

/* Read on behind the end of a stream, so that what feeds us is not cut off; `max`: 0 for no limit. */
static int drain(const struct unpack_source *in, uint64_t max, const char *what, struct sm_error *err)
{
    const void *data;
    uint64_t total = 0;
    ssize_t n;

    while ((n = in->next(in->ctx, &data)) > 0) {
        total += (uint64_t)n;
        if (max && total > max)
            return sm_error_set(err, EBADMSG, "%s goes on for more than %llu MiB behind its end", what,
                                (unsigned long long)(max / MIB));
    }
    return n < 0 ? sm_error_sys(err, (int)-n, "cannot read %s", what) : 0;
}

int unpack_decompress(const struct unpack_source *in, const struct unpack_sink *out, struct sm_error *err)
{
    CLEANUP(archive_freep) struct archive *a = archive_read_new();
    struct unpack_source source = *in;
    struct archive_entry *entry;
    const void *data;
    size_t len;
    la_int64_t offset;
    int r;

    if (!a || archive_read_support_filter_gzip(a) != ARCHIVE_OK || archive_read_support_filter_zstd(a) != ARCHIVE_OK ||
        archive_read_support_format_raw(a) != ARCHIVE_OK || archive_read_support_format_empty(a) != ARCHIVE_OK)
        return sm_error_set(err, ENOTSUP, "libarchive cannot read gzip and zstd here");
    if (archive_read_open(a, &source, NULL, read_source, NULL) != ARCHIVE_OK)
        return corrupt(err, a, layer, "'s compressed data are corrupt");
    r = archive_read_next_header(a, &entry);
    if (r == ARCHIVE_EOF)
        return 0;
    if (r != ARCHIVE_OK)
        return corrupt(err, a, layer, "'s compressed data are corrupt");
    while ((r = archive_read_data_block(a, &data, &len, &offset)) == ARCHIVE_OK) {
        r = out->write(out->ctx, data, len, err);
        if (r < 0)
            return r;
    }
    if (r != ARCHIVE_EOF)
        return corrupt(err, a, layer, "'s compressed data are corrupt");
    return drain(in, 0, layer, err);
}

/* A tar being read. `what`: it, in a sentence. */
struct tar {
    struct archive *a;
    const char *what;
    const struct unpack_tar_sink *sink;
};

static int refuse(const struct tar *t, struct sm_error *err, const char *path, const char *why)
{
    char shown[TEXT_SHOWN_SIZE];

    return sm_error_set(err, EINVAL, "%s's entry \"%s\" %s", t->what, text_shown(shown, path), why);
}

static int take_type(const struct tar *t, struct oci_entry *e, struct archive_entry *entry, struct sm_error *err)
{
    const char *hardlink = archive_entry_hardlink(entry), *symlink = archive_entry_symlink(entry);

    if (hardlink) {
        e->type = OCI_HARDLINK;
        e->link = hardlink;
        return 0;
    }
    switch (archive_entry_filetype(entry)) {
    case AE_IFREG:
        e->type = OCI_FILE;
        e->size = (uint64_t)archive_entry_size(entry);
        return 0;
    case AE_IFDIR:
        e->type = OCI_DIR;
        return 0;
    case AE_IFLNK:
        e->type = OCI_SYMLINK;
        e->link = symlink ? symlink : "";
        return 0;
    case AE_IFCHR:
    case AE_IFBLK:
        e->type = archive_entry_filetype(entry) == AE_IFCHR ? OCI_CHAR : OCI_BLOCK_DEV;
        e->major = (uint32_t)archive_entry_rdevmajor(entry);
        e->minor = (uint32_t)archive_entry_rdevminor(entry);
        return 0;
    case AE_IFIFO:
        e->type = OCI_FIFO;
        return 0;
    case AE_IFSOCK:
        e->type = OCI_SOCKET;
        return 0;
    default:
        return refuse(t, err, e->path, "is of an unknown type");
    }
}

static int take_xattrs(const struct tar *t, struct oci_entry *e, struct archive_entry *entry, struct oci_xattr *xattrs,
                       struct sm_error *err)
{
    const char *name;
    const void *value;
    size_t len;

    e->xattrs = xattrs;
    if (archive_entry_xattr_reset(entry) > OCI_XATTRS_MAX)
        return refuse(t, err, e->path, "has too many extended attributes");
    while (archive_entry_xattr_next(entry, &name, &value, &len) == ARCHIVE_OK) {
        if (len > OCI_XATTR_VALUE_MAX)
            return refuse(t, err, e->path, "has an extended attribute of more than 65535 bytes");
        if (!len) /* POSIX pax: an empty value takes a record back; every other unpacker of images does so */
            continue;
        xattrs[e->n_xattrs++] = (struct oci_xattr){.name = name, .value = value, .len = (uint32_t)len};
    }
    return 0;
}

static int take_entry(const struct tar *t, struct oci_entry *e, struct archive_entry *entry, struct oci_xattr *xattrs,
                      struct sm_error *err)
{
    la_int64_t uid = archive_entry_uid(entry), gid = archive_entry_gid(entry);
    long ns = archive_entry_mtime_nsec(entry);
    int r;

    *e = (struct oci_entry){.path = archive_entry_pathname(entry), .link = ""};
    if (!e->path)
        return sm_error_set(err, EBADMSG, "%s has an entry without a name", t->what);
    r = take_type(t, e, entry, err);
    if (r < 0)
        return r;
    if (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX)
        return refuse(t, err, e->path, "has an owner that Linux does not have");
    if (archive_entry_size(entry) < 0)
        return refuse(t, err, e->path, "has a negative size");
    e->uid = (uint32_t)uid;
    e->gid = (uint32_t)gid;
    e->mode = (uint16_t)(archive_entry_mode(entry) & 07777);
    e->mtime = archive_entry_mtime(entry);
    e->mtime_ns = ns >= 0 && ns < 1000000000 ? (uint32_t)ns : 0;
    if (e->mtime < 0 && e->mtime_ns) { /* libarchive reads "-1.25" as -1 and .25; time counts up from -2 */
        e->mtime--;
        e->mtime_ns = 1000000000 - e->mtime_ns;
    }
    return e->type == OCI_HARDLINK ? 0 : take_xattrs(t, e, entry, xattrs, err);
}

static int take_data(const struct tar *t, const struct oci_entry *e, struct sm_error *err)
{
    const struct unpack_tar_sink *sink = t->sink;
    la_int64_t offset;
    const void *data;
    size_t len;
    int r;

    if (e->type != OCI_FILE || !e->size)
        return 0;
    while ((r = archive_read_data_block(t->a, &data, &len, &offset)) == ARCHIVE_OK) {
        if (offset < 0 || !range_within((uint64_t)offset, len, e->size))
            return refuse(t, err, e->path, "has content outside its size");
        r = len ? sink->data(sink->ctx, data, len, (uint64_t)offset, err) : 0;
        if (r < 0)
            return r;
    }
    if (r != ARCHIVE_EOF)
        return corrupt(err, t->a, t->what, "'s tar is corrupt");
    return sink->end(sink->ctx, err);
}

static bool is_name_warning(struct archive *a)
{
    const char *why = archive_error_string(a);

    return why && strstr(why, "can't be converted from");
}

static int read_entries(const struct tar *t, struct sm_error *err)
{
    CLEANUP_FREE struct oci_xattr *xattrs = calloc(OCI_XATTRS_MAX, sizeof(*xattrs));
    struct archive_entry *entry;
    struct oci_entry e;
    int r;

    if (!xattrs)
        return sm_error_set(err, ENOMEM, "out of memory while reading %s", t->what);
    while ((r = archive_read_next_header(t->a, &entry)) != ARCHIVE_EOF) {
        if (r != ARCHIVE_OK && !(r == ARCHIVE_WARN && is_name_warning(t->a)))
            return corrupt(err, t->a, t->what, "'s tar is corrupt");
        r = take_entry(t, &e, entry, xattrs, err);
        if (r >= 0)
            r = t->sink->entry(t->sink->ctx, &e, err);
        if (r >= 0)
            r = take_data(t, &e, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int read_tar(const struct unpack_source *in, const struct unpack_tar_sink *sink, bool filters, const char *what,
                    struct sm_error *err)
{
    CLEANUP(archive_freep) struct archive *a = archive_read_new();
    struct unpack_source source = *in;
    struct tar t = {a, what, sink};
    locale_t c_locale = newlocale(LC_ALL_MASK, "C", NULL), before;
    int r;

    if (!a || !c_locale || archive_read_support_format_tar(a) != ARCHIVE_OK ||
        archive_read_support_format_empty(a) != ARCHIVE_OK ||
        (filters &&
         (archive_read_support_filter_gzip(a) != ARCHIVE_OK || archive_read_support_filter_zstd(a) != ARCHIVE_OK))) {
        if (c_locale)
            freelocale(c_locale);
        return sm_error_set(err, ENOTSUP, "libarchive cannot read tar%s here", filters ? ", gzip and zstd" : "");
    }
    before = uselocale(c_locale);
    if (archive_read_open(a, &source, NULL, read_source, NULL) != ARCHIVE_OK)
        r = corrupt(err, a, what, " is not a tar archive");
    else
        r = read_entries(&t, err);
    uselocale(before);
    freelocale(c_locale);
    if (r >= 0)
        r = drain(in, filters ? OCI_ARCHIVE_MAX_TRAILER : 0, what, err);
    return r;
}

int unpack_tar(const struct unpack_source *in, const struct unpack_tar_sink *sink, struct sm_error *err)
{
    return read_tar(in, sink, false, layer, err);
}

int unpack_archive(const struct unpack_source *in, const struct unpack_tar_sink *sink, struct sm_error *err)
{
    return read_tar(in, sink, true, "the archive", err);
}
