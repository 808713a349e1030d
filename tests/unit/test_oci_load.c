/* SPDX-License-Identifier: Apache-2.0 */
/* Archives into the store: OCI's, Docker's, and everything that can be wrong with them. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "archive_fixture.h"
#include "base/checked.h"
#include "base/io.h"
#include "oci/blobs.h"
#include "oci/limits.h"
#include "oci/load.h"
#include "oci/names.h"
#include "oci_fixture.h"
#include "store_fixture.h"

static const char *const one_layer[] = {"a", NULL};
static const char *const two_layers[] = {"a", "b", NULL};
static const char *const other_layer[] = {"c", NULL};

static int load_buf(struct store_fixture *f, const struct buf *bytes, const struct oci_load_options *o,
                    struct oci_loaded *ret, struct sm_error *err)
{
    int fd = memory_file(bytes->data, bytes->len), r;

    *err = (struct sm_error)SM_ERROR_INIT;
    r = oci_load(ret, f->s, fd, o, err);
    close(fd);
    return r;
}

static int load(struct store_fixture *f, const struct members *a, const struct oci_load_options *o,
                struct oci_loaded *ret, struct sm_error *err)
{
    struct buf tar = members_tar(a, "");
    int r = load_buf(f, &tar, o, ret, err);

    buf_done(&tar);
    return r;
}

static const struct oci_load_options plain = {.file = "dir/My App.tar.gz"};

static void assert_nothing_there(const struct store_fixture *f)
{
    assert_int_equal(count_in(f, "names"), 0);
    assert_int_equal(count_in(f, "blobs"), 0);
    assert_int_equal(count_in(f, "images"), 0);
    assert_int_equal(count_in(f, "tmp"), 0);
}

static void assert_loaded(struct store_fixture *f, const struct oci_loaded *l, size_t i, const char *name,
                          const struct digest *manifest)
{
    struct name_record record;

    assert_true(i < l->n);
    assert_string_equal(l->images[i].name, name);
    assert_true(digest_equal(&l->images[i].manifest, manifest));
    assert_true(is_in(f, "blobs", manifest));
    if (name[0] == '@')
        return;
    assert_int_equal(names_get(f->s, name, NULL, &record, NULL), 0);
    assert_true(digest_equal(&record.manifest, manifest));
    name_record_done(&record);
}

/* Load what must load, and give what it was called. */
static void expect_name(const struct members *a, const struct oci_load_options *o, const char *name,
                        const struct digest *manifest)
{
    char nameless[DIGEST_STR_SIZE + 1] = "@";
    struct oci_loaded l;
    struct sm_error err;
    void *state;
    int r;

    store_fixture_setup(&state);
    r = load(state, a, o, &l, &err);
    if (r < 0)
        fail_msg("%s", err.text);
    digest_str(manifest, nameless + 1);
    assert_int_equal(l.n, 1);
    assert_loaded(state, &l, 0, name ? name : nameless, manifest);
    assert_int_equal(count_in(state, "names"), 1);
    assert_int_equal(count_in(state, "tmp"), 0);
    oci_loaded_done(&l);
    store_fixture_teardown(&state);
}

