/* SPDX-License-Identifier: Apache-2.0 */
/* From a layout directory to the documents of one image. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "oci/layout.h"
#include "oci/limits.h"
#include "oci/select.h"
#include "oci_fixture.h"

#define INDEX_TYPE    "application/vnd.oci.image.index.v1+json"
#define MANIFEST_TYPE "application/vnd.oci.image.manifest.v1+json"
#define CONFIG_TYPE   "application/vnd.oci.image.config.v1+json"

static char *dir;

/* Write a blob; returns its descriptor's first members, to be completed and to be freed. */
static char *blob(const char *type, const char *text)
{
    struct digest d = digest_of_buf(text, strlen(text));
    char hex[DIGEST_HEX_SIZE], name[128], *ret;

    digest_hex(&d, hex);
    snprintf(name, sizeof(name), "blobs/sha256/%s", hex);
    write_file(dir, name, text, strlen(text));
    assert_true(
        asprintf(&ret, "\"mediaType\": \"%s\", \"size\": %zu, \"digest\": \"sha256:%s\"", type, strlen(text), hex) > 0);
    return ret;
}

/* A manifest of an image without layers for a platform; `user` tells them apart. */
static char *image(const char *arch, const char *variant, const char *user)
{
    char text[1000], *config, *ret;

    snprintf(text, sizeof(text),
             "{\"os\": \"linux\", \"architecture\": \"%s\", \"variant\": \"%s\", \"config\": {\"User\": \"%s\"}, "
             "\"rootfs\": {\"type\": \"layers\", \"diff_ids\": []}}",
             arch, variant, user);
    config = blob(CONFIG_TYPE, text);
    snprintf(text, sizeof(text), "{\"schemaVersion\": 2, \"config\": {%s}, \"layers\": []}", config);
    ret = blob(MANIFEST_TYPE, text);
    free(config);
    return ret;
}

/* `items`: members of descriptors; `extra`: what to add to each ("" or ", ..."). Ends with NULL. Frees the items. */
static char *index_text(char *items[][2])
{
    char *text = calloc(1, 100000), *p = text;

    p += sprintf(p, "{\"schemaVersion\": 2, \"manifests\": [");
    for (size_t i = 0; items[i][0]; i++) {
        p += sprintf(p, "%s{%s%s}", i ? ", " : "", items[i][0], items[i][1]);
        free(items[i][0]);
    }
    sprintf(p, "]}");
    return text;
}

static void write_index(char *text)
{
    write_file(dir, "index.json", text, strlen(text));
    free(text);
}

#define TAG(name)  ", \"annotations\": {\"org.opencontainers.image.ref.name\": \"" name "\"}"
#define FOR(arch)  ", \"platform\": {\"os\": \"linux\", \"architecture\": \"" arch "\"}"
#define ITEMS(...) ((char *[][2]){__VA_ARGS__, {NULL, NULL}})

static int try_select(const char *tag, const char *platform, char user[64], struct sm_error *err)
{
    struct selected sel = {.manifest = {.n_layers = 0}};
    struct index_doc list = {.n = 0};
    struct documents docs;
    struct platform want;
    struct layout l;
    void *data = NULL;
    size_t len;
    int r;

    *err = (struct sm_error)SM_ERROR_INIT;
    assert_int_equal(platform_parse(&want, platform, err), 0);
    r = layout_open(&l, dir, err);
    if (r < 0)
        return r;
    docs = layout_documents(&l);
    r = layout_read_index(&l, &data, &len, err);
    if (r >= 0)
        r = index_doc_parse(&list, data, len, err);
    if (r >= 0)
        r = select_image(&sel, &docs, &list, tag, &want, err);
    if (r >= 0)
        snprintf(user, 64, "%s", sel.config.config.user);
    selected_done(&sel);
    index_doc_done(&list);
    free(data);
    layout_done(&l);
    return r;
}

#define CHOOSES(tag, platform, who)                                                                                    \
    do {                                                                                                               \
        struct sm_error err_;                                                                                          \
        char user_[64];                                                                                                \
        if (try_select(tag, platform, user_, &err_) < 0)                                                               \
            fail_msg("%s", err_.text);                                                                                 \
        assert_string_equal(user_, who);                                                                               \
    } while (0)

