/* SPDX-License-Identifier: Apache-2.0 */
/* Layout directories: see layout.h. The only names looked up are fixed ones and digests in hex. */
#include "oci/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "oci/limits.h"
#include "oci/manifest.h"
#include "oci/text.h"

/* A regular file: a FIFO in an image's place must not make us wait. */
static int open_file(const struct layout *l, const char *name, struct stat *ret_st, struct sm_error *err)
{
    CLEANUP_FD int fd = openat(l->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd < 0)
        return sm_error_sys(err, errno, "cannot open %s", name);
    if (fstat(fd, ret_st) < 0)
        return sm_error_sys(err, errno, "cannot look at %s", name);
    if (!S_ISREG(ret_st->st_mode))
        return sm_error_set(err, EINVAL, "%s is not a regular file", name);
    return steal_fd(&fd);
}

static int read_whole(int fd, const char *name, uint64_t size, void **ret, struct sm_error *err)
{
    CLEANUP_FREE char *data = malloc(size ? size : 1);
    ssize_t n;

    if (!data)
        return sm_error_set(err, ENOMEM, "out of memory for %s", name);
    n = io_read_full(fd, data, size);
    if (n < 0)
        return sm_error_sys(err, (int)-n, "cannot read %s", name);
    if ((uint64_t)n != size)
        return sm_error_set(err, EBADMSG, "%s became shorter while it was read", name);
    *ret = STEAL_PTR(data);
    return 0;
}

static int read_document(const struct layout *l, const char *name, void **ret, size_t *ret_len, struct sm_error *err)
{
    struct stat st;
    CLEANUP_FD int fd = open_file(l, name, &st, err);

    if (fd < 0)
        return fd;
    if ((uint64_t)st.st_size > OCI_JSON_MAX_BYTES)
        return sm_error_set(err, EFBIG, "%s is larger than %llu MiB, which is the limit", name,
                            OCI_JSON_MAX_BYTES / MIB);
    *ret_len = (size_t)st.st_size;
    return read_whole(fd, name, *ret_len, ret, err);
}

int layout_open(struct layout *ret, const char *dir, struct sm_error *err)
{
    struct layout l = {.dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    CLEANUP_FREE void *data = NULL;
    char shown[TEXT_SHOWN_SIZE];
    size_t len;
    int r;

    text_shown(shown, dir);
    if (l.dir_fd < 0)
        return sm_error_sys(err, errno, "cannot open the image layout \"%s\"", shown);
    if (faccessat(l.dir_fd, "oci-layout", F_OK, 0) < 0 && errno == ENOENT) {
        layout_done(&l);
        return sm_error_set(err, ENOENT, "\"%s\" is not an OCI image layout: it has no file oci-layout", shown);
    }
    r = read_document(&l, "oci-layout", &data, &len, err);
    if (r >= 0) {
        r = layout_doc_check(data, len, err);
        if (r < 0)
            r = sm_error_wrap(err, "oci-layout");
    }
    if (r < 0) {
        layout_done(&l);
        return sm_error_wrap(err, "image layout \"%s\"", shown);
    }
    *ret = l;
    return 0;
}

void layout_done(struct layout *l)
{
    close_fd(&l->dir_fd);
}

int layout_read_index(const struct layout *l, void **ret, size_t *ret_len, struct sm_error *err)
{
    return read_document(l, "index.json", ret, ret_len, err);
}

int layout_open_blob(const struct layout *l, const struct digest *digest, uint64_t size, struct sm_error *err)
{
    char hex[DIGEST_HEX_SIZE], name[sizeof("blobs/sha256/") + DIGEST_HEX_SIZE];
    struct stat st;
    int fd;

    digest_hex(digest, hex);
    snprintf(name, sizeof(name), "blobs/sha256/%s", hex);
    fd = open_file(l, name, &st, err);
    if (fd == -ENOENT)
        return sm_error_set(err, ENOENT, "blob sha256:%s is missing from the image layout", hex);
    if (fd >= 0 && (uint64_t)st.st_size != size) {
        close_fd(&fd);
        return sm_error_set(err, EBADMSG,
                            "blob sha256:%s is %llu bytes long, but its descriptor says %llu: it is truncated or was "
                            "tampered with",
                            hex, (unsigned long long)st.st_size, (unsigned long long)size);
    }
    return fd;
}

int layout_read_blob(const struct layout *l, const struct digest *digest, uint64_t size, void **ret,
                     struct sm_error *err)
{
    CLEANUP_FREE void *data = NULL;
    char want[DIGEST_STR_SIZE], is[DIGEST_STR_SIZE];
    CLEANUP_FD int fd = -1;
    struct digest got;
    int r;

    digest_str(digest, want);
    if (size > OCI_JSON_MAX_BYTES)
        return sm_error_set(err, EFBIG, "blob %s is %llu bytes long, documents are limited to %llu MiB", want,
                            (unsigned long long)size, OCI_JSON_MAX_BYTES / MIB);
    fd = layout_open_blob(l, digest, size, err);
    if (fd < 0)
        return fd;
    r = read_whole(fd, want, size, &data, err);
    if (r >= 0)
        r = digest_of(&got, data, size, err);
    if (r < 0)
        return r;
    if (!digest_equal(&got, digest)) {
        digest_str(&got, is);
        return sm_error_set(err, EBADMSG, "blob %s has the digest %s: it is damaged or was tampered with", want, is);
    }
    *ret = STEAL_PTR(data);
    return 0;
}

static int read_described(void *ctx, const struct descriptor *d, void **ret, struct sm_error *err)
{
    return layout_read_blob(ctx, &d->digest, d->size, ret, err);
}

struct documents layout_documents(struct layout *l)
{
    return (struct documents){read_described, l};
}
