/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pulling an image.
 *
 * Theory of operation
 *
 * What: what does the name mean now (one HEAD; a name with a digest says it itself)? If the store's record of the name
 * says the same and all of that image is there, nothing else happens. Otherwise: index and manifest by digest ->
 * config -> layers that are not converted yet (fetch.c, ensure.c) -> merged metadata (image.c) -> the record of the
 * name, last.
 *
 * Every document and blob is looked for in the store before the registry is asked, and kept in the store: so a pull
 * that was cut goes on where it was, and one that shares layers with another image pays only for its own.
 *
 * Invariants: the name means an image that is all there, or what it meant before. gc_enter() is held throughout, so
 * nothing that was found or made goes before the name reaches it.
 *
 * Nothing is sent before something is needed: a name with a digest whose image is there needs no network.
 */
#include "oci/pull.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "oci/blobs.h"
#include "oci/ensure.h"
#include "oci/events.h"
#include "oci/fetch.h"
#include "oci/gc.h"
#include "oci/limits.h"
#include "oci/names.h"
#include "oci/ref.h"
#include "oci/registry.h"
#include "oci/stored.h"
#include "oci/text.h"

struct pull {
    struct oci_store *store;
    const struct oci_ref *ref;
    const char *platform; /* as asked for; NULL: this host's */
    struct platform want;
    const struct oci_events *events;
    struct registry_options options;
    const struct registry_options *given;
    struct registry *registry; /* NULL: not needed so far */
    struct fetcher *fetcher;
    bool in_layers; /* all documents are there */
    uint64_t bytes; /* of documents */
    char *name;     /* canonical */
    int gc_fd;
};

/* The registry */

static int keep_going(void *ctx, struct sm_error *err)
{
    struct pull *p = ctx;
    int r = p->given && p->given->keep_going ? p->given->keep_going(p->given->ctx, err) : 0;

    if (r < 0)
        return r;
    return p->in_layers ? fetcher_tell(p->fetcher, err) : event_tell(p->events, OCI_EVENT_RESOLVING, NULL, 0, 0, err);
}

static int connect_registry(void *ctx, struct registry **ret, struct sm_error *err)
{
    struct pull *p = ctx;
    int r = 0;

    if (!p->registry) {
        if (p->given)
            p->options = *p->given;
        p->options.keep_going = keep_going;
        p->options.ctx = p;
        r = registry_open(&p->registry, &p->options, p->ref->host, p->ref->path, err);
    }
    *ret = p->registry;
    return r;
}

static int pull_init(struct pull *p, struct oci_store *store, const struct oci_ref *ref,
                     const struct oci_open_options *options, struct sm_error *err)
{
    struct fetcher_hooks hooks = {connect_registry, p};
    int r;

    assert(ref->kind == REF_REGISTRY);
    *p = (struct pull){.store = store, .ref = ref, .gc_fd = -1};
    if (options) {
        p->platform = options->platform;
        p->events = options->events;
        p->given = options->registry;
    }
    r = ref_canonical(ref, &p->name, err);
    if (r >= 0)
        r = platform_parse(&p->want, p->platform, err);
    if (r >= 0)
        r = fetcher_new(&p->fetcher, store, &hooks, p->events, err);
    if (r >= 0)
        p->gc_fd = r = gc_enter(store, err);
    return r < 0 ? r : 0;
}

static void pull_done(struct pull *p)
{
    fetcher_free(p->fetcher);
    registry_free(p->registry);
    free(p->name);
    close_fd(&p->gc_fd);
}

/* Documents */

static int keep(struct pull *p, const struct digest *digest, const void *data, size_t len, struct sm_error *err)
{
    p->bytes += len;
    return blob_put(p->store, digest, data, len, err);
}

