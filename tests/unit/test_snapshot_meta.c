/* SPDX-License-Identifier: Apache-2.0 */
/* What a snapshot says of itself: written, read, and refused wherever anything is wrong with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "oci/snapshot_meta.h"

#define HEX   "1111111111111111111111111111111111111111111111111111111111111111"
#define OTHER "2222222222222222222222222222222222222222222222222222222222222222"

static struct sm_error err;

static struct snapshot_meta plain(void)
{
    static const char *const cmd[] = {"a\tb", "\"\\", "\xc3\xa4", "", NULL};
    struct snapshot_meta m = {
        .kind = SNAPSHOT_BAKE,
        .key = HEX,
        .base = OTHER,
        .base_crc = UINT32_MAX,
        .image_digest = "sha256:" HEX,
        .image_name = "docker.io/library/app:1.2",
        .platform = "linux/arm64/v8",
        .kernel = HEX,
        .initramfs = OTHER,
        .kernel_args = "quiet",
        .version = "1.2.3",
        .arch = "x86_64",
        .cpu = "V 1.c=0",
        .memory_mib = 65536,
        .vcpus = 16,
        .trigger = "heartbeat=3",
        .tag = "warm",
        .created_s = 1700000000,
        .workload = true,
        .entrypoint = cmd,
        .cmd = cmd,
        .env = NULL,
        .cwd = "/x\ny",
        .user = "0:0",
        .state_bytes = 4 << 20,
        .diff_bytes = 40,
        .memory_data = 65536 * MIB,
        .state_crc = 1,
        .diff_crc = 2,
        .memory_crc = 3,
    };

    return m;
}

static struct buf text_of(const struct snapshot_meta *m)
{
    struct buf b;

    if (snapshot_meta_write(&b, m, &err) < 0)
        fail_msg("%s", err.text);
    return b;
}

static void what_is_written_is_read(void **state)
{
    struct snapshot_meta m = plain(), got;
    struct buf b = text_of(&m);

    (void)state;
    assert_int_equal(snapshot_meta_parse(&got, b.data, b.len, &err), 0);
    assert_int_equal(got.kind, SNAPSHOT_BAKE);
    assert_string_equal(got.key, HEX);
    assert_string_equal(got.base, OTHER);
    assert_int_equal(got.base_crc, UINT32_MAX);
    assert_string_equal(got.platform, "linux/arm64/v8");
    assert_string_equal(got.tag, "warm");
    assert_string_equal(got.cwd, "/x\ny");
    assert_string_equal(got.entrypoint[0], "a\tb");
    assert_string_equal(got.entrypoint[1], "\"\\");
    assert_string_equal(got.cmd[2], "\xc3\xa4");
    assert_string_equal(got.cmd[3], "");
    assert_null(got.cmd[4]);
    assert_null(got.env[0]);
    assert_true(got.workload);
    assert_int_equal(got.memory_mib, 65536);
    assert_int_equal(got.memory_data, 65536 * MIB);
    assert_int_equal(got.state_bytes, 4 << 20);
    assert_int_equal(got.created_s, 1700000000);
    assert_int_equal(got.memory_crc, 3);
    snapshot_meta_done(&got);
    buf_done(&b);
}

static void every_flipped_bit_is_found(void **state)
{
    struct snapshot_meta m = plain(), got;
    struct buf b = text_of(&m);

    (void)state;
    for (size_t i = 0; i < b.len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            int r;

            b.data[i] ^= (uint8_t)(1 << bit);
            memset(&err, 0, sizeof(err));
            r = snapshot_meta_parse(&got, b.data, b.len, &err);
            if (r != -EBADMSG && r != -ENOTSUP)
                fail_msg("bit %d of byte %zu: %d", bit, i, r);
            assert_int_equal(strncmp(err.text, "its metadata ", 13), 0);
            b.data[i] ^= (uint8_t)(1 << bit);
        }
    }
    for (size_t len = 0; len < b.len; len++)
        assert_int_equal(snapshot_meta_parse(&got, b.data, len, &err), -EBADMSG);
    buf_done(&b);
}

/* The document with one piece replaced and its sum made right. */
static int parse_changed(const char *from, const char *to)
{
    struct snapshot_meta m = plain(), got;
    struct buf b = text_of(&m), c = buf_init(MIB);
    char hex[DIGEST_HEX_SIZE];
    const char *at;
    struct digest d;
    int r;

    buf_u8(&b, 0);
    at = strstr((char *)b.data, from);
    if (!at)
        fail_msg("no %s", from);
    buf_bytes(&c, b.data, (size_t)(at - (char *)b.data));
    buf_bytes(&c, to, strlen(to));
    at += strlen(from);
    if (strlen(at) > 75)
        buf_bytes(&c, at, strlen(at) - 75);
    assert_int_equal(digest_of(&d, c.data, c.len, &err), 0);
    digest_hex(&d, hex);
    buf_bytes(&c, ",\"sum\":\"", 8);
    buf_bytes(&c, hex, 64);
    buf_bytes(&c, "\"}\n", 3);
    memset(&err, 0, sizeof(err));
    r = snapshot_meta_parse(&got, c.data, c.len, &err);
    if (r >= 0)
        snapshot_meta_done(&got);
    buf_done(&b);
    buf_done(&c);
    return r;
}

