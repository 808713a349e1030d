/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records of the store as the public interface shows them: see store.h.
 *
 * Theory of operation
 *
 * What: a name_record (oci/names.h) becomes a public record: its canonical name as users write it, split at the tag;
 * what the image's documents tell (when it was built, how large it is) beside it. Documents that are not there, or not
 * right, leave that unknown: a list must not fail because one image is damaged, fsck is for that.
 *
 * Ownership: a public record lies in a struct with everything that its pointers point at; a list is freed as a whole.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "lib/store.h"
#include "oci/platform.h"
#include "oci/ref.h"
#include "oci/text.h"

/* A public record and what its pointers point at. */
struct published {
    struct sm_image_record r;
    char *name, *repository, *tag, *platform, *source;
    char id[DIGEST_STR_SIZE], digest[DIGEST_STR_SIZE];
};

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory while listing images");
}

void sm_image_records_free(struct sm_image_record *list)
{
    while (list) {
        struct published *p = CONTAINER_OF(list, struct published, r);

        list = list->next;
        free(p->name);
        free(p->repository);
        free(p->tag);
        free(p->platform);
        free(p->source);
        free(p);
    }
}

/* `pin`: by digest instead of by tag. */
static int familiar(const struct name_record *r, bool pin, char **ret, struct sm_error *err)
{
    struct oci_ref ref = {.kind = REF_REGISTRY};
    int e;

    *ret = NULL;
    if (name_is_untagged(r))
        return 0;
    e = ref_parse(&ref, r->name, err);
    if (e >= 0 && pin) {
        free(ref.tag);
        ref.tag = NULL;
        ref.has_digest = true;
        ref.digest = r->root;
    }
    if (e >= 0)
        e = ref_familiar(&ref, ret, err);
    ref_done(&ref);
    return e;
}

int record_familiar(const struct name_record *r, char **ret, struct sm_error *err)
{
    return familiar(r, false, ret, err);
}

int record_pinned(const struct name_record *r, char **ret, struct sm_error *err)
{
    return familiar(r, true, ret, err);
}

int record_registry(struct oci_ref *ret, const struct name_record *r, struct sm_error *err)
{
    struct oci_ref ref = {.kind = REF_REGISTRY};
    char shown[TEXT_SHOWN_SIZE];
    int e = ref_parse(&ref, r->source, NULL);

    if (e < 0 || ref.kind != REF_REGISTRY) {
        ref_done(&ref);
        return sm_error_set(err, ENOENT,
                            "the store lacks parts of this image, which came from \"%s\" and not from a registry: load "
                            "it again",
                            text_shown(shown, r->source));
    }
    ref.has_digest = true;
    ref.digest = r->root;
    *ret = ref;
    return 0;
}

/* "nginx:1.27@sha256:..." into "nginx" and "1.27". */
static int split_name(struct published *p, struct sm_error *err)
{
    const char *slash, *at, *colon;

    if (!p->name)
        return 0;
    at = strchrnul(p->name, '@');
    slash = memrchr(p->name, '/', (size_t)(at - p->name));
    colon = memrchr(slash ? slash : p->name, ':', (size_t)(at - (slash ? slash : p->name)));
    p->repository = strndup(p->name, (size_t)((colon ? colon : at) - p->name));
    p->tag = colon ? strndup(colon + 1, (size_t)(at - colon - 1)) : NULL;
    return p->repository && (!colon || p->tag) ? 0 : no_memory(err);
}

/* What of an image's documents is there; the rest stays unknown. */
static void add_documents(struct sm_image_record *r, struct oci_store *s, const struct digest *manifest)
{
    struct image_docs docs;

    if (image_docs_read(&docs, s, manifest, NULL) < 0)
        return;
    r->created = image_docs_created(&docs);
    r->size = image_docs_size(&docs);
    image_docs_done(&docs);
}

static int publish(struct published *p, struct oci_store *s, const struct name_record *from, struct sm_error *err)
{
    int e = record_familiar(from, &p->name, err);

    if (e >= 0)
        e = split_name(p, err);
    if (e < 0)
        return e;
    p->platform = strdup(from->platform);
    p->source = strdup(from->source);
    if (!p->platform || !p->source)
        return no_memory(err);
    digest_str(&from->manifest, p->id);
    digest_str(&from->root, p->digest);
    p->r = (struct sm_image_record){
        .next = p->r.next,
        .name = p->name,
        .repository = p->repository,
        .tag = p->tag,
        .id = p->id,
        .digest = p->digest,
        .platform = p->platform,
        .source = p->source,
        .added = from->created_s,
        .used = image_last_used(s, &from->manifest),
    };
    add_documents(&p->r, s, &from->manifest);
    return 0;
}

int records_publish(struct sm_image_record **ret, struct oci_store *s, const struct name_record *list, size_t n,
                    struct sm_error *err)
{
    struct sm_image_record *first = NULL, **end = &first;

    for (size_t i = 0; i < n; i++) {
        struct published *p = calloc(1, sizeof(*p));
        int e = p ? 0 : no_memory(err);

        if (p) {
            *end = &p->r;
            e = publish(p, s, &list[i], err);
            end = &p->r.next;
        }
        if (e < 0) {
            sm_image_records_free(first);
            return e;
        }
    }
    *ret = first;
    return 0;
}

int record_choose(const struct name_record **ret, const struct name_record *list, size_t n, const char *platform,
                  const char *typed, struct sm_error *err)
{
    const struct name_record *best = platform ? NULL : &list[0];
    char shown[TEXT_SHOWN_SIZE], wanted[PLATFORM_STR_SIZE];
    struct platform want, have;
    int score, best_score = 0, r = platform_parse(&want, platform, err);

    assert(n > 0);
    if (r < 0)
        return r;
    for (size_t i = 0; i < n; i++) {
        score = platform_parse(&have, list[i].platform, NULL) < 0 ? 0 : platform_score(&want, &have);
        if (score > best_score) {
            best = &list[i];
            best_score = score;
        }
    }
    if (!best)
        return sm_error_set(err, ENOENT, "the store has \"%s\" for %s, not for %s: pull it with --platform",
                            text_shown(shown, typed), list[0].platform, platform_str(wanted, &want));
    *ret = best;
    return 0;
}
