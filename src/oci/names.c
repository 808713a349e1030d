/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names.
 *
 * Theory of operation
 *
 * What:
 *
 *   names/<64 hex>   the records of one name (record.c); the file is called by the SHA-256 of the name
 *   used/<64 hex>    an empty file for an image (its manifest's digest); its time of change is the last use
 *   locks/names      held by whoever changes names/, from reading what is there until its own is in place
 *
 * Readers take no lock: a file appears by rename, whole, and says itself what name it is of. One that does not pass
 * its checks counts as missing here; fsck tells about it.
 *
 * A name that comes to mean another image is two changes: first the old image gets an untagged record, then the name
 * is replaced. A process killed in between leaves an untagged record of an image that still has a name; the other way
 * round, a name given to an image that had none, the same. Such a record is not shown, and goes with the next change
 * that touches it.
 *
 * The time of last use is a hint, written without sync and without a word when that fails (a store that is read-only).
 *
 * Limits: OCI_RECORD_* for a file, STORE_MAX_OBJECTS for how many.
 */
#include "oci/names.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>

#include "base/buf.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "oci/json.h"
#include "oci/limits.h"
#include "oci/platform.h"
#include "oci/record.h"
#include "oci/store_dirs.h"

#define RECORD_FILE "record" /* below tmp */

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory for names of images");
}

/* Files */

static int file_of(const char *name, char ret[DIGEST_HEX_SIZE], struct sm_error *err)
{
    struct digest d;
    int r = digest_of(&d, name, strlen(name), err);

    if (r >= 0)
        digest_hex(&d, ret);
    return r;
}

int names_read_file(const struct oci_store *s, const char *file, struct name_doc *ret, struct sm_error *err)
{
    char data[4096], own[DIGEST_HEX_SIZE];
    CLEANUP_FREE void *large = NULL;
    CLEANUP_FD int fd = -1;
    struct name_doc doc;
    struct stat st;
    ssize_t n;
    int r;

    fd = r = store_open_file(s, s->names_fd, file, &st, err);
    if (r < 0)
        return r;
    if (st.st_size > OCI_RECORD_MAX_BYTES)
        return sm_error_set(err, EBADMSG, "it is larger than %u bytes, which is the limit", OCI_RECORD_MAX_BYTES);
    if (st.st_size > (off_t)sizeof(data)) {
        large = malloc((size_t)st.st_size);
        if (!large)
            return no_memory(err);
    }
    n = io_pread_full(fd, large ? large : data, (size_t)st.st_size, 0);
    if (n < 0)
        return store_fail(s, err, (int)-n, "cannot read a name");
    r = name_doc_parse(&doc, large ? large : data, (size_t)n, err);
    if (r < 0)
        return r == -ENOMEM ? r : -EBADMSG;
    r = file_of(doc.list[0].name, own, err);
    if (r >= 0 && strcmp(own, file))
        r = sm_error_set(err, EBADMSG, "it is of another name than its file");
    if (r < 0) {
        name_doc_done(&doc);
        return r;
    }
    *ret = doc;
    return 0;
}

/* A missing or damaged one: -ENOENT, without a sentence. */
static int read_name(const struct oci_store *s, const char *name, struct name_doc *ret, struct sm_error *err)
{
    struct sm_error why = SM_ERROR_INIT;
    char file[DIGEST_HEX_SIZE];
    int r = file_of(name, file, err);

    if (r < 0)
        return r;
    r = names_read_file(s, file, ret, &why);
    if (r == -EBADMSG)
        return -ENOENT;
    if (r < 0 && r != -ENOENT && err)
        *err = why;
    return r;
}

static int write_name(struct oci_store *s, const struct name_doc *doc, struct sm_error *err)
{
    struct store_temp temp = STORE_TEMP_INIT;
    char file[DIGEST_HEX_SIZE];
    CLEANUP_FD int fd = -1;
    struct buf b;
    int r = name_doc_write(&b, doc, err);

    if (r < 0)
        return r;
    r = file_of(doc->list[0].name, file, err);
    if (r >= 0)
        r = store_temp_new(&temp, s, err);
    if (r >= 0)
        fd = r = store_temp_file(&temp, RECORD_FILE, err);
    if (r >= 0) {
        r = io_write_full(fd, b.data, b.len);
        r = r < 0 ? store_fail(s, err, -r, "cannot write a name")
                  : store_temp_place(&temp, RECORD_FILE, s->names_fd, file, err);
    }
    store_temp_discard(&temp);
    buf_done(&b);
    return r;
}

