/* SPDX-License-Identifier: Apache-2.0 */
/* JSON getters, and the documents read by them. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/checked.h"
#include "oci/json.h"
#include "oci/limits.h"
#include "oci/manifest.h"

#define D "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

static int parse(struct json **ret, const char *s, struct sm_error *err)
{
    return json_parse(ret, s, strlen(s), err);
}

static void test_strict(void **state)
{
    static const char *const bad[] = {
        "",
        " ",
        "{",
        "[]",
        "1",
        "null",
        "\"a\"",
        "{} x",
        "{}{}",
        "{'a': 1}",
        "{'a\"': 1}",
        "{\"a\": \"x\ny\"}",
        "{a: 1}",
        "{\"a\": 1,}",
        "{\"a\": 01}",
        "{\"a\": NaN}",
        "{\"a\": tru}",
        "{\"a\": \"\xff\"}",
        "{\"a\": \"\xc1\xbc\"}",     /* overlong */
        "{\"a\": \"\xed\xa0\x80\"}", /* a surrogate */
        "{\"a\" 1}",
        "// x\n{}",
        "{} // x",
        "{\"a\": 1, \"a\": 2}",
        "{\"b\": {\"x\": 1, \"x\": 1}}",
        "{\"b\": [{\"x\": 1, \"\\u0078\": 1}]}",
    };
    static const char *const good[] = {"{}", " {\"a\": {\"a\": 1}} \n", "{\"a\": \"x:y:\\\":\\\\\", \"b\": [\":\"]}",
                                       "{\"a\": null, \"b\": [{\"a\": 1}, {\"a\": 1}]}"};
    struct sm_error err = SM_ERROR_INIT;
    struct json *doc;
    char *deep;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        err.code = 0;
        if (parse(&doc, bad[i], &err) != -EBADMSG)
            fail_msg("accepted: %s", bad[i]);
        assert_int_equal(err.code, EBADMSG);
    }
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        if (parse(&doc, good[i], &err) < 0)
            fail_msg("refused: %s: %s", good[i], err.text);
        json_free(doc);
    }
    assert_int_equal(json_parse(&doc, "{}\0", 3, &err), -EBADMSG);
    deep = calloc(1, 2000);
    for (int i = 0; i < 500; i++)
        strcat(deep, i ? "[" : "{\"a\":");
    assert_int_equal(parse(&doc, deep, &err), -EBADMSG);
    free(deep);
    deep = malloc(OCI_JSON_MAX_BYTES + 1);
    memset(deep, ' ', OCI_JSON_MAX_BYTES + 1);
    deep[0] = '{';
    deep[1] = '}';
    assert_int_equal(json_parse(&doc, deep, OCI_JSON_MAX_BYTES + 1, &err), -EFBIG);
    assert_int_equal(json_parse(&doc, deep, OCI_JSON_MAX_BYTES, &err), 0);
    json_free(doc);
    free(deep);
}

