/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a user means by the name of a snapshot.
 *
 * Theory of operation
 *
 * What: a '/' or '.' at its beginning makes it a directory. Else it is looked for in the store, in this order: as a
 * key, or at least 4 digits that one begins with; as an image, by name or id, whose snapshots are meant, as long as the
 * image is in the store; as the name that a snapshot says its image had, when it is not.
 *
 * Snapshots whose metadata is damaged are found by key only.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "lib/snapshot_private.h"
#include "oci/gc.h"
#include "oci/json.h"
#include "oci/names.h"
#include "oci/ref.h"
#include "oci/snapshot_dirs.h"
#include "oci/text.h"

#define DIGITS_MIN  4
#define LISTED_MAX  6
#define LISTED_SIZE 1024

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory while looking for snapshots");
}

bool snapshot_is_dir(const char *typed)
{
    return typed[0] == '/' || typed[0] == '.';
}

/* The canonical form of a name of an image; NULL: it is none. To be freed. */
static char *canonical(const char *name)
{
    struct oci_ref ref = OCI_REF_INIT;
    char *text = NULL;

    if (ref_parse(&ref, name, NULL) >= 0 && ref.kind == REF_REGISTRY && ref_canonical(&ref, &text, NULL) < 0)
        text = NULL;
    ref_done(&ref);
    return text;
}

int snapshot_image_name(const struct snapshot_meta *m, char **ret, struct sm_error *err)
{
    struct oci_ref ref = OCI_REF_INIT;
    int r = 0;

    *ret = NULL;
    if (!m->image_name || !m->image_name[0])
        return 0;
    if (ref_parse(&ref, m->image_name, NULL) < 0 || ref.kind != REF_REGISTRY || ref_familiar(&ref, ret, NULL) < 0) {
        *ret = strdup(m->image_name);
        r = *ret ? 0 : no_memory(err);
    }
    ref_done(&ref);
    return r;
}

/* Keeps the keys that `fits`; the others are freed. */
static size_t filter(struct oci_store *store, char **keys, bool (*fits)(struct oci_store *, const char *, void *),
                     void *ctx)
{
    size_t left = 0;

    for (size_t i = 0; keys[i]; i++) {
        if (fits(store, keys[i], ctx))
            keys[left++] = keys[i];
        else
            free(keys[i]);
    }
    keys[left] = NULL;
    return left;
}

static bool begins(struct oci_store *store, const char *key, void *digits)
{
    (void)store;
    return strncmp(key, digits, strlen(digits)) == 0;
}

struct image_query {
    const struct name_record *list; /* what the store has of that name */
    size_t n;
    const char *canonical; /* NULL: no name */
};

static bool fits_meta(const struct snapshot_meta *m, const struct image_query *q)
{
    CLEANUP_FREE char *own = canonical(m->image_name);
    char digest[DIGEST_STR_SIZE];

    for (size_t i = 0; i < q->n; i++) {
        digest_str(&q->list[i].manifest, digest);
        if (strcmp(digest, m->image_digest) == 0)
            return true;
    }
    return !q->n && q->canonical && own && strcmp(own, q->canonical) == 0;
}

static bool is_of_image(struct oci_store *store, const char *key, void *ctx)
{
    struct snapshot_meta m;
    struct digest name;
    int fd = snapshot_key_digest(&name, key, NULL) < 0 ? -1 : snapshot_dir_open(store, &name, NULL);
    bool fits;

    if (fd < 0)
        return false;
    if (snapshot_dir_meta(fd, &m, NULL) < 0) {
        close_fd(&fd);
        return false;
    }
    close_fd(&fd);
    fits = m.image_digest[0] && fits_meta(&m, ctx);
    snapshot_meta_done(&m);
    return fits;
}

static size_t filter_by_image(struct oci_store *store, char **keys, const char *typed)
{
    CLEANUP_FREE char *name = canonical(typed);
    struct image_query q = {.canonical = name};
    struct name_record *list = NULL;
    size_t left;

    if (names_find(store, typed, &list, &q.n, NULL, NULL) < 0)
        q.n = 0;
    q.list = list;
    left = filter(store, keys, is_of_image, &q);
    name_records_free(list, q.n);
    return left;
}

