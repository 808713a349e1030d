/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading an image's documents.
 *
 * Theory of operation
 *
 * What: each document is parsed into plain structs and checked for what later code relies on: known media types, well
 * formed digests, sizes within limits, one diff id a layer (that is checked where both documents are at hand). Unknown
 * keys are ignored, as the specification wants. The documents' bytes were verified before, except those of a layout's
 * index.json, which nothing vouches for.
 *
 * Docker's schema 2 differs from OCI's only in media types.
 */
#include "oci/manifest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "oci/base64.h"
#include "oci/json.h"
#include "oci/limits.h"
#include "oci/text.h"

#define DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"

static const struct {
    const char *type;
    enum media media;
} media_types[] = {
    {"application/vnd.oci.image.index.v1+json", MEDIA_INDEX},
    {"application/vnd.docker.distribution.manifest.list.v2+json", MEDIA_INDEX},
    {"application/vnd.oci.image.manifest.v1+json", MEDIA_MANIFEST},
    {DOCKER_MANIFEST, MEDIA_MANIFEST},
    {"application/vnd.oci.image.config.v1+json", MEDIA_CONFIG},
    {"application/vnd.docker.container.image.v1+json", MEDIA_CONFIG},
    {"application/vnd.oci.image.layer.v1.tar", MEDIA_LAYER},
    {"application/vnd.docker.image.rootfs.diff.tar", MEDIA_LAYER},
    {"application/vnd.oci.image.layer.v1.tar+gzip", MEDIA_LAYER_COMPRESSED},
    {"application/vnd.oci.image.layer.v1.tar+zstd", MEDIA_LAYER_COMPRESSED},
    {"application/vnd.docker.image.rootfs.diff.tar.gzip", MEDIA_LAYER_COMPRESSED},
    {"application/vnd.docker.image.rootfs.diff.tar.zstd", MEDIA_LAYER_COMPRESSED},
    {"application/vnd.oci.image.layer.nondistributable.v1.tar", MEDIA_LAYER_FOREIGN},
    {"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", MEDIA_LAYER_FOREIGN},
    {"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", MEDIA_LAYER_FOREIGN},
    {"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", MEDIA_LAYER_FOREIGN},
    {"application/vnd.oci.image.layer.v1.tar+encrypted", MEDIA_LAYER_ENCRYPTED},
    {"application/vnd.oci.image.layer.v1.tar+gzip+encrypted", MEDIA_LAYER_ENCRYPTED},
    {"application/vnd.oci.image.layer.v1.tar+zstd+encrypted", MEDIA_LAYER_ENCRYPTED},
};

static enum media media_of(const char *type)
{
    for (size_t i = 0; i < ARRAY_SIZE(media_types); i++) {
        if (!strcmp(type, media_types[i].type))
            return media_types[i].media;
    }
    return MEDIA_UNKNOWN;
}

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory for an image's documents");
}

static int take_platform(struct descriptor *d, struct json *obj, struct sm_error *err)
{
    const char *os, *arch, *variant;
    struct json *p;
    int r = json_get_object(obj, "platform", false, &p, err);

    if (r < 0 || !p)
        return r;
    r = json_get_string(p, "os", true, &os, err);
    if (r >= 0)
        r = json_get_string(p, "architecture", true, &arch, err);
    if (r >= 0)
        r = json_get_string(p, "variant", false, &variant, err);
    if (r < 0)
        return r;
    d->has_platform = true;
    return platform_set(&d->platform, os, arch, variant, err);
}

/* Annotations of image-spec annotations.md and of containerd. */
static int take_names(struct descriptor *d, struct json *obj, struct sm_error *err)
{
    const struct {
        const char *key;
        char **to;
    } names[] = {{"org.opencontainers.image.ref.name", &d->ref_name}, {"io.containerd.image.name", &d->image_name}};
    const char *name;
    struct json *a;
    int r = json_get_object(obj, "annotations", false, &a, err);

    for (size_t i = 0; r >= 0 && a && i < ARRAY_SIZE(names); i++) {
        r = json_get_string(a, names[i].key, false, &name, err);
        if (r < 0 || !name)
            continue;
        *names[i].to = strdup(name);
        if (!*names[i].to)
            return no_memory(err);
    }
    return r;
}