static void test_getters(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct json *doc, *v;
    const char *s;
    char **list;
    uint64_t n;
    size_t len;

    assert_int_equal(
        parse(&doc,
              "{\"s\": \"x\", \"n\": 42, \"neg\": -1, \"big\": 99999999999999999999, \"f\": 1.5, \"z\": null, "
              "\"nul\": \"a\\u0000b\", \"a\": [\"p\", \"q\"], \"mixed\": [\"p\", 1], \"o\": {\"k\": {}}}",
              &err),
        0);
    assert_int_equal(json_get_string(doc, "s", true, &s, &err), 0);
    assert_string_equal(s, "x");
    assert_int_equal(json_get_string(doc, "z", false, &s, &err), 0);
    assert_null(s);
    assert_int_equal(json_get_string(doc, "z", true, &s, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "\"z\""));
    assert_int_equal(json_get_string(doc, "n", true, &s, &err), -EBADMSG);
    assert_int_equal(json_get_string(doc, "nul", true, &s, &err), -EBADMSG);
    assert_int_equal(json_get_u64(doc, "n", true, &n, &err), 0);
    assert_int_equal(n, 42);
    assert_int_equal(json_get_u64(doc, "none", false, &n, &err), 0);
    assert_int_equal(n, 0);
    assert_int_equal(json_get_u64(doc, "neg", true, &n, &err), -EBADMSG);
    assert_int_equal(json_get_u64(doc, "big", true, &n, &err), -EBADMSG);
    assert_int_equal(json_get_u64(doc, "f", true, &n, &err), -EBADMSG);
    assert_int_equal(json_get_u64(doc, "s", true, &n, &err), -EBADMSG);
    assert_int_equal(json_get_array(doc, "a", true, 2, &v, &len, &err), 0);
    assert_int_equal(len, 2);
    assert_int_equal(json_get_array(doc, "a", true, 1, &v, &len, &err), -E2BIG);
    assert_int_equal(json_get_strings(doc, "a", 10, &list, &err), 0);
    assert_string_equal(list[1], "q");
    assert_null(list[2]);
    strings_free(list);
    assert_int_equal(json_get_strings(doc, "mixed", 10, &list, &err), -EBADMSG);
    assert_int_equal(json_get_strings(doc, "z", 10, &list, &err), 0);
    assert_null(list[0]);
    strings_free(list);
    assert_int_equal(json_get_keys(doc, "o", 10, &list, &err), 0);
    assert_string_equal(list[0], "k");
    strings_free(list);
    assert_int_equal(json_get_keys(doc, "a", 10, &list, &err), -EBADMSG);
    json_free(doc);
}

#define LAYER(type)              "{\"mediaType\": \"" type "\", \"size\": 3, \"digest\": \"" D "\"}"
#define CONFIG                   LAYER("application/vnd.oci.image.config.v1+json")
#define TAR                      "application/vnd.oci.image.layer.v1.tar"
#define MANIFEST(config, layers) "{\"schemaVersion\": 2, \"config\": " config ", \"layers\": [" layers "]}"

static void test_manifest(void **state)
{
    static const struct {
        const char *doc;
        int code;
        const char *word;
    } bad[] = {
        {"{}", EBADMSG, "schemaVersion"},
        {"{\"schemaVersion\": 1, \"config\": " CONFIG ", \"layers\": []}", EBADMSG, "only 2"},
        {"{\"schemaVersion\": 2, \"layers\": []}", EBADMSG, "config"},
        {"{\"schemaVersion\": 2, \"config\": " CONFIG "}", EBADMSG, "layers"},
        {"{\"schemaVersion\": 2, \"mediaType\": \"application/vnd.oci.image.index.v1+json\", \"config\": " CONFIG
         ", \"layers\": []}",
         EBADMSG, "something else"},
        {MANIFEST(LAYER("application/vnd.cncf.helm.config.v1+json"), ""), ENOTSUP, "helm"},
        {MANIFEST(CONFIG, LAYER("application/x-what")), ENOTSUP, "unknown media type \"application/x-what\""},
        {MANIFEST(CONFIG, LAYER(TAR "+encrypted")), ENOTSUP, "encrypted"},
        {MANIFEST(CONFIG, LAYER("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")), ENOTSUP, "foreign"},
        {MANIFEST(CONFIG, "1"), EBADMSG, "element 0"},
        {MANIFEST(CONFIG, "{\"mediaType\": \"" TAR "\", \"size\": 3, \"digest\": \"md5:0\"}"), ENOTSUP, "sha256"},
        {MANIFEST(CONFIG, "{\"mediaType\": \"" TAR "\", \"size\": -3, \"digest\": \"" D "\"}"), EBADMSG, "size"},
        {MANIFEST(CONFIG, "{\"mediaType\": \"" TAR "\", \"size\": 99999999999999, \"digest\": \"" D "\"}"), EFBIG,
         "larger"},
    };
    static const char *const types[] = {
        TAR,
        TAR "+gzip",
        TAR "+zstd",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar",
    };
    struct sm_error err = SM_ERROR_INIT;
    struct manifest_doc m;
    char doc[1000];

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        err = (struct sm_error)SM_ERROR_INIT;
        assert_int_equal(manifest_doc_parse(&m, bad[i].doc, strlen(bad[i].doc), &err), -bad[i].code);
        if (!strstr(err.text, bad[i].word))
            fail_msg("\"%s\" does not say \"%s\"", err.text, bad[i].word);
    }
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        snprintf(doc, sizeof(doc), MANIFEST(CONFIG, "{\"mediaType\": \"%s\", \"size\": 7, \"digest\": \"" D "\"}"),
                 types[i]);
        assert_int_equal(manifest_doc_parse(&m, doc, strlen(doc), &err), 0);
        assert_int_equal(m.n_layers, 1);
        assert_int_equal(m.layers[0].size, 7);
        assert_int_equal(m.layers[0].media,
                         strchr(types[i], '+') || strstr(types[i], "gzip") ? MEDIA_LAYER_COMPRESSED : MEDIA_LAYER);
        manifest_doc_done(&m);
    }
}

