/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saving images.
 *
 * Theory of operation
 *
 * What: every record's manifest is read, and with it the list of blobs that its image needs; what the store does not
 * have is fetched. Then the archive is written front to back:
 *
 *   blobs/sha256/HEX...   each once, in the order of the digests: manifests, configs, layers, as they are
 *   index.json            a descriptor for each record, with its name
 *   manifest.json         the same for a Docker that does not know index.json (before 25)
 *   oci-layout
 *
 * Names: io.containerd.image.name has the whole name; org.opencontainers.image.ref.name the tag, as Docker writes it,
 * or the whole name where two images have the same tag, for programs that look at this one alone. A name's digest is
 * left out. A record without a name gets a descriptor without one.
 *
 * The image of a record is one platform's: an index that the name meant is not written, for most of what it lists would
 * be missing.
 *
 * Blobs are hashed while they are written: one that was damaged in the store ends it with a sentence.
 */
#include "oci/export.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "oci/blobs.h"
#include "oci/json.h"
#include "oci/json_write.h"
#include "oci/limits.h"
#include "oci/manifest.h"
#include "oci/names.h"
#include "oci/ref.h"
#include "oci/tar_write.h"
#include "oci/text.h"

#define CHUNK          (256 * 1024u)
#define JSON_OUT_MAX   (64 * MIB) /* for as many records as a caller has */
#define OCI_MANIFEST   "application/vnd.oci.image.manifest.v1+json"
#define BLOBS          "blobs/sha256/"
#define BLOB_NAME_SIZE (sizeof(BLOBS) - 1 + DIGEST_HEX_SIZE)

static const char layout_file[] = "{\"imageLayoutVersion\":\"1.0.0\"}";

struct blob {
    struct digest digest;
    uint64_t size;
};

struct image {
    const struct name_record *record;
    struct manifest_doc manifest;
    uint64_t manifest_size;
    char *media_type;
    char *name, *familiar, *tag; /* "docker.io/library/busybox:1.36", "busybox:1.36", "1.36"; NULL: none */
};

struct saving {
    struct oci_store *store;
    const struct oci_save_options *options; /* may be NULL */
    struct image *images;
    size_t n;
    struct blob *blobs;
    size_t n_blobs;
};

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory while saving images");
}

static void saving_done(struct saving *s)
{
    for (size_t i = 0; s->images && i < s->n; i++) {
        manifest_doc_done(&s->images[i].manifest);
        free(s->images[i].media_type);
        free(s->images[i].name);
        free(s->images[i].familiar);
        free(s->images[i].tag);
    }
    free(s->images);
    free(s->blobs);
}

/* What is to be saved */

static int read_media_type(struct image *img, const void *data, size_t len, struct sm_error *err)
{
    const char *type;
    struct json *doc;
    int r = json_parse(&doc, data, len, err);

    if (r < 0)
        return r;
    r = json_get_string(doc, "mediaType", false, &type, err);
    if (r >= 0) {
        img->media_type = strdup(type ? type : OCI_MANIFEST);
        if (!img->media_type)
            r = no_memory(err);
    }
    json_free(doc);
    return r;
}

static int read_manifest(struct saving *s, struct image *img, struct sm_error *err)
{
    const struct digest *d = &img->record->manifest;
    CLEANUP_FREE void *data = NULL;
    char name[DIGEST_STR_SIZE];
    size_t len;
    int r = blob_read(s->store, d, OCI_JSON_MAX_BYTES, &data, &len, err);

    digest_str(d, name);
    if (r == -ENOENT)
        return sm_error_set(err, ENOENT,
                            "the manifest %s is missing or damaged in the image store: get the image again", name);
    if (r < 0)
        return r;
    img->manifest_size = len;
    r = read_media_type(img, data, len, err);
    if (r >= 0)
        r = manifest_doc_parse(&img->manifest, data, len, err);
    return r < 0 ? sm_error_wrap(err, "manifest %s", name) : 0;
}