#define REFUSES(tag, platform, code, word)                                                                             \
    do {                                                                                                               \
        struct sm_error err_;                                                                                          \
        char user_[64];                                                                                                \
        assert_int_equal(try_select(tag, platform, user_, &err_), -(code));                                            \
        if (!strstr(err_.text, word))                                                                                  \
            fail_msg("\"%s\" does not say \"%s\"", err_.text, word);                                                   \
    } while (0)

static int set_up(void **state)
{
    static const char version[] = "{\"imageLayoutVersion\": \"1.0.0\"}";

    dir = temp_dir();
    write_file(dir, "oci-layout", version, strlen(version));
    return 0;
}

static int tear_down(void **state)
{
    temp_dir_remove(dir);
    return 0;
}

static void test_tags(void **state)
{
    write_index(index_text(ITEMS({image("amd64", "", "only"), ""})));
    CHOOSES(NULL, "linux/amd64", "only");
    REFUSES("x", "linux/amd64", ENOENT, "no tag \"x\"; tags: none");
    write_index(index_text(ITEMS({image("amd64", "", "one"), TAG("one")})));
    CHOOSES(NULL, "linux/amd64", "one");
    CHOOSES("one", "linux/amd64", "one");
    write_index(index_text(ITEMS({image("amd64", "", "1"), TAG("one")}, {image("amd64", "", "2"), TAG("t/w:o")})));
    CHOOSES("t/w:o", "linux/amd64", "2");
    REFUSES("three", "linux/amd64", ENOENT, "tags: one, t/w:o");
    REFUSES(NULL, "linux/amd64", ENOENT, "more than one image");
    write_index(index_text(ITEMS({image("amd64", "", "1"), TAG("one")}, {image("amd64", "", "l"), TAG("latest")})));
    CHOOSES(NULL, "linux/amd64", "l");
    write_index(index_text((char *[][2]){{NULL, NULL}}));
    REFUSES(NULL, "linux/amd64", ENOENT, "no image");
}

static void test_platforms(void **state)
{
    write_index(
        index_text(ITEMS({image("arm64", "v8", "arm"), FOR("arm64")}, {image("amd64", "", "amd"), FOR("amd64")})));
    CHOOSES(NULL, "linux/amd64", "amd");
    CHOOSES(NULL, "linux/arm64", "arm");
    REFUSES(NULL, "linux/riscv64", ENOENT, "linux/riscv64; it is there for: linux/arm64, linux/amd64");
    /* descriptors that do not tell */
    write_index(index_text(ITEMS({image("arm64", "", "arm"), ""}, {image("amd64", "", "amd"), ""})));
    CHOOSES(NULL, "linux/amd64", "amd");
    /* a single one is what its config says */
    write_index(index_text(ITEMS({image("arm64", "v8", "arm"), ""})));
    REFUSES(NULL, "linux/amd64", ENOENT, "it is there for: linux/arm64");
    /* and so is one whose descriptor lies */
    write_index(index_text(ITEMS({image("arm64", "v8", "arm"), FOR("amd64")})));
    REFUSES(NULL, "linux/amd64", ENOENT, "it is there for: linux/arm64");
    /* the plainest of several */
    write_index(index_text(ITEMS({image("amd64", "v3", "v3"), ""}, {image("amd64", "", "v1"), ""})));
    CHOOSES(NULL, "linux/amd64", "v1");
    CHOOSES(NULL, "linux/amd64/v3", "v3");
    CHOOSES(NULL, "linux/amd64/v2", "v1");
}

static char *nest(char *text)
{
    char *b = blob(INDEX_TYPE, text);

    free(text);
    return b;
}

static void test_nested(void **state)
{
    char *b =
        nest(index_text(ITEMS({image("arm64", "", "arm"), FOR("arm64")}, {image("amd64", "", "amd"), FOR("amd64")})));

    write_index(index_text(ITEMS({strdup(b), TAG("x")}, {image("amd64", "", "other"), TAG("y")})));
    CHOOSES("x", "linux/amd64", "amd");
    CHOOSES("x", "linux/arm64", "arm");
    CHOOSES("y", "linux/amd64", "other");
    for (int i = 0; i < 3; i++)
        b = nest(index_text(ITEMS({b, ""})));
    write_index(index_text(ITEMS({strdup(b), ""})));
    CHOOSES(NULL, "linux/amd64", "amd");
    b = nest(index_text(ITEMS({b, ""})));
    write_index(index_text(ITEMS({b, ""})));
    REFUSES(NULL, "linux/amd64", ELOOP, "nested");
}

