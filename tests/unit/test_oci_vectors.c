/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The good and bad vectors of the OCI specifications, as facts:
 *   image-spec schema/{descriptor,manifest,imageindex,config,imagelayout,backwards_compatibility}_test.go,
 *   the examples in image-spec's texts, and distribution-spec spec.md, "Pulling manifests" (names and tags).
 * Where Docker's and containerd's practice is another than the schema's, practice is what is wanted here; such a row
 * says so.
 */
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
#include "oci/manifest.h"
#include "oci/ref.h"

#define OCI_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define OCI_INDEX    "application/vnd.oci.image.index.v1+json"
#define OCI_CONFIG   "application/vnd.oci.image.config.v1+json"
#define OCI_GZIP     "application/vnd.oci.image.layer.v1.tar+gzip"

#define HEX "5b0bcabd1ed22e9fb1310cf6c2dec7cdef19f0ad69efa1f392e94a4333501270"
#define SHA "sha256:" HEX

/* 127 characters: as long as half of a media type may be */
#define N10  "1234567890"
#define N127 N10 N10 N10 N10 N10 N10 N10 N10 N10 N10 N10 N10 "1234567"

#define BLOB(type, size, digest) "\"mediaType\": \"" type "\", \"size\": " size ", \"digest\": \"" digest "\""
#define ITEM(more)               "{" BLOB(OCI_MANIFEST, "7682", SHA) more "}"
#define CONFIG                   "{" BLOB(OCI_CONFIG, "1470", SHA) "}"
#define LAYER                    "{" BLOB(OCI_GZIP, "148", SHA) "}"

#define INDEX(items, more)                                                                                             \
    "{\"schemaVersion\": 2, \"mediaType\": \"" OCI_INDEX "\", \"manifests\": [" items "]" more "}"
#define MANIFEST(config, layers, more)                                                                                 \
    "{\"schemaVersion\": 2, \"mediaType\": \"" OCI_MANIFEST "\", \"config\": " config ", \"layers\": [" layers         \
    "]" more "}"

struct vector {
    const char *what, *json;
    int code;         /* 0: good; else the errno of the refusal */
    const char *says; /* what the sentence has in it */
};

static void check(const struct vector *v, size_t n, int (*parse)(const char *json, struct sm_error *err))
{
    for (size_t i = 0; i < n; i++) {
        struct sm_error err = SM_ERROR_INIT;
        int r = parse(v[i].json, &err);

        if (r < 0 ? r != -v[i].code : v[i].code != 0)
            fail_msg("%s: %d %s: %s", v[i].what, r, r < 0 ? err.text : "accepted", v[i].json);
        if (v[i].says && !strstr(err.text, v[i].says))
            fail_msg("%s: says \"%s\"", v[i].what, err.text);
    }
}

static int parse_index(const char *json, struct sm_error *err)
{
    struct index_doc doc;
    int r = index_doc_parse(&doc, json, strlen(json), err);

    if (r >= 0)
        index_doc_done(&doc);
    return r;
}

static int parse_manifest(const char *json, struct sm_error *err)
{
    struct manifest_doc doc;
    int r = manifest_doc_parse(&doc, json, strlen(json), err);

    if (r >= 0)
        manifest_doc_done(&doc);
    return r;
}

static int parse_config(const char *json, struct sm_error *err)
{
    struct config_doc doc;
    int r = config_doc_parse(&doc, json, strlen(json), err);

    if (r >= 0)
        config_doc_done(&doc);
    return r;
}

static int parse_layout(const char *json, struct sm_error *err)
{
    return layout_doc_check(json, strlen(json), err);
}

/* A descriptor by itself is no document: it is looked at in an index, which takes descriptors of any kind. */
static int parse_descriptor(const char *json, struct sm_error *err)
{
    char text[2000];

    snprintf(text, sizeof(text), INDEX("%s", ""), json);
    return parse_index(text, err);
}

