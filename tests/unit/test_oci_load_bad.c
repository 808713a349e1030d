/* SPDX-License-Identifier: Apache-2.0 */
/* Archives that are refused: damaged, cut, hostile, or none at all. Each leaves nothing in the store. */
#include <errno.h>
#include <fcntl.h>
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
#include "oci/limits.h"
#include "oci_fixture.h"

static const char *const two_layers[] = {"a", "b", NULL};

static const struct oci_load_options plain = {.file = "dir/My App.tar.gz"};

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
        if (load_members(*state, &a, &plain, &l, &err) >= 0)
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
        if (load_members(*state, &a, &plain, &l, &err) >= 0)
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

/* Zeros without end behind an archive: given up at some point. Some are padding. */
static void test_trailer(void **state)
{
    struct members a = {.n = 0};
    struct image_parts img = add_oci_image(&a, two_layers, NULL);
    struct store_fixture *f = *state;
    struct oci_loaded l;
    struct sm_error err;
    struct buf tar;
    int fd;

    add_layout_named(&a, &img, "x:1", NULL);
    tar = members_tar(&a, "");
    fd = memory_file(tar.data, tar.len);
    assert_int_equal(ftruncate(fd, (off_t)(tar.len + OCI_ARCHIVE_MAX_TRAILER + MIB)), 0);
    assert_int_equal(oci_load(&l, f->s, fd, &plain, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "goes on for more than 64 MiB behind its end"));
    assert_nothing_there(f);
    assert_int_equal(ftruncate(fd, (off_t)(tar.len + MIB)), 0);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_int_equal(oci_load(&l, f->s, fd, &plain, &err), 0);
    oci_loaded_done(&l);
    close(fd);
    buf_done(&tar);
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
    assert_true(load_members(*state, &a, &plain, &l, &err) < 0);
    assert_non_null(strstr(err.text, "docker export"));
    members_done(&a);
    add_text(&a, "repositories", "{}");
    assert_true(load_members(*state, &a, &plain, &l, &err) < 0);
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
    assert_true(load_members(*state, &a, &plain, &l, &err) < 0);
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
        assert_int_equal(load_members(*state, &a, &o, &l, &err), -ECANCELED);
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
        TEST(test_damaged),    TEST(test_docker_damaged), TEST(test_cut),     TEST(test_trailer),
        TEST(test_no_archive), TEST(test_hostile_layer),  TEST(test_stopped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
