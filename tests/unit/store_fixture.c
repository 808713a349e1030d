/* SPDX-License-Identifier: Apache-2.0 */
/* Stores with images in them: see store_fixture.h. */
#include "store_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "oci/blobs.h"
#include "oci/gc.h"
#include "oci/names.h"
#include "oci/stored.h"
#include "oci_fixture.h"

#define FILE_SIZE 20000

int store_fixture_setup(void **state)
{
    struct store_fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    f->dir = temp_dir();
    assert_int_equal(oci_store_open(&f->s, f->dir, NULL), 0);
    *state = f;
    return 0;
}

int store_fixture_teardown(void **state)
{
    struct store_fixture *f = *state;

    oci_store_free(f->s);
    temp_dir_remove(f->dir);
    free(f);
    return 0;
}

static struct buf layer_tar(const char *layer)
{
    struct buf tar = buf_init(MIB);
    char data[FILE_SIZE];

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (char)(layer[0] + (int)(i % 61));
    tar_add(&tar, layer, '0', NULL, data, sizeof(data));
    tar_add(&tar, "small", '0', NULL, layer, strlen(layer));
    tar_end(&tar);
    return tar;
}

struct digest layer_digest(const char *layer)
{
    struct buf tar = layer_tar(layer);
    struct digest d = digest_of_buf(tar.data, tar.len);

    buf_done(&tar);
    return d;
}

static struct digest put_blob(struct oci_store *s, const void *data, size_t len)
{
    struct sm_error err = SM_ERROR_INIT;
    struct digest d = digest_of_buf(data, len);

    if (blob_put(s, &d, data, len, &err) < 0)
        fail_msg("%s", err.text);
    return d;
}

struct digest image_blobs(struct oci_store *s, const char *const *layers, const char *note)
{
    char config[4096], manifest[4096], digest[DIGEST_STR_SIZE];
    int c, m;

    c = snprintf(config, sizeof(config),
                 "{\"architecture\":\"amd64\",\"os\":\"linux\",\"author\":\"%s\",\"rootfs\":{\"type\":\"layers\","
                 "\"diff_ids\":[",
                 note);
    for (size_t i = 0; layers[i]; i++) {
        struct digest d = layer_digest(layers[i]);

        digest_str(&d, digest);
        c += snprintf(config + c, sizeof(config) - (size_t)c, "%s\"%s\"", i ? "," : "", digest);
    }
    c += snprintf(config + c, sizeof(config) - (size_t)c, "]}}");
    struct digest config_digest = put_blob(s, config, (size_t)c);

    digest_str(&config_digest, digest);
    m = snprintf(manifest, sizeof(manifest),
                 "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":{"
                 "\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"%s\",\"size\":%d},"
                 "\"layers\":[",
                 digest, c);
    for (size_t i = 0; layers[i]; i++) {
        struct buf tar = layer_tar(layers[i]);
        struct digest d = put_blob(s, tar.data, tar.len);

        digest_str(&d, digest);
        m += snprintf(manifest + m, sizeof(manifest) - (size_t)m,
                      "%s{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"%s\",\"size\":%zu}",
                      i ? "," : "", digest, tar.len);
        buf_done(&tar);
    }
    m += snprintf(manifest + m, sizeof(manifest) - (size_t)m, "]}");
    return put_blob(s, manifest, (size_t)m);
}

void name_put(struct oci_store *s, const char *name, const struct digest *manifest, const struct digest *root)
{
    struct name_record r = {.name = (char *)(uintptr_t)name,
                            .manifest = *manifest,
                            .root = root ? *root : *manifest,
                            .platform = (char *)(uintptr_t) "linux/amd64"};
    struct sm_error err = SM_ERROR_INIT;

    if (names_put(s, &r, &err) < 0)
        fail_msg("%s", err.text);
}

struct digest image_put(struct oci_store *s, const char *name, const char *const *layers, const char *note)
{
    CLEANUP_FD int lock_fd = gc_enter(s, NULL);
    struct digest d = image_blobs(s, layers, note);
    struct sm_error err = SM_ERROR_INIT;
    struct oci_image *img;

    assert_true(lock_fd >= 0);
    if (image_open_stored(&img, s, &d, NULL, NULL, &err) < 0)
        fail_msg("%s", err.text);
    oci_image_free(img);
    name_put(s, name, &d, NULL);
    return d;
}

unsigned count_in(const struct store_fixture *f, const char *sub)
{
    char path[512];
    unsigned n = 0;
    DIR *d;

    snprintf(path, sizeof(path), "%s/%s", f->dir, sub);
    d = opendir(path);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

const char *path_in(const struct store_fixture *f, const char *sub, const struct digest *name, const char *file)
{
    static char path[512];
    char hex[DIGEST_HEX_SIZE];

    digest_hex(name, hex);
    snprintf(path, sizeof(path), "%s/%s/%s%s%s", f->dir, sub, hex, file[0] ? "/" : "", file);
    return path;
}

bool is_in(const struct store_fixture *f, const char *sub, const struct digest *name)
{
    return access(path_in(f, sub, name, ""), F_OK) == 0;
}

void flip(const char *path, int64_t off)
{
    CLEANUP_FD int fd = open(path, O_RDWR | O_CLOEXEC);
    char c;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &c, 1, off), 1);
    c ^= 4;
    assert_int_equal(pwrite(fd, &c, 1, off), 1);
}
