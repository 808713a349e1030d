/* SPDX-License-Identifier: Apache-2.0 */
/* A layer's index: what goes in comes out, and nothing else does. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/checked.h"
#include "base/io.h"
#include "oci/index.h"
#include "oci/limits.h"
#include "oci_fixture.h"

#define DATA_SIZE (64 * 4096u)

static const struct oci_xattr xattrs[] = {{"user.a", "v\0w", 3}, {"user.empty", "", 0}};

static const struct oci_entry samples[] = {
    {.type = OCI_DIR, .path = "d", .link = "", .mode = 01777, .uid = 1, .gid = 2, .mtime = -7, .mtime_ns = 5},
    {.type = OCI_FILE,
     .path = "d/small",
     .link = "",
     .mode = 04755,
     .size = 5,
     .content = "hello",
     .xattrs = xattrs,
     .n_xattrs = 2},
    {.type = OCI_FILE, .path = "d/empty", .link = ""},
    {.type = OCI_FILE, .path = "d/large", .link = "", .size = 5000, .data_off = 8192, .mtime = 1ll << 40},
    {.type = OCI_SYMLINK, .path = "l", .link = "../x"},
    {.type = OCI_HARDLINK, .path = "h", .link = "d/small"},
    {.type = OCI_CHAR, .path = "c", .link = "", .major = 4095, .minor = 1048575},
    {.type = OCI_FIFO, .path = ".wh.p", .link = "", .uid = UINT32_MAX - 1},
};

static int write_samples(void)
{
    int fd = memory_file("", 0);
    struct index_writer *w;

    assert_int_equal(index_writer_new(&w, fd, NULL), 0);
    for (size_t i = 0; i < ARRAY_SIZE(samples); i++)
        assert_int_equal(index_write(w, &samples[i], NULL), 0);
    assert_int_equal(index_finish(w, DATA_SIZE, NULL), 0);
    index_writer_free(w);
    return fd;
}

static void assert_entry_equal(int fd, const struct oci_entry *a, const struct oci_entry *b)
{
    assert_int_equal(a->type, b->type);
    assert_string_equal(a->path, b->path);
    assert_string_equal(a->link, b->link);
    assert_int_equal(a->mode, b->mode);
    assert_int_equal(a->uid, b->uid);
    assert_int_equal(a->gid, b->gid);
    assert_int_equal(a->mtime, b->mtime);
    assert_int_equal(a->mtime_ns, b->mtime_ns);
    assert_int_equal(a->major, b->major);
    assert_int_equal(a->minor, b->minor);
    assert_int_equal(a->size, b->size);
    assert_int_equal(a->data_off, b->data_off);
    assert_int_equal(a->n_xattrs, b->n_xattrs);
    for (unsigned i = 0; i < a->n_xattrs; i++) {
        assert_string_equal(a->xattrs[i].name, b->xattrs[i].name);
        assert_int_equal(a->xattrs[i].len, b->xattrs[i].len);
        assert_memory_equal(a->xattrs[i].value, b->xattrs[i].value, a->xattrs[i].len);
    }
    if (a->type == OCI_FILE && a->size && a->size <= OCI_INLINE_MAX) {
        char content[OCI_INLINE_MAX];

        assert_int_equal(io_pread_full(fd, content, a->size, a->content_offset), a->size);
        assert_memory_equal(content, b->content, a->size);
    }
}

static void test_round_trip(void **state)
{
    int fd = write_samples();
    struct index_reader *r;
    struct oci_entry e;

    assert_int_equal(index_reader_new(&r, fd, NULL), 0);
    assert_int_equal(index_data_size(r), DATA_SIZE);
    for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
        assert_int_equal(index_read(r, &e, NULL), 1);
        assert_entry_equal(fd, &e, &samples[i]);
    }
    assert_int_equal(index_read(r, &e, NULL), 0);
    assert_int_equal(index_read(r, &e, NULL), 0);
    index_reader_free(r);
    close(fd);
}

/* More than the reader's and the writer's buffers hold. */
static void test_long(void **state)
{
    int fd = memory_file("", 0);
    struct index_writer *w;
    struct index_reader *r;
    struct oci_entry e;
    char name[OCI_PATH_MAX + 1];
    unsigned n = 2000;

    memset(name, 'n', sizeof(name));
    assert_int_equal(index_writer_new(&w, fd, NULL), 0);
    for (unsigned i = 0; i < n; i++) {
        name[(i * 37) % sizeof(name)] = '\0';
        e = plain_entry(OCI_DIR, name, NULL);
        e.uid = i;
        assert_int_equal(index_write(w, &e, NULL), 0);
        name[(i * 37) % sizeof(name)] = 'n';
    }
    assert_int_equal(index_finish(w, 0, NULL), 0);
    index_writer_free(w);
    assert_int_equal(index_reader_new(&r, fd, NULL), 0);
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(index_read(r, &e, NULL), 1);
        assert_int_equal(e.uid, i);
        assert_int_equal(strlen(e.path), (i * 37) % sizeof(name));
    }
    assert_int_equal(index_read(r, &e, NULL), 0);
    index_reader_free(r);
    close(fd);
}