static int unlink_name(struct oci_store *s, const char *name, struct sm_error *err)
{
    char file[DIGEST_HEX_SIZE];
    int r = file_of(name, file, err);

    if (r < 0)
        return r;
    if (unlinkat(s->names_fd, file, 0) < 0)
        return errno == ENOENT ? 0 : store_fail(s, err, errno, "cannot remove a name");
    return fsync(s->names_fd) < 0 ? store_fail(s, err, errno, "cannot write to disk that a name is gone") : 0;
}

/* For as long as one file is written: nobody waits long. */
static int lock_names(struct oci_store *s, struct sm_error *err)
{
    CLEANUP_FD int fd = store_lock_file(s, "names", err);
    int r;

    if (fd < 0)
        return fd;
    r = lock_take(fd, LOCK_EX, NULL);
    return r < 0 ? store_fail(s, err, -r, "cannot lock the names") : steal_fd(&fd);
}

/* Asking */

static size_t choose(const struct name_doc *doc, const struct platform *want)
{
    size_t best = doc->n;
    int best_score = 0;

    for (size_t i = 0; i < doc->n; i++) {
        struct platform have;
        int score;

        if (platform_parse(&have, doc->list[i].platform, NULL) < 0)
            continue;
        score = platform_score(want, &have);
        if (score > best_score) {
            best_score = score;
            best = i;
        }
    }
    return best;
}

int names_get(struct oci_store *s, const char *canonical, const char *platform, struct name_record *ret,
              struct sm_error *err)
{
    struct platform want;
    struct name_doc doc;
    size_t i;
    int r = platform_parse(&want, platform, err);

    if (r >= 0)
        r = read_name(s, canonical, &doc, err);
    if (r < 0)
        return r;
    i = choose(&doc, &want);
    if (i == doc.n && !platform)
        i = 0;
    if (i == doc.n) {
        name_doc_done(&doc);
        return -ENOENT;
    }
    *ret = doc.list[i];
    doc.list[i] = (struct name_record){.name = NULL};
    name_doc_done(&doc);
    return 0;
}

struct list {
    struct name_record *items;
    size_t n, size;
};

static int list_take(struct list *l, struct name_doc *doc, struct sm_error *err)
{
    for (size_t i = 0; i < doc->n; i++) {
        if (l->n == l->size) {
            size_t size = l->size ? 2 * l->size : 16;
            struct name_record *larger = reallocarray(l->items, size, sizeof(*larger));

            if (!larger)
                return no_memory(err);
            l->items = larger;
            l->size = size;
        }
        l->items[l->n++] = doc->list[i];
        doc->list[i] = (struct name_record){.name = NULL};
    }
    return 0;
}

static int list_all(struct oci_store *s, struct list *ret, size_t *ret_damaged, struct sm_error *err)
{
    char **files;
    size_t n, damaged = 0;
    int r = store_list_dir(s, s->names_fd, false, &files, &n, err);

    if (r < 0)
        return r;
    for (size_t i = 0; r >= 0 && i < n; i++) {
        struct sm_error why = SM_ERROR_INIT;
        struct name_doc doc;

        r = names_read_file(s, files[i], &doc, &why);
        if (r >= 0) {
            r = list_take(ret, &doc, &why);
            name_doc_done(&doc);
        } else if (r == -EBADMSG) {
            damaged++;
            r = 0;
        } else if (r == -ENOENT) { /* it went meanwhile */
            r = 0;
        }
        if (r < 0 && err)
            *err = why;
    }
    strings_free(files);
    if (ret_damaged)
        *ret_damaged = damaged;
    return r;
}

static int compare_digests(const void *a, const void *b)
{
    return memcmp(a, b, DIGEST_BYTES);
}

/* Untagged records of images that have a name. */
static int drop_hidden(struct list *l, struct sm_error *err)
{
    CLEANUP_FREE struct digest *named = calloc(l->n + 1, sizeof(*named));
    size_t n = 0, left = 0;

    if (!named)
        return no_memory(err);
    for (size_t i = 0; i < l->n; i++) {
        if (!name_is_untagged(&l->items[i]))
            named[n++] = l->items[i].manifest;
    }
    qsort(named, n, sizeof(*named), compare_digests);
    for (size_t i = 0; i < l->n; i++) {
        struct name_record *r = &l->items[i];

        if (name_is_untagged(r) && bsearch(&r->manifest, named, n, sizeof(*named), compare_digests))
            name_record_done(r);
        else
            l->items[left++] = *r;
    }
    l->n = left;
    return 0;
}

static int compare_records(const void *a, const void *b)
{
    const struct name_record *x = a, *y = b;
    int untagged = (int)name_is_untagged(x) - (int)name_is_untagged(y), r = strcmp(x->name, y->name);

    return untagged ? untagged : r ? r : strcmp(x->platform, y->platform);
}