static void test_descriptor(void **state)
{
    static const struct vector table[] = {
        {"a manifest", ITEM(""), 0, NULL},
        {"an empty blob", "{" BLOB("application/octet-stream", "0", SHA) "}", 0, NULL},
        {"no media type", "{\"size\": 7682, \"digest\": \"" SHA "\"}", EBADMSG, "\"mediaType\" is missing"},
        {"no subtype", "{" BLOB("application", "1", SHA) "}", EBADMSG, "not a media type"},
        {"type begins with a dot", "{" BLOB(".foo/bar", "1", SHA) "}", EBADMSG, "not a media type"},
        {"subtype begins with a dot", "{" BLOB("foo/.bar", "1", SHA) "}", EBADMSG, "not a media type"},
        {"both halves at their longest", "{" BLOB(N127 "/" N127, "1", SHA) "}", 0, NULL},
        {"type too long", "{" BLOB(N127 "8/bar", "1", SHA) "}", EBADMSG, "not a media type"},
        {"subtype too long", "{" BLOB("foo/" N127 "8", "1", SHA) "}", EBADMSG, "not a media type"},
        {"three halves", "{" BLOB("a/b/c", "1", SHA) "}", EBADMSG, "not a media type"},
        {"a parameter", "{" BLOB("a/b; c=d", "1", SHA) "}", EBADMSG, "not a media type"},
        {"no size", "{\"mediaType\": \"" OCI_MANIFEST "\", \"digest\": \"" SHA "\"}", EBADMSG, "\"size\" is missing"},
        {"the size is a string", "{" BLOB(OCI_MANIFEST, "\"7682\"", SHA) "}", EBADMSG, "\"size\""},
        {"a negative size", "{" BLOB(OCI_MANIFEST, "-7682", SHA) "}", EBADMSG, "\"size\" is out of range"},
        {"a size beyond int64", "{" BLOB(OCI_MANIFEST, "9223372036854775808", SHA) "}", EBADMSG, "\"size\""},
        {"a size that is no whole number", "{" BLOB(OCI_MANIFEST, "7.5", SHA) "}", EBADMSG, "\"size\""},
        {"no digest", "{\"mediaType\": \"" OCI_MANIFEST "\", \"size\": 7682}", EBADMSG, "\"digest\" is missing"},
        {"no algorithm", "{" BLOB(OCI_MANIFEST, "1", ":" HEX) "}", EINVAL, "not a digest"},
        {"no hash", "{" BLOB(OCI_MANIFEST, "1", "sha256") "}", EINVAL, "not a digest"},
        {"algorithm in upper case", "{" BLOB(OCI_MANIFEST, "1", "SHA256:" HEX) "}", EINVAL, "not a digest"},
        {"hash in upper case",
         "{" BLOB(OCI_MANIFEST, "1", "sha256:5B0BCABD1ED22E9FB1310CF6C2DEC7CDEF19F0AD69EFA1F392E94A4333501270") "}",
         EINVAL, "64 lower-case hex digits"},
        {"hash too short", "{" BLOB(OCI_MANIFEST, "1", "sha256:5b0b") "}", EINVAL, "64 lower-case hex digits"},
        {"separators in a row", "{" BLOB(OCI_CONFIG, "1", "sha256+foo+-b:" HEX) "}", EINVAL, "not a digest"},
        /* Well-formed, of algorithms that nothing here can check: refused by name, as any client must. */
        {"sha512", "{" BLOB(OCI_CONFIG, "1", "sha512:" HEX HEX) "}", ENOTSUP, "only sha256"},
        {"blake3", "{" BLOB(OCI_CONFIG, "1", "blake3:" HEX) "}", ENOTSUP, "only sha256"},
        {"sha256+b64", "{" BLOB(OCI_CONFIG, "1", "sha256+b64:" HEX) "}", ENOTSUP, "only sha256"},
        {"sha256+foo-bar", "{" BLOB(OCI_CONFIG, "1", "sha256+foo-bar:" HEX) "}", ENOTSUP, "only sha256"},
        {"sha256.foo-bar", "{" BLOB(OCI_CONFIG, "1", "sha256.foo-bar:" HEX) "}", ENOTSUP, "only sha256"},
        {"multihash", "{" BLOB(OCI_CONFIG, "1", "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8") "}",
         ENOTSUP, "only sha256"},
        {"another encoding", "{" BLOB(OCI_CONFIG, "1", "sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564") "}",
         ENOTSUP, "only sha256"},
        {"another encoding, padded",
         "{" BLOB(OCI_CONFIG, "1", "sha256+b64u.unknownlength:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564=") "}",
         ENOTSUP, "only sha256"},
        {"a URL", ITEM(", \"urls\": [\"https://example.com/foo\"]"), 0, NULL},
        /* Practice: no client looks at the form of URLs that it does not follow. */
        {"what is no URL", ITEM(", \"urls\": [\"value\"]"), 0, NULL},
        {"URLs that are no strings", ITEM(", \"urls\": [1]"), EBADMSG, "\"urls\""},
        {"URLs that are no list", ITEM(", \"urls\": \"https://example.com/foo\""), EBADMSG, "\"urls\""},
        {"an artifact's type", ITEM(", \"artifactType\": \"application/vnd.example.sbom.v1\""), 0, NULL},
        {"an artifact's type that is none", ITEM(", \"artifactType\": \"foo/.bar\""), EBADMSG, "\"artifactType\""},
        {"data", ITEM(", \"data\": \"aHR0cHM6Ly9naXRodWIuY29tL29wZW5jb250YWluZXJzCg==\""), 0, NULL},
        {"data without its padding", ITEM(", \"data\": \"aHR0cHM6Ly9naXRodWIuY29tL29wZW5jb250YWluZXJzCg\""), EBADMSG,
         "base64"},
        {"data with a foreign character", ITEM(", \"data\": \"aHR0cHM6*y9n\""), EBADMSG, "base64"},
        {"the empty config",
         "{" BLOB("application/vnd.oci.empty.v1+json", "2",
                  "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a") ", \"data\": \"e30=\"}",
         0, NULL},
        {"annotations", ITEM(", \"annotations\": {\"org.opencontainers.image.ref.name\": \"v1.0\", \"a\": \"b\"}"), 0,
         NULL},
    };

    check(table, ARRAY_SIZE(table), parse_descriptor);
}