static void test_too_many_layers(void **state)
{
    static const char head[] = "{\"schemaVersion\": 2, \"config\": " CONFIG ", \"layers\": [";
    struct sm_error err = SM_ERROR_INIT;
    struct manifest_doc m;
    char *doc = calloc(OCI_MAX_LAYERS + 2, 200), *p = doc;

    for (size_t n = OCI_MAX_LAYERS; n <= OCI_MAX_LAYERS + 1; n++) {
        p = doc + sprintf(doc, "%s", head);
        for (size_t i = 0; i < n; i++)
            p += sprintf(p, "%s%s", i ? "," : "", LAYER(TAR));
        sprintf(p, "]}");
        assert_int_equal(manifest_doc_parse(&m, doc, strlen(doc), &err), n > OCI_MAX_LAYERS ? -E2BIG : 0);
        if (n <= OCI_MAX_LAYERS)
            manifest_doc_done(&m);
    }
    free(doc);
}

static void test_index(void **state)
{
    static const char doc[] =
        "{\"schemaVersion\": 2, \"manifests\": [{\"mediaType\": \"application/vnd.oci.image.manifest.v1+json\", "
        "\"size\": 5, \"digest\": \"" D
        "\", \"platform\": {\"os\": \"linux\", \"architecture\": \"arm64\", \"variant\": "
        "\"v8\", \"os.features\": [\"x\"]}, \"annotations\": {\"org.opencontainers.image.ref.name\": \"a:b/c\"}}, "
        "{\"mediaType\": \"application/vnd.docker.distribution.manifest.list.v2+json\", \"size\": 5, \"digest\": \"" D
        "\", \"annotations\": null}]}";
    static const char *const bad[] = {
        "{\"schemaVersion\": 2}",
        "{\"schemaVersion\": 2, \"manifests\": {}}",
        "{\"schemaVersion\": 2, \"manifests\": [{}]}",
        "{\"schemaVersion\": 2, \"manifests\": [{\"mediaType\": \"a\", \"size\": 1, \"digest\": \"" D
        "\", \"platform\": {\"os\": \"linux\"}}]}",
    };
    struct sm_error err = SM_ERROR_INIT;
    struct index_doc idx;

    assert_int_equal(index_doc_parse(&idx, doc, strlen(doc), &err), 0);
    assert_int_equal(idx.n, 2);
    assert_true(idx.items[0].has_platform);
    assert_string_equal(idx.items[0].platform.arch, "arm64");
    assert_string_equal(idx.items[0].platform.variant, ""); /* v8 is what arm64 means */
    assert_string_equal(idx.items[0].ref_name, "a:b/c");
    assert_int_equal(idx.items[1].media, MEDIA_INDEX);
    assert_false(idx.items[1].has_platform);
    index_doc_done(&idx);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(index_doc_parse(&idx, bad[i], strlen(bad[i]), &err), -EBADMSG);
}