static void test_unknown(void **state)
{
    write_index(index_text(ITEMS({blob("application/x-what", "{}"), ""})));
    REFUSES(NULL, "linux/amd64", ENOTSUP, "unknown media type \"application/x-what\"");
    write_index(index_text(ITEMS({blob("application/x-what", "{}"), ""}, {image("amd64", "", "amd"), ""})));
    CHOOSES(NULL, "linux/amd64", "amd");
    write_index(index_text(ITEMS({blob(MANIFEST_TYPE, "{}"), ""})));
    REFUSES(NULL, "linux/amd64", EBADMSG, "manifest sha256:");
    write_index(strdup("[]"));
    REFUSES(NULL, "linux/amd64", EBADMSG, "not a JSON object");
}

/* Flip a byte of, cut, and remove every blob in turn: each time a sentence with its digest. */
static void test_damage(void **state)
{
    static const char *const kinds[] = {"manifest", "config"};
    char *texts[2], *config, *manifest;

    texts[1] =
        strdup("{\"os\": \"linux\", \"architecture\": \"amd64\", \"config\": {\"User\": \"u\"}, \"rootfs\": {\"type\": "
               "\"layers\", \"diff_ids\": []}}");
    config = blob(CONFIG_TYPE, texts[1]);
    assert_true(asprintf(&texts[0], "{\"schemaVersion\": 2, \"config\": {%s}, \"layers\": []}", config) > 0);
    manifest = blob(MANIFEST_TYPE, texts[0]);
    write_index(index_text(ITEMS({manifest, ""})));
    CHOOSES(NULL, "linux/amd64", "u");
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        struct digest d = digest_of_buf(texts[i], strlen(texts[i]));
        char hex[DIGEST_HEX_SIZE], name[128], path[512];

        digest_hex(&d, hex);
        snprintf(name, sizeof(name), "blobs/sha256/%s", hex);
        snprintf(path, sizeof(path), "%s/%s", dir, name);
        texts[i][2] ^= 1;
        write_file(dir, name, texts[i], strlen(texts[i]));
        REFUSES(NULL, "linux/amd64", EBADMSG, hex);
        REFUSES(NULL, "linux/amd64", EBADMSG, "tampered");
        REFUSES(NULL, "linux/amd64", EBADMSG, kinds[i]);
        texts[i][2] ^= 1;
        write_file(dir, name, texts[i], strlen(texts[i]) - 1);
        REFUSES(NULL, "linux/amd64", EBADMSG, "truncated");
        assert_int_equal(unlink(path), 0);
        REFUSES(NULL, "linux/amd64", ENOENT, hex);
        assert_int_equal(mkfifo(path, 0600), 0);
        REFUSES(NULL, "linux/amd64", EINVAL, "regular");
        assert_int_equal(unlink(path), 0);
        write_file(dir, name, texts[i], strlen(texts[i]));
        CHOOSES(NULL, "linux/amd64", "u");
        free(texts[i]);
    }
    free(config);
}

static void test_counts(void **state)
{
    char text[1000];
    char *config =
        blob(CONFIG_TYPE, "{\"os\": \"linux\", \"architecture\": \"amd64\", \"rootfs\": {\"type\": \"layers\", "
                          "\"diff_ids\": [\"sha256:"
                          "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"]}}");

    snprintf(text, sizeof(text), "{\"schemaVersion\": 2, \"config\": {%s}, \"layers\": []}", config);
    write_index(index_text(ITEMS({blob(MANIFEST_TYPE, text), ""})));
    REFUSES(NULL, "linux/amd64", EBADMSG, "0 layers, the config 1 diff ids");
    free(config);
}

static void test_no_layout(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    char path[512];
    struct layout l;

    snprintf(path, sizeof(path), "%s/none", dir);
    assert_int_equal(layout_open(&l, path, &err), -ENOENT);
    assert_non_null(strstr(err.text, "none"));
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(layout_open(&l, path, &err), -ENOENT);
    assert_non_null(strstr(err.text, "not an OCI image layout"));
    write_file(dir, "none/oci-layout", "{}", 2);
    assert_int_equal(layout_open(&l, path, &err), -EBADMSG);
    write_file(dir, "none/oci-layout", "{\"imageLayoutVersion\": \"9\"}", 27);
    assert_int_equal(layout_open(&l, path, &err), -ENOTSUP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_tags, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_platforms, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_nested, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_unknown, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damage, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_counts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_layout, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