static void test_names(void **state)
{
    static const struct {
        const char *ref_name, *image_name, *file, *given, *name;
    } cases[] = {
        {"docker.io/library/busybox:1.36", NULL, "x.tar", NULL, "docker.io/library/busybox:1.36"},
        {"busybox:1.36", NULL, NULL, NULL, "docker.io/library/busybox:1.36"},
        {"host:5000/a/b", NULL, NULL, NULL, "host:5000/a/b:latest"},
        {"1.36", "docker.io/library/busybox:1.36", "x.tar", NULL, "docker.io/library/busybox:1.36"},
        {"latest", NULL, "dir/My App.tar.gz", NULL, "localhost/my-app:latest"},
        {"1.0", NULL, "./x.tgz", NULL, "localhost/x:1.0"},
        {"1.0", NULL, "/tmp/x_y.z.oci.tar.zst", NULL, "localhost/x-y-z:1.0"},
        {"1.0", NULL, NULL, NULL, NULL},
        {"1.0", NULL, "/tmp/---.tar", NULL, NULL},
        {NULL, NULL, "x.tar", NULL, NULL},
        {"not a name", NULL, "x.tar", "given", "docker.io/library/given:latest"},
        {NULL, NULL, NULL, "host.io/given:1", "host.io/given:1"},
        {NULL, "docker.io/library/x@sha256:0000000000000000000000000000000000000000000000000000000000000000", NULL,
         NULL, NULL},
        {NULL, "docker.io/library/x:1@sha256:0000000000000000000000000000000000000000000000000000000000000000", NULL,
         NULL, "docker.io/library/x:1"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct members a = {.n = 0};
        struct image_parts img = add_oci_image(&a, one_layer, NULL);
        struct oci_load_options o = {.file = cases[i].file, .name = cases[i].given};

        add_layout_named(&a, &img, cases[i].ref_name, cases[i].image_name);
        expect_name(&a, &o, cases[i].name, &img.manifest);
        o.name = NULL;
        o.nameless = true;
        expect_name(&a, &o, NULL, &img.manifest);
        members_done(&a);
    }
}

static void test_everything_is_there(void **state)
{
    struct store_fixture *f = *state;
    struct members a = {.n = 0};
    struct image_parts img = add_oci_image(&a, two_layers, NULL);
    struct name_record record;
    struct oci_image *opened;
    struct oci_loaded l;
    struct sm_error err;
    char platform[64];

    add_layout_named(&a, &img, "x:1", NULL);
    assert_int_equal(load(f, &a, &plain, &l, &err), 0);
    assert_true(is_in(f, "blobs", &img.manifest) && is_in(f, "blobs", &img.config));
    assert_true(is_in(f, "blobs", &img.layers[0]) && is_in(f, "blobs", &img.layers[1]));
    assert_true(is_in(f, "layers", &img.layers[0]) && is_in(f, "layers", &img.layers[1]));
    assert_int_equal(count_in(f, "images"), 1);
    assert_int_equal(names_get(f->s, "docker.io/library/x:1", NULL, &record, NULL), 0);
    snprintf(platform, sizeof(platform), "linux/%s", host_arch());
    assert_string_equal(record.platform, platform);
    assert_string_equal(record.source, "oci-archive:dir/My App.tar.gz");
    assert_true(digest_equal(&record.root, &img.manifest));
    name_record_done(&record);
    assert_int_equal(oci_image_open(&opened, f->s, "x:1", NULL, &err), 0);
    oci_image_free(opened);
    oci_loaded_done(&l);
    assert_int_equal(load(f, &a, &plain, &l, &err), 0); /* once more: the same */
    assert_int_equal(count_in(f, "names"), 1);
    oci_loaded_done(&l);
    members_done(&a);
}

/* However the tar is written. */
static void test_shapes(void **state)
{
    static const char *const prefixes[] = {"", "./", ".//./"};
    struct members a = {.n = 0};
    struct image_parts img = add_oci_image(&a, two_layers, NULL);
    struct buf tar, zipped;

    add_link(&a, "blobs", '5', NULL);
    add_link(&a, "blobs/sha256", '5', NULL);
    add_text(&a, "README", "something else");
    add_text(&a, "blobs/sha256/note", "something else");
    add_layout_named(&a, &img, "x:1", NULL);
    for (size_t i = 0; i < 2 * ARRAY_SIZE(prefixes); i++) {
        struct oci_loaded l;
        struct sm_error err;
        void *f;

        store_fixture_setup(&f);
        tar = members_tar(&a, prefixes[i / 2]);
        zipped = gzip_stored(&tar);
        if (load_buf(f, i % 2 ? &zipped : &tar, &plain, &l, &err) < 0)
            fail_msg("%zu: %s", i, err.text);
        assert_loaded(f, &l, 0, "docker.io/library/x:1", &img.manifest);
        oci_loaded_done(&l);
        buf_done(&tar);
        buf_done(&zipped);
        store_fixture_teardown(&f);
        reverse_members(&a);
    }
    members_done(&a);
}

struct feed {
    int fd;
    const struct buf *bytes;
};

static void *feed_pipe(void *ctx)
{
    struct feed *feed = ctx;

    for (size_t at = 0; at < feed->bytes->len; at += 777) {
        size_t n = feed->bytes->len - at < 777 ? feed->bytes->len - at : 777;

        if (io_write_full(feed->fd, feed->bytes->data + at, n) < 0)
            break;
    }
    close(feed->fd);
    return NULL;
}

static void test_pipe(void **state)
{
    struct members a = {.n = 0};
    struct image_parts img = add_oci_image(&a, two_layers, NULL);
    struct oci_loaded l;
    struct sm_error err;
    struct buf tar;
    struct feed feed;
    pthread_t thread;
    int fd[2];

    add_layout_named(&a, &img, "x:1", NULL);
    tar = members_tar(&a, "");
    assert_int_equal(pipe(fd), 0);
    feed = (struct feed){fd[1], &tar};
    assert_int_equal(pthread_create(&thread, NULL, feed_pipe, &feed), 0);
    assert_int_equal(oci_load(&l, ((struct store_fixture *)*state)->s, fd[0], &(struct oci_load_options){0}, &err), 0);
    assert_loaded(*state, &l, 0, "docker.io/library/x:1", &img.manifest);
    pthread_join(thread, NULL);
    close(fd[0]);
    oci_loaded_done(&l);
    buf_done(&tar);
    members_done(&a);
}

/* Docker's own */

/* Config and layers as old Docker writes them: the second image shares a layer through a symbolic link. */
static struct digest add_docker(struct members *a, const char *json)
{
    struct members blobs = {.n = 0};
    struct image_parts img = add_oci_image(&blobs, two_layers, NULL);
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

static void test_docker(void **state)
{
    static const char *const layers[] = {"\"aaaa/layer.tar\",\"bbbb/layer.tar\"",
                                         "\"cccc/layer.tar\",\"./bbbb//layer.tar\"",
                                         "\"dddd/layer.tar\",\"bbbb/layer.tar\""};
    struct store_fixture *f = *state;
    struct digest config, manifest = {.bytes = {0}};
    struct oci_loaded l;
    struct sm_error err;
    char json[512];

    for (size_t i = 0; i < ARRAY_SIZE(layers); i++) {
        struct members a = {.n = 0};
        void *data;
        size_t len;

        snprintf(json, sizeof(json),
                 "[{\"Config\":\"config.json\",\"RepoTags\":[\"busybox:1\",\"host.io/b:2\",\"docker.io/busybox:1\"],"
                 "\"Layers\":[%s],\"Parent\":\"\"}]",
                 layers[i]);
        config = add_docker(&a, json);
        if (i)
            reverse_members(&a);
        if (load(f, &a, &plain, &l, &err) < 0)
            fail_msg("%s", err.text);
        if (!i)
            manifest = l.images[0].manifest;
        assert_int_equal(l.n, 2);
        assert_loaded(f, &l, 0, "docker.io/library/busybox:1", &manifest); /* the same each time */
        assert_loaded(f, &l, 1, "host.io/b:2", &manifest);
        assert_true(is_in(f, "blobs", &config));
        assert_int_equal(blob_read(f->s, &manifest, OCI_JSON_MAX_BYTES, &data, &len, NULL), 0);
        assert_non_null(memmem(data, len, "layer.v1.tar\"", 13));
        assert_non_null(memmem(data, len, "layer.v1.tar+gzip\"", 18));
        free(data);
        oci_loaded_done(&l);
        members_done(&a);
    }
    assert_int_equal(count_in(f, "names"), 2);
    assert_int_equal(count_in(f, "blobs"), 4);
}

static void test_docker_without_names(void **state)
{
    struct members a = {.n = 0};
    struct oci_loaded l;
    struct sm_error err;

    add_docker(&a,
               "[{\"Config\":\"config.json\",\"RepoTags\":null,\"Layers\":[\"aaaa/layer.tar\",\"bbbb/layer.tar\"]}]");
    assert_int_equal(load(*state, &a, &plain, &l, &err), 0);
    assert_int_equal(l.n, 1);
    assert_loaded(*state, &l, 0, l.images[0].name, &l.images[0].manifest);
    assert_int_equal(l.images[0].name[0], '@');
    oci_loaded_done(&l);
    members_done(&a);
}

/* Since 25 Docker writes both documents. */
static void test_docker_both(void **state)
{
    struct members a = {.n = 0};
    struct image_parts img = add_oci_image(&a, other_layer, NULL);
    struct oci_loaded l;
    struct sm_error err;

    add_docker(
        &a, "[{\"Config\":\"config.json\",\"RepoTags\":[\"y:1\"],\"Layers\":[\"aaaa/layer.tar\",\"bbbb/layer.tar\"]}]");
    add_layout_named(&a, &img, "1", "docker.io/library/x:1");
    assert_int_equal(load(*state, &a, &plain, &l, &err), 0);
    assert_int_equal(l.n, 1);
    assert_loaded(*state, &l, 0, "docker.io/library/x:1", &img.manifest);
    oci_loaded_done(&l);
    set_data(find_member(&a, "index.json"), "{\"schemaVersion\":2,\"manifests\":[]}");
    assert_int_equal(load(*state, &a, &plain, &l, &err), 0);
    assert_int_equal(l.n, 1);
    assert_string_equal(l.images[0].name, "docker.io/library/y:1");
    oci_loaded_done(&l);
    members_done(&a);
}

/* Several */

static void add_two(struct members *a, struct image_parts img[2])
{
    char items[2048];

    img[0] = add_oci_image(a, two_layers, NULL);
    img[1] = add_oci_image(a, other_layer, NULL);
    snprintf(items, sizeof(items),
             "%s,\"annotations\":{\"org.opencontainers.image.ref.name\":\"x:1\"}},"
             "%s,\"annotations\":{\"org.opencontainers.image.ref.name\":\"host.io/y:2\"}},"
             "%s,\"annotations\":{\"org.opencontainers.image.ref.name\":\"x:3\"}}",
             img[0].descriptor, img[1].descriptor, img[0].descriptor);
    add_layout(a, items);
}

static void test_several(void **state)
{
    static const struct {
        const char *select, *name;
        size_t at;
    } choices[] = {
        {"x:1", "docker.io/library/x:1", 0},
        {"docker.io/library/x:1", "docker.io/library/x:1", 0},
        {"1", "docker.io/library/x:1", 0},
        {"host.io/y:2", "host.io/y:2", 1},
        {"2", "host.io/y:2", 1},
        {"3", "docker.io/library/x:3", 0},
    };
    struct oci_load_options o = plain;
    struct image_parts img[2];
    struct members a = {.n = 0};
    struct oci_loaded l;
    struct sm_error err;

    add_two(&a, img);
    o.one = true;
    assert_int_equal(load(*state, &a, &o, &l, &err), -EINVAL);
    assert_non_null(strstr(err.text, "several images"));
    assert_non_null(strstr(err.text, "it has: x:1, host.io/y:2, x:3"));
    o.select = "none:1";
    assert_int_equal(load(*state, &a, &o, &l, &err), -ENOENT);
    assert_non_null(strstr(err.text, "it has: x:1, host.io/y:2, x:3"));
    o = (struct oci_load_options){.name = "z"};
    assert_int_equal(load(*state, &a, &o, &l, &err), -EINVAL);
    assert_non_null(strstr(err.text, "cannot all be called \"z\""));
    assert_nothing_there(*state);
    o = (struct oci_load_options){.one = true};
    for (size_t i = 0; i < ARRAY_SIZE(choices); i++) {
        o.select = choices[i].select;
        if (load(*state, &a, &o, &l, &err) < 0)
            fail_msg("%s: %s", choices[i].select, err.text);
        assert_int_equal(l.n, 1);
        assert_loaded(*state, &l, 0, choices[i].name, &img[choices[i].at].manifest);
        oci_loaded_done(&l);
    }
    assert_int_equal(load(*state, &a, &plain, &l, &err), 0);
    assert_int_equal(l.n, 3);
    assert_loaded(*state, &l, 2, "docker.io/library/x:3", &img[0].manifest);
    oci_loaded_done(&l);
    members_done(&a);
}

/* One name, several platforms: in one index, or side by side. */
static void test_platforms(void **state)
{
    const char *other = strcmp(host_arch(), "amd64") ? "amd64" : "arm64";
    struct oci_load_options o = {.platform = NULL};
    struct members a = {.n = 0};
    struct image_parts host = add_oci_image(&a, two_layers, NULL), foreign = add_oci_image(&a, other_layer, other);
    char items[2048], index[4096], platform[64], name[DIGEST_STR_SIZE];
    struct oci_loaded l;
    struct sm_error err;
    struct digest root;

    snprintf(items, sizeof(items),
             "%s,\"platform\":{\"os\":\"linux\",\"architecture\":\"%s\"}},%s,\"platform\":{\"os\":\"linux\","
             "\"architecture\":\"%s\"}}",
             foreign.descriptor, other, host.descriptor, host_arch());
    add_layout(&a, items);
    assert_int_equal(load(*state, &a, &o, &l, &err), 0);
    assert_int_equal(l.n, 1);
    assert_true(digest_equal(&l.images[0].manifest, &host.manifest));
    oci_loaded_done(&l);
    snprintf(platform, sizeof(platform), "linux/%s", other);
    o.platform = platform;
    assert_int_equal(load(*state, &a, &o, &l, &err), 0);
    assert_true(digest_equal(&l.images[0].manifest, &foreign.manifest));
    oci_loaded_done(&l);

    snprintf(index, sizeof(index), "{\"schemaVersion\":2,\"manifests\":[%s]}", items);
    root = add_blob(&a, index, strlen(index));
    digest_str(&root, name);
    snprintf(
        items, sizeof(items),
        "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"digest\":"
        "\"%s\",\"size\":%zu,\"annotations\":{\"org.opencontainers.image.ref.name\":\"x:1\"}}]}",
        name, strlen(index));
    set_data(find_member(&a, "index.json"), items);
    drop_member(&a, find_blob(&a, &host.layers[0])); /* of the other platform: not needed */
    assert_int_equal(load(*state, &a, &o, &l, &err), 0);
    assert_loaded(*state, &l, 0, "docker.io/library/x:1", &foreign.manifest);
    assert_true(digest_equal(&l.images[0].root, &root));
    assert_true(is_in(*state, "blobs", &root));
    oci_loaded_done(&l);
    o.platform = "linux/s390x";
    assert_int_equal(load(*state, &a, &o, &l, &err), -ENOENT);
    assert_non_null(strstr(err.text, "not there for linux/s390x"));
    members_done(&a);
}

/* Without names they are one image only when the platforms tell them apart. */
static void test_nameless(void **state)
{
    struct members a = {.n = 0};
    struct image_parts x = add_oci_image(&a, two_layers, NULL), y = add_oci_image(&a, other_layer, NULL);
    struct oci_loaded l;
    struct sm_error err;
    char items[2048];

    snprintf(items, sizeof(items), "%s},%s}", x.descriptor, y.descriptor);
    add_layout(&a, items);
    assert_int_equal(load(*state, &a, &plain, &l, &err), 0);
    assert_int_equal(l.n, 2);
    assert_true(digest_equal(&l.images[0].manifest, &x.manifest));
    assert_true(digest_equal(&l.images[1].manifest, &y.manifest));
    oci_loaded_done(&l);
    members_done(&a);
}

/* What is wrong */

struct damage {
    const char *what, *word;
};

static void break_oci(struct members *a, struct image_parts *img, const char *what)
{
    struct member *m;

    if (!strcmp(what, "no manifest"))
        drop_member(a, find_blob(a, &img->manifest));
    else if (!strcmp(what, "no config"))
        drop_member(a, find_blob(a, &img->config));
    else if (!strcmp(what, "no layer"))
        drop_member(a, find_blob(a, &img->layers[1]));
    else if (!strcmp(what, "no layout"))
        drop_member(a, find_member(a, "oci-layout"));
    else if (!strcmp(what, "layout version"))
        set_data(find_member(a, "oci-layout"), "{\"imageLayoutVersion\":\"2.0\"}");
    else if (!strcmp(what, "no index"))
        drop_member(a, find_member(a, "index.json"));
    else if (!strcmp(what, "empty index"))
        set_data(find_member(a, "index.json"), "{\"schemaVersion\":2,\"manifests\":[]}");
    else if (!strcmp(what, "index is no JSON"))
        set_data(find_member(a, "index.json"), "{\"schemaVersion\":2,");
    else if (!strcmp(what, "index has a key twice"))
        set_data(find_member(a, "index.json"), "{\"schemaVersion\":2,\"manifests\":[],\"manifests\":[]}");
    else if (!strcmp(what, "index is an array"))
        set_data(find_member(a, "index.json"), "[]");
    else if (!strcmp(what, "blob changed"))
        find_blob(a, &img->layers[0])->data[3000] ^= 1;
    else if (!strcmp(what, "config changed"))
        find_blob(a, &img->config)->data[3] ^= 1;
    else if (!strcmp(what, "blob cut"))
        find_blob(a, &img->layers[0])->len -= 512;
    else if (!strcmp(what, "twice, different"))
        add_text(a, "index.json", "{}");
    else if (!strcmp(what, "dotdot"))
        add_text(a, "blobs/../../evil", "x");
    else if (!strcmp(what, "absolute"))
        add_text(a, "/etc/evil", "x");
    else if (!strcmp(what, "link out"))
        add_link(a, "blobs/l", '2', "../../etc/passwd");
    else if (!strcmp(what, "link to the host"))
        add_link(a, "blobs/l", '2', "/etc/passwd");
    else if (!strcmp(what, "hard link out"))
        add_link(a, "l", '1', "../x");
    else if (!strcmp(what, "index is a link to the host")) {
        m = find_member(a, "index.json");
        drop_member(a, m);
        add_link(a, "index.json", '2', "/etc/passwd");
    } else if (!strcmp(what, "bad name")) {
        drop_member(a, find_member(a, "index.json"));
        drop_member(a, find_member(a, "oci-layout"));
        add_layout_named(a, img, "UPPER CASE:1", NULL);
    } else if (!strcmp(what, "size")) {
        char items[1024], *size;

        drop_member(a, find_member(a, "index.json"));
        drop_member(a, find_member(a, "oci-layout"));
        size = strstr(img->descriptor, "\"size\":");
        snprintf(items, sizeof(items), "%.*s\"size\":7}", (int)(size - img->descriptor), img->descriptor);
        add_layout(a, items);
    } else if (!strcmp(what, "large index")) {
        m = find_member(a, "index.json");
        free(m->data);
        m->len = OCI_JSON_MAX_BYTES + 1;
        m->data = calloc(1, m->len);
    } else {
        fail_msg("%s?", what);
    }
}

static const struct damage damaged[] = {
    {"no manifest", "it is not complete"},
    {"no config", "it is not complete"},
    {"no layer", "it is not complete"},
    {"no layout", "no oci-layout"},
    {"layout version", "oci-layout: image layout version \"2.0\""},
    {"no index", "neither an index.json (OCI) nor a manifest.json"},
    {"empty index", "holds no image"},
    {"index is no JSON", "index.json: it is not valid JSON"},
    {"index has a key twice", "index.json: it has a key twice"},
    {"index is an array", "index.json: it is not a JSON object"},
    {"blob changed", "it is damaged or was tampered with"},
    {"config changed", "it is damaged or was tampered with"},
    {"blob cut", "it is damaged or was tampered with"},
    {"twice, different", "\"index.json\" is there twice"},
    {"dotdot", "leads out of the archive"},
    {"absolute", "leads out of the archive"},
    {"link out", "leads out of the archive"},
    {"link to the host", "leads out of the archive"},
    {"hard link out", "leads out of the archive"},
    {"index is a link to the host", "leads out of the archive"},
    {"bad name", "the archive's name for an image"},
    {"size", "its descriptor says 7"},
    {"large index", "larger than 4 MiB"},
};

static void test_damaged(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(damaged); i++) {
        struct members a = {.n = 0};
        struct image_parts img = add_oci_image(&a, two_layers, NULL);
        struct oci_loaded l;
        struct sm_error err;

        add_layout_named(&a, &img, "x:1", NULL);
        break_oci(&a, &img, damaged[i].what);
        if (load(*state, &a, &plain, &l, &err) >= 0)
            fail_msg("accepted: %s", damaged[i].what);
        if (!strstr(err.text, damaged[i].word) || strncmp(err.text, "archive \"dir/My App.tar.gz\": ", 29))
            fail_msg("%s: \"%s\" does not say \"%s\"", damaged[i].what, err.text, damaged[i].word);
        assert_nothing_there(*state);
        assert_int_equal(count_in(*state, "layers"), 0);
        members_done(&a);
    }
}

static const struct damage docker_damaged[] = {
    {"{}", "manifest.json: it is not a JSON array"},
    {"[]", "holds no image"},
    {"[1]", "is not an object"},
    {"[{}]", "image 0: \"Config\" is missing"},
    {"[{\"Config\":\"none.json\",\"Layers\":[]}]", "has no file \"none.json\", which its manifest.json names"},
    {"[{\"Config\":\"../config.json\",\"Layers\":[]}]", "has no file \"../config.json\""},
    {"[{\"Config\":\"/etc/passwd\",\"Layers\":[]}]", "has no file \"/etc/passwd\""},
    {"[{\"Config\":\"config.json\",\"Layers\":[\"eeee/layer.tar\"]}]", "has no file \"eeee/layer.tar\""},
    {"[{\"Config\":\"config.json\",\"Layers\":[\"aaaa\"]}]", "has no file \"aaaa\""},
    {"[{\"Config\":\"config.json\",\"Layers\":\"aaaa/layer.tar\"}]", "\"Layers\" is not an array"},
    {"[{\"Config\":\"config.json\",\"Layers\":[\"aaaa/layer.tar\"]}]", "they do not belong together"},
    {"[{\"Config\":\"aaaa/layer.tar\",\"Layers\":[]}]", "config sha256:"},
    {"[{\"Config\":\"aaaa/json\",\"Layers\":[]}]", "config sha256:"},
    {"[{\"Config\":\"config.json\",\"RepoTags\":[\"-:1\"],\"Layers\":[\"aaaa/layer.tar\",\"bbbb/layer.tar\"]}]",
     "the archive's name for an image"},
    {"[{\"Config\":\"config.json\",\"Layers\":[\"bbbb/layer.tar\",\"aaaa/layer.tar\"]}]", "the image's config says"},
    {"[{\"Config\":\"config.json\",\"Layers\":[\"aaaa/layer.tar\",\"aaaa/VERSION\"]}]", ""},
};

static void test_docker_damaged(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(docker_damaged); i++) {
        struct members a = {.n = 0};
        struct oci_loaded l;
        struct sm_error err;

        add_docker(&a, docker_damaged[i].what);
        if (load(*state, &a, &plain, &l, &err) >= 0)
            fail_msg("accepted: %s", docker_damaged[i].what);
        if (!strstr(err.text, docker_damaged[i].word))
            fail_msg("%s: \"%s\" does not say \"%s\"", docker_damaged[i].what, err.text, docker_damaged[i].word);
        assert_nothing_there(*state);
        members_done(&a);
    }
}

