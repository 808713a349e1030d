/* SPDX-License-Identifier: Apache-2.0 */
/* A tar becomes data and index. */
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
#include "base/io.h"
#include "oci/index.h"
#include "oci/layer.h"
#include "oci/limits.h"
#include "oci_fixture.h"

struct slice {
    const struct buf *buf;
    size_t at, step;
};

static ssize_t next_slice(void *ctx, const void **ret)
{
    struct slice *s = ctx;
    size_t n = s->buf->len - s->at < s->step ? s->buf->len - s->at : s->step;

    *ret = n ? s->buf->data + s->at : NULL;
    s->at += n;
    return (ssize_t)n;
}

struct converted {
    int data_fd, index_fd, code;
    struct sm_error err;
    struct index_reader *reader;
};

static struct converted convert(const struct buf *tar, size_t step)
{
    struct slice s = {tar, 0, step};
    struct converted c = {.data_fd = memory_file("", 0), .index_fd = memory_file("", 0), .err = SM_ERROR_INIT};

    c.code = layer_convert(&(struct unpack_source){next_slice, &s}, c.data_fd, c.index_fd, &c.err);
    if (c.code >= 0) {
        assert_int_equal(s.at, tar->len); /* read to the end, whatever comes behind the mark */
        assert_int_equal(index_reader_new(&c.reader, c.index_fd, NULL), 0);
    }
    return c;
}

static void converted_done(struct converted *c)
{
    index_reader_free(c->reader);
    close(c->data_fd);
    close(c->index_fd);
}

static struct oci_entry next_entry(struct converted *c)
{
    struct oci_entry e;

    assert_int_equal(index_read(c->reader, &e, NULL), 1);
    return e;
}

static void assert_content(const struct converted *c, const struct oci_entry *e, const void *want, size_t len)
{
    char *got = malloc(len + 1);

    assert_int_equal(e->size, len);
    if (len > OCI_INLINE_MAX) {
        assert_int_equal(e->data_off % 4096, 0);
        assert_int_equal(io_pread_full(c->data_fd, got, len, e->data_off), len);
    } else {
        assert_int_equal(io_pread_full(c->index_fd, got, len, e->content_offset), len);
    }
    assert_memory_equal(got, want, len);
    free(got);
}

static void test_contents(void **state)
{
    static const size_t sizes[] = {0, 1, 511, 512, OCI_INLINE_MAX, OCI_INLINE_MAX + 1, 4095, 4096, 4097, 2000000};
    static const size_t steps[] = {1000, 512, 10240, 1 << 20};
    uint8_t *data = malloc(2000000);
    struct buf tar = buf_init(8 << 20);
    struct stat st;

    for (size_t i = 0; i < 2000000; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
        tar_add(&tar, "f", '0', NULL, data, sizes[i]);
    tar_end(&tar);
    buf_bytes(&tar, "garbage behind the end", 22);
    for (size_t s = 0; s < ARRAY_SIZE(steps); s++) {
        struct converted c = convert(&tar, steps[s]);

        assert_int_equal(c.code, 0);
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
            struct oci_entry e = next_entry(&c);

            assert_content(&c, &e, data, sizes[i]);
        }
        assert_int_equal(fstat(c.data_fd, &st), 0);
        assert_int_equal(st.st_size % 4096, 0);
        assert_int_equal(st.st_size, index_data_size(c.reader));
        converted_done(&c);
    }
    buf_done(&tar);
    free(data);
}

static void test_zeros_are_holes(void **state)
{
    size_t len = 40 << 20;
    uint8_t *data = calloc(1, len);
    struct buf tar = buf_init(len + 4096);
    struct converted c;
    struct oci_entry e;
    struct stat st;

    data[20 << 20] = 1;
    tar_add(&tar, "f", '0', NULL, data, len);
    tar_end(&tar);
    c = convert(&tar, 65536);
    assert_int_equal(c.code, 0);
    e = next_entry(&c);
    assert_content(&c, &e, data, len);
    converted_done(&c);
    c = convert(&tar, 65536);
    assert_int_equal(fstat(c.data_fd, &st), 0);
    assert_true(st.st_blocks * 512 < 1 << 20);
    converted_done(&c);
    buf_done(&tar);
    free(data);
}

static void test_kinds_and_names(void **state)
{
    static const struct {
        char flag;
        enum oci_type type;
    } kinds[] = {{'0', OCI_FILE},      {'\0', OCI_FILE}, {'1', OCI_HARDLINK}, {'2', OCI_SYMLINK}, {'3', OCI_CHAR},
                 {'4', OCI_BLOCK_DEV}, {'5', OCI_DIR},   {'6', OCI_FIFO},     {'7', OCI_FILE}};
    static const char *const names[] = {"d\xc3\xa9j\xc3\xa0", "e\xcc\x81", "\xc3\xa9", "raw\xff\xfe", "sp ace\n\t\""};
    struct buf tar = buf_init(1 << 20);
    struct converted c;
    struct oci_entry e;

    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        tar_add(&tar, "name", kinds[i].flag, "target", NULL, 0);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        tar_pax(&tar, "path", names[i]);
        tar_add(&tar, "short", '0', NULL, "x", 1);
    }
    tar_end(&tar);
    c = convert(&tar, 10240);
    if (c.code < 0)
        fail_msg("%s", c.err.text);
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        e = next_entry(&c);
        assert_int_equal(e.type, kinds[i].type);
        assert_string_equal(e.path, "name");
        if (e.type == OCI_HARDLINK || e.type == OCI_SYMLINK)
            assert_string_equal(e.link, "target");
        if (e.type == OCI_CHAR) {
            assert_int_equal(e.major, 1);
            assert_int_equal(e.minor, 3);
        }
        assert_int_equal(e.mtime, 1000);
    }
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        e = next_entry(&c);
        assert_string_equal(e.path, names[i]);
    }
    assert_int_equal(index_read(c.reader, &e, NULL), 0);
    converted_done(&c);
    buf_done(&tar);
}