/* An index or a manifest by its digest, from the store or else from the registry. */
static int get_manifest(struct pull *p, const struct digest *digest, void **ret, size_t *ret_len, struct sm_error *err)
{
    char name[DIGEST_STR_SIZE], media[REGISTRY_MEDIA_SIZE];
    CLEANUP_FREE void *data = NULL;
    struct registry *registry;
    struct digest got;
    int r = blob_read(p->store, digest, OCI_JSON_MAX_BYTES, ret, ret_len, err);

    if (r != -ENOENT)
        return r;
    digest_str(digest, name);
    r = connect_registry(p, &registry, err);
    if (r >= 0)
        r = registry_manifest(registry, name, digest, &data, ret_len, &got, media, err);
    if (r >= 0)
        r = keep(p, digest, data, *ret_len, err);
    if (r >= 0)
        *ret = STEAL_PTR(data);
    return r;
}

static int check_size(const struct descriptor *d, size_t len, struct sm_error *err)
{
    char name[DIGEST_STR_SIZE];

    if (len == d->size)
        return 0;
    digest_str(&d->digest, name);
    return sm_error_set(err, EBADMSG, "%s is %zu bytes long, but its descriptor says %llu", name, len,
                        (unsigned long long)d->size);
}

static int get_config(struct pull *p, const struct descriptor *d, void **ret, size_t *ret_len, struct sm_error *err)
{
    CLEANUP_FREE void *data = NULL;
    struct registry *registry;
    int r = blob_read(p->store, &d->digest, OCI_JSON_MAX_BYTES, ret, ret_len, err);

    if (r != -ENOENT)
        return r;
    r = connect_registry(p, &registry, err);
    if (r >= 0)
        r = registry_document(registry, &d->digest, d->size, &data, err);
    if (r >= 0)
        r = keep(p, &d->digest, data, d->size, err);
    if (r >= 0) {
        *ret = STEAL_PTR(data);
        *ret_len = d->size;
    }
    return r;
}

static int get_document(void *ctx, const struct descriptor *d, void **ret, struct sm_error *err)
{
    CLEANUP_FREE void *data = NULL;
    struct pull *p = ctx;
    size_t len = 0;
    int r = event_tell(p->events, OCI_EVENT_RESOLVING, NULL, 0, 0, err);

    if (r < 0)
        return r;
    if (d->media == MEDIA_INDEX || d->media == MEDIA_MANIFEST)
        r = get_manifest(p, &d->digest, &data, &len, err);
    else
        r = get_config(p, d, &data, &len, err);
    if (r >= 0)
        r = check_size(d, len, err);
    if (r >= 0)
        *ret = STEAL_PTR(data);
    return r;
}

/* What the name means now. */
static int resolve(struct pull *p, struct digest *ret, struct sm_error *err)
{
    char media[REGISTRY_MEDIA_SIZE];
    struct registry *registry;
    void *data;
    size_t len;
    int r;

    if (p->ref->has_digest) {
        *ret = p->ref->digest;
        return 0;
    }
    r = connect_registry(p, &registry, err);
    if (r >= 0)
        r = registry_resolve(registry, p->ref->tag, ret, err);
    if (r != -EOPNOTSUPP)
        return r;
    r = registry_manifest(registry, p->ref->tag, NULL, &data, &len, ret, media, err);
    if (r < 0)
        return r;
    r = keep(p, ret, data, len, err);
    free(data);
    return r;
}

/* The image */

/* Is all of it there, and does the name stand for it? Then *ret is it. */
static bool is_up_to_date(struct pull *p, const struct digest *root, struct oci_image **ret)
{
    struct name_record record;
    bool same;

    if (names_get(p->store, p->name, p->platform, &record, NULL) < 0)
        return false;
    same = digest_equal(&record.root, root) &&
           image_open_stored(ret, p->store, &record.manifest, &p->want, p->events, NULL) >= 0;
    name_record_done(&record);
    return same;
}

static int select_platform(struct pull *p, const struct digest *root, struct selected *ret, struct sm_error *err)
{
    struct documents docs = {get_document, p};
    struct descriptor d = {.digest = *root};
    CLEANUP_FREE void *data = NULL;
    char name[DIGEST_STR_SIZE];
    size_t len;
    int r = get_manifest(p, root, &data, &len, err);

    if (r < 0)
        return r;
    d.size = len;
    r = doc_media(&d.media, data, len, err);
    digest_str(root, name);
    return r < 0 ? sm_error_wrap(err, "%s", name) : select_root(ret, &docs, &d, &p->want, err);
}