static void test_cut(void **state)
{
    struct members a = {.n = 0};
    struct image_parts img = add_oci_image(&a, two_layers, NULL);
    struct oci_loaded l;
    struct sm_error err;
    struct buf tar, zipped;

    add_layout_named(&a, &img, "x:1", NULL);
    tar = members_tar(&a, "");
    zipped = gzip_stored(&tar);
    for (size_t len = 0; len < tar.len - 1024; len += 1500) { /* the end mark may be missing */
        struct buf cut = {.data = tar.data, .len = len}, cut_zipped = {.data = zipped.data, .len = len};

        assert_true(load_buf(*state, &cut, &plain, &l, &err) < 0);
        assert_true(load_buf(*state, &cut_zipped, &plain, &l, &err) < 0);
        assert_nothing_there(*state);
    }
    buf_done(&tar);
    buf_done(&zipped);
    members_done(&a);
}

static void test_no_archive(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *word;
    } cases[] = {
        {"", 0, "looks like an empty file"},
        {"hello, this is text\n", 20, "looks like text"},
        {"{\"schemaVersion\":2}", 19, "looks like JSON"},
        {"<!DOCTYPE html>", 15, "looks like a web page"},
        {"\x7f"
         "ELF\2\1\1",
         7, "looks like a program"},
        {"PK\3\4aaaa", 8, "looks like a zip archive"},
        {"\xfd"
         "7zXZ\0aaaaaaaa",
         14, "compressed with xz: decompress it first"},
        {"BZh91AY", 7, "compressed with bzip2"},
        {"\0\0\0\0\1\2\3", 7, "looks like nothing that is known"},
    };
    struct oci_loaded l;
    struct sm_error err;
    struct members a = {.n = 0};
    struct buf zipped;
    int fd;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint8_t copy[32];
        struct buf b = {.data = copy, .len = cases[i].len};

        memcpy(copy, cases[i].bytes, cases[i].len);
        assert_true(load_buf(*state, &b, &plain, &l, &err) < 0);
        if (!strstr(err.text, cases[i].word))
            fail_msg("\"%s\" does not say \"%s\"", err.text, cases[i].word);
    }
    zipped = gzip_stored(&(struct buf){.data = (uint8_t[]){'h', 'e', 'l', 'l', 'o'}, .len = 5});
    assert_true(load_buf(*state, &zipped, &plain, &l, &err) < 0);
    assert_non_null(strstr(err.text, "looks like something else compressed with gzip"));
    buf_done(&zipped);

    add_text(&a, "etc/passwd", "root");
    assert_true(load(*state, &a, &plain, &l, &err) < 0);
    assert_non_null(strstr(err.text, "docker export"));
    members_done(&a);
    add_text(&a, "repositories", "{}");
    assert_true(load(*state, &a, &plain, &l, &err) < 0);
    assert_non_null(strstr(err.text, "before 1.10"));
    members_done(&a);

    fd = open(((struct store_fixture *)*state)->dir, O_RDONLY);
    assert_int_equal(oci_load(&l, ((struct store_fixture *)*state)->s, fd, &plain, &err), -EISDIR);
    close(fd);
    assert_nothing_there(*state);
}

