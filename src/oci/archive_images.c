/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An archive's images.
 *
 * Theory of operation
 *
 * What: an archive with index.json is an OCI layout, whatever else it holds (Docker since 25 writes both); without, or
 * with an empty one, manifest.json says what there is. Each image gets the names that the archive has for it.
 *
 * index.json: descriptors with the same name are one image for several platforms. The name is containerd's annotation
 * when there is one, which is whole, else that of image-spec, which often is a tag alone. Descriptors without a name
 * are one image when each has a platform of its own, otherwise one each.
 *
 * manifest.json: an element is an image; it gets a manifest made for it (docker_archive.h).
 *
 * Every document is found by its digest, whatever it is called, and was hashed while it came.
 */
#include "oci/archive_images.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "oci/docker_archive.h"
#include "oci/json.h"
#include "oci/limits.h"

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory for an archive's documents");
}

void archive_images_done(struct archive_images *a)
{
    for (size_t i = 0; a->items && i < a->n; i++) {
        strings_free(a->items[i].names);
        index_doc_done(&a->items[i].roots);
        buf_done(&a->items[i].made);
    }
    free(a->items);
    *a = (struct archive_images){.n = 0};
}

/* A document by its name in the archive: 0 and NULL when there is none. */
static int read_named(const struct spool *spool, const char *name, void **ret, size_t *ret_len, struct sm_error *err)
{
    const struct archive_file *f = files_find(&spool->files, name);

    *ret = NULL;
    *ret_len = f ? f->size : 0;
    return f ? spool_read(spool, f, ret, err) : 0;
}

/* OCI */

static const char *name_of(const struct descriptor *d)
{
    return d->image_name ? d->image_name : d->ref_name;
}

static bool same_platform(const struct descriptor *a, const struct descriptor *b)
{
    return !strcmp(a->platform.os, b->platform.os) && !strcmp(a->platform.arch, b->platform.arch) &&
           !strcmp(a->platform.variant, b->platform.variant);
}

/* Are the descriptors without a name one image? */
static bool nameless_are_one(const struct index_doc *list)
{
    for (size_t i = 0; i < list->n; i++) {
        if (name_of(&list->items[i]))
            continue;
        if (!list->items[i].has_platform)
            return false;
        for (size_t k = 0; k < i; k++) {
            if (!name_of(&list->items[k]) && same_platform(&list->items[i], &list->items[k]))
                return false;
        }
    }
    return true;
}

static bool belongs(const struct archive_image *img, const struct descriptor *d, bool nameless_one)
{
    const char *name = name_of(d);

    if (!name)
        return nameless_one && !img->names[0];
    return img->names[0] && !strcmp(img->names[0], name);
}

/* A copy without its names: they have served, and all roots must be candidates. */
static int add_root(struct archive_image *img, struct descriptor *d, struct sm_error *err)
{
    struct descriptor *items = reallocarray(img->roots.items, img->roots.n + 1, sizeof(*items));

    if (!items)
        return no_memory(err);
    img->roots.items = items;
    items[img->roots.n] = *d;
    items[img->roots.n].ref_name = NULL;
    items[img->roots.n++].image_name = NULL;
    return 0;
}

static int add_descriptor(struct archive_images *a, struct descriptor *d, bool nameless_one, struct sm_error *err)
{
    const char *name = name_of(d);
    struct archive_image *img;

    for (size_t i = 0; i < a->n; i++) {
        if (belongs(&a->items[i], d, nameless_one))
            return add_root(&a->items[i], d, err);
    }
    img = &a->items[a->n++];
    img->names = calloc(2, sizeof(*img->names));
    if (!img->names)
        return no_memory(err);
    img->maybe_tags = !d->image_name;
    if (name) {
        img->names[0] = strdup(name);
        if (!img->names[0])
            return no_memory(err);
    }
    return add_root(img, d, err);
}

static int check_layout(const struct spool *spool, struct sm_error *err)
{
    CLEANUP_FREE void *data = NULL;
    size_t len;
    int r = read_named(spool, "oci-layout", &data, &len, err);

    if (r < 0)
        return r;
    if (!data)
        return sm_error_set(err, EBADMSG, "the archive has an index.json but no oci-layout: it is no image layout");
    r = layout_doc_check(data, len, err);
    return r < 0 ? sm_error_wrap(err, "oci-layout") : 0;
}

static int list_oci(struct archive_images *a, const struct spool *spool, const void *data, size_t len,
                    struct sm_error *err)
{
    struct index_doc list;
    bool one;
    int r = check_layout(spool, err);

    if (r < 0)
        return r;
    r = index_doc_parse(&list, data, len, err);
    if (r < 0)
        return sm_error_wrap(err, "index.json");
    one = nameless_are_one(&list);
    a->kind = "oci-archive";
    a->items = calloc(list.n ? list.n : 1, sizeof(*a->items));
    r = a->items ? 0 : no_memory(err);
    for (size_t i = 0; r >= 0 && i < list.n; i++)
        r = add_descriptor(a, &list.items[i], one, err);
    index_doc_done(&list);
    return r;
}