static void test_index(void **state)
{
    static const struct vector table[] = {
        {"required members only", INDEX(ITEM(""), ""), 0, NULL},
        {"platforms and annotations",
         INDEX(ITEM(", \"platform\": {\"architecture\": \"ppc64le\", \"os\": \"linux\"}") ", " ITEM(
                   ", \"platform\": {\"architecture\": \"arm\", \"os\": \"linux\", \"variant\": \"v7\"}"),
               ", \"annotations\": {\"com.example.key1\": \"value1\"}"),
         0, NULL},
        {"an index in it", INDEX("{" BLOB(OCI_INDEX, "7682", SHA) "}, " ITEM(""), ""), 0, NULL},
        {"of another kind", INDEX("{" BLOB("application/xml", "7143", SHA) "}", ""), 0, NULL},
        {"a manifest's type of one's own", INDEX("{" BLOB("application/customized.manifest+json", "1", SHA) "}", ""), 0,
         NULL},
        {"nothing in it", INDEX("", ""), 0, NULL},
        {"an artifact's type", INDEX(ITEM(""), ", \"artifactType\": \"application/vnd.example+type\""), 0, NULL},
        {"a subject", INDEX(ITEM(""), ", \"subject\": " ITEM("")), 0, NULL},
        {"a subject that is none", INDEX(ITEM(""), ", \"subject\": \"nope\""), EBADMSG, "\"subject\""},
        {"a media type that is none", INDEX("{" BLOB("invalid", "7143", SHA) "}", ""), EBADMSG, "not a media type"},
        {"an empty media type", INDEX("{" BLOB("", "7682", SHA) "}", ""), EBADMSG, "not a media type"},
        {"a size that is a string", INDEX("{" BLOB(OCI_MANIFEST, "\"7682\"", SHA) "}", ""), EBADMSG, "\"size\""},
        {"no digest", INDEX("{\"mediaType\": \"" OCI_MANIFEST "\", \"size\": 7682}", ""), EBADMSG, "\"digest\""},
        {"a platform without architecture", INDEX(ITEM(", \"platform\": {\"os\": \"linux\"}"), ""), EBADMSG,
         "\"architecture\" is missing"},
        {"a platform without os", INDEX(ITEM(", \"platform\": {\"architecture\": \"amd64\"}"), ""), EBADMSG,
         "\"os\" is missing"},
        {"no list", "{\"schemaVersion\": 2, \"mediaType\": \"" OCI_INDEX "\"}", EBADMSG, "\"manifests\" is missing"},
        {"no version", "{\"mediaType\": \"" OCI_INDEX "\", \"manifests\": []}", EBADMSG,
         "\"schemaVersion\" is missing"},
        {"another version", "{\"schemaVersion\": 1, \"manifests\": []}", EBADMSG, "\"schemaVersion\" is 1"},
        {"the type of a manifest", "{\"schemaVersion\": 2, \"mediaType\": \"" OCI_MANIFEST "\", \"manifests\": []}",
         EBADMSG, "something else"},
        {"no type", "{\"schemaVersion\": 2, \"manifests\": [" ITEM("") "]}", 0, NULL},
        {"Docker's manifest list",
         "{\"schemaVersion\": 2, \"mediaType\": \"application/vnd.docker.distribution.manifest.list.v2+json\", "
         "\"manifests\": [{" BLOB("application/vnd.docker.distribution.manifest.v2+json", "2094",
                                  SHA) ", \"platform\": "
                                       "{\"architecture\": \"arm64\", \"os\": \"linux\", \"variant\": \"v8\"}}]}",
         0, NULL},
    };

    check(table, ARRAY_SIZE(table), parse_index);
}