/* A bad layer under a good digest: refused when it is loaded, not when it is run. */
static void test_hostile_layer(void **state)
{
    struct members a = {.n = 0}, blobs = {.n = 0};
    struct image_parts img = add_oci_image(&blobs, two_layers, NULL);
    struct member *config = find_blob(&blobs, &img.config);
    struct buf tar = buf_init(MIB);
    struct oci_loaded l;
    struct sm_error err;
    struct digest d;
    char *text, name[DIGEST_STR_SIZE];

    tar_add(&tar, "../evil", '0', NULL, "x", 1);
    tar_end(&tar);
    add_file(&a, "bad.tar", tar.data, tar.len);
    d = digest_of_buf(tar.data, tar.len);
    digest_str(&d, name);
    text = strndup(config->data, config->len);
    memcpy(strstr(text, "sha256:"), name, strlen(name));
    memcpy(strrchr(text, 's'), name, strlen(name));
    add_text(&a, "config.json", text);
    add_text(&a, "manifest.json", "[{\"Config\":\"config.json\",\"Layers\":[\"bad.tar\",\"bad.tar\"]}]");
    assert_true(load(*state, &a, &plain, &l, &err) < 0);
    assert_non_null(strstr(err.text, "\"..\""));
    assert_nothing_there(*state);
    assert_int_equal(count_in(*state, "layers"), 0);
    free(text);
    buf_done(&tar);
    members_done(&a);
    members_done(&blobs);
}