int names_list(struct oci_store *s, struct name_record **ret, size_t *ret_n, size_t *ret_damaged, struct sm_error *err)
{
    struct list l = {NULL, 0, 0};
    int r = list_all(s, &l, ret_damaged, err);

    if (r >= 0)
        r = drop_hidden(&l, err);
    if (r < 0) {
        name_records_free(l.items, l.n);
        return r;
    }
    if (l.n)
        qsort(l.items, l.n, sizeof(*l.items), compare_records);
    *ret = l.items;
    *ret_n = l.n;
    return 0;
}

/* Changing */

/* 1: some name, not counting `except` (may be NULL), stands for the image. */
static int has_name(struct oci_store *s, const struct digest *manifest, const char *except, struct sm_error *err)
{
    struct list l = {NULL, 0, 0};
    int r = list_all(s, &l, NULL, err);

    for (size_t i = 0; r == 0 && i < l.n; i++)
        r = digest_equal(&l.items[i].manifest, manifest) && !name_is_untagged(&l.items[i]) &&
            (!except || strcmp(l.items[i].name, except));
    name_records_free(l.items, l.n);
    return r;
}

static int put_untagged(struct oci_store *s, const struct name_record *r, struct sm_error *err)
{
    char name[NAME_UNTAGGED_SIZE];
    struct name_record copy = *r;

    copy.name = (char *)(uintptr_t)name_untagged(name, &r->manifest);
    return write_name(s, &(struct name_doc){&copy, 1}, err);
}

/* With locks/names held. */
static int put_name(struct oci_store *s, const struct name_record *r, struct sm_error *err)
{
    struct name_record old = {.name = NULL};
    struct name_doc doc = {NULL, 0};
    char untagged[NAME_UNTAGGED_SIZE];
    int code = read_name(s, r->name, &doc, err);

    if (code == -ENOENT)
        code = 0;
    if (code >= 0)
        code = name_doc_set(&doc, r, &old, err);
    if (code >= 0 && old.name && !digest_equal(&old.manifest, &r->manifest)) {
        code = has_name(s, &old.manifest, r->name, err);
        if (code == 0)
            code = put_untagged(s, &old, err);
    }
    if (code >= 0)
        code = write_name(s, &doc, err);
    if (code >= 0)
        code = unlink_name(s, name_untagged(untagged, &r->manifest), err);
    name_record_done(&old);
    name_doc_done(&doc);
    return code;
}

int names_put(struct oci_store *s, const struct name_record *r, struct sm_error *err)
{
    struct name_record rec = *r;
    CLEANUP_FD int lock_fd = -1;
    int code;

    if (!rec.created_s)
        rec.created_s = time(NULL);
    lock_fd = lock_names(s, err);
    if (lock_fd < 0)
        return lock_fd;
    if (rec.name && !name_is_untagged(&rec))
        return put_name(s, &rec, err);
    code = has_name(s, &rec.manifest, NULL, err);
    return code ? (code < 0 ? code : 0) : put_untagged(s, &rec, err);
}

int names_remove(struct oci_store *s, const char *name, const char *platform, struct sm_error *err)
{
    CLEANUP_FD int lock_fd = lock_names(s, err);
    struct name_doc doc;
    size_t left = 0, before;
    int r;

    if (lock_fd < 0)
        return lock_fd;
    r = read_name(s, name, &doc, err);
    if (r < 0)
        return r;
    before = doc.n;
    for (size_t i = 0; i < doc.n; i++) {
        if (!platform || !strcmp(doc.list[i].platform, platform))
            name_record_done(&doc.list[i]);
        else
            doc.list[left++] = doc.list[i];
    }
    doc.n = left;
    if (left == before)
        r = -ENOENT;
    else
        r = left ? write_name(s, &doc, err) : unlink_name(s, name, err);
    name_doc_done(&doc);
    return r;
}

/* Use */

void image_used(struct oci_store *s, const struct digest *manifest)
{
    char hex[DIGEST_HEX_SIZE];
    CLEANUP_FD int fd = -1;

    digest_hex(manifest, hex);
    if (utimensat(s->used_fd, hex, NULL, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
        fd = openat(s->used_fd, hex, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
}

int64_t image_last_used(struct oci_store *s, const struct digest *manifest)
{
    char hex[DIGEST_HEX_SIZE];
    struct stat st;

    digest_hex(manifest, hex);
    return fstatat(s->used_fd, hex, &st, AT_SYMLINK_NOFOLLOW) < 0 ? 0 : (int64_t)st.st_mtime;
}