static int read_names(struct image *img, struct sm_error *err)
{
    struct oci_ref ref = OCI_REF_INIT;
    int r;

    if (name_is_untagged(img->record))
        return 0;
    r = ref_parse(&ref, img->record->name, err);
    if (r < 0)
        return r;
    ref.has_digest = false;
    if (ref.tag) {
        img->tag = strdup(ref.tag);
        r = img->tag ? ref_canonical(&ref, &img->name, err) : no_memory(err);
        if (r >= 0)
            r = ref_familiar(&ref, &img->familiar, err);
    }
    ref_done(&ref);
    return r;
}

static void add_blob(struct saving *s, const struct digest *d, uint64_t size)
{
    s->blobs[s->n_blobs++] = (struct blob){*d, size};
}

/* 1: the store has it. */
static int has_blob(struct saving *s, const struct descriptor *d, struct sm_error *err)
{
    uint64_t size;
    CLEANUP_FD int fd = blob_open(s->store, &d->digest, &size, err);

    return fd == -ENOENT ? 0 : fd < 0 ? fd : size == d->size;
}

static int need_blob(struct saving *s, const struct image *img, const struct descriptor *d, struct sm_error *err)
{
    char name[DIGEST_STR_SIZE];
    int r = has_blob(s, d, err);

    digest_str(&d->digest, name);
    if (!r && s->options && s->options->fetch) {
        r = s->options->fetch(s->options->fetch_ctx, img->record, d, err);
        if (r >= 0)
            r = has_blob(s, d, err);
    }
    if (!r)
        return sm_error_set(
            err, ENOENT, "the image store does not keep the compressed form of %s any more: get the image again", name);
    if (r < 0)
        return r;
    add_blob(s, &d->digest, d->size);
    return 0;
}

static int take_image(struct saving *s, struct image *img, struct sm_error *err)
{
    struct blob *blobs;
    int r = read_names(img, err);

    if (r >= 0)
        r = read_manifest(s, img, err);
    if (r < 0)
        return r;
    blobs = reallocarray(s->blobs, s->n_blobs + img->manifest.n_layers + 2, sizeof(*blobs));
    if (!blobs)
        return no_memory(err);
    s->blobs = blobs;
    add_blob(s, &img->record->manifest, img->manifest_size);
    r = need_blob(s, img, &img->manifest.config, err);
    for (size_t i = 0; r >= 0 && i < img->manifest.n_layers; i++)
        r = need_blob(s, img, &img->manifest.layers[i], err);
    return r;
}

static int compare_blobs(const void *a, const void *b)
{
    return memcmp(((const struct blob *)a)->digest.bytes, ((const struct blob *)b)->digest.bytes, DIGEST_BYTES);
}

static int compare_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) : !a - !b;
}

static int compare_images(const void *a, const void *b)
{
    const struct image *x = a, *y = b;
    int order = compare_text(x->name, y->name);

    return order ? order : memcmp(x->record->manifest.bytes, y->record->manifest.bytes, DIGEST_BYTES);
}

static int take_images(struct saving *s, const struct name_record *records, size_t n, struct sm_error *err)
{
    char shown[TEXT_SHOWN_SIZE];
    size_t kept = 0;

    s->images = calloc(n ? n : 1, sizeof(*s->images));
    if (!s->images)
        return no_memory(err);
    for (size_t i = 0; i < n; i++) {
        struct image *img = &s->images[s->n++];
        int r;

        img->record = &records[i];
        r = take_image(s, img, err);
        if (r < 0)
            return sm_error_wrap(err, "image \"%s\"", text_shown(shown, records[i].name));
    }
    qsort(s->images, s->n, sizeof(s->images[0]), compare_images);
    qsort(s->blobs, s->n_blobs, sizeof(s->blobs[0]), compare_blobs);
    for (size_t i = 0; i < s->n_blobs; i++) {
        if (!kept || compare_blobs(&s->blobs[kept - 1], &s->blobs[i]))
            s->blobs[kept++] = s->blobs[i];
    }
    s->n_blobs = kept;
    return 0;
}