/* Everything there is, or the first error. */
static int read_all(int fd, struct sm_error *err)
{
    struct index_reader *r;
    struct oci_entry e;
    int code = index_reader_new(&r, fd, err);

    if (code < 0)
        return code;
    while ((code = index_read(r, &e, err)) > 0) {
        assert_true(strlen(e.path) <= OCI_PATH_MAX);
        assert_true(e.type != OCI_FILE || e.size <= OCI_INLINE_MAX || range_within(e.data_off, e.size, DATA_SIZE));
    }
    index_reader_free(r);
    return code;
}

static void test_damage(void **state)
{
    int fd = write_samples();
    struct stat st;
    uint8_t *image, old;

    assert_int_equal(fstat(fd, &st), 0);
    image = malloc((size_t)st.st_size);
    assert_int_equal(io_pread_full(fd, image, (size_t)st.st_size, 0), st.st_size);
    for (off_t at = 0; at < st.st_size; at++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            struct sm_error err = SM_ERROR_INIT;
            int code;

            old = image[at];
            image[at] ^= (uint8_t)(1u << bit);
            assert_int_equal(io_pwrite_full(fd, image + at, 1, (uint64_t)at), 0);
            code = read_all(fd, &err);
            /* what only the store compares: the data file's size; and the reserved end of the header */
            if (code != -EBADMSG && !(at >= 24 && at < 32) && !(at >= 64 && at < INDEX_HEADER_BYTES))
                fail_msg("byte %ld bit %u: %d", (long)at, bit, code);
            image[at] = old;
            assert_int_equal(io_pwrite_full(fd, image + at, 1, (uint64_t)at), 0);
        }
    }
    assert_int_equal(read_all(fd, NULL), 0);
    for (off_t len = 0; len < st.st_size; len++) {
        int cut = memory_file(image, (size_t)len);

        assert_int_equal(read_all(cut, NULL), -EBADMSG);
        close(cut);
    }
    free(image);
    close(fd);
}

/* The same, with the checksum made right again: only the reader's own checks are left. */
static void test_hostile(void **state)
{
    int fd = write_samples();
    struct stat st;
    uint8_t *image;
    unsigned refused = 0;

    assert_int_equal(fstat(fd, &st), 0);
    image = malloc((size_t)st.st_size);
    assert_int_equal(io_pread_full(fd, image, (size_t)st.st_size, 0), st.st_size);
    for (off_t at = INDEX_HEADER_BYTES; at < st.st_size; at++) {
        static const uint8_t values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
        uint8_t old = image[at];

        for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
            struct digest d;
            int hostile, code;

            image[at] = values[i];
            d = digest_of_buf(image + INDEX_HEADER_BYTES, (size_t)st.st_size - INDEX_HEADER_BYTES);
            memcpy(image + 32, d.bytes, sizeof(d.bytes));
            hostile = memory_file(image, (size_t)st.st_size);
            code = read_all(hostile, NULL);
            assert_true(code == 0 || code == -EBADMSG);
            refused += code < 0;
            close(hostile);
        }
        image[at] = old;
    }
    assert_true(refused > 500);
    free(image);
    close(fd);
}

static void test_other_version(void **state)
{
    int fd = write_samples();
    struct sm_error err = SM_ERROR_INIT;

    assert_int_equal(io_pwrite_full(fd, "\2", 1, 8), 0);
    assert_int_equal(read_all(fd, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "version"));
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_long),          cmocka_unit_test(test_damage),
        cmocka_unit_test(test_hostile),    cmocka_unit_test(test_other_version),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
