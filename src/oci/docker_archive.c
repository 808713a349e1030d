/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Docker's own archives: see docker_archive.h.
 *
 * Theory of operation
 *
 * What: such an archive has no manifest with digests. Its manifest.json is an array, an element an image: "Config" and
 * "Layers" name files, "RepoTags" the image; the configuration tells the layers' diff ids. (That is how image/tarexport
 * of github.com/moby/moby writes and reads it.) To be an image like all others it gets an OCI manifest, whose
 * descriptors are of the files that were found. So the configuration stays as it is, and with it what Docker calls the
 * image's id; layers stay as they are too, compressed or not, and their media types say so.
 *
 * Limits: OCI_ARCHIVE_MAX_IMAGES, OCI_ARCHIVE_MAX_TAGS, OCI_MAX_LAYERS. The names are looked up in the archive's table
 * and nowhere else.
 */
#include "oci/docker_archive.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "oci/json.h"
#include "oci/json_write.h"
#include "oci/limits.h"
#include "oci/text.h"

static int take_image(struct docker_image *ret, struct json *obj, struct sm_error *err)
{
    const char *config;
    int r = json_get_string(obj, "Config", true, &config, err);

    if (r >= 0)
        r = json_get_strings(obj, "RepoTags", OCI_ARCHIVE_MAX_TAGS, &ret->tags, err);
    if (r >= 0)
        r = json_get_strings(obj, "Layers", OCI_MAX_LAYERS, &ret->layers, err);
    if (r < 0)
        return r;
    ret->config = strdup(config);
    return ret->config ? 0 : sm_error_set(err, ENOMEM, "out of memory for an archive's documents");
}

static int take_images(struct docker_images *d, struct json *array, struct sm_error *err)
{
    for (size_t i = 0; i < d->n; i++) {
        struct json *obj;
        int r = json_item_object(array, i, "manifest.json", &obj, err);

        if (r >= 0)
            r = take_image(&d->items[i], obj, err);
        if (r < 0)
            return sm_error_wrap(err, "image %zu", i);
    }
    return 0;
}

int docker_images_parse(struct docker_images *ret, const void *data, size_t len, struct sm_error *err)
{
    struct docker_images d = {.n = 0};
    struct json *array;
    int r = json_parse_array(&array, &d.n, OCI_ARCHIVE_MAX_IMAGES, data, len, err);

    if (r < 0)
        return r;
    d.items = calloc(d.n ? d.n : 1, sizeof(*d.items));
    r = d.items ? take_images(&d, array, err) : sm_error_set(err, ENOMEM, "out of memory for an archive's documents");
    json_free(array);
    if (r < 0) {
        docker_images_done(&d);
        return r;
    }
    *ret = d;
    return 0;
}

void docker_images_done(struct docker_images *d)
{
    for (size_t i = 0; d->items && i < d->n; i++) {
        free(d->items[i].config);
        strings_free(d->items[i].tags);
        strings_free(d->items[i].layers);
    }
    free(d->items);
    *d = (struct docker_images){.n = 0};
}

static const char *layer_type(const struct archive_file *f)
{
    switch (f->form) {
    case FORM_GZIP:
        return "application/vnd.oci.image.layer.v1.tar+gzip";
    case FORM_ZSTD:
        return "application/vnd.oci.image.layer.v1.tar+zstd";
    case FORM_PLAIN:
        break;
    }
    return "application/vnd.oci.image.layer.v1.tar";
}

static int add_descriptor(struct buf *b, const char *type, const struct archive_files *files, const char *name,
                          struct sm_error *err)
{
    const struct archive_file *f = files_find(files, name);
    char digest[DIGEST_STR_SIZE], size[24], shown[TEXT_SHOWN_SIZE];

    if (!f)
        return sm_error_set(err, ENOENT,
                            "the archive has no file \"%s\", which its manifest.json names: it is not complete",
                            text_shown(shown, name));
    digest_str(&f->digest, digest);
    snprintf(size, sizeof(size), "%llu", (unsigned long long)f->size);
    json_write_raw(b, "{\"mediaType\":");
    json_write_string(b, type ? type : layer_type(f));
    json_write_raw(b, ",\"digest\":");
    json_write_string(b, digest);
    json_write_raw(b, ",\"size\":");
    json_write_raw(b, size);
    json_write_raw(b, "}");
    return 0;
}

int docker_make_manifest(struct buf *ret, const struct docker_image *img, const struct archive_files *files,
                         struct sm_error *err)
{
    int r;

    json_write_raw(ret,
                   "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":");
    r = add_descriptor(ret, "application/vnd.oci.image.config.v1+json", files, img->config, err);
    json_write_raw(ret, ",\"layers\":[");
    for (size_t i = 0; r >= 0 && img->layers[i]; i++) {
        if (i)
            json_write_raw(ret, ",");
        r = add_descriptor(ret, NULL, files, img->layers[i], err);
    }
    json_write_raw(ret, "]}");
    if (r >= 0 && ret->bad)
        r = sm_error_set(err, ENOMEM, "out of memory for an image's manifest");
    return r;
}
