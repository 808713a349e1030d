/* SPDX-License-Identifier: Apache-2.0 */
/* One entry of a layer, as the tar gave it: what passes from the tar to the index and from the index to the tree. */
#ifndef SM_OCI_ENTRY_H
#define SM_OCI_ENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define ENTRY_WHITEOUT ".wh."         /* a name that begins so removes the rest of the name (image-spec layer.md) */
#define ENTRY_OPAQUE   ".wh..wh..opq" /* hides what lower layers have put into its directory */

enum oci_type {
    OCI_FILE = 1,
    OCI_DIR,
    OCI_SYMLINK,
    OCI_HARDLINK, /* a further name for `link`; its other fields mean nothing */
    OCI_CHAR,
    OCI_BLOCK_DEV,
    OCI_FIFO,
    OCI_SOCKET,
    OCI_TYPE_END,
};

struct oci_xattr {
    const char *name; /* with its namespace: "user.x" */
    const void *value;
    uint32_t len;
};

/* Strings and lists belong to whoever made the entry, and live until it makes the next. */
struct oci_entry {
    enum oci_type type;
    const char *path; /* as in the tar: whiteouts are told by name, in tree_add */
    const char *link; /* OCI_SYMLINK, OCI_HARDLINK; otherwise "" */
    uint16_t mode;    /* permission bits and set-id, sticky: 07777 */
    uint32_t uid, gid;
    int64_t mtime;
    uint32_t mtime_ns;
    uint32_t major, minor; /* OCI_CHAR, OCI_BLOCK_DEV */
    const struct oci_xattr *xattrs;
    unsigned n_xattrs;

    /* OCI_FILE: size 0, or up to OCI_INLINE_MAX and kept in the index, or in `data` from data_off (a multiple of 4096).
     */
    uint64_t size;
    uint64_t data_off;
    const void *content;     /* writing an index: the small file's bytes */
    uint64_t content_offset; /* reading one: where in the index file they are */
};

/* Refuse what is wrong by itself: -errno and a sentence naming the path. */
int entry_check(const struct oci_entry *e, struct sm_error *err);

/* Does the entry's name say that it is no file but a whiteout, or one to be skipped? -errno for a hostile form. */
int entry_classify(const struct oci_entry *e, bool *ret_whiteout, bool *ret_skip, struct sm_error *err);

/* The sentence: the entry, then `why`. Returns -code. */
int entry_refuse(struct sm_error *err, int code, const struct oci_entry *e, const char *why);

/* The next component at *p, which moves behind it: its length, 0 at the end. Skips slashes and ".". */
size_t path_next(const char **p, const char **ret);
bool path_is_dotdot(const char *component, size_t len);

#endif
