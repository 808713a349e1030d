/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What can be said about an entry by itself.
 *
 * Theory of operation
 *
 * What: entry_check refuses what no tree could take: names that are absolute, hold ".." or are over a limit, devices
 * and times that Linux does not have, attributes over a limit. It runs where a layer is converted, so that such a layer
 * never gets into the store, and again in tree_add, because what comes out of the store is only files.
 *
 * A path is a row of components between slashes. Empty ones and "." are nothing; path_next gives the others.
 */
#include "oci/entry.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "oci/limits.h"
#include "oci/text.h"

/* Linux's new_encode_dev has 12 bits for the major and 20 for the minor number. */
#define DEV_MAJOR_MAX 0xfffu
#define DEV_MINOR_MAX 0xfffffu

#define WH_META ".wh..wh." /* of AUFS; the opaque marker is one of them */

int entry_refuse(struct sm_error *err, int code, const struct oci_entry *e, const char *why)
{
    char shown[TEXT_SHOWN_SIZE];

    return sm_error_set(err, code, "the layer's entry \"%s\" %s", text_shown(shown, e->path), why);
}

size_t path_next(const char **p, const char **ret)
{
    for (;;) {
        size_t len;

        *p += strspn(*p, "/");
        len = strcspn(*p, "/");
        *ret = *p;
        *p += len;
        if (len != 1 || **ret != '.')
            return len;
    }
}

bool path_is_dotdot(const char *c, size_t len)
{
    return len == 2 && c[0] == '.' && c[1] == '.';
}

/* The root alone may be written with a leading slash: builders do so. */
static bool is_root_path(const char *path)
{
    const char *p = path, *c;

    return !path_next(&p, &c);
}

static int check_path(const struct oci_entry *e, const char *path, const char *subject, bool may_be_absolute,
                      struct sm_error *err)
{
    const char *p = path, *c;
    unsigned depth = 0;
    char why[160];
    size_t len;
    int code;

    if (strlen(path) > OCI_PATH_MAX) {
        snprintf(why, sizeof(why), "is refused: %s is over %d bytes long", subject, OCI_PATH_MAX);
        code = ENAMETOOLONG;
        goto refused;
    }
    if (path[0] == '/' && !may_be_absolute && !is_root_path(path)) {
        snprintf(why, sizeof(why), "is refused: %s is absolute", subject);
        code = EINVAL;
        goto refused;
    }
    while ((len = path_next(&p, &c))) {
        if (path_is_dotdot(c, len)) {
            snprintf(why, sizeof(why), "is refused: %s contains \"..\"", subject);
            code = EINVAL;
            goto refused;
        }
        if (len > OCI_NAME_MAX) {
            snprintf(why, sizeof(why), "is refused: %s has a component over %d bytes long", subject, OCI_NAME_MAX);
            code = ENAMETOOLONG;
            goto refused;
        }
        if (++depth > OCI_DEPTH_MAX) {
            snprintf(why, sizeof(why), "is refused: %s is more than %d directories deep", subject, OCI_DEPTH_MAX);
            code = ENAMETOOLONG;
            goto refused;
        }
    }
    return 0;
refused:
    return entry_refuse(err, code, e, why);
}

static int check_xattrs(const struct oci_entry *e, struct sm_error *err)
{
    uint64_t total = 0;

    if (e->n_xattrs > OCI_XATTRS_MAX)
        return entry_refuse(err, E2BIG, e, "has too many extended attributes");
    for (unsigned i = 0; i < e->n_xattrs; i++) {
        size_t len = strlen(e->xattrs[i].name);

        if (!len || len > OCI_XATTR_NAME_MAX)
            return entry_refuse(err, EINVAL, e, "has an extended attribute whose name is empty or over 255 bytes long");
        if (e->xattrs[i].len > OCI_XATTR_VALUE_MAX)
            return entry_refuse(err, E2BIG, e, "has an extended attribute of more than 65535 bytes");
        total += len + e->xattrs[i].len;
    }
    return total > OCI_XATTRS_BYTES ? entry_refuse(err, E2BIG, e, "has too many bytes of extended attributes") : 0;
}

static bool is_wh(const char *c, size_t len)
{
    return len >= sizeof(ENTRY_WHITEOUT) - 1 && !memcmp(c, ENTRY_WHITEOUT, sizeof(ENTRY_WHITEOUT) - 1);
}

int entry_classify(const struct oci_entry *e, bool *ret_whiteout, bool *ret_skip, struct sm_error *err)
{
    const char *p = e->path, *c, *victim = NULL;
    size_t len, victim_len = 0, wh_at = 0, n = 0;
    bool meta = false;

    while ((len = path_next(&p, &c))) {
        n++;
        if (!is_wh(c, len) || wh_at)
            continue;
        wh_at = n;
        victim = c + sizeof(ENTRY_WHITEOUT) - 1;
        victim_len = len - (sizeof(ENTRY_WHITEOUT) - 1);
        meta = len >= sizeof(WH_META) - 1 && !memcmp(c, WH_META, sizeof(WH_META) - 1) &&
               !(len == sizeof(ENTRY_OPAQUE) - 1 && !memcmp(c, ENTRY_OPAQUE, len));
    }
    *ret_skip = meta;
    *ret_whiteout = wh_at && !meta;
    if (!*ret_whiteout)
        return 0;
    if (wh_at != n)
        return entry_refuse(err, EINVAL, e, "is refused: it lies below a whiteout");
    if (!victim_len || !strncmp(victim, "..", victim_len)) /* "." is a beginning of it */
        return entry_refuse(err, EINVAL, e, "is refused: it is a whiteout of no name, or of \".\" or \"..\"");
    return 0;
}

int entry_check(const struct oci_entry *e, struct sm_error *err)
{
    bool whiteout, skip;
    int r = check_path(e, e->path, "its name", false, err);

    if (r >= 0)
        r = entry_classify(e, &whiteout, &skip, err);
    if (r < 0)
        return r;
    if (e->type < OCI_FILE || e->type >= OCI_TYPE_END)
        return entry_refuse(err, EINVAL, e, "is of an unknown type");
    if (e->type == OCI_HARDLINK) {
        r = check_path(e, e->link, "the name it is a hard link to", true, err);
        if (r < 0)
            return r;
    }
    if (e->type == OCI_SYMLINK && (!e->link[0] || strlen(e->link) > OCI_LINK_MAX))
        return entry_refuse(err, ENAMETOOLONG, e, "is a symbolic link whose target is empty or over 4095 bytes long");
    if (e->mode & ~07777u || e->mtime_ns >= 1000000000u)
        return entry_refuse(err, EINVAL, e, "has an impossible mode or time");
    if ((e->type == OCI_CHAR || e->type == OCI_BLOCK_DEV) && (e->major > DEV_MAJOR_MAX || e->minor > DEV_MINOR_MAX))
        return entry_refuse(err, EINVAL, e, "is a device whose number Linux does not have");
    if (e->type == OCI_FILE && e->size > OCI_LAYER_MAX_DATA)
        return entry_refuse(err, EFBIG, e, "is larger than the limit of 1 TiB");
    return check_xattrs(e, err);
}