static void test_manifest(void **state)
{
    static const struct vector table[] = {
        {"required members only", MANIFEST(CONFIG, LAYER ", " LAYER ", " LAYER, ""), 0, NULL},
        {"annotations", MANIFEST(CONFIG, LAYER, ", \"annotations\": {\"key1\": \"value1\", \"key2\": \"value2\"}"), 0,
         NULL},
        {"a subject", MANIFEST(CONFIG, LAYER, ", \"subject\": " ITEM("")), 0, NULL},
        {"a subject that is none", MANIFEST(CONFIG, LAYER, ", \"subject\": \".nope\""), EBADMSG, "\"subject\""},
        {"a config's type that is none", MANIFEST("{" BLOB("invalid", "1470", SHA) "}", LAYER, ""), EBADMSG,
         "not a media type"},
        {"broken text",
         "{\"schemaVersion\": 2, \"config\": { \"config\": {" BLOB(OCI_CONFIG, "\"1470\"", SHA) "}, \"layers\": []}",
         EBADMSG, "JSON"},
        {"a config's size that is a string", MANIFEST("{" BLOB(OCI_CONFIG, "\"1470\"", SHA) "}", LAYER, ""), EBADMSG,
         "\"size\""},
        {"a layer's size that is a string", MANIFEST(CONFIG, "{" BLOB(OCI_GZIP, "\"675598\"", SHA) "}", ""), EBADMSG,
         "\"size\""},
        /* Practice: Docker makes and runs images without a layer (FROM scratch and nothing copied). */
        {"no layer", MANIFEST(CONFIG, "", ""), 0, NULL},
        {"no list of layers", "{\"schemaVersion\": 2, \"config\": " CONFIG "}", EBADMSG, "\"layers\" is missing"},
        {"no config", "{\"schemaVersion\": 2, \"layers\": [" LAYER "]}", EBADMSG, "\"config\" is missing"},
        {"other algorithms",
         MANIFEST("{" BLOB(OCI_CONFIG, "1470", "sha256+b64:" HEX) "}",
                  "{" BLOB(OCI_GZIP, "1", "sha256.foo-bar:" HEX) "}", ""),
         ENOTSUP, "only sha256"},
        {"an algorithm that is none", MANIFEST(CONFIG, "{" BLOB(OCI_GZIP, "1470", "sha256+foo+-b:" HEX) "}", ""),
         EINVAL, "not a digest"},
        /* Good manifests, but not of container images: nothing here can run them. */
        {"an artifact with a config of its own",
         MANIFEST("{" BLOB("application/vnd.example.config+json", "1470", SHA) "}",
                  "{" BLOB("application/vnd.example.data+type", "675598", SHA) "}", ""),
         ENOTSUP, "not a container image"},
        {"an artifact with the empty config",
         MANIFEST("{" BLOB("application/vnd.oci.empty.v1+json", "2", SHA) "}",
                  "{" BLOB("application/vnd.example+type", "675598", SHA) "}",
                  ", \"artifactType\": \"application/vnd.example+type\""),
         ENOTSUP, "not a container image"},
        /* Early Docker images, as Docker Hub has them to this day */
        {"Docker's manifest with a config of no type",
         "{\"schemaVersion\": 2, \"mediaType\": \"application/vnd.docker.distribution.manifest.v2+json\", \"config\": "
         "{" BLOB("application/octet-stream", "3210", SHA) "}, \"layers\": [{" BLOB(
             "application/vnd.docker.image.rootfs.diff.tar.gzip", "2310272", SHA) "}]}",
         0, NULL},
        {"the same in an OCI manifest", MANIFEST("{" BLOB("application/octet-stream", "3210", SHA) "}", LAYER, ""),
         ENOTSUP, "not a container image"},
        {"the type of an index",
         "{\"schemaVersion\": 2, \"mediaType\": \"" OCI_INDEX "\", \"config\": " CONFIG ", \"layers\": []}", EBADMSG,
         "something else"},
    };

    check(table, ARRAY_SIZE(table), parse_manifest);
}

