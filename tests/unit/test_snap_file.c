/* SPDX-License-Identifier: Apache-2.0 */
/* The state file: comes back as it went, and everything else is refused with a sentence that says why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "file_faults.h"
#include "snap/crc32c.h"
#include "snap/file.h"

#define HEADER    64
#define ENTRY     24
#define SECTIONS  3
#define OFF_VER   8
#define OFF_PAGE  12
#define OFF_LEN   16
#define OFF_N     24
#define OFF_TABLE 28
#define OFF_CRC   60

struct image {
    uint8_t bytes[4096];
    size_t len;
};

static uint32_t payload[SECTIONS] = {100, 0, 33};

static void save(struct snap_stream *s)
{
    uint8_t data[100];

    memset(data, 0xa5, sizeof(data));
    snap_stream_init(s);
    for (unsigned i = 0; i < SECTIONS; i++) {
        snap_begin(s, SNAP_TAG('T', 'E', 'S', 'T'), i, i + 1, "test");
        snap_bytes(s, "data", data, payload[i]);
        snap_end(s);
    }
    assert_int_equal(snap_done(s, NULL), 0);
}

static int memory_file(void)
{
    int fd = memfd_create("state", MFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static struct image written(void)
{
    struct image img = {.len = 0};
    struct snap_stream s;
    int fd = memory_file();

    save(&s);
    assert_int_equal(snap_file_write(&s, fd, NULL), 0);
    snap_stream_clear(&s);
    img.len = (size_t)pread(fd, img.bytes, sizeof(img.bytes), 0);
    close(fd);
    assert_int_equal(img.len, HEADER + SECTIONS * ENTRY + 133);
    return img;
}

/* Read an image; the sentence, or NULL when it was taken. *ret_code when refused. */
static const char *verdict(const struct image *img, int *ret_code)
{
    static struct sm_error err;
    struct snap_stream s;
    int fd = memory_file();

    memset(&err, 0, sizeof(err));
    assert_int_equal(write(fd, img->bytes, img->len), img->len);
    int r = snap_file_read(&s, fd, &err);
    close(fd);
    if (r == 0) {
        snap_stream_clear(&s);
        return NULL;
    }
    assert_true(err.code == -r && err.text[0]);
    *ret_code = r;
    return err.text;
}

