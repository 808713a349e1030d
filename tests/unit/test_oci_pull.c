/* SPDX-License-Identifier: Apache-2.0 */
/* Pulling and opening by name, against a registry that plays a script. */
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
#include "pull_fixture.h"

static void test_names(void **state)
{
    struct object layers[] = {add_layer('a', SIZE), add_layer('b', 100), add_layer('c', SIZE)};
    struct object image = add_image(layers, 3), other = add_image(layers, 2), index;
    char name[200], hex[DIGEST_HEX_SIZE];
    struct oci_pull_result result;
    unsigned requests;

    open_fails(NAME, OCI_PULL_NEVER, ENOENT, "supermachine pull " NAME);
    assert_int_equal(fake_registry_requests(), 0);
    open_fails(NAME, OCI_PULL_MISSING, ENOENT, "no such tag");
    index = add_index(&image, MANIFEST_TYPE, 1);
    fake_registry_tag("one", &index.digest);
    result = pull(NAME);
    assert_false(result.up_to_date);
    assert_true(digest_equal(&result.root, &index.digest));
    assert_true(digest_equal(&result.manifest, &image.digest));
    assert_true(result.fetched > 2 * SIZE && result.fetched < 3 * SIZE);
    assert_int_equal(fake_registry.fetches, 3);
    assert_int_equal(count("partial"), 0);
    assert_int_equal(count("blobs"), 6);

    /* offline from here on, but for one question */
    requests = fake_registry_requests();
    opens(NAME, OCI_PULL_MISSING);
    opens(NAME, OCI_PULL_NEVER);
    digest_hex(&image.digest, hex);
    hex[12] = '\0';
    opens(hex, OCI_PULL_NEVER);
    digest_hex(&image.digest, hex);
    opens(hex, OCI_PULL_NEVER);
    snprintf(name, sizeof(name), "sha256:%s", hex);
    opens(name, OCI_PULL_MISSING);
    assert_int_equal(fake_registry_requests(), requests);
    result = pull(NAME);
    assert_true(result.up_to_date);
    assert_int_equal(result.fetched, 0);
    assert_int_equal(fake_registry_requests(), requests + 1);
    opens(NAME, OCI_PULL_ALWAYS);
    assert_int_equal(fake_registry_requests(), requests + 2);
    assert_int_equal(fake_registry.heads, 4);

    /* the digest is the name: nobody has to be asked */
    requests = fake_registry_requests();
    snprintf(name, sizeof(name), "reg.example/app@sha256:%s", hex);
    assert_false(pull(name).up_to_date);
    assert_true(pull(name).up_to_date);
    assert_int_equal(fake_registry_requests(), requests);

    fake_registry.unreachable = true;
    opens(NAME, OCI_PULL_MISSING);
    open_fails(NAME, OCI_PULL_ALWAYS, ECONNREFUSED, NAME);
    pull_fails(NAME, ECONNREFUSED, "does not answer");
    fake_registry.unreachable = false;

    /* the tag moves: only its documents are new */
    fake_registry_tag("one", &other.digest);
    opens(NAME, OCI_PULL_MISSING);
    assert_int_equal(fake_registry.fetches, 3);
    result = pull(NAME);
    assert_false(result.up_to_date);
    assert_true(digest_equal(&result.manifest, &other.digest));
    assert_int_equal(fake_registry.fetches, 3);
    assert_true(pull(NAME).up_to_date);

    fake_registry.no_digest = true;
    requests = fake_registry.manifests;
    assert_true(pull(NAME).up_to_date);
    assert_int_equal(fake_registry.manifests, requests + 1);
}

static void test_parallel(void **state)
{
    struct object layers[7], image;

    for (int i = 0; i < 7; i++)
        layers[i] = add_layer((char)('a' + i), i == 3 ? 10 : 300000);
    image = add_image(layers, 7);
    fake_registry_tag("one", &image.digest);
    fake_registry.step = 1000;
    pull(NAME);
    assert_int_equal(fake_registry.most_running, 4);
    assert_int_equal(fake_registry.fetches, 7);
    /* the same layers, and twice one of them */
    layers[2] = layers[0];
    image = add_image(layers, 3);
    fake_registry_tag("two", &image.digest);
    pull("reg.example/app:two");
    assert_int_equal(fake_registry.fetches, 7);
    opens("reg.example/app:two", OCI_PULL_NEVER);
}

