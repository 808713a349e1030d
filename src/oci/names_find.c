/* SPDX-License-Identifier: Apache-2.0 */
/* What a user means by an image's name or id: see names_find in names.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "oci/names.h"
#include "oci/ref.h"
#include "oci/text.h"

#define PREFIX_MIN  4
#define LISTED_MAX  5
#define LISTED_SIZE 700

struct query {
    const char *typed;
    char shown[TEXT_SHOWN_SIZE];
    const char *hex; /* the digits of what may be an id; NULL: it is none */
    size_t hex_len;
    char *canonical;  /* NULL: it is no name */
    char *repository; /* with a digest: what is before the tag in names of the same repository; else NULL */
    struct digest digest;
};

static void query_done(struct query *q)
{
    free(q->canonical);
    free(q->repository);
}

static int take_name(struct query *q, struct sm_error *err)
{
    struct oci_ref ref;
    int r = ref_parse(&ref, q->typed, err);

    if (r < 0)
        return r;
    if (ref.kind != REF_REGISTRY)
        r = sm_error_set(err, EINVAL, "\"%s\" is not in the image store: this needs a name or an id of what is there",
                         q->shown);
    if (r >= 0)
        r = ref_canonical(&ref, &q->canonical, err);
    if (r >= 0 && ref.has_digest) {
        q->digest = ref.digest;
        if (asprintf(&q->repository, "%s/%s", ref.host, ref.path) < 0) {
            q->repository = NULL;
            r = sm_error_set(err, ENOMEM, "out of memory");
        }
    }
    ref_done(&ref);
    return r;
}

static int query_init(struct query *q, const char *typed, struct sm_error *err)
{
    struct sm_error why = SM_ERROR_INIT;
    bool sha = !strncmp(typed, "sha256:", 7);
    int r;

    *q = (struct query){.typed = typed, .hex = sha ? typed + 7 : typed};
    text_shown(q->shown, typed);
    q->hex_len = strspn(q->hex, "0123456789abcdef");
    if (q->hex[q->hex_len] || q->hex_len < PREFIX_MIN || q->hex_len >= DIGEST_HEX_SIZE)
        q->hex = NULL;
    if (typed[0] == '@') { /* as records of images without a name have it */
        q->canonical = strdup(typed);
        return q->canonical ? 0 : sm_error_set(err, ENOMEM, "out of memory");
    }
    if (sha || q->hex_len == DIGEST_HEX_SIZE - 1) /* a repository cannot be called so */
        return q->hex ? 0 : sm_error_set(err, EINVAL, "\"%s\" is no id: at least %d hex digits", q->shown, PREFIX_MIN);
    r = take_name(q, &why);
    if (r < 0 && (!q->hex || r == -ENOMEM)) {
        if (err)
            *err = why;
        query_done(q);
        return r;
    }
    return 0;
}

static bool is_named(const struct query *q, const struct name_record *r)
{
    return q->canonical && !strcmp(r->name, q->canonical);
}

/* "repository@digest" where the image was pulled by a tag. */
static bool is_of_repository(const struct query *q, const struct name_record *r)
{
    size_t len = q->repository ? strlen(q->repository) : 0;

    return len && !strncmp(r->name, q->repository, len) && (r->name[len] == ':' || r->name[len] == '@') &&
           (digest_equal(&r->root, &q->digest) || digest_equal(&r->manifest, &q->digest));
}

static bool has_id(const struct query *q, const struct name_record *r)
{
    char hex[DIGEST_HEX_SIZE];

    digest_hex(&r->manifest, hex);
    return q->hex && !strncmp(hex, q->hex, q->hex_len);
}

/* Keep only what fits. */
static size_t filter(struct name_record *list, size_t n, const struct query *q,
                     bool (*fits)(const struct query *q, const struct name_record *r))
{
    size_t left = 0, any = 0;

    for (size_t i = 0; i < n && !any; i++)
        any = fits(q, &list[i]);
    if (!any)
        return 0;
    for (size_t i = 0; i < n; i++) {
        if (fits(q, &list[i]))
            list[left++] = list[i];
        else
            name_record_done(&list[i]);
    }
    return left;
}

static int ambiguous(const struct query *q, const struct name_record *list, size_t n, struct sm_error *err)
{
    char text[LISTED_SIZE] = "", hex[DIGEST_HEX_SIZE], shown[TEXT_SHOWN_SIZE];
    size_t len = 0;

    for (size_t i = 0; i < n && i < LISTED_MAX; i++) {
        digest_hex(&list[i].manifest, hex);
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%.16s (%.100s)", i ? ", " : "", hex,
                                name_is_untagged(&list[i]) ? "without a name" : text_shown(shown, list[i].name));
    }
    return sm_error_set(err, EEXIST, "\"%s\" is the beginning of several images' ids: %s%s", q->shown, text,
                        n > LISTED_MAX ? ", and others" : "");
}

static bool is_one_image(const struct name_record *list, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        if (!digest_equal(&list[i].manifest, &list[0].manifest))
            return false;
    }
    return true;
}

int names_find(struct oci_store *s, const char *typed, struct name_record **ret, size_t *ret_n, bool *ret_by_id,
               struct sm_error *err)
{
    struct name_record *list = NULL;
    size_t n = 0, left = 0;
    struct query q;
    bool by_id = false;
    int r = query_init(&q, typed, err);

    if (r < 0)
        return r;
    r = names_list(s, &list, &n, NULL, err);
    if (r < 0)
        goto out;
    left = filter(list, n, &q, is_named);
    if (!left) {
        by_id = true;
        left = filter(list, n, &q, is_of_repository);
    }
    if (!left)
        left = filter(list, n, &q, has_id);
    if (!left)
        r = sm_error_set(err, ENOENT, "there is no image \"%s\" in the image store", q.shown);
    else
        n = left;
    if (r >= 0 && by_id && !q.repository && !is_one_image(list, n))
        r = ambiguous(&q, list, n, err);
out:
    query_done(&q);
    if (r < 0) {
        name_records_free(list, n);
        return r;
    }
    *ret = list;
    *ret_n = n;
    if (ret_by_id)
        *ret_by_id = by_id;
    return 0;
}