/* "type/subtype", each a restricted name (RFC 6838, 4.2; the pattern in image-spec schema/defs-descriptor.json). */
static bool is_media_type(const char *s)
{
    static const char first[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    static const char rest[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$&^_.+-";

    for (int part = 0; part < 2; part++) {
        size_t n = strspn(s, rest);

        if (!n || n > 127 || !strchr(first, s[0]) || s[n] != (part ? '\0' : '/'))
            return false;
        s += n + 1;
    }
    return true;
}

static int check_media_type(const char *s, const char *key, struct sm_error *err)
{
    char shown[TEXT_SHOWN_SIZE];

    if (s && !is_media_type(s))
        return sm_error_set(err, EBADMSG, "its \"%s\" \"%s\" is not a media type", key, text_shown(shown, s));
    return 0;
}

/* What a descriptor may say besides. None of it is used here; all of it must be what other programs would read. That
 * the "urls" are URLs is checked nowhere else either. */
static int check_extras(struct json *obj, struct sm_error *err)
{
    const char *type, *data, *url;
    struct json *urls;
    size_t n;
    int r = json_get_string(obj, "artifactType", false, &type, err);

    if (r >= 0)
        r = check_media_type(type, "artifactType", err);
    if (r >= 0)
        r = json_get_string(obj, "data", false, &data, err);
    if (r >= 0 && data && !base64_decode(data, NULL, &n))
        r = sm_error_set(err, EBADMSG, "its \"data\" is not base64");
    if (r >= 0)
        r = json_get_array(obj, "urls", false, OCI_CONFIG_MAX_LIST, &urls, &n, err);
    for (size_t i = 0; r >= 0 && i < n; i++)
        r = json_item_string(urls, i, "urls", &url, err);
    return r;
}

/* `d` is zeroed before and may hold names afterwards, also on failure. */
static int take_descriptor(struct descriptor *d, struct json *obj, struct sm_error *err)
{
    const char *type, *digest;
    char shown[TEXT_SHOWN_SIZE];
    int r = json_get_string(obj, "mediaType", true, &type, err);

    if (r >= 0)
        r = json_get_string(obj, "digest", true, &digest, err);
    if (r >= 0)
        r = json_get_u64(obj, "size", true, &d->size, err);
    if (r >= 0)
        r = digest_parse(&d->digest, digest, "the digest", err);
    if (r >= 0)
        r = check_media_type(type, "mediaType", err);
    if (r >= 0)
        r = check_extras(obj, err);
    if (r < 0)
        return r;
    d->media = media_of(type);
    snprintf(d->media_type, sizeof(d->media_type), "%.127s", text_shown(shown, type));
    r = take_platform(d, obj, err);
    return r < 0 ? r : take_names(d, obj, err);
}

static int take_descriptors(struct descriptor **ret, size_t *ret_n, struct json *doc, const char *key, size_t max,
                            struct sm_error *err)
{
    struct json *array, *obj;
    size_t n;
    int r = json_get_array(doc, key, true, max, &array, &n, err);

    if (r < 0)
        return r;
    *ret = calloc(n ? n : 1, sizeof(**ret));
    if (!*ret)
        return no_memory(err);
    *ret_n = n;
    for (size_t i = 0; i < n; i++) {
        r = json_item_object(array, i, key, &obj, err);
        if (r >= 0)
            r = take_descriptor(&(*ret)[i], obj, err);
        if (r < 0)
            return sm_error_wrap(err, "element %zu of \"%s\"", i, key);
    }
    return 0;
}

static void free_descriptors(struct descriptor *d, size_t n)
{
    for (size_t i = 0; d && i < n; i++) {
        free(d[i].ref_name);
        free(d[i].image_name);
    }
    free(d);
}

/* Both kinds begin alike. A document that says of itself that it is of another kind is refused: it may be read as one
 * thing here and as another elsewhere. */
static int check_head(struct json *doc, enum media want, struct sm_error *err)
{
    struct json *subject;
    const char *type;
    uint64_t version;
    int r = json_get_u64(doc, "schemaVersion", true, &version, err);

    if (r < 0)
        return r;
    if (version != 2)
        return sm_error_set(err, EBADMSG, "\"schemaVersion\" is %llu, only 2 is supported",
                            (unsigned long long)version);
    r = json_get_string(doc, "mediaType", false, &type, err);
    if (r < 0)
        return r;
    if (type && media_of(type) != want) {
        char shown[TEXT_SHOWN_SIZE];

        return sm_error_set(err, EBADMSG, "\"mediaType\" is \"%s\", which is something else", text_shown(shown, type));
    }
    return json_get_object(doc, "subject", false, &subject, err); /* what it is about: not ours to follow */
}

static int parse_index(struct index_doc *ret, struct json *doc, struct sm_error *err)
{
    int r = check_head(doc, MEDIA_INDEX, err);

    return r < 0 ? r : take_descriptors(&ret->items, &ret->n, doc, "manifests", OCI_INDEX_MAX_MANIFESTS, err);
}

int index_doc_parse(struct index_doc *ret, const void *data, size_t len, struct sm_error *err)
{
    struct index_doc idx = {.n = 0};
    struct json *doc;
    int r = json_parse(&doc, data, len, err);

    if (r < 0)
        return r;
    r = parse_index(&idx, doc, err);
    json_free(doc);
    if (r < 0) {
        index_doc_done(&idx);
        return r;
    }
    *ret = idx;
    return 0;
}

void index_doc_done(struct index_doc *doc)
{
    free_descriptors(doc->items, doc->n);
    *doc = (struct index_doc){.n = 0};
}

static int check_layer(const struct descriptor *d, size_t i, struct sm_error *err)
{
    switch (d->media) {
    case MEDIA_LAYER:
    case MEDIA_LAYER_COMPRESSED:
        break;
    case MEDIA_LAYER_FOREIGN:
        return sm_error_set(err, ENOTSUP, "layer %zu is a foreign layer (%s): it is not part of the image", i,
                            d->media_type);
    case MEDIA_LAYER_ENCRYPTED:
        return sm_error_set(err, ENOTSUP, "layer %zu is encrypted (%s): decrypt the image first", i, d->media_type);
    case MEDIA_UNKNOWN:
    case MEDIA_INDEX:
    case MEDIA_MANIFEST:
    case MEDIA_CONFIG:
        return sm_error_set(err, ENOTSUP, "layer %zu has the unknown media type \"%s\"", i, d->media_type);
    }
    if (d->size > OCI_LAYER_MAX_BLOB)
        return sm_error_set(err, EFBIG, "layer %zu is larger than %llu GiB, which is the limit", i,
                            OCI_LAYER_MAX_BLOB / GIB);
    return 0;
}

/*
 * Is it a container image, going by its config's media type? Early registries wrote types of their own into Docker's
 * manifests (github.com/docker/distribution issue 1621), which Docker has understood ever since.
 */
static int check_config_type(struct descriptor *config, struct json *doc, struct sm_error *err)
{
    static const char *const odd[] = {"application/octet-stream", "application/json", "text/html"};
    const char *type;
    int r = json_get_string(doc, "mediaType", false, &type, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < ARRAY_SIZE(odd) && type && !strcmp(type, DOCKER_MANIFEST); i++) {
        if (!strcmp(config->media_type, odd[i]))
            config->media = MEDIA_CONFIG;
    }
    if (config->media != MEDIA_CONFIG)
        return sm_error_set(err, ENOTSUP, "it is not a container image: its config has the media type \"%s\"",
                            config->media_type);
    return 0;
}

static int parse_manifest(struct manifest_doc *ret, struct json *doc, struct sm_error *err)
{
    struct json *config;
    int r = check_head(doc, MEDIA_MANIFEST, err);

    if (r >= 0)
        r = json_get_object(doc, "config", true, &config, err);
    if (r >= 0)
        r = take_descriptor(&ret->config, config, err);
    if (r >= 0)
        r = check_config_type(&ret->config, doc, err);
    if (r >= 0 && ret->config.size > OCI_JSON_MAX_BYTES)
        r = sm_error_set(err, EFBIG, "its config is larger than %llu MiB, which is the limit",
                         OCI_JSON_MAX_BYTES / MIB);
    if (r >= 0)
        r = take_descriptors(&ret->layers, &ret->n_layers, doc, "layers", OCI_MAX_LAYERS, err);
    for (size_t i = 0; r >= 0 && i < ret->n_layers; i++)
        r = check_layer(&ret->layers[i], i, err);
    return r;
}

int manifest_doc_parse(struct manifest_doc *ret, const void *data, size_t len, struct sm_error *err)
{
    struct manifest_doc m = {.n_layers = 0};
    struct json *doc;
    int r = json_parse(&doc, data, len, err);

    if (r < 0)
        return r;
    r = parse_manifest(&m, doc, err);
    json_free(doc);
    if (r < 0) {
        manifest_doc_done(&m);
        return r;
    }
    *ret = m;
    return 0;
}

void manifest_doc_done(struct manifest_doc *doc)
{
    free(doc->config.ref_name);
    free(doc->config.image_name);
    free_descriptors(doc->layers, doc->n_layers);
    *doc = (struct manifest_doc){.n_layers = 0};
}

static int copy_string(char **ret, struct json *obj, const char *key, struct sm_error *err)
{
    const char *s = NULL;
    int r = obj ? json_get_string(obj, key, false, &s, err) : 0;

    if (r < 0)
        return r;
    *ret = strdup(s ? s : "");
    return *ret ? 0 : no_memory(err);
}

static int take_diff_ids(struct config_doc *ret, struct json *doc, struct sm_error *err)
{
    struct json *rootfs, *array;
    const char *s;
    int r = json_get_object(doc, "rootfs", true, &rootfs, err);

    if (r >= 0)
        r = json_get_string(rootfs, "type", true, &s, err);
    if (r >= 0 && strcmp(s, "layers"))
        r = sm_error_set(err, ENOTSUP, "\"rootfs\" is not of type \"layers\"");
    if (r >= 0)
        r = json_get_array(rootfs, "diff_ids", true, OCI_MAX_LAYERS, &array, &ret->n_diff_ids, err);
    if (r < 0)
        return r;
    ret->diff_ids = calloc(ret->n_diff_ids ? ret->n_diff_ids : 1, sizeof(*ret->diff_ids));
    if (!ret->diff_ids)
        return no_memory(err);
    for (size_t i = 0; r >= 0 && i < ret->n_diff_ids; i++) {
        r = json_item_string(array, i, "diff_ids", &s, err);
        if (r >= 0)
            r = digest_parse(&ret->diff_ids[i], s, "the diff id", err);
    }
    return r;
}

static int take_run_config(struct oci_config *c, struct json *doc, struct sm_error *err)
{
    /* The run configuration may be missing altogether; every getter then finds nothing in the empty object. */
    struct json *run, *empty = NULL;
    int r = json_get_object(doc, "config", false, &run, err);

    if (r >= 0 && !run) {
        r = json_parse(&empty, "{}", 2, err);
        run = empty;
    }
    if (r >= 0)
        r = json_get_strings(run, "Entrypoint", OCI_CONFIG_MAX_LIST, &c->entrypoint, err);
    if (r >= 0)
        r = json_get_strings(run, "Cmd", OCI_CONFIG_MAX_LIST, &c->cmd, err);
    if (r >= 0)
        r = json_get_strings(run, "Env", OCI_CONFIG_MAX_LIST, &c->env, err);
    if (r >= 0)
        r = json_get_keys(run, "ExposedPorts", OCI_CONFIG_MAX_LIST, &c->exposed_ports, err);
    if (r >= 0)
        r = copy_string(&c->working_dir, run, "WorkingDir", err);
    if (r >= 0)
        r = copy_string(&c->user, run, "User", err);
    if (r >= 0)
        r = copy_string(&c->stop_signal, run, "StopSignal", err);
    json_free(empty);
    return r;
}

/* Members that are of no use here must be of the kind that every other program wants. */
static int check_unused(struct json *doc, struct sm_error *err)
{
    struct json *run, *list, *item;
    size_t n;
    int r = json_get_array(doc, "history", false, OCI_CONFIG_MAX_LIST, &list, &n, err);

    for (size_t i = 0; r >= 0 && i < n; i++)
        r = json_item_object(list, i, "history", &item, err);
    if (r >= 0)
        r = json_get_object(doc, "config", false, &run, err);
    if (r >= 0 && run)
        r = json_get_object(run, "Volumes", false, &item, err);
    if (r >= 0 && run)
        r = json_get_object(run, "Labels", false, &item, err);
    return r;
}

static int parse_config(struct config_doc *ret, struct json *doc, struct sm_error *err)
{
    struct oci_config *c = &ret->config;
    int r = copy_string(&c->os, doc, "os", err);

    if (r >= 0)
        r = copy_string(&c->architecture, doc, "architecture", err);
    if (r >= 0)
        r = copy_string(&c->variant, doc, "variant", err);
    if (r >= 0)
        r = platform_set(&ret->platform, c->os, c->architecture, c->variant, err);
    if (r >= 0)
        r = take_run_config(c, doc, err);
    if (r >= 0)
        r = check_unused(doc, err);
    return r < 0 ? r : take_diff_ids(ret, doc, err);
}

int config_doc_parse(struct config_doc *ret, const void *data, size_t len, struct sm_error *err)
{
    struct config_doc c = {.n_diff_ids = 0};
    struct json *doc;
    int r = json_parse(&doc, data, len, err);

    if (r < 0)
        return r;
    r = parse_config(&c, doc, err);
    json_free(doc);
    if (r < 0) {
        config_doc_done(&c);
        return r;
    }
    *ret = c;
    return 0;
}

void config_doc_done(struct config_doc *doc)
{
    struct oci_config *c = &doc->config;

    strings_free(c->entrypoint);
    strings_free(c->cmd);
    strings_free(c->env);
    strings_free(c->exposed_ports);
    free(c->working_dir);
    free(c->user);
    free(c->stop_signal);
    free(c->os);
    free(c->architecture);
    free(c->variant);
    free(doc->diff_ids);
    *doc = (struct config_doc){.n_diff_ids = 0};
}

/* Its own word, or else what it holds: an index has "manifests", a manifest "layers" (both are required there). */
static int media_by_content(enum media *ret, struct json *doc, struct sm_error *err)
{
    struct json *manifests, *layers;
    char shown[TEXT_SHOWN_SIZE];
    const char *type;
    size_t n;
    int r = json_get_string(doc, "mediaType", false, &type, err);

    if (r >= 0)
        r = json_get_array(doc, "manifests", false, OCI_INDEX_MAX_MANIFESTS, &manifests, &n, err);
    if (r >= 0)
        r = json_get_array(doc, "layers", false, OCI_MAX_LAYERS, &layers, &n, err);
    if (r < 0)
        return r;
    if (manifests && layers)
        return sm_error_set(err, EBADMSG, "it has both \"manifests\" and \"layers\": it could be read as two things");
    *ret = type ? media_of(type) : manifests ? MEDIA_INDEX : layers ? MEDIA_MANIFEST : MEDIA_UNKNOWN;
    if (*ret != MEDIA_INDEX && *ret != MEDIA_MANIFEST)
        return sm_error_set(err, ENOTSUP, "it is neither an image's manifest nor an index of them (media type \"%s\")",
                            text_shown(shown, type ? type : ""));
    return 0;
}

int doc_media(enum media *ret, const void *data, size_t len, struct sm_error *err)
{
    struct json *doc;
    int r = json_parse(&doc, data, len, err);

    if (r < 0)
        return r;
    r = media_by_content(ret, doc, err);
    json_free(doc);
    return r;
}

int layout_doc_check(const void *data, size_t len, struct sm_error *err)
{
    struct json *doc;
    const char *version;
    int r = json_parse(&doc, data, len, err);

    if (r < 0)
        return r;
    r = json_get_string(doc, "imageLayoutVersion", true, &version, err);
    if (r >= 0 && strncmp(version, "1.", 2)) {
        char shown[TEXT_SHOWN_SIZE];

        r = sm_error_set(err, ENOTSUP, "image layout version \"%s\" is not supported, only 1.x",
                         text_shown(shown, version));
    }
    json_free(doc);
    return r;
}