/* Cut a pull at every so many bytes until it goes through: nothing comes twice. */
static void test_cut(void **state)
{
    struct object layers[] = {add_layer('a', SIZE), add_layer('b', SIZE)}, image = add_image(layers, 2);
    unsigned cuts = 0;
    struct sm_error err;

    fake_registry_tag("one", &image.digest);
    fake_registry.step = 7777;
    for (;;) {
        fake_registry.cut_after = fake_registry.bytes + 300000;
        if (try_pull(NAME, NULL, NULL, &err) >= 0)
            break;
        assert_non_null(strstr(err.text, "connection was cut"));
        assert_non_null(strstr(err.text, "layer sha256:"));
        nothing_is_named();
        assert_true(++cuts < 50);
    }
    assert_true(cuts >= 5);
    assert_int_equal(fake_registry.bytes, layers[0].len + layers[1].len);
    assert_int_equal(fake_registry.manifests, 1);
    assert_int_equal(count("partial"), 0);
    opens(NAME, OCI_PULL_NEVER);
}

/* One name, two platforms. An id is one image, whatever is asked for. */
static void test_platforms(void **state)
{
    struct object layers[] = {add_layer('a', 20000), add_layer('b', 20000)}, both[2], index;
    char id[DIGEST_HEX_SIZE];

    both[0] = add_image_of("amd64", LAYER_TYPE, &layers[0], 1);
    both[1] = add_image_of("arm64", LAYER_TYPE, &layers[1], 1);
    index = add_index(both, MANIFEST_TYPE, 2);
    fake_registry_tag("one", &index.digest);
    open_platform = "linux/arm64";
    opens(NAME, OCI_PULL_MISSING);
    digest_hex(&both[1].digest, id);
    assert_int_equal(fake_registry.fetches, 1);
    open_platform = "linux/amd64";
    open_fails(NAME, OCI_PULL_NEVER, ENOENT, "supermachine pull");
    open_fails(id, OCI_PULL_MISSING, ENOENT, "linux/arm64");
    opens(NAME, OCI_PULL_MISSING);
    assert_int_equal(fake_registry.fetches, 2);
    opens(NAME, OCI_PULL_NEVER);
    open_platform = "linux/arm64";
    opens(NAME, OCI_PULL_NEVER);
    /* mended as what it is */
    remove_layer(&layers[1].digest);
    remove_blob(&layers[1].digest);
    open_platform = NULL;
    opens(id, OCI_PULL_MISSING);
    assert_true(size_of("blobs", &layers[1].digest) > 0);
    open_platform = "linux/amd64";
}

/* What an earlier pull may have left: right or wrong, of any length. */
static void test_leftovers(void **state)
{
    struct object layer = add_layer('a', SIZE), image = add_image(&layer, 1);
    char *data = fake_registry.objects[0].data, *wrong = malloc(layer.len + 100), *right = malloc(layer.len);
    const struct {
        const char *data;
        size_t len;
        uint64_t fetched;
    } cases[] = {
        {right, 0, layer.len},
        {right, 1, layer.len - 1},
        {right, layer.len - 1, 1},
        {right, layer.len, 0},
        {wrong, 500000, layer.len - 500000 + layer.len},
        {wrong, layer.len, layer.len},
        {wrong, layer.len + 100, layer.len},
    };

    memcpy(right, data, layer.len);
    memcpy(wrong, data, layer.len);
    memset(wrong + layer.len, 0, 100);
    memset(wrong + 100000, 0x55, 5000);
    fake_registry_tag("one", &image.digest);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        put_file("partial", &layer.digest, cases[i].data, cases[i].len);
        fake_registry.bytes = 0;
        pull(NAME);
        assert_int_equal(fake_registry.bytes, cases[i].fetched);
        assert_int_equal(count("partial"), 0);
        assert_int_equal(size_of("blobs", &layer.digest), layer.len);
        remove_layer(&layer.digest);
        remove_blob(&layer.digest);
    }
    free(wrong);
    free(right);
}