static void hostile_documents_with_a_right_sum_are_refused(void **state)
{
    static const struct {
        const char *from, *to, *text;
        int code;
    } cases[] = {
        {"\"format\":1", "\"format\":2", "version 2 of the format", ENOTSUP},
        {"\"format\":1", "\"format\":\"1\"", "\"format\" is not a whole number", EBADMSG},
        {"\"page\":4096", "\"page\":65536", "pages of 65536 bytes", ENOTSUP},
        {"\"kind\":\"bake\"", "\"kind\":\"cake\"", "\"kind\" is none", EBADMSG},
        {"\"kind\":\"bake\"", "\"kind\":\"base\"", "a base snapshot must have neither", EBADMSG},
        {"\"kind\":\"bake\",", "", "\"kind\" is missing", EBADMSG},
        {"\"key\":\"1", "\"key\":\"A", "\"key\" is not 64 hex digits", EBADMSG},
        {"\"key\":\"1", "\"key\":\"", "\"key\" is not 64 hex digits", EBADMSG},
        {"\"key\":\"1", "\"key\":\"../", "\"key\" is not 64 hex digits", EBADMSG},
        {"\"base\":\"2", "\"base\":\"x", "\"base\" is not 64 hex digits", EBADMSG},
        {"\"base\":\"" OTHER, "\"base\":\"" HEX, "its own base", EBADMSG},
        {"\"base\":\"" OTHER, "\"base\":\"", "without a base", EBADMSG},
        {"\"diff_bytes\":40", "\"diff_bytes\":0", "a base without one", EBADMSG},
        {"\"image_digest\":\"sha256:" HEX, "\"image_digest\":\"", "must have an image", EBADMSG},
        {"\"image_digest\":\"sha256:1", "\"image_digest\":\"sha256:", "image_digest", EBADMSG},
        {"\"image_digest\":\"sha256:" HEX, "\"image_digest\":\"sha512:" HEX HEX, "only sha256", EBADMSG},
        {"\"image_name\":\"d", "\"image_name\":\"\\u001b[2J", "\"image_name\" is not one line of text", EBADMSG},
        {"\"image_name\":\"d", "\"image_name\":\"\\u0000", "zero byte", EBADMSG},
        {"linux/arm64/v8", "linux", "linux", EBADMSG},
        {"\"kernel\":\"1", "\"kernel\":\"g", "\"kernel\" is not 64 hex digits", EBADMSG},
        {"\"memory_mib\":65536", "\"memory_mib\":65537", "\"memory_mib\" is 65537", EBADMSG},
        {"\"memory_mib\":65536", "\"memory_mib\":0", "\"memory_mib\" is 0", EBADMSG},
        {"\"memory_mib\":65536", "\"memory_mib\":-1", "\"memory_mib\" is out of range", EBADMSG},
        {"\"memory_mib\":65536", "\"memory_mib\":4294967328", "\"memory_mib\" is 4294967328", EBADMSG},
        {"\"memory_mib\":65536", "\"memory_mib\":1e3", "\"memory_mib\" is not a whole number", EBADMSG},
        {"\"memory_mib\":65536", "\"memory_mib\":32", "\"memory_data\" is 68719476736", EBADMSG},
        {"\"memory_mib\":65536", "\"memory_mib\":99999999999999999999999", "out of range", EBADMSG},
        {"\"vcpus\":16", "\"vcpus\":17", "\"vcpus\" is 17", EBADMSG},
        {"\"vcpus\":16", "\"vcpus\":null", "\"vcpus\" is missing", EBADMSG},
        {"\"created\":1700000000", "\"created\":9223372036854775807", "\"created\" is out of range", EBADMSG},
        {"\"state_bytes\":4194304", "\"state_bytes\":4194305", "\"state_bytes\" is 4194305", EBADMSG},
        {"\"state_bytes\":4194304", "\"state_bytes\":0", "\"state_bytes\" is 0", EBADMSG},
        {"\"memory_crc\":3", "\"memory_crc\":4294967296", "\"memory_crc\" is 4294967296", EBADMSG},
        {"\"workload\":true", "\"workload\":1", "\"workload\" is not true or false", EBADMSG},
        {"\"env\":[]", "\"env\":[1]", "is not a string", EBADMSG},
        {"\"env\":[]", "\"env\":{}", "\"env\" is not an array", EBADMSG},
        {"\"env\":[]", "\"env\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", "JSON",
         EBADMSG},
        {"\"vcpus\":16", "\"vcpus\":16,\"vcpus\":1", "a key twice", EBADMSG},
        {"{", " [", "JSON", EBADMSG},
    };

    (void)state;
    assert_int_equal(parse_changed("\"vcpus\":16", "\"vcpus\":16"), 0);
    assert_int_equal(parse_changed("\"vcpus\":16", "\"later\":[{}],\"vcpus\":16"), 0);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int r = parse_changed(cases[i].from, cases[i].to);

        if (r != -cases[i].code || !strstr(err.text, cases[i].text))
            fail_msg("%s: %d, \"%s\"", cases[i].to, r, err.text);
    }
}

static void lists_have_a_limit(void **state)
{
    const char **list = calloc(5001, sizeof(*list));
    struct snapshot_meta m = plain();
    struct buf b;

    (void)state;
    for (size_t i = 0; i < 5000; i++)
        list[i] = "x";
    m.env = list;
    assert_int_equal(snapshot_meta_write(&b, &m, &err), -EINVAL);
    assert_non_null(strstr(err.text, "\"env\" has 5000 elements"));
    list[4096] = NULL;
    b = text_of(&m);
    buf_done(&b);
    free(list);
}

static void keys(void **state)
{
    struct digest d;

    (void)state;
    assert_int_equal(snapshot_key_digest(&d, HEX, &err), 0);
    assert_int_equal(snapshot_key_digest(&d, "", &err), -EINVAL);
    assert_int_equal(snapshot_key_digest(&d, HEX "1", &err), -EINVAL);
    assert_int_equal(snapshot_key_digest(&d, "/" OTHER, &err), -EINVAL);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(every_flipped_bit_is_found),
        cmocka_unit_test(hostile_documents_with_a_right_sum_are_refused),
        cmocka_unit_test(lists_have_a_limit),
        cmocka_unit_test(keys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