static int stop(void *ctx, const struct oci_event *event)
{
    enum oci_event_kind *at = ctx;

    return event->what == *at;
}

static void test_stopped(void **state)
{
    static const enum oci_event_kind kinds[] = {OCI_EVENT_LOADING, OCI_EVENT_MERGING};
    struct members a = {.n = 0};
    struct image_parts img = add_oci_image(&a, two_layers, NULL);
    struct oci_loaded l;
    struct sm_error err;
    enum oci_event_kind at;
    const struct oci_events events = {stop, &at};
    struct oci_load_options o = {.events = &events};
    int fd[2];

    add_layout_named(&a, &img, "x:1", NULL);
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        at = kinds[i];
        assert_int_equal(load(*state, &a, &o, &l, &err), -ECANCELED);
        assert_nothing_there(*state);
    }
    at = OCI_EVENT_LOADING; /* also while nothing comes */
    assert_int_equal(pipe(fd), 0);
    assert_int_equal(oci_load(&l, ((struct store_fixture *)*state)->s, fd[0], &o, &err), -ECANCELED);
    close(fd[0]);
    close(fd[1]);
    members_done(&a);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        TEST(test_everything_is_there),
        cmocka_unit_test(test_shapes),
        TEST(test_pipe),
        TEST(test_docker),
        TEST(test_docker_without_names),
        TEST(test_docker_both),
        TEST(test_several),
        TEST(test_platforms),
        TEST(test_nameless),
        TEST(test_damaged),
        TEST(test_docker_damaged),
        TEST(test_cut),
        TEST(test_no_archive),
        TEST(test_hostile_layer),
        TEST(test_stopped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