/* Documents */

static void write_u64(struct buf *b, uint64_t v)
{
    char text[24];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
    json_write_raw(b, text);
}

static void write_member(struct buf *b, const char *key, const char *value)
{
    json_write_string(b, key);
    json_write_raw(b, ":");
    json_write_string(b, value);
}

static bool is_same(const struct image *a, const struct image *b)
{
    return !compare_images(a, b);
}

/* Is this tag another image's as well? */
static bool is_shared_tag(const struct saving *s, const struct image *img)
{
    for (size_t i = 0; i < s->n; i++) {
        const struct image *other = &s->images[i];

        if (other->tag && strcmp(other->name, img->name) && !strcmp(other->tag, img->tag) &&
            !digest_equal(&other->record->manifest, &img->record->manifest))
            return true;
    }
    return false;
}

static void write_index_item(struct buf *b, const struct saving *s, const struct image *img)
{
    char digest[DIGEST_STR_SIZE];

    digest_str(&img->record->manifest, digest);
    json_write_raw(b, "{");
    write_member(b, "mediaType", img->media_type);
    json_write_raw(b, ",");
    write_member(b, "digest", digest);
    json_write_raw(b, ",\"size\":");
    write_u64(b, img->manifest_size);
    if (img->name) {
        json_write_raw(b, ",\"annotations\":{");
        write_member(b, "io.containerd.image.name", img->name);
        json_write_raw(b, ",");
        write_member(b, "org.opencontainers.image.ref.name", is_shared_tag(s, img) ? img->name : img->tag);
        json_write_raw(b, "}");
    }
    json_write_raw(b, "}");
}

static void write_index(struct buf *b, const struct saving *s)
{
    json_write_raw(b, "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[");
    for (size_t i = 0; i < s->n; i++) {
        if (i && is_same(&s->images[i - 1], &s->images[i]))
            continue;
        if (i)
            json_write_raw(b, ",");
        write_index_item(b, s, &s->images[i]);
    }
    json_write_raw(b, "]}");
}

static void write_blob_name(struct buf *b, const struct digest *d)
{
    char name[BLOB_NAME_SIZE] = BLOBS;

    digest_hex(d, name + sizeof(BLOBS) - 1);
    json_write_string(b, name);
}

/* One image with all its names. */
static void write_docker_item(struct buf *b, const struct saving *s, size_t at)
{
    const struct image *img = &s->images[at];
    const char *comma = "";

    json_write_raw(b, "{\"Config\":");
    write_blob_name(b, &img->manifest.config.digest);
    json_write_raw(b, ",\"RepoTags\":[");
    for (size_t i = at; i < s->n; i++) {
        const struct image *same = &s->images[i];

        if (!same->familiar || !digest_equal(&same->record->manifest, &img->record->manifest) ||
            (i && is_same(&s->images[i - 1], same)))
            continue;
        json_write_raw(b, comma);
        json_write_string(b, same->familiar);
        comma = ",";
    }
    json_write_raw(b, "],\"Layers\":[");
    for (size_t i = 0; i < img->manifest.n_layers; i++) {
        if (i)
            json_write_raw(b, ",");
        write_blob_name(b, &img->manifest.layers[i].digest);
    }
    json_write_raw(b, "]}");
}

static void write_docker(struct buf *b, const struct saving *s)
{
    json_write_raw(b, "[");
    for (size_t i = 0; i < s->n; i++) {
        bool again = false;

        for (size_t k = 0; k < i; k++)
            again |= digest_equal(&s->images[k].record->manifest, &s->images[i].record->manifest);
        if (again)
            continue;
        if (i)
            json_write_raw(b, ",");
        write_docker_item(b, s, i);
    }
    json_write_raw(b, "]");
}

/* The archive */