static int record_name(struct pull *p, const struct digest *root, const struct digest *manifest, char *platform,
                       struct sm_error *err)
{
    struct name_record record = {
        .name = p->name, .root = *root, .manifest = *manifest, .platform = platform, .source = p->name};

    return names_put(p->store, &record, err);
}

static int get_image(struct pull *p, const struct digest *root, struct oci_image **ret, struct digest *ret_manifest,
                     struct sm_error *err)
{
    struct layer_source source = fetcher_source(p->fetcher);
    char platform[PLATFORM_STR_SIZE];
    struct oci_image *img;
    struct selected sel;
    int r = select_platform(p, root, &sel, err);

    if (r < 0)
        return r;
    *ret_manifest = sel.manifest_digest;
    platform_str(platform, &sel.config.platform);
    p->in_layers = true;
    r = image_assemble(&img, p->store, &sel, &source, p->events, err);
    if (r < 0)
        return r;
    r = record_name(p, root, ret_manifest, platform, err);
    if (r < 0)
        oci_image_free(img);
    else
        *ret = img;
    return r;
}

static int pull_image(struct oci_image **ret_image, struct oci_store *store, const struct oci_ref *ref,
                      const struct digest *root, const struct oci_open_options *options, struct oci_pull_result *ret,
                      struct sm_error *err)
{
    struct oci_pull_result result = {.up_to_date = false};
    char shown[TEXT_SHOWN_SIZE];
    struct oci_image *img = NULL;
    struct pull p;
    int r = pull_init(&p, store, ref, options, err);

    if (r >= 0)
        r = event_tell(p.events, OCI_EVENT_RESOLVING, NULL, 0, 0, err);
    if (r >= 0 && root)
        result.root = *root;
    else if (r >= 0)
        r = resolve(&p, &result.root, err);
    if (r >= 0) {
        result.up_to_date = is_up_to_date(&p, &result.root, &img);
        if (result.up_to_date)
            r = digest_parse(&result.manifest, oci_image_digest(img), "the image's digest", err);
        else
            r = get_image(&p, &result.root, &img, &result.manifest, err);
    }
    if (r < 0 && p.name)
        r = sm_error_wrap(err, "image \"%s\"", text_shown(shown, p.name));
    result.fetched = p.bytes + (p.fetcher ? fetcher_bytes(p.fetcher) : 0);
    pull_done(&p);
    if (r < 0) {
        oci_image_free(img);
        return r;
    }
    if (ret)
        *ret = result;
    *ret_image = img;
    return 0;
}

int oci_pull(struct oci_store *store, const struct oci_ref *ref, const struct oci_open_options *options,
             struct oci_pull_result *ret, struct sm_error *err)
{
    struct oci_image *img;
    int r = pull_image(&img, store, ref, NULL, options, ret, err);

    if (r < 0)
        return r;
    oci_image_free(img);
    event_tell(options ? options->events : NULL, OCI_EVENT_DONE, NULL, 0, 0, NULL); /* too late to stop it */
    return 0;
}

int oci_pull_open(struct oci_image **ret_image, struct oci_store *store, const struct oci_ref *ref,
                  const struct digest *root, const struct oci_open_options *options, struct sm_error *err)
{
    return pull_image(ret_image, store, ref, root, options, NULL, err);
}

int oci_pull_blob(struct oci_store *store, const struct oci_ref *ref, const struct digest *digest, uint64_t size,
                  const struct oci_open_options *options, struct sm_error *err)
{
    struct descriptor d = {.digest = *digest, .size = size};
    struct pull p;
    int r = pull_init(&p, store, ref, options, err);

    p.in_layers = true;
    if (r >= 0)
        r = fetcher_get(p.fetcher, &d, err);
    pull_done(&p);
    return r;
}