static void put32(uint8_t *p, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t get32(const uint8_t *p)
{
    return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Make the checksums of table and header right again. */
static void seal(struct image *img)
{
    uint32_t n = get32(img->bytes + OFF_N);

    if (n <= 100)
        put32(img->bytes + OFF_TABLE, crc32c(0, img->bytes + HEADER, n * ENTRY));
    put32(img->bytes + OFF_CRC, crc32c(0, img->bytes, OFF_CRC));
}

static void comes_back(void **state)
{
    struct image img = written();
    struct snap_stream s;
    uint8_t data[100];
    int fd = memory_file();

    assert_int_equal(write(fd, img.bytes, img.len), img.len);
    assert_int_equal(snap_file_read(&s, fd, NULL), 0);
    close(fd);
    assert_true(snap_loading(&s));
    assert_int_equal(s.n_sections, SECTIONS);
    for (unsigned i = SECTIONS; i-- > 0;) {
        snap_begin(&s, SNAP_TAG('T', 'E', 'S', 'T'), i, 3, "test");
        assert_int_equal(snap_version(&s), i + 1);
        snap_bytes(&s, "data", data, payload[i]);
        snap_end(&s);
        for (unsigned k = 0; k < payload[i]; k++)
            assert_int_equal(data[k], 0xa5);
    }
    assert_int_equal(snap_done(&s, NULL), 0);
    snap_stream_clear(&s);
}

static void every_truncation_is_refused(void **state)
{
    const struct image whole = written();
    int code = 0;

    for (size_t len = 0; len < whole.len; len++) {
        struct image img = whole;

        img.len = len;
        assert_non_null(strstr(verdict(&img, &code), "truncated"));
        assert_int_equal(code, -EBADMSG);
    }
    struct image longer = whole;
    longer.bytes[longer.len++] = 0;
    assert_non_null(strstr(verdict(&longer, &code), "too long"));
}

static void every_flipped_bit_is_refused(void **state)
{
    const struct image whole = written();
    int code = 0;

    assert_null(verdict(&whole, &code));
    for (size_t bit = 0; bit < 8 * whole.len; bit++) {
        struct image img = whole;

        img.bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_non_null(verdict(&img, &code));
    }
}

static void mismatches_are_named(void **state)
{
    struct image img = written();
    int code = 0;

    put32(img.bytes + OFF_VER, 2);
    seal(&img);
    assert_non_null(strstr(verdict(&img, &code), "format version 2"));
    assert_int_equal(code, -ENOTSUP);

    img = written();
    put32(img.bytes + OFF_PAGE, 16384);
    seal(&img);
    assert_non_null(strstr(verdict(&img, &code), "pages of 16384 bytes"));
    assert_int_equal(code, -ENOTSUP);

    img = written();
    bool x86 = memcmp(img.bytes, "SMstx86\n", 8) == 0;
    memcpy(img.bytes, x86 ? "SMsta64\n" : "SMstx86\n", 8);
    seal(&img);
    assert_non_null(strstr(verdict(&img, &code), x86 ? "made on arm64" : "made on x86-64"));
    assert_int_equal(code, -ENOTSUP);

    img = written();
    memcpy(img.bytes, "\177ELF", 4);
    assert_non_null(strstr(verdict(&img, &code), "not a snapshot"));
}

static void hostile_with_right_checksums(void **state)
{
    const struct image whole = written();
    int code = 0;

    struct image img = whole;
    put32(img.bytes + OFF_N, SNAP_STATE_MAX_SECTIONS + 1);
    seal(&img);
    assert_non_null(strstr(verdict(&img, &code), "257 sections"));
    img = whole;
    put32(img.bytes + OFF_N, 200); /* allowed, but the table would not fit */
    put32(img.bytes + OFF_CRC, crc32c(0, img.bytes, OFF_CRC));
    assert_non_null(strstr(verdict(&img, &code), "too short for its table"));
    img = whole;
    put32(img.bytes + OFF_N, 0xffffffff);
    seal(&img);
    assert_non_null(verdict(&img, &code));
    img = whole;
    put32(img.bytes + OFF_N, SECTIONS - 1);
    seal(&img);
    assert_non_null(verdict(&img, &code));
    img = whole;
    put32(img.bytes + OFF_LEN + 4, 1); /* 4 GiB more */
    seal(&img);
    assert_non_null(strstr(verdict(&img, &code), "truncated"));
    img = whole;
    img.bytes[40] = 1;
    seal(&img);
    assert_non_null(strstr(verdict(&img, &code), "should be zero"));

    /* An entry's fields: index, offset, length, spare. */
    static const struct {
        unsigned entry, off;
        uint32_t value;
        const char *sentence;
    } bad[] = {
        {0, 8, 0, "not where it should be"},
        {0, 8, 0xffffffff, "not where it should be"},
        {1, 8, 64, "not where it should be"},
        {0, 12, 0xffffffff, "not where it should be"},
        {2, 12, 34, "not where it should be"},
        {2, 12, 32, "checksum"},
        {1, 12, 1, "checksum"},
        {0, 20, 1, "not where it should be"},
        {1, 4, 0x00020000, "has section 1 twice"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        img = whole;
        put32(img.bytes + HEADER + bad[i].entry * ENTRY + bad[i].off, bad[i].value);
        seal(&img);
        const char *text = verdict(&img, &code);
        assert_non_null(text);
        assert_non_null(strstr(text, bad[i].sentence));
    }
}

static void a_large_section_is_refused(void **state)
{
    size_t len = HEADER + ENTRY + SNAP_SECTION_MAX_BYTES + 1;
    uint8_t *big = calloc(1, len);
    struct sm_error err = SM_ERROR_INIT;
    struct image img = written();
    struct snap_stream s;
    int fd = memory_file();

    memcpy(big, img.bytes, HEADER);
    put32(big + OFF_LEN, (uint32_t)len);
    put32(big + OFF_N, 1);
    put32(big + HEADER + 4, 0x00010000);
    put32(big + HEADER + 8, HEADER + ENTRY);
    put32(big + HEADER + 12, SNAP_SECTION_MAX_BYTES + 1);
    put32(big + HEADER + 16, crc32c(0, big + HEADER + ENTRY, SNAP_SECTION_MAX_BYTES + 1));
    put32(big + OFF_TABLE, crc32c(0, big + HEADER, ENTRY));
    put32(big + OFF_CRC, crc32c(0, big, OFF_CRC));
    assert_int_equal(write(fd, big, len), len);
    assert_int_equal(snap_file_read(&s, fd, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "a section of 262145 bytes"));
    assert_int_equal(ftruncate(fd, SNAP_STATE_MAX_BYTES + 1), 0);
    assert_int_equal(snap_file_read(&s, fd, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "at most 4 MiB"));
    close(fd);
    free(big);
}

static void other_kinds_of_files(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct snap_stream s;
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(snap_file_read(&s, fds[0], &err), -EBADMSG);
    assert_non_null(strstr(err.text, "not a file"));
    close(fds[0]);
    close(fds[1]);
    assert_int_equal(snap_file_read(&s, fds[0], &err), -EBADF);
}

static void writes_that_fail_are_told(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct snap_stream s;
    int fd = memory_file(), r = -1;

    save(&s);
    for (int at = 0; r != 0; at++) {
        file_faults = (struct file_faults){.fail_at = at, .error = at % 2 ? EIO : ENOSPC};
        r = snap_file_write(&s, fd, &err);
        assert_int_equal(r, at < 3 ? -file_faults.error : 0); /* header, table, sections */
        if (r < 0)
            assert_non_null(strstr(err.text, "cannot write the snapshot's state: "));
    }
    file_faults.fail_at = -1;
    snap_stream_clear(&s);
    close(fd);
}

static void short_writes_are_finished(void **state)
{
    const struct image whole = written();
    struct image img;

    file_faults.short_max = 7;
    img = written();
    file_faults.short_max = 0;
    assert_int_equal(img.len, whole.len);
    assert_memory_equal(img.bytes, whole.bytes, whole.len);
}

static void a_stream_with_an_error_is_not_written(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct snap_stream s;
    int fd = memory_file();

    save(&s);
    snap_fail(&s, EIO, "vCPU 3: no registers");
    assert_int_equal(snap_file_write(&s, fd, &err), -EIO);
    assert_string_equal(err.text, "vCPU 3: no registers");
    assert_int_equal(lseek(fd, 0, SEEK_END), 0);
    snap_stream_clear(&s);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_back),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(every_flipped_bit_is_refused),
        cmocka_unit_test(mismatches_are_named),
        cmocka_unit_test(hostile_with_right_checksums),
        cmocka_unit_test(a_large_section_is_refused),
        cmocka_unit_test(other_kinds_of_files),
        cmocka_unit_test(writes_that_fail_are_told),
        cmocka_unit_test(short_writes_are_finished),
        cmocka_unit_test(a_stream_with_an_error_is_not_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
