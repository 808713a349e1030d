/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Choosing an image.
 *
 * Theory of operation
 *
 * What: a list of descriptors (a layout's index.json) holds those with the tag asked for: the roots; a registry's name
 * is one root. A root that is an index (of a nested one, too) is opened, and every manifest found becomes a candidate
 * with its platform: the descriptor's own word, or its config's when the descriptor has none. The best score wins, the
 * first of equals. The config of what was chosen has the last word on the platform.
 *
 * Documents come verified from whoever has them (documents.h).
 *
 * Limits: OCI_INDEX_MAX_NESTING, which also ends a cycle (there cannot be one of digests; there can of files that
 * match none), OCI_INDEX_MAX_MANIFESTS candidates, and OCI_INDEX_MAX_OPENED: an index that lists another one a thousand
 * times is small, and so is a fourth of its kind above it.
 */
#include "oci/select.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "oci/limits.h"
#include "oci/text.h"

#define LIST_MAX 900 /* bytes of a list inside a sentence */

struct candidate {
    struct descriptor desc; /* without a ref_name of its own */
    struct platform platform;
};

struct selection {
    const struct documents *docs;
    struct candidate *candidates;
    size_t n;
    unsigned opened; /* indexes */
};

static int read_manifest(const struct documents *docs, const struct descriptor *d, struct manifest_doc *ret,
                         struct sm_error *err)
{
    CLEANUP_FREE void *data = NULL;
    char name[DIGEST_STR_SIZE];
    int r = docs->read(docs->ctx, d, &data, err);

    if (r >= 0)
        r = manifest_doc_parse(ret, data, d->size, err);
    digest_str(&d->digest, name);
    return r < 0 ? sm_error_wrap(err, "manifest %s", name) : 0;
}

static int read_config(const struct documents *docs, const struct descriptor *d, struct config_doc *ret,
                       struct sm_error *err)
{
    CLEANUP_FREE void *data = NULL;
    char name[DIGEST_STR_SIZE];
    int r = docs->read(docs->ctx, d, &data, err);

    if (r >= 0)
        r = config_doc_parse(ret, data, d->size, err);
    digest_str(&d->digest, name);
    return r < 0 ? sm_error_wrap(err, "config %s", name) : 0;
}

/* The platform of a manifest whose descriptor does not tell. */
static int platform_from_config(struct selection *s, const struct descriptor *d, struct platform *ret,
                                struct sm_error *err)
{
    struct manifest_doc m;
    struct config_doc c;
    int r = read_manifest(s->docs, d, &m, err);

    if (r < 0)
        return r;
    r = read_config(s->docs, &m.config, &c, err);
    manifest_doc_done(&m);
    if (r < 0)
        return r;
    *ret = c.platform;
    config_doc_done(&c);
    return 0;
}

static int add_candidate(struct selection *s, const struct descriptor *d, bool only, struct sm_error *err)
{
    struct candidate *c;
    int r = 0;

    if (s->n == OCI_INDEX_MAX_MANIFESTS)
        return sm_error_set(err, E2BIG, "the image's indexes hold more than %d manifests", OCI_INDEX_MAX_MANIFESTS);
    c = &s->candidates[s->n];
    *c = (struct candidate){.desc = *d, .platform = d->platform};
    c->desc.ref_name = NULL;
    /* A single manifest is read anyway, and its own sentence is the better one when it cannot be. */
    if (!d->has_platform && !only)
        r = platform_from_config(s, d, &c->platform, err);
    if (r >= 0)
        s->n++;
    return r;
}

static int collect(struct selection *s, const struct descriptor *d, bool only, unsigned depth, struct sm_error *err)
{
    struct index_doc idx;
    CLEANUP_FREE void *data = NULL;
    char name[DIGEST_STR_SIZE];
    int r;

    if (d->media == MEDIA_MANIFEST)
        return add_candidate(s, d, only, err);
    digest_str(&d->digest, name);
    if (d->media != MEDIA_INDEX) /* something that is no image may be listed beside one */
        return only ? sm_error_set(err, ENOTSUP, "%s is of the unknown media type \"%s\"", name, d->media_type) : 0;
    if (depth >= OCI_INDEX_MAX_NESTING)
        return sm_error_set(err, ELOOP, "index %s: indexes are nested more than %d deep", name, OCI_INDEX_MAX_NESTING);
    if (s->opened++ == OCI_INDEX_MAX_OPENED)
        return sm_error_set(err, E2BIG, "the image has more than %d indexes", OCI_INDEX_MAX_OPENED);
    r = s->docs->read(s->docs->ctx, d, &data, err);
    if (r >= 0)
        r = index_doc_parse(&idx, data, d->size, err);
    if (r < 0)
        return sm_error_wrap(err, "index %s", name);
    for (size_t i = 0; r >= 0 && i < idx.n; i++)
        r = collect(s, &idx.items[i], only && idx.n == 1, depth + 1, err);
    index_doc_done(&idx);
    return r;
}

/* ", "-separated list inside a sentence, cut with "..." */
static void list_add(struct buf *b, const char *s)
{
    char shown[TEXT_SHOWN_SIZE];

    if (b->len > LIST_MAX)
        return;
    if (b->len)
        buf_bytes(b, ", ", 2);
    text_shown(shown, s);
    if (b->len + strlen(shown) > LIST_MAX) {
        buf_bytes(b, "...", 3);
        buf_reserve(b, LIST_MAX + 1 - b->len); /* full: zeros end the string */
        return;
    }
    buf_bytes(b, shown, strlen(shown));
}

static const char *list_str(struct buf *b)
{
    buf_u8(b, 0);
    return b->bad ? "(out of memory)" : b->len > 1 ? (const char *)b->data : "none";
}

static int no_platform(const struct selection *s, const struct platform *want, struct sm_error *err)
{
    struct buf list = buf_init(2 * LIST_MAX);
    char name[PLATFORM_STR_SIZE];
    int r;

    for (size_t i = 0; i < s->n; i++)
        list_add(&list, platform_str(name, &s->candidates[i].platform));
    r = sm_error_set(err, ENOENT, "the image is not there for %s; it is there for: %s", platform_str(name, want),
                     list_str(&list));
    buf_done(&list);
    return r;
}

static bool has_tag(const struct descriptor *d, const char *tag)
{
    return d->ref_name && !strcmp(d->ref_name, tag);
}

static size_t count_tag(const struct index_doc *idx, const char *tag)
{
    size_t n = 0;

    for (size_t i = 0; i < idx->n; i++)
        n += has_tag(&idx->items[i], tag);
    return n;
}

static bool same_tag(const struct descriptor *a, const struct descriptor *b)
{
    return a->ref_name ? has_tag(b, a->ref_name) : !b->ref_name;
}

static int no_tag(const struct index_doc *idx, const char *tag, struct sm_error *err)
{
    struct buf list = buf_init(2 * LIST_MAX);
    char shown[TEXT_SHOWN_SIZE];
    int r;

    for (size_t i = 0; i < idx->n; i++) {
        bool again = false;

        for (size_t k = 0; k < i; k++)
            again |= same_tag(&idx->items[i], &idx->items[k]);
        if (idx->items[i].ref_name && !again)
            list_add(&list, idx->items[i].ref_name);
    }
    if (tag)
        r = sm_error_set(err, ENOENT, "there is no tag \"%s\"; tags: %s", text_shown(shown, tag), list_str(&list));
    else
        r = sm_error_set(err, ENOENT, "there is more than one image: say which by oci:DIRECTORY:TAG; tags: %s",
                         list_str(&list));
    buf_done(&list);
    return r;
}

/* Every root that the tag means, into the candidates. */
static int collect_roots(struct selection *s, const struct index_doc *idx, const char *tag, struct sm_error *err)
{
    bool all = false;
    size_t n;
    int r = 0;

    if (!idx->n)
        return sm_error_set(err, ENOENT, "it holds no image");
    if (!tag) {
        all = true;
        for (size_t i = 1; i < idx->n; i++)
            all &= same_tag(&idx->items[0], &idx->items[i]);
        if (!all)
            tag = "latest";
        if (!all && !count_tag(idx, tag))
            return no_tag(idx, NULL, err);
    }
    n = all ? idx->n : count_tag(idx, tag);
    if (!n)
        return no_tag(idx, tag, err);
    for (size_t i = 0; r >= 0 && i < idx->n; i++) {
        if (all || has_tag(&idx->items[i], tag))
            r = collect(s, &idx->items[i], n == 1, 0, err);
    }
    return r;
}

static const struct candidate *best_candidate(const struct selection *s, const struct platform *want)
{
    const struct candidate *best = NULL;
    int best_score = 0;

    if (s->n == 1 && !s->candidates[0].desc.has_platform)
        return &s->candidates[0]; /* not looked at yet: its config decides */
    for (size_t i = 0; i < s->n; i++) {
        int score = platform_score(want, &s->candidates[i].platform);

        if (score > best_score) {
            best = &s->candidates[i];
            best_score = score;
        }
    }
    return best;
}

/* The manifest is in `ret`: its config, and do they agree? `want` NULL: any platform will do. */
static int complete(struct selected *ret, const struct documents *docs, const struct platform *want,
                    struct sm_error *err)
{
    char have[PLATFORM_STR_SIZE], name[PLATFORM_STR_SIZE];
    int r = read_config(docs, &ret->manifest.config, &ret->config, err);

    if (r < 0)
        return r;
    if (want && !platform_score(want, &ret->config.platform))
        return sm_error_set(err, ENOENT, "the image is not there for %s; it is there for: %s", platform_str(name, want),
                            platform_str(have, &ret->config.platform));
    if (ret->config.n_diff_ids != ret->manifest.n_layers)
        return sm_error_set(err, EBADMSG,
                            "the manifest has %zu layers, the config %zu diff ids: they do not belong "
                            "together",
                            ret->manifest.n_layers, ret->config.n_diff_ids);
    return 0;
}

static int load(struct selected *ret, const struct selection *s, const struct candidate *c, const struct platform *want,
                struct sm_error *err)
{
    int r = read_manifest(s->docs, &c->desc, &ret->manifest, err);

    ret->manifest_digest = c->desc.digest;
    return r < 0 ? r : complete(ret, s->docs, want, err);
}

static int selection_init(struct selection *ret, const struct documents *docs, struct sm_error *err)
{
    *ret = (struct selection){.docs = docs, .candidates = calloc(OCI_INDEX_MAX_MANIFESTS, sizeof(*ret->candidates))};
    return ret->candidates ? 0 : sm_error_set(err, ENOMEM, "out of memory");
}

/* The best of what was collected; `s` is used up. `r`: how collecting went. */
static int selection_end(struct selected *ret, struct selection *s, const struct platform *want, int r,
                         struct sm_error *err)
{
    struct selected sel = {.manifest = {.n_layers = 0}};
    const struct candidate *best;

    if (r >= 0) {
        best = best_candidate(s, want);
        r = best ? load(&sel, s, best, want, err) : no_platform(s, want, err);
    }
    free(s->candidates);
    if (r < 0) {
        selected_done(&sel);
        return r;
    }
    *ret = sel;
    return 0;
}

int select_image(struct selected *ret, const struct documents *docs, const struct index_doc *list, const char *tag,
                 const struct platform *want, struct sm_error *err)
{
    struct selection s;
    int r = selection_init(&s, docs, err);

    if (r >= 0)
        r = collect_roots(&s, list, tag, err);
    return selection_end(ret, &s, want, r, err);
}

int select_root(struct selected *ret, const struct documents *docs, const struct descriptor *root,
                const struct platform *want, struct sm_error *err)
{
    struct selection s;
    int r = selection_init(&s, docs, err);

    if (r >= 0)
        r = collect(&s, root, true, 0, err);
    return selection_end(ret, &s, want, r, err);
}

int select_manifest(struct selected *ret, const struct documents *docs, const struct digest *digest, const void *data,
                    size_t len, const struct platform *want, struct sm_error *err)
{
    struct selected sel = {.manifest_digest = *digest};
    char name[DIGEST_STR_SIZE];
    int r = manifest_doc_parse(&sel.manifest, data, len, err);

    if (r < 0) {
        digest_str(digest, name);
        return sm_error_wrap(err, "manifest %s", name);
    }
    r = complete(&sel, docs, want, err);
    if (r < 0) {
        selected_done(&sel);
        return r;
    }
    *ret = sel;
    return 0;
}

void selected_done(struct selected *s)
{
    manifest_doc_done(&s->manifest);
    config_doc_done(&s->config);
}