static int damaged(struct sm_error *err, const struct digest *d)
{
    char name[DIGEST_STR_SIZE];

    digest_str(d, name);
    return sm_error_set(err, EBADMSG, "the blob %s is damaged in the image store: get the image again", name);
}

static int copy_blob(struct tar_writer *w, int fd, const struct blob *blob, struct hasher *hash, struct sm_error *err)
{
    CLEANUP_FREE uint8_t *buf = malloc(CHUNK);
    uint64_t left = blob->size;
    struct digest got;

    if (!buf)
        return no_memory(err);
    while (left) {
        size_t want = left < CHUNK ? (size_t)left : CHUNK;
        ssize_t n = io_read_full(fd, buf, want);
        int r;

        if (n < 0)
            return sm_error_sys(err, (int)-n, "cannot read a blob in the image store");
        if ((size_t)n < want)
            return damaged(err, &blob->digest);
        hasher_add(hash, buf, want);
        r = tar_data(w, buf, want, err);
        if (r < 0)
            return r;
        left -= want;
    }
    hasher_end(hash, &got);
    return digest_equal(&got, &blob->digest) ? 0 : damaged(err, &blob->digest);
}

static int write_blob(struct tar_writer *w, struct saving *s, const struct blob *blob, struct sm_error *err)
{
    char name[BLOB_NAME_SIZE] = BLOBS;
    struct hasher *hash;
    uint64_t size;
    CLEANUP_FD int fd = blob_open(s->store, &blob->digest, &size, err);
    int r;

    if (fd == -ENOENT || (fd >= 0 && size != blob->size))
        return damaged(err, &blob->digest);
    if (fd < 0)
        return fd;
    r = hasher_new(&hash, err);
    if (r < 0)
        return r;
    digest_hex(&blob->digest, name + sizeof(BLOBS) - 1);
    r = tar_file(w, name, blob->size, err);
    if (r >= 0)
        r = copy_blob(w, fd, blob, hash, err);
    hasher_free(hash);
    return r;
}

static int write_document(struct tar_writer *w, const char *name, const void *data, size_t len, struct sm_error *err)
{
    int r = tar_file(w, name, len, err);

    return r < 0 ? r : tar_data(w, data, len, err);
}

static int write_archive(struct tar_writer *w, struct saving *s, const struct buf *index, const struct buf *docker,
                         struct sm_error *err)
{
    int r = tar_dir(w, "blobs/", err);

    if (r >= 0)
        r = tar_dir(w, BLOBS, err);
    for (size_t i = 0; r >= 0 && i < s->n_blobs; i++)
        r = write_blob(w, s, &s->blobs[i], err);
    if (r >= 0)
        r = write_document(w, "index.json", index->data, index->len, err);
    if (r >= 0)
        r = write_document(w, "manifest.json", docker->data, docker->len, err);
    if (r >= 0)
        r = write_document(w, "oci-layout", layout_file, strlen(layout_file), err);
    return r < 0 ? r : tar_finish(w, err);
}

static int save(struct saving *s, int fd, struct sm_error *err)
{
    struct tar_writer w = {.fd = fd, .events = s->options ? s->options->events : NULL};
    struct buf index = buf_init(JSON_OUT_MAX), docker = buf_init(JSON_OUT_MAX);
    int r;

    write_index(&index, s);
    write_docker(&docker, s);
    w.total = index.len + docker.len + strlen(layout_file);
    for (size_t i = 0; i < s->n_blobs; i++)
        w.total += s->blobs[i].size;
    r = index.bad || docker.bad ? no_memory(err) : write_archive(&w, s, &index, &docker, err);
    buf_done(&index);
    buf_done(&docker);
    return r;
}

int oci_save(struct oci_store *store, const struct name_record *records, size_t n, int fd,
             const struct oci_save_options *options, struct sm_error *err)
{
    struct saving s = {.store = store, .options = options};
    int r = take_images(&s, records, n, err);

    if (r >= 0)
        r = save(&s, fd, err);
    saving_done(&s);
    return r;
}