/* Docker */

static int take_docker_image(struct archive_image *to, struct docker_image *from, const struct archive_files *files,
                             struct sm_error *err)
{
    struct descriptor *d = calloc(1, sizeof(*d));
    int r;

    if (!d)
        return no_memory(err);
    to->roots = (struct index_doc){d, 1};
    to->names = STEAL_PTR(from->tags);
    to->made = buf_init(OCI_JSON_MAX_BYTES);
    r = docker_make_manifest(&to->made, from, files, err);
    if (r < 0)
        return r;
    d->media = MEDIA_MANIFEST;
    d->size = to->made.len;
    return digest_of(&d->digest, to->made.data, to->made.len, err);
}

static int list_docker(struct archive_images *a, const struct spool *spool, const void *data, size_t len,
                       struct sm_error *err)
{
    struct docker_images list;
    int r = docker_images_parse(&list, data, len, err);

    if (r < 0)
        return sm_error_wrap(err, "manifest.json");
    a->kind = "docker-archive";
    a->items = calloc(list.n ? list.n : 1, sizeof(*a->items));
    r = a->items ? 0 : no_memory(err);
    for (size_t i = 0; r >= 0 && i < list.n; i++)
        r = take_docker_image(&a->items[a->n++], &list.items[i], &spool->files, err);
    docker_images_done(&list);
    return r;
}

/* It holds neither document. What is it then? */
static int no_images(const struct spool *spool, struct sm_error *err)
{
    static const char *const system[] = {"etc/passwd", "bin/sh", "usr/bin/env", "etc/os-release", "etc/hostname"};

    if (files_find(&spool->files, "repositories"))
        return sm_error_set(err, ENOTSUP,
                            "the archive has no manifest.json: a Docker before 1.10 wrote it; save it again with a "
                            "later one");
    for (size_t i = 0; i < sizeof(system) / sizeof(system[0]); i++) {
        if (files_find(&spool->files, system[i]))
            return sm_error_set(err, EBADMSG,
                                "the archive holds a file system and no image: docker export writes such, docker save "
                                "writes images");
    }
    if (files_find(&spool->files, "Dockerfile"))
        return sm_error_set(err, EBADMSG, "the archive holds no image but what one is built from");
    return sm_error_set(
        err, EBADMSG, "the archive holds no image: there is neither an index.json (OCI) nor a manifest.json (Docker)");
}

int archive_images_list(struct archive_images *ret, const struct spool *spool, struct sm_error *err)
{
    struct archive_images a = {.n = 0};
    CLEANUP_FREE void *index = NULL;
    CLEANUP_FREE void *manifest = NULL;
    size_t index_len, manifest_len;
    int r = read_named(spool, "index.json", &index, &index_len, err);

    if (r >= 0)
        r = read_named(spool, "manifest.json", &manifest, &manifest_len, err);
    if (r < 0)
        return r;
    if (!index && !manifest)
        return no_images(spool, err);
    if (index)
        r = list_oci(&a, spool, index, index_len, err);
    if (r >= 0 && !a.n && manifest) {
        archive_images_done(&a);
        r = list_docker(&a, spool, manifest, manifest_len, err);
    }
    if (r >= 0 && !a.n)
        r = sm_error_set(err, ENOENT, "the archive holds no image");
    if (r < 0) {
        archive_images_done(&a);
        return r;
    }
    *ret = a;
    return 0;
}

/* Documents */

struct source {
    const struct spool *spool;
    const struct archive_image *img;
};

static int read_document(void *ctx, const struct descriptor *d, void **ret, struct sm_error *err)
{
    const struct source *s = ctx;
    const struct archive_file *f = files_by_digest(&s->spool->files, &d->digest);
    char name[DIGEST_STR_SIZE];

    if (s->img->made.len && digest_equal(&d->digest, &s->img->roots.items[0].digest)) {
        *ret = malloc(d->size);
        if (!*ret)
            return no_memory(err);
        memcpy(*ret, s->img->made.data, d->size);
        return 0;
    }
    digest_str(&d->digest, name);
    if (!f)
        return sm_error_set(err, ENOENT, "the archive has no file with the digest %s: it is not complete", name);
    if (f->size != d->size)
        return sm_error_set(err, EBADMSG, "the file with the digest %s is %llu bytes long, its descriptor says %llu",
                            name, (unsigned long long)f->size, (unsigned long long)d->size);
    return spool_read(s->spool, f, ret, err);
}

int archive_image_select(struct selected *ret, struct digest *ret_root, const struct archive_image *img,
                         const struct spool *spool, const struct platform *want, struct sm_error *err)
{
    struct source source = {spool, img};
    struct documents docs = {read_document, &source};
    int r;

    if (img->roots.n == 1)
        r = select_root(ret, &docs, &img->roots.items[0], want, err);
    else
        r = select_image(ret, &docs, &img->roots, NULL, want, err);
    if (r >= 0)
        *ret_root = img->roots.n == 1 ? img->roots.items[0].digest : ret->manifest_digest;
    return r;
}