static void test_wrong_bytes(void **state)
{
    struct object layers[] = {add_layer('a', SIZE), add_layer('b', SIZE)}, image = add_image(layers, 2);

    fake_registry_tag("one", &image.digest);
    fake_registry.wrong = true;
    pull_fails(NAME, EBADMSG, "has the digest");
    nothing_is_named();
    /* of the layer that was found out nothing is left; the other one is only not known to be wrong */
    assert_true(size_of("partial", &layers[0].digest) < 0 || size_of("partial", &layers[1].digest) < 0);
    assert_int_equal(count("layers"), 0);
    fake_registry.wrong = false;
    pull(NAME);
    assert_int_equal(count("partial"), 0);
}

/* Parts of the store that go missing or bad. */
static void test_mending(void **state)
{
    struct object layers[] = {add_layer('a', SIZE), add_layer('b', SIZE)}, image = add_image(layers, 2);
    unsigned fetches, manifests;
    char *wrong = calloc(1, layers[0].len);

    fake_registry_tag("one", &image.digest);
    pull(NAME);
    fetches = fake_registry.fetches;
    /* the converted layer: made from the blob */
    remove_layer(&layers[0].digest);
    opens(NAME, OCI_PULL_NEVER);
    assert_int_equal(fake_registry.fetches, fetches);
    /* the blob: not needed */
    remove_blob(&layers[0].digest);
    opens(NAME, OCI_PULL_NEVER);
    assert_true(pull(NAME).up_to_date);
    assert_int_equal(fake_registry.fetches, fetches);
    /* both */
    remove_layer(&layers[0].digest);
    open_fails(NAME, OCI_PULL_NEVER, ENOENT, "not in the image store");
    opens(NAME, OCI_PULL_MISSING);
    assert_int_equal(fake_registry.fetches, fetches + 1);
    /* a blob that is damaged, of its right size */
    remove_layer(&layers[0].digest);
    put_file("blobs", &layers[0].digest, wrong, layers[0].len);
    open_fails(NAME, OCI_PULL_NEVER, EBADMSG, "has the digest");
    opens(NAME, OCI_PULL_MISSING);
    assert_int_equal(fake_registry.fetches, fetches + 2);
    remove_layer(&layers[0].digest);
    opens(NAME, OCI_PULL_NEVER);
    /* and of another */
    remove_layer(&layers[0].digest);
    put_file("blobs", &layers[0].digest, wrong, 100);
    assert_false(pull(NAME).up_to_date);
    assert_int_equal(fake_registry.fetches, fetches + 3);
    /* the manifest; the tag has moved on, but the image is what it was */
    remove_blob(&image.digest);
    open_fails(NAME, OCI_PULL_NEVER, ENOENT, "missing");
    manifests = fake_registry.manifests;
    fake_registry_tag("one", &layers[0].digest);
    opens(NAME, OCI_PULL_MISSING);
    assert_int_equal(fake_registry.manifests, manifests + 1);
    free(wrong);
}