/* image-spec media-types.md, with its table of types that are the same thing for Docker. */
static void test_layer_types(void **state)
{
    static const struct {
        const char *type;
        enum media media; /* MEDIA_UNKNOWN: refused */
    } table[] = {
        {"application/vnd.oci.image.layer.v1.tar", MEDIA_LAYER},
        {"application/vnd.oci.image.layer.v1.tar+gzip", MEDIA_LAYER_COMPRESSED},
        {"application/vnd.oci.image.layer.v1.tar+zstd", MEDIA_LAYER_COMPRESSED},
        {"application/vnd.docker.image.rootfs.diff.tar.gzip", MEDIA_LAYER_COMPRESSED},
        {"application/vnd.oci.image.layer.nondistributable.v1.tar", MEDIA_UNKNOWN},
        {"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", MEDIA_UNKNOWN},
        {"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", MEDIA_UNKNOWN},
        {"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", MEDIA_UNKNOWN},
        {"application/vnd.oci.image.layer.v1.tar+gzip+encrypted", MEDIA_UNKNOWN},
        {"application/vnd.oci.image.layer.v1.tar+bzip2", MEDIA_UNKNOWN},
        {OCI_CONFIG, MEDIA_UNKNOWN},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        struct sm_error err = SM_ERROR_INIT;
        struct manifest_doc doc;
        char text[1000];
        int r;

        snprintf(text, sizeof(text), MANIFEST(CONFIG, "{" BLOB("%s", "3", SHA) "}", ""), table[i].type);
        r = manifest_doc_parse(&doc, text, strlen(text), &err);
        if (table[i].media == MEDIA_UNKNOWN) {
            assert_int_equal(r, -ENOTSUP);
            assert_non_null(strstr(err.text, table[i].type));
        } else {
            assert_int_equal(r, 0);
            assert_int_equal(doc.layers[0].media, table[i].media);
            manifest_doc_done(&doc);
        }
    }
}

