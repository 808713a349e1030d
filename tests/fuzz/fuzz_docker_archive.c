/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An archive's entries, and the documents among them: u8 kind (0 a file, 1 a symbolic link, 2 a hard link), u8 length
 * and name, u16 length and content or target, one after the other.
 */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "oci/archive_files.h"
#include "oci/docker_archive.h"
#include "oci/limits.h"
#include "oci/load_names.h"
#include "oci/manifest.h"

#define FILES_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct entry {
    const uint8_t *data;
    size_t len;
};

static bool add(struct archive_files *files, struct entry *contents, struct reader *r)
{
    uint8_t kind = reader_u8(r), name_len = reader_u8(r);
    const char *name = reader_bytes(r, name_len);
    uint16_t len = reader_u16(r);
    const uint8_t *content = reader_bytes(r, len);
    char name_str[256] = "", *target;
    struct archive_file file = {.size = len, .number = (unsigned)files->n};
    int code;

    if (r->bad)
        return false;
    memcpy(name_str, name, name_len);
    if (kind % 3) {
        target = strndup((const char *)content, len);
        assert(target);
        code = files_add_link(files, name_str, target, kind % 3 == 2, NULL);
        free(target);
        return code >= 0;
    }
    contents[files->n] = (struct entry){content, len};
    code = digest_of(&file.digest, content, len, NULL);
    assert(code >= 0);
    file.form = form_of(content, len);
    return files_add(files, name_str, &file, NULL) >= 0;
}

static void use_image(const struct docker_image *img, const struct archive_files *files, const struct entry *contents)
{
    struct buf b = buf_init(OCI_JSON_MAX_BYTES);
    const struct archive_file *config;
    struct manifest_doc manifest;
    struct config_doc doc;
    char *name;
    int r;

    if (docker_make_manifest(&b, img, files, NULL) >= 0) {
        r = manifest_doc_parse(&manifest, b.data, b.len, NULL);
        assert(r >= 0); /* what is written here is read here */
        config = files_find(files, img->config);
        assert(config && digest_equal(&config->digest, &manifest.config.digest));
        for (size_t i = 0; i < manifest.n_layers; i++)
            assert(files_by_digest(files, &manifest.layers[i].digest));
        if (config_doc_parse(&doc, contents[config->number].data, contents[config->number].len, NULL) >= 0)
            config_doc_done(&doc);
        manifest_doc_done(&manifest);
    }
    buf_done(&b);
    for (char **tag = img->tags; *tag; tag++) {
        load_name_matches(*tag, "busybox:1");
        if (load_name(&name, *tag, true, "dir/archive.tar", NULL) >= 0)
            free(name);
    }
}

static void use(const struct archive_files *files, const struct entry *contents)
{
    const struct archive_file *f = files_find(files, "manifest.json");
    struct docker_images images;

    if (!f || docker_images_parse(&images, contents[f->number].data, contents[f->number].len, NULL) < 0)
        return;
    for (size_t i = 0; i < images.n; i++)
        use_image(&images.items[i], files, contents);
    docker_images_done(&images);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct reader r = reader_init(data, len);
    struct archive_files files = {.n = 0};
    struct entry contents[FILES_MAX];

    while (r.left && files.n < FILES_MAX && add(&files, contents, &r))
        continue;
    if (files_seal(&files, NULL) >= 0)
        use(&files, contents);
    files_done(&files);
    return 0;
}
