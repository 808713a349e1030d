/* SPDX-License-Identifier: Apache-2.0 */
/* Archives of images: see archive_fixture.h. */
#include "archive_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "oci/platform.h"
#include "oci_fixture.h"

#define TEXT_MAX 4096

static struct member *add(struct members *a, const char *name, char type, const char *link, const void *data,
                          size_t len)
{
    struct member *m = &a->m[a->n++];

    assert_true(a->n <= MEMBERS_MAX);
    *m = (struct member){.name = strdup(name), .link = link ? strdup(link) : NULL, .type = type, .len = len};
    m->data = malloc(len + 1);
    if (len)
        memcpy(m->data, data, len);
    return m;
}

struct member *add_file(struct members *a, const char *name, const void *data, size_t len)
{
    return add(a, name, '0', NULL, data, len);
}

struct member *add_text(struct members *a, const char *name, const char *text)
{
    return add_file(a, name, text, strlen(text));
}

void add_link(struct members *a, const char *name, char type, const char *target)
{
    add(a, name, type, target, NULL, 0);
}

static void blob_name(char name[128], const struct digest *d)
{
    char hex[DIGEST_HEX_SIZE];

    digest_hex(d, hex);
    snprintf(name, 128, "blobs/sha256/%s", hex);
}

static struct member *look_up(struct members *a, const char *name)
{
    for (size_t i = 0; i < a->n; i++) {
        if (!strcmp(a->m[i].name, name))
            return &a->m[i];
    }
    return NULL;
}

struct digest add_blob(struct members *a, const void *data, size_t len)
{
    struct digest d = digest_of_buf(data, len);
    char name[128];

    blob_name(name, &d);
    if (!look_up(a, name))
        add_file(a, name, data, len);
    return d;
}

struct member *find_member(struct members *a, const char *name)
{
    struct member *m = look_up(a, name);

    assert_non_null(m);
    return m;
}

struct member *find_blob(struct members *a, const struct digest *d)
{
    char name[128];

    blob_name(name, d);
    return find_member(a, name);
}

static void member_done(struct member *m)
{
    free(m->name);
    free(m->link);
    free(m->data);
}

void drop_member(struct members *a, struct member *m)
{
    size_t i = (size_t)(m - a->m);

    member_done(m);
    memmove(m, m + 1, (a->n - i - 1) * sizeof(*m));
    a->n--;
}

void set_data(struct member *m, const char *text)
{
    free(m->data);
    m->len = strlen(text);
    m->data = strdup(text);
}

void reverse_members(struct members *a)
{
    for (size_t i = 0; i < a->n / 2; i++) {
        struct member m = a->m[i];

        a->m[i] = a->m[a->n - 1 - i];
        a->m[a->n - 1 - i] = m;
    }
}

void members_done(struct members *a)
{
    for (size_t i = 0; i < a->n; i++)
        member_done(&a->m[i]);
    a->n = 0;
}

struct buf members_tar(const struct members *a, const char *prefix)
{
    struct buf tar = buf_init(64 * MIB);

    for (size_t i = 0; i < a->n; i++) {
        const struct member *m = &a->m[i];
        char name[256];

        snprintf(name, sizeof(name), "%s%s", prefix, m->name);
        tar_add(&tar, name, m->type, m->link, m->data, m->len);
    }
    tar_end(&tar);
    return tar;
}