#define ROOTFS         "\"rootfs\": {\"type\": \"layers\", \"diff_ids\": [\"" SHA "\"]}"
#define AMD64(members) "{\"architecture\": \"amd64\", \"os\": \"linux\"" members ", " ROOTFS "}"

static void test_config(void **state)
{
    static const struct vector table[] = {
        {"required members only", AMD64(""), 0, NULL},
        {"everything",
         "{\"created\": \"2015-10-31T22:22:56.015925234Z\", \"author\": \"A. <a@example.com>\", "
         "\"architecture\": \"arm64\", \"variant\": \"v8\", \"os\": \"linux\", \"config\": {\"User\": \"1:1\", "
         "\"ExposedPorts\": {\"8080/tcp\": {}}, \"Env\": [\"PATH=/usr/bin:/bin\", \"FOO=a_value\"], "
         "\"Entrypoint\": [\"/bin/sh\"], \"Cmd\": [\"--foreground\", \"--config\", \"/etc/app.d/default.cfg\"], "
         "\"Volumes\": {\"/var/data\": {}, \"/var/logs\": {}}, \"StopSignal\": \"SIGKILL\", "
         "\"WorkingDir\": \"/home/alice\", \"Labels\": {\"com.example.url\": \"https://example.com/project.git\"}}, "
         "\"rootfs\": {\"type\": \"layers\", \"diff_ids\": [\"" SHA "\", \"" SHA "\"]}, "
         "\"history\": [{\"created\": \"2015-10-31T22:22:54.690851953Z\", \"created_by\": \"/bin/sh\"}, "
         "{\"created\": \"2015-10-31T22:22:55.613815829Z\", \"created_by\": \"CMD [\\\"sh\\\"]\", "
         "\"empty_layer\": true}]}",
         0, NULL},
        {"os is a number", "{\"architecture\": \"amd64\", \"os\": 123, " ROOTFS "}", EBADMSG, "\"os\""},
        {"variant is a number", "{\"architecture\": \"arm64\", \"variant\": 123, \"os\": \"linux\", " ROOTFS "}",
         EBADMSG, "\"variant\""},
        {"User is a number", AMD64(", \"config\": {\"User\": 1234}"), EBADMSG, "\"User\""},
        {"history is a string", AMD64(", \"history\": \"should be an array\""), EBADMSG, "\"history\""},
        {"history has a string in it", AMD64(", \"history\": [\"x\"]"), EBADMSG, "\"history\""},
        {"Env has a number in it", AMD64(", \"config\": {\"Env\": [7353]}"), EBADMSG, "\"Env\""},
        {"Volumes is a list", AMD64(", \"config\": {\"Volumes\": [\"/var/a\", \"/var/b\"]}"), EBADMSG, "\"Volumes\""},
        {"Labels is a list", AMD64(", \"config\": {\"Labels\": [\"a\"]}"), EBADMSG, "\"Labels\""},
        {"ExposedPorts is a list", AMD64(", \"config\": {\"ExposedPorts\": [\"80/tcp\"]}"), EBADMSG,
         "\"ExposedPorts\""},
        {"no JSON", "invalid JSON", EBADMSG, "JSON"},
        /* Practice: Docker takes such an entry for a variable without a value. */
        {"Env without a value", AMD64(", \"config\": {\"Env\": [\"foo\"]}"), 0, NULL},
        /* Docker's: null for what is empty, and members of its own */
        {"nulls",
         AMD64(", \"config\": {\"Hostname\": \"x\", \"AttachStdin\": false, \"Cmd\": null, \"Entrypoint\": null, "
               "\"Volumes\": null, \"Labels\": null, \"OnBuild\": null, \"Env\": null, \"ExposedPorts\": null}, "
               "\"container\": \"y\", \"docker_version\": \"1.10.3\", \"history\": null"),
         0, NULL},
        {"no rootfs", "{\"architecture\": \"amd64\", \"os\": \"linux\"}", EBADMSG, "\"rootfs\" is missing"},
        {"another rootfs",
         "{\"architecture\": \"amd64\", \"os\": \"linux\", \"rootfs\": {\"type\": \"base\", \"diff_ids\": []}}",
         ENOTSUP, "\"rootfs\""},
        {"no diff ids", "{\"architecture\": \"amd64\", \"os\": \"linux\", \"rootfs\": {\"type\": \"layers\"}}", EBADMSG,
         "\"diff_ids\" is missing"},
        {"a diff id that is none",
         "{\"architecture\": \"amd64\", \"os\": \"linux\", \"rootfs\": {\"type\": \"layers\", \"diff_ids\": [\"x\"]}}",
         EINVAL, "not a digest"},
        {"a diff id of another algorithm",
         "{\"architecture\": \"amd64\", \"os\": \"linux\", \"rootfs\": {\"type\": \"layers\", \"diff_ids\": "
         "[\"sha512:" HEX HEX "\"]}}",
         ENOTSUP, "only sha256"},
    };

    check(table, ARRAY_SIZE(table), parse_config);
}