int snapshot_keys_find(struct oci_store *store, const char *typed, char ***ret, size_t *ret_n, struct sm_error *err)
{
    size_t len = strlen(typed), n;
    bool digits = len >= DIGITS_MIN && strspn(typed, "0123456789abcdef") == len;
    char shown[TEXT_SHOWN_SIZE], *prefix = strdup(typed), **keys;
    int r = prefix ? snapshot_dirs_list(store, &keys, &n, err) : no_memory(err);

    if (r >= 0 && digits)
        n = filter(store, keys, begins, prefix);
    if (r >= 0 && digits && !n) { /* they went: once more, for an image */
        strings_free(keys);
        r = snapshot_dirs_list(store, &keys, &n, err);
        digits = false;
    }
    free(prefix);
    if (r < 0)
        return r;
    if (!digits)
        n = filter_by_image(store, keys, typed);
    if (!n) {
        strings_free(keys);
        return sm_error_set(err, ENOENT,
                            "there is no snapshot \"%s\" in the store: give its key or the first digits, the image's "
                            "name, or a directory that begins with \"/\" or \"./\"",
                            text_shown(shown, typed));
    }
    *ret = keys;
    *ret_n = n;
    return 0;
}

static int several(struct oci_store *store, const char *typed, char **keys, size_t n, struct sm_error *err)
{
    char text[LISTED_SIZE] = "", shown[TEXT_SHOWN_SIZE];
    size_t len = 0;

    for (size_t i = 0; i < n && i < LISTED_MAX; i++) {
        struct snapshot_about a = {.known = false};

        if (snapshot_about_key(&a, store, keys[i], NULL) < 0)
            continue;
        len +=
            (size_t)snprintf(text + len, sizeof(text) - len, "%s%.12s (%.20s%s%.40s, %u MiB)", len ? ", " : "", keys[i],
                             a.known ? snapshot_kind_name(a.meta.kind) : "damaged",
                             a.known && a.meta.trigger[0] ? " " : "", a.known ? a.meta.trigger : "", a.meta.memory_mib);
        snapshot_about_done(&a);
    }
    return sm_error_set(err, EEXIST, "\"%s\" means %zu snapshots: %s%s; name one by its key", text_shown(shown, typed),
                        n, text, n > LISTED_MAX ? " and others" : "");
}

int snapshot_key_find(struct oci_store *store, const char *typed, char ret[SNAPSHOT_KEY_SIZE], struct sm_error *err)
{
    char **keys;
    size_t n;
    int r = snapshot_keys_find(store, typed, &keys, &n, err);

    if (r < 0)
        return r;
    if (n > 1)
        r = several(store, typed, keys, n, err);
    else
        memcpy(ret, keys[0], SNAPSHOT_KEY_SIZE);
    strings_free(keys);
    return r < 0 ? r : 0;
}

int snapshot_open_typed(struct snapshot **ret, struct oci_store *store, const char *typed, bool here,
                        struct sm_error *err)
{
    char key[SNAPSHOT_KEY_SIZE], shown[TEXT_SHOWN_SIZE];
    struct sm_error why = SM_ERROR_INIT;
    CLEANUP_FD int lock_fd = -1;
    int r;

    if (snapshot_is_dir(typed))
        return snapshot_open_path(ret, store, typed, here, err);
    lock_fd = gc_enter(store, err);
    if (lock_fd < 0)
        return lock_fd;
    r = snapshot_key_find(store, typed, key, err);
    if (r < 0)
        return r;
    r = snapshot_open_key(ret, store, key, here, &why);
    if (r == -ENOENT)
        return sm_error_set(err, ENOENT, "the snapshot \"%s\" is gone", text_shown(shown, typed));
    return r < 0 ? sm_error_set(err, -r, "the snapshot %.12s: %s", key, why.text) : 0;
}