static void test_refused(void **state)
{
    struct object layer = add_layer('a', 1000), items[3], image;
    struct object arm = add_image_of("arm64", LAYER_TYPE, &layer, 1);

    image = add_image_of("amd64", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", &layer, 1);
    fake_registry_tag("foreign", &image.digest);
    pull_fails("reg.example/app:foreign", ENOTSUP, "foreign");
    image = add_image_of("amd64", LAYER_TYPE "+gzip+encrypted", &layer, 1);
    fake_registry_tag("encrypted", &image.digest);
    pull_fails("reg.example/app:encrypted", ENOTSUP, "encrypted");
    image = add_image_of("amd64", "application/x-strange", &layer, 1);
    fake_registry_tag("unknown", &image.digest);
    pull_fails("reg.example/app:unknown", ENOTSUP, "application/x-strange");
    fake_registry_tag("arm", &arm.digest);
    pull_fails("reg.example/app:arm", ENOENT, "linux/arm64");
    image = add_index(&arm, MANIFEST_TYPE, 1);
    fake_registry_tag("arm", &image.digest);
    pull_fails("reg.example/app:arm", ENOENT, "it is there for: linux/arm64");

    /* an index in an index in an index ...; and one that lists others again and again */
    image = add_image(&layer, 1);
    items[0] = image;
    for (int i = 0; i < 5; i++)
        items[0] = add_index(items, i ? INDEX_TYPE : MANIFEST_TYPE, 1);
    fake_registry_tag("deep", &items[0].digest);
    pull_fails("reg.example/app:deep", ELOOP, "nested");
    items[0] = add_index(items, INDEX_TYPE, 0);
    for (int i = 0; i < 3; i++) {
        struct object many[60];

        for (int k = 0; k < 30; k++)
            many[k] = items[0];
        items[0] = add_index(many, INDEX_TYPE, 30);
    }
    fake_registry_tag("wide", &items[0].digest);
    pull_fails("reg.example/app:wide", E2BIG, "indexes");

    /* descriptors that lie about sizes */
    items[0] = image;
    items[0].len++;
    items[1] = add_index(items, MANIFEST_TYPE, 1);
    fake_registry_tag("size", &items[1].digest);
    pull_fails("reg.example/app:size", EBADMSG, "its descriptor says");
    layer.len++;
    items[1] = add_image(&layer, 1);
    fake_registry_tag("size", &items[1].digest);
    fake_registry.step = 600;
    pull_fails("reg.example/app:size", EBADMSG, "has the digest");

    /* something else */
    image = add("{\"schemaVersion\": 2, \"manifests\": [], \"layers\": []}", 51);
    fake_registry_tag("both", &image.digest);
    pull_fails("reg.example/app:both", EBADMSG, "two things");
    nothing_is_named();
    assert_int_equal(count("layers"), 0);
}

static void test_blob(void **state)
{
    struct object layer = add_layer('a', SIZE), other = add_layer('b', SIZE);
    struct oci_ref ref = OCI_REF_INIT;
    struct sm_error err = SM_ERROR_INIT;
    char *wrong = calloc(1, layer.len);

    assert_int_equal(ref_parse(&ref, NAME, NULL), 0);
    assert_int_equal(oci_pull_blob(pull_store, &ref, &layer.digest, layer.len, NULL, &err), 0);
    assert_int_equal(size_of("blobs", &layer.digest), layer.len);
    assert_int_equal(oci_pull_blob(pull_store, &ref, &layer.digest, layer.len, NULL, &err), 0);
    assert_int_equal(fake_registry.fetches, 1);
    put_file("partial", &other.digest, wrong, other.len / 2);
    assert_int_equal(oci_pull_blob(pull_store, &ref, &other.digest, other.len, NULL, &err), 0);
    assert_int_equal(fake_registry.fetches, 3);
    assert_int_equal(size_of("blobs", &other.digest), other.len);
    remove_blob(&layer.digest);
    fake_registry.wrong = true;
    assert_int_equal(oci_pull_blob(pull_store, &ref, &layer.digest, layer.len, NULL, &err), -EBADMSG);
    assert_int_equal(count("partial"), 0);
    assert_int_equal(count("layers"), 0);
    free(wrong);
    ref_done(&ref);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_names, pull_set_up, pull_tear_down),
        cmocka_unit_test_setup_teardown(test_parallel, pull_set_up, pull_tear_down),
        cmocka_unit_test_setup_teardown(test_cut, pull_set_up, pull_tear_down),
        cmocka_unit_test_setup_teardown(test_platforms, pull_set_up, pull_tear_down),
        cmocka_unit_test_setup_teardown(test_leftovers, pull_set_up, pull_tear_down),
        cmocka_unit_test_setup_teardown(test_wrong_bytes, pull_set_up, pull_tear_down),
        cmocka_unit_test_setup_teardown(test_mending, pull_set_up, pull_tear_down),
        cmocka_unit_test_setup_teardown(test_refused, pull_set_up, pull_tear_down),
        cmocka_unit_test_setup_teardown(test_blob, pull_set_up, pull_tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
