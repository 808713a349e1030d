/* SPDX-License-Identifier: Apache-2.0 */
/* Archives into the store: OCI's and Docker's, written in every way, with one image or several. */
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

static const struct oci_load_options plain = {.file = "dir/My App.tar.gz"};

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
    r = load_members(state, a, o, &l, &err);
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
    assert_int_equal(load_members(f, &a, &plain, &l, &err), 0);
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
    assert_int_equal(load_members(f, &a, &plain, &l, &err), 0); /* once more: the same */
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
        if (load_members(f, &a, &plain, &l, &err) < 0)
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
    assert_int_equal(load_members(*state, &a, &plain, &l, &err), 0);
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
    assert_int_equal(load_members(*state, &a, &plain, &l, &err), 0);
    assert_int_equal(l.n, 1);
    assert_loaded(*state, &l, 0, "docker.io/library/x:1", &img.manifest);
    oci_loaded_done(&l);
    set_data(find_member(&a, "index.json"), "{\"schemaVersion\":2,\"manifests\":[]}");
    assert_int_equal(load_members(*state, &a, &plain, &l, &err), 0);
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
    assert_int_equal(load_members(*state, &a, &o, &l, &err), -EINVAL);
    assert_non_null(strstr(err.text, "several images"));
    assert_non_null(strstr(err.text, "it has: x:1, host.io/y:2, x:3"));
    o.select = "none:1";
    assert_int_equal(load_members(*state, &a, &o, &l, &err), -ENOENT);
    assert_non_null(strstr(err.text, "it has: x:1, host.io/y:2, x:3"));
    o = (struct oci_load_options){.name = "z"};
    assert_int_equal(load_members(*state, &a, &o, &l, &err), -EINVAL);
    assert_non_null(strstr(err.text, "cannot all be called \"z\""));
    assert_nothing_there(*state);
    o = (struct oci_load_options){.one = true};
    for (size_t i = 0; i < ARRAY_SIZE(choices); i++) {
        o.select = choices[i].select;
        if (load_members(*state, &a, &o, &l, &err) < 0)
            fail_msg("%s: %s", choices[i].select, err.text);
        assert_int_equal(l.n, 1);
        assert_loaded(*state, &l, 0, choices[i].name, &img[choices[i].at].manifest);
        oci_loaded_done(&l);
    }
    assert_int_equal(load_members(*state, &a, &plain, &l, &err), 0);
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
    assert_int_equal(load_members(*state, &a, &o, &l, &err), 0);
    assert_int_equal(l.n, 1);
    assert_true(digest_equal(&l.images[0].manifest, &host.manifest));
    oci_loaded_done(&l);
    snprintf(platform, sizeof(platform), "linux/%s", other);
    o.platform = platform;
    assert_int_equal(load_members(*state, &a, &o, &l, &err), 0);
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
    assert_int_equal(load_members(*state, &a, &o, &l, &err), 0);
    assert_loaded(*state, &l, 0, "docker.io/library/x:1", &foreign.manifest);
    assert_true(digest_equal(&l.images[0].root, &root));
    assert_true(is_in(*state, "blobs", &root));
    oci_loaded_done(&l);
    o.platform = "linux/s390x";
    assert_int_equal(load_members(*state, &a, &o, &l, &err), -ENOENT);
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
    assert_int_equal(load_members(*state, &a, &plain, &l, &err), 0);
    assert_int_equal(l.n, 2);
    assert_true(digest_equal(&l.images[0].manifest, &x.manifest));
    assert_true(digest_equal(&l.images[1].manifest, &y.manifest));
    oci_loaded_done(&l);
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
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
