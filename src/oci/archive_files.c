/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An archive's table of contents.
 *
 * Theory of operation
 *
 * What: entries come in any order, so they are only listed while the archive is read; then the list is sorted by name
 * and, beside it, by digest. An entry's name never reaches the host's file system: it is a key here and nothing else.
 *
 * Links: old `docker save` writes a layer that two images share once, and a symbolic link for the other. A link's
 * target is made a name inside the archive when it is listed; one that leads out is refused. Links are followed a few
 * times. Links to directories are not understood: nothing writes them.
 *
 * Duplicates: the same name twice with the same content is what some programs write; with another content it is
 * refused, because one reader would take the first and another the last.
 */
#include "oci/archive_files.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "oci/entry.h"
#include "oci/limits.h"
#include "oci/text.h"

#define BLOBS "blobs/sha256/"

static int refuse(struct sm_error *err, const char *name, const char *why)
{
    char shown[TEXT_SHOWN_SIZE];

    return sm_error_set(err, EBADMSG, "the archive's file \"%s\" %s", text_shown(shown, name), why);
}

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory for an archive's table of contents");
}

static void file_done(struct archive_file *f)
{
    free(f->name);
    free(f->target);
}

void files_done(struct archive_files *f)
{
    for (size_t i = 0; i < f->n; i++)
        file_done(&f->files[i]);
    free(f->files);
    free(f->by_digest);
    *f = (struct archive_files){.n = 0};
}

/*
 * Walk `path` from the directory that `out` holds ("" is the top), component by component: "." and "" stay, ".." goes
 * up. False: it leads out, or is too long.
 */
static bool walk(char out[OCI_PATH_MAX + 1], const char *path)
{
    size_t len = strlen(out), n;
    const char *c;

    while ((n = path_next(&path, &c))) {
        if (path_is_dotdot(c, n)) {
            char *slash = strrchr(out, '/');

            if (!len)
                return false;
            len = slash ? (size_t)(slash - out) : 0;
        } else {
            if (len + 1 + n > OCI_PATH_MAX)
                return false;
            if (len)
                out[len++] = '/';
            memcpy(out + len, c, n);
            len += n;
        }
        out[len] = '\0';
    }
    return true;
}

/* The name as it is listed; malloc'ed. NULL: none that could be. */
static int list_name(char **ret, const char *name, struct sm_error *err)
{
    char out[OCI_PATH_MAX + 1] = "";

    if (name[0] == '/' || !walk(out, name))
        return refuse(err, name, "has a name that leads out of the archive");
    if (!out[0])
        return refuse(err, name, "has no name");
    *ret = strdup(out);
    return *ret ? 0 : no_memory(err);
}

/* Takes the strings of `file` over, also on failure. */
static int append(struct archive_files *f, struct archive_file *file, struct sm_error *err)
{
    if (f->n == f->cap) {
        size_t cap = f->cap ? 2 * f->cap : 64;
        struct archive_file *files = reallocarray(f->files, cap, sizeof(*files));

        if (!files) {
            file_done(file);
            return no_memory(err);
        }
        f->files = files;
        f->cap = cap;
    }
    f->files[f->n++] = *file;
    return 0;
}

int files_add(struct archive_files *f, const char *name, const struct archive_file *file, struct sm_error *err)
{
    struct archive_file copy = *file;
    int r = list_name(&copy.name, name, err);

    copy.target = NULL;
    return r < 0 ? r : append(f, &copy, err);
}

int files_add_link(struct archive_files *f, const char *name, const char *target, bool hard, struct sm_error *err)
{
    struct archive_file link = {.size = 0};
    char out[OCI_PATH_MAX + 1] = "";
    int r = list_name(&link.name, name, err);

    if (r < 0)
        return r;
    if (!hard) { /* a symbolic link starts from where it lies */
        char *slash;

        memcpy(out, link.name, strlen(link.name) + 1);
        slash = strrchr(out, '/');
        *(slash ? slash : out) = '\0';
    }
    if (target[0] == '/' || !walk(out, target)) {
        file_done(&link);
        return refuse(err, name, "is a link that leads out of the archive");
    }
    link.target = strdup(out);
    if (!link.target) {
        file_done(&link);
        return no_memory(err);
    }
    return append(f, &link, err);
}