static void test_pax(void **state)
{
    struct buf tar = buf_init(1 << 20);
    struct converted c;
    struct oci_entry e;

    tar_pax(&tar, "mtime", "1700000000.123456789");
    tar_add(&tar, "t", '5', NULL, NULL, 0);
    tar_pax(&tar, "mtime", "-1.25");
    tar_add(&tar, "t", '5', NULL, NULL, 0);
    tar_pax(&tar, "uid", "4294967294");
    tar_add(&tar, "u", '5', NULL, NULL, 0);
    tar_pax(&tar, "SCHILY.xattr.user.k", "v\xff=w");
    tar_add(&tar, "x", '5', NULL, NULL, 0);
    tar_pax(&tar, "SCHILY.xattr.user.k", ""); /* an empty value means none */
    tar_add(&tar, "x", '5', NULL, NULL, 0);
    tar_pax(&tar, "linkpath", "e\xcc\x81");
    tar_add(&tar, "l", '2', "short", NULL, 0);
    tar_end(&tar);
    c = convert(&tar, 10240);
    assert_int_equal(c.code, 0);
    e = next_entry(&c);
    assert_int_equal(e.mtime, 1700000000);
    assert_int_equal(e.mtime_ns, 123456789);
    e = next_entry(&c);
    assert_int_equal(e.mtime, -2);
    assert_int_equal(e.mtime_ns, 750000000);
    e = next_entry(&c);
    assert_int_equal(e.uid, 4294967294u);
    e = next_entry(&c);
    assert_int_equal(e.n_xattrs, 1);
    assert_string_equal(e.xattrs[0].name, "user.k");
    assert_int_equal(e.xattrs[0].len, 4);
    assert_memory_equal(e.xattrs[0].value, "v\xff=w", 4);
    e = next_entry(&c);
    assert_int_equal(e.n_xattrs, 0);
    e = next_entry(&c);
    assert_string_equal(e.link, "e\xcc\x81");
    converted_done(&c);
    buf_done(&tar);
}

static void test_empty(void **state)
{
    struct buf tar = buf_init(1 << 20);
    struct converted c = convert(&tar, 512);
    struct oci_entry e;

    assert_int_equal(c.code, 0); /* nothing at all */
    assert_int_equal(index_read(c.reader, &e, NULL), 0);
    converted_done(&c);
    tar_end(&tar);
    c = convert(&tar, 512);
    assert_int_equal(c.code, 0); /* only the end mark */
    assert_int_equal(index_read(c.reader, &e, NULL), 0);
    converted_done(&c);
    buf_done(&tar);
}

static void test_refused(void **state)
{
    static const struct {
        const char *name, *key, *value, *word;
        char type;
    } bad[] = {
        {"../x", NULL, NULL, "\"..\"", '0'},
        {"/x", NULL, NULL, "absolute", '0'},
        {"x/../../y", NULL, NULL, "\"..\"", '5'},
        {".wh.", NULL, NULL, "whiteout", '0'},
        {"x", "uid", "4294967295", "owner", '0'},
        {"x", "gid", "99999999999", "owner", '0'},
        {"x", "path", "a/../b", "\"..\"", '0'},
        {"x", "linkpath", "../../etc/passwd", "\"..\"", '1'},
        {"x", "SCHILY.devmajor", "99999", "device", '3'},
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct buf tar = buf_init(1 << 20);
        struct converted c;

        tar_add(&tar, "fine", '0', NULL, "x", 1);
        if (bad[i].key)
            tar_pax(&tar, bad[i].key, bad[i].value);
        tar_add(&tar, bad[i].name, bad[i].type, "target", NULL, 0);
        tar_end(&tar);
        c = convert(&tar, 10240);
        if (c.code >= 0)
            fail_msg("accepted: %s %s", bad[i].name, bad[i].key ? bad[i].key : "");
        if (!strstr(c.err.text, bad[i].word))
            fail_msg("\"%s\" does not say \"%s\"", c.err.text, bad[i].word);
        converted_done(&c);
        buf_done(&tar);
    }
}

static void test_corrupt(void **state)
{
    struct buf tar = buf_init(1 << 20), cut;
    char data[3000];
    unsigned refused = 0;

    memset(data, 'd', sizeof(data));
    tar_add(&tar, "a", '0', NULL, data, sizeof(data));
    tar_add(&tar, "b", '0', NULL, data, sizeof(data));
    for (size_t len = 1; len < tar.len; len += 100) {
        struct converted c;

        cut = tar;
        cut.len = len;
        c = convert(&cut, 512);
        assert_true(c.code == 0 || c.code == -EBADMSG);
        refused += c.code < 0;
        converted_done(&c);
    }
    assert_true(refused >= tar.len / 100 - 15); /* a cut between two entries is no damage to tar */
    tar.data[0] ^= 1;                           /* the header's checksum no longer fits */
    {
        struct converted c = convert(&tar, 512);

        assert_int_equal(c.code, -EBADMSG);
        converted_done(&c);
    }
    buf_done(&tar);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contents), cmocka_unit_test(test_zeros_are_holes), cmocka_unit_test(test_kinds_and_names),
        cmocka_unit_test(test_pax),      cmocka_unit_test(test_empty),           cmocka_unit_test(test_refused),
        cmocka_unit_test(test_corrupt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
