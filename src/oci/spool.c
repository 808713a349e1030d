/* SPDX-License-Identifier: Apache-2.0 */
/* Spooling an archive: see spool.h. Files are called by their number, whatever the archive calls them. */
#include "oci/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "oci/blobs.h"
#include "oci/disk.h"
#include "oci/limits.h"
#include "oci/text.h"

#define NUMBER_SIZE 16

static const char *number_str(char buf[NUMBER_SIZE], unsigned number)
{
    snprintf(buf, NUMBER_SIZE, "%u", number);
    return buf;
}

int spool_init(struct spool *ret, struct oci_store *store, struct sm_error *err)
{
    struct spool s = SPOOL_INIT;
    int r = store_temp_new(&s.temp, store, err);

    if (r >= 0)
        *ret = s;
    return r;
}

static void drop_current(struct spool *s)
{
    close_fd(&s->fd);
    hasher_free(s->hash);
    free(s->name);
    s->hash = NULL;
    s->name = NULL;
}

void spool_done(struct spool *s)
{
    drop_current(s);
    files_done(&s->files);
    store_temp_discard(&s->temp);
}

static int on_file(void *ctx, const char *name, uint64_t size, struct sm_error *err)
{
    struct spool *s = ctx;
    char number[NUMBER_SIZE];
    int r;

    s->file = (struct archive_file){.size = size, .number = (unsigned)s->files.n};
    s->head_len = 0;
    s->name = strdup(name);
    if (!s->name)
        return sm_error_set(err, ENOMEM, "out of memory while reading an archive");
    r = hasher_new(&s->hash, err);
    if (r < 0)
        return r;
    s->fd = store_temp_file(&s->temp, number_str(number, s->file.number), err);
    return s->fd < 0 ? s->fd : 0;
}

static int on_data(void *ctx, const void *data, size_t len, struct sm_error *err)
{
    struct spool *s = ctx;
    size_t more = sizeof(s->head) - s->head_len;
    char shown[TEXT_SHOWN_SIZE];
    int r;

    more = len < more ? len : more;
    memcpy(s->head + s->head_len, data, more);
    s->head_len += more;
    hasher_add(s->hash, data, len);
    r = io_write_full(s->fd, data, len);
    return r < 0 ? disk_error(err, -r, "cannot keep the archive's file \"%s\" in the image store",
                              text_shown(shown, s->name))
                 : 0;
}

static int on_end(void *ctx, struct sm_error *err)
{
    struct spool *s = ctx;
    int r;

    hasher_end(s->hash, &s->file.digest);
    s->file.form = form_of(s->head, s->head_len);
    r = files_add(&s->files, s->name, &s->file, err);
    drop_current(s);
    return r;
}

static int on_link(void *ctx, const char *name, const char *target, bool hard, struct sm_error *err)
{
    return files_add_link(&((struct spool *)ctx)->files, name, target, hard, err);
}

struct archive_sink spool_sink(struct spool *s)
{
    return (struct archive_sink){on_file, on_data, on_end, on_link, s};
}

int spool_open(const struct spool *s, const struct archive_file *f, struct sm_error *err)
{
    char number[NUMBER_SIZE], shown[TEXT_SHOWN_SIZE];
    int fd = openat(s->temp.dir_fd, number_str(number, f->number), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    return fd < 0 ? sm_error_sys(err, errno, "cannot read the archive's file \"%s\" back", text_shown(shown, f->name))
                  : fd;
}

int spool_read(const struct spool *s, const struct archive_file *f, void **ret, struct sm_error *err)
{
    CLEANUP_FREE char *data = NULL;
    CLEANUP_FD int fd = -1;
    char shown[TEXT_SHOWN_SIZE];
    ssize_t n;

    if (f->size > OCI_JSON_MAX_BYTES)
        return sm_error_set(err, EFBIG, "the archive's file \"%s\" is larger than %llu MiB, which is the limit",
                            text_shown(shown, f->name), OCI_JSON_MAX_BYTES / MIB);
    data = calloc(1, f->size + 1);
    if (!data)
        return sm_error_set(err, ENOMEM, "out of memory while reading an archive");
    fd = spool_open(s, f, err);
    if (fd < 0)
        return fd;
    n = io_read_full(fd, data, f->size);
    if (n != (ssize_t)f->size)
        return sm_error_sys(err, n < 0 ? (int)-n : EIO, "cannot read the archive's file \"%s\" back",
                            text_shown(shown, f->name));
    *ret = STEAL_PTR(data);
    return 0;
}

int spool_commit(const struct spool *s, const struct archive_file *f, struct sm_error *err)
{
    char number[NUMBER_SIZE];

    return blob_commit(&s->temp, number_str(number, f->number), &f->digest, err);
}