static void test_config(void **state)
{
    static const char full[] =
        "{\"os\": \"linux\", \"architecture\": \"amd64\", \"config\": {\"User\": \"alice:staff\", \"Env\": [\"A=b\", "
        "\"C=\"], "
        "\"Entrypoint\": [\"/e\"], \"Cmd\": [\"c\", \"d\"], \"WorkingDir\": \"/w\", \"StopSignal\": \"SIGUSR1\", "
        "\"ExposedPorts\": {\"80/tcp\": {}}, \"Labels\": {\"x\": \"y\"}}, \"rootfs\": {\"type\": \"layers\", "
        "\"diff_ids\": "
        "[\"" D "\"]}, \"history\": [{\"empty_layer\": true}]}";
    static const char bare[] =
        "{\"os\": \"linux\", \"architecture\": \"amd64\", \"config\": {\"Cmd\": null, \"User\": null}, "
        "\"rootfs\": {\"type\": \"layers\", \"diff_ids\": []}}";
    static const char none[] = "{\"rootfs\": {\"type\": \"layers\", \"diff_ids\": []}}";
    static const char *const bad[] = {
        "{}",
        "{\"rootfs\": {\"type\": \"layers\", \"diff_ids\": [1]}}",
        "{\"rootfs\": {\"type\": \"layers\"}}",
        "{\"rootfs\": {\"diff_ids\": []}}",
        "{\"config\": [], \"rootfs\": {\"type\": \"layers\", \"diff_ids\": []}}",
        "{\"config\": {\"Cmd\": \"sh\"}, \"rootfs\": {\"type\": \"layers\", \"diff_ids\": []}}",
        "{\"config\": {\"Env\": [{}]}, \"rootfs\": {\"type\": \"layers\", \"diff_ids\": []}}",
    };
    struct sm_error err = SM_ERROR_INIT;
    struct config_doc c;

    assert_int_equal(config_doc_parse(&c, full, strlen(full), &err), 0);
    assert_string_equal(c.config.user, "alice:staff");
    assert_string_equal(c.config.env[1], "C=");
    assert_string_equal(c.config.entrypoint[0], "/e");
    assert_string_equal(c.config.cmd[1], "d");
    assert_null(c.config.cmd[2]);
    assert_string_equal(c.config.working_dir, "/w");
    assert_string_equal(c.config.stop_signal, "SIGUSR1");
    assert_string_equal(c.config.exposed_ports[0], "80/tcp");
    assert_int_equal(c.n_diff_ids, 1);
    assert_string_equal(c.platform.arch, "amd64");
    config_doc_done(&c);
    assert_int_equal(config_doc_parse(&c, bare, strlen(bare), &err), 0);
    assert_null(c.config.cmd[0]);
    assert_string_equal(c.config.user, "");
    config_doc_done(&c);
    assert_int_equal(config_doc_parse(&c, none, strlen(none), &err), 0);
    assert_null(c.config.env[0]);
    config_doc_done(&c);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (config_doc_parse(&c, bad[i], strlen(bad[i]), &err) != -EBADMSG)
            fail_msg("accepted: %s", bad[i]);
    }
}

static void test_layout_version(void **state)
{
    static const char good[] = "{\"imageLayoutVersion\": \"1.0.0\"}", bad[] = "{\"imageLayoutVersion\": \"2.0.0\"}";
    struct sm_error err = SM_ERROR_INIT;

    assert_int_equal(layout_doc_check(good, strlen(good), &err), 0);
    assert_int_equal(layout_doc_check(bad, strlen(bad), &err), -ENOTSUP);
    assert_int_equal(layout_doc_check("{}", 2, &err), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strict),          cmocka_unit_test(test_getters), cmocka_unit_test(test_manifest),
        cmocka_unit_test(test_too_many_layers), cmocka_unit_test(test_index),   cmocka_unit_test(test_config),
        cmocka_unit_test(test_layout_version),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