static int compare_names(const void *a, const void *b)
{
    const struct archive_file *x = a, *y = b;
    int order = strcmp(x->name, y->name);

    return order ? order : x->number < y->number ? -1 : x->number > y->number;
}

static int compare_digests(const void *a, const void *b, void *ctx)
{
    const struct archive_file *files = ctx, *x = &files[*(const unsigned *)a], *y = &files[*(const unsigned *)b];

    return memcmp(x->digest.bytes, y->digest.bytes, DIGEST_BYTES);
}

static bool same_content(const struct archive_file *a, const struct archive_file *b)
{
    if (a->target || b->target)
        return a->target && b->target && !strcmp(a->target, b->target);
    return digest_equal(&a->digest, &b->digest);
}

static int check_blob(const struct archive_file *f, struct sm_error *err)
{
    char hex[DIGEST_HEX_SIZE], shown[TEXT_SHOWN_SIZE];

    if (f->target || strncmp(f->name, BLOBS, strlen(BLOBS)) ||
        strlen(f->name) != strlen(BLOBS) + DIGEST_HEX_SIZE - 1) /* something else that somebody left there */
        return 0;
    digest_hex(&f->digest, hex);
    if (strcmp(f->name + strlen(BLOBS), hex))
        return sm_error_set(err, EBADMSG,
                            "the archive's file \"%s\" has the digest sha256:%s: it is damaged or was tampered with",
                            text_shown(shown, f->name), hex);
    return 0;
}

int files_seal(struct archive_files *f, struct sm_error *err)
{
    size_t kept = 0, n = 0;

    for (size_t i = 0; i < f->n; i++) {
        int r = check_blob(&f->files[i], err);

        if (r < 0)
            return r;
    }
    if (f->n)
        qsort(f->files, f->n, sizeof(f->files[0]), compare_names);
    for (size_t i = 1; i < f->n; i++) {
        if (!strcmp(f->files[i - 1].name, f->files[i].name) && !same_content(&f->files[i - 1], &f->files[i]))
            return refuse(err, f->files[i].name, "is there twice, with different contents");
    }
    for (size_t i = 0; i < f->n; i++) {
        if (kept && !strcmp(f->files[kept - 1].name, f->files[i].name))
            file_done(&f->files[i]);
        else
            f->files[kept++] = f->files[i];
    }
    f->n = kept;
    f->by_digest = calloc(kept ? kept : 1, sizeof(*f->by_digest));
    if (!f->by_digest)
        return no_memory(err);
    for (unsigned i = 0; i < kept; i++) {
        if (!f->files[i].target)
            f->by_digest[n++] = i;
    }
    qsort_r(f->by_digest, n, sizeof(f->by_digest[0]), compare_digests, f->files);
    f->n_by_digest = n;
    return 0;
}

static int compare_key(const void *key, const void *file)
{
    return strcmp(key, ((const struct archive_file *)file)->name);
}

const struct archive_file *files_find(const struct archive_files *f, const char *name)
{
    char out[OCI_PATH_MAX + 1] = "";
    const struct archive_file *found = NULL;

    if (name[0] == '/' || !walk(out, name))
        return NULL;
    name = out;
    for (int i = 0; f->n && i <= OCI_ARCHIVE_FOLLOW_MAX; i++) {
        found = bsearch(name, f->files, f->n, sizeof(f->files[0]), compare_key);
        if (!found || !found->target)
            return found;
        name = found->target;
    }
    return NULL;
}

const struct archive_file *files_by_digest(const struct archive_files *f, const struct digest *d)
{
    size_t low = 0, high = f->n_by_digest;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const struct archive_file *file = &f->files[f->by_digest[mid]];
        int order = memcmp(d->bytes, file->digest.bytes, DIGEST_BYTES);

        if (!order)
            return file;
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

enum archive_form form_of(const uint8_t *head, size_t len)
{
    static const uint8_t gzip[] = {0x1f, 0x8b}, zstd[] = {0x28, 0xb5, 0x2f, 0xfd}; /* RFC 1952 §2.3, RFC 8878 §3.1.1 */

    if (len >= sizeof(gzip) && !memcmp(head, gzip, sizeof(gzip)))
        return FORM_GZIP;
    return len >= sizeof(zstd) && !memcmp(head, zstd, sizeof(zstd)) ? FORM_ZSTD : FORM_PLAIN;
}