static void test_layout(void **state)
{
    static const struct vector table[] = {
        {"a layout", "{\"imageLayoutVersion\": \"1.0.0\"}", 0, NULL},
        {"no JSON", "{\"imageLayoutVersion\": 1.0.0}", EBADMSG, "JSON"},
        {"a number", "{\"imageLayoutVersion\": 1.0}", EBADMSG, "\"imageLayoutVersion\""},
        {"none", "{}", EBADMSG, "\"imageLayoutVersion\" is missing"},
        {"another version", "{\"imageLayoutVersion\": \"2.0.0\"}", ENOTSUP, "only 1.x"},
    };

    check(table, ARRAY_SIZE(table), parse_layout);
}

/* distribution-spec spec.md, "Pulling manifests": the expressions for <name> and <reference>. test_oci_ref has the
 * vectors of the distribution project's own reader. */
static void test_reference(void **state)
{
    static const char *const names[] = {"a", "0", "a.b", "a_b", "a__b", "a-b", "a---b", "a/b", "a.b/c__d/e--f/0"};
    static const char *const bad_names[] = {"",   "A",  "aB",   ".a",    "a.",      "_a",   "a_",
                                            "-a", "a-", "a..b", "a___b", "a._b",    "a.-b", "a//b",
                                            "/a", "a/", "a b",  "a+b",   "\xc3\xa9"};
    static const char *const tags[] = {"a", "A", "0", "_", "_a", "a.", "a-", "1.0-rc1_x", N127 "8"};
    static const char *const bad_tags[] = {"", ".a", "-a", "a+b", "a b", "a/b", "a~", "\xc3\xa9", N127 "89"};
    struct sm_error err = SM_ERROR_INIT;
    struct oci_ref ref;
    char s[400];

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        snprintf(s, sizeof(s), "reg.example/%s", names[i]);
        if (ref_parse(&ref, s, &err) < 0)
            fail_msg("%s: %s", s, err.text);
        assert_string_equal(ref.path, names[i]);
        ref_done(&ref);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad_names); i++) {
        snprintf(s, sizeof(s), "reg.example/%s", bad_names[i]);
        if (ref_parse(&ref, s, &err) >= 0)
            fail_msg("accepted: %s", s);
    }
    for (size_t i = 0; i < ARRAY_SIZE(tags); i++) {
        snprintf(s, sizeof(s), "reg.example/a:%s", tags[i]);
        if (ref_parse(&ref, s, &err) < 0)
            fail_msg("%s: %s", s, err.text);
        assert_string_equal(ref.tag, tags[i]);
        ref_done(&ref);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad_tags); i++) {
        snprintf(s, sizeof(s), "reg.example/a:%s", bad_tags[i]);
        if (ref_parse(&ref, s, &err) >= 0)
            fail_msg("accepted: %s", s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_descriptor),  cmocka_unit_test(test_index),  cmocka_unit_test(test_manifest),
        cmocka_unit_test(test_layer_types), cmocka_unit_test(test_config), cmocka_unit_test(test_layout),
        cmocka_unit_test(test_reference),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