static uint32_t crc32_of(const uint8_t *p, size_t len)
{
    uint32_t crc = ~0u;

    for (size_t i = 0; i < len; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

struct buf gzip_stored(const struct buf *plain)
{
    static const uint8_t head[] = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255};
    struct buf z = buf_init(64 * MIB);
    size_t at = 0;

    buf_bytes(&z, head, sizeof(head));
    do {
        size_t n = plain->len - at < 65535 ? plain->len - at : 65535;

        buf_u8(&z, at + n == plain->len); /* RFC 1951 §3.2.4: a stored block, the last one or not */
        buf_u16(&z, (uint16_t)n);
        buf_u16(&z, (uint16_t)~n);
        buf_bytes(&z, plain->data + at, n);
        at += n;
    } while (at < plain->len);
    buf_u32(&z, crc32_of(plain->data, plain->len));
    buf_u32(&z, (uint32_t)plain->len);
    assert_false(z.bad);
    return z;
}

struct buf layer_tar_of(const char *file)
{
    struct buf tar = buf_init(MIB);
    char data[5000];

    memset(data, file[0], sizeof(data)); /* more than an index holds */
    tar_add(&tar, file, '0', NULL, data, sizeof(data));
    tar_end(&tar);
    return tar;
}

const char *host_arch(void)
{
    struct platform p;

    assert_int_equal(platform_parse(&p, NULL, NULL), 0);
    return strcmp(p.arch, "amd64") ? "arm64" : "amd64";
}

static void append(char *to, const char *type, const struct digest *d, size_t size)
{
    char name[DIGEST_STR_SIZE];

    digest_str(d, name);
    sprintf(to + strlen(to), "{\"mediaType\":\"%s\",\"digest\":\"%s\",\"size\":%zu", type, name, size);
}

struct image_parts add_oci_image(struct members *a, const char *const *layers, const char *arch)
{
    char config[TEXT_MAX], manifest[TEXT_MAX] = "{\"schemaVersion\":2,\"config\":";
    char list[TEXT_MAX] = "", name[DIGEST_STR_SIZE];
    struct image_parts img = {.descriptor = ""};

    sprintf(config, "{\"os\":\"linux\",\"architecture\":\"%s\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[",
            arch ? arch : host_arch());
    for (size_t i = 0; layers[i]; i++) {
        struct buf tar = layer_tar_of(layers[i]);

        img.layers[i] = add_blob(a, tar.data, tar.len);
        digest_str(&img.layers[i], name);
        sprintf(config + strlen(config), "%s\"%s\"", i ? "," : "", name);
        strcat(list, i ? "," : "");
        append(list, "application/vnd.oci.image.layer.v1.tar", &img.layers[i], tar.len);
        strcat(list, "}");
        buf_done(&tar);
    }
    strcat(config, "]}}");
    img.config = add_blob(a, config, strlen(config));
    append(manifest, "application/vnd.oci.image.config.v1+json", &img.config, strlen(config));
    sprintf(manifest + strlen(manifest), "},\"layers\":[%s]}", list);
    img.manifest = add_blob(a, manifest, strlen(manifest));
    append(img.descriptor, "application/vnd.oci.image.manifest.v1+json", &img.manifest, strlen(manifest));
    return img;
}

void add_layout(struct members *a, const char *items)
{
    char text[TEXT_MAX];

    add_text(a, "oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
    snprintf(text, sizeof(text), "{\"schemaVersion\":2,\"manifests\":[%s]}", items);
    add_text(a, "index.json", text);
}

void add_layout_named(struct members *a, const struct image_parts *img, const char *ref_name, const char *image_name)
{
    char text[TEXT_MAX];

    strcpy(text, img->descriptor);
    if (ref_name || image_name) {
        strcat(text, ",\"annotations\":{");
        if (ref_name)
            sprintf(text + strlen(text), "\"org.opencontainers.image.ref.name\":\"%s\"%s", ref_name,
                    image_name ? "," : "");
        if (image_name)
            sprintf(text + strlen(text), "\"io.containerd.image.name\":\"%s\"", image_name);
        strcat(text, "}");
    }
    strcat(text, "}");
    add_layout(a, text);
}

struct digest add_docker(struct members *a, const char *json)
{
    struct members blobs = {.n = 0};
    struct image_parts img = add_oci_image(&blobs, (const char *const[]){"a", "b", NULL}, NULL);
    struct buf zipped, tar = layer_tar_of("b");
    struct member *m = find_blob(&blobs, &img.config);

    add_file(a, "config.json", m->data, m->len);
    m = find_blob(&blobs, &img.layers[0]);
    add_file(a, "aaaa/layer.tar", m->data, m->len);
    add_text(a, "aaaa/VERSION", "1.0");
    add_text(a, "aaaa/json", "{}");
    zipped = gzip_stored(&tar);
    add_file(a, "bbbb/layer.tar", zipped.data, zipped.len);
    add_link(a, "cccc/layer.tar", '2', "../aaaa/layer.tar");
    add_link(a, "dddd/layer.tar", '1', "cccc/layer.tar");
    add_text(a, "repositories", "{}");
    add_text(a, "manifest.json", json);
    buf_done(&tar);
    buf_done(&zipped);
    members_done(&blobs);
    return img.config;
}

int load_buf(struct store_fixture *f, const struct buf *bytes, const struct oci_load_options *o, struct oci_loaded *ret,
             struct sm_error *err)
{
    int fd = memory_file(bytes->data, bytes->len), r;

    *err = (struct sm_error)SM_ERROR_INIT;
    r = oci_load(ret, f->s, fd, o, err);
    close(fd);
    return r;
}

int load_members(struct store_fixture *f, const struct members *a, const struct oci_load_options *o,
                 struct oci_loaded *ret, struct sm_error *err)
{
    struct buf tar = members_tar(a, "");
    int r = load_buf(f, &tar, o, ret, err);

    buf_done(&tar);
    return r;
}

void assert_nothing_there(const struct store_fixture *f)
{
    assert_int_equal(count_in(f, "names"), 0);
    assert_int_equal(count_in(f, "blobs"), 0);
    assert_int_equal(count_in(f, "images"), 0);
    assert_int_equal(count_in(f, "tmp"), 0);
}
