/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of reading an archive that need no process: frames, the table of contents, names. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/checked.h"
#include "base/io.h"
#include "oci/archive_files.h"
#include "oci/archive_frames.h"
#include "oci/limits.h"
#include "oci/load_names.h"
#include "oci_fixture.h"

/* Frames */

static int log_file(void *ctx, const char *name, uint64_t size, struct sm_error *err)
{
    struct buf *log = ctx;
    char text[200];

    snprintf(text, sizeof(text), "file %s %llu;", name, (unsigned long long)size);
    buf_bytes(log, text, strlen(text));
    return strcmp(name, "refuse") ? 0 : sm_error_set(err, EPERM, "the sink refuses");
}

static int log_data(void *ctx, const void *data, size_t len, struct sm_error *err)
{
    buf_bytes(ctx, data, len);
    return 0;
}

static int log_end(void *ctx, struct sm_error *err)
{
    buf_bytes(ctx, ";end;", 5);
    return 0;
}

static int log_link(void *ctx, const char *name, const char *target, bool hard, struct sm_error *err)
{
    char text[200];

    snprintf(text, sizeof(text), "link %s %s %d;", name, target, hard);
    buf_bytes(ctx, text, strlen(text));
    return 0;
}

/* Given in pieces of `step` bytes. */
static int feed(const struct buf *bytes, size_t step, struct buf *log, struct sm_error *err)
{
    const struct archive_sink sink = {log_file, log_data, log_end, log_link, log};
    struct frames f = {.sink = &sink};
    uint8_t *buf = malloc(FRAME_BUF_SIZE);
    size_t have = 0, at = 0;
    ssize_t used = 0;

    *err = (struct sm_error)SM_ERROR_INIT;
    while (at < bytes->len && used >= 0) {
        size_t n = bytes->len - at < step ? bytes->len - at : step;

        n = n < FRAME_BUF_SIZE - have ? n : FRAME_BUF_SIZE - have;
        assert_true(n > 0);
        memcpy(buf + have, bytes->data + at, n);
        have += n;
        at += n;
        used = frames_take(&f, buf, have, err);
        if (used > 0) {
            have -= (size_t)used;
            memmove(buf, buf + used, have);
        }
    }
    free(buf);
    return used < 0 ? (int)used : frames_end(&f, have, err);
}

static struct buf sent(int (*send)(int fd))
{
    struct buf b = buf_init(4 * MIB);
    uint8_t *data = malloc(4 * MIB);
    int fd = memory_file("", 0);
    ssize_t n;

    assert_int_equal(send(fd), 0);
    n = io_pread_full(fd, data, 4 * MIB, 0);
    buf_bytes(&b, data, (size_t)n);
    free(data);
    close(fd);
    return b;
}

static int send_good(int fd)
{
    int r = frames_send_file(fd, "a/b", 11);

    r = r ? r : frames_send_data(fd, "hello ", 6);
    r = r ? r : frames_send_data(fd, "world", 5);
    r = r ? r : frames_send_end(fd);
    r = r ? r : frames_send_link(fd, "l", "../x", false);
    r = r ? r : frames_send_file(fd, "", 0);
    r = r ? r : frames_send_end(fd);
    return r ? r : frames_send_link(fd, "m", "y", true);
}

static void test_frames(void **state)
{
    static const char want[] = "file a/b 11;hello world;end;link l ../x 0;file  0;;end;link m y 1;";
    struct buf bytes = sent(send_good);
    struct sm_error err;

    for (size_t step = 1; step <= bytes.len; step++) {
        struct buf log = buf_init(MIB);

        assert_int_equal(feed(&bytes, step, &log, &err), 0);
        assert_int_equal(log.len, strlen(want));
        assert_memory_equal(log.data, want, log.len);
        buf_done(&log);
    }
    for (size_t len = 1; len < bytes.len; len++) { /* it ends early, between frames or in one */
        struct buf log = buf_init(MIB), cut = {.data = bytes.data, .len = len};
        int r = feed(&cut, FRAME_BUF_SIZE, &log, &err);

        assert_true(!r || r == -EPROTO);
        buf_done(&log);
    }
    buf_done(&bytes);
}

static int send_large(int fd)
{
    uint8_t *data = calloc(1, 2 * FRAME_MAX + 1);
    int r = frames_send_file(fd, "x", 2 * FRAME_MAX + 1);

    r = r ? r : frames_send_data(fd, data, 2 * FRAME_MAX + 1);
    free(data);
    return r ? r : frames_send_end(fd);
}

static void test_large_data(void **state)
{
    struct buf bytes = sent(send_large), log = buf_init(MIB);
    struct sm_error err;

    assert_int_equal(feed(&bytes, 1000, &log, &err), 0);
    assert_true(log.len > 2 * FRAME_MAX);
    buf_done(&bytes);
    buf_done(&log);
}

static void put(struct buf *b, uint32_t kind, const struct buf *body)
{
    buf_u32(b, kind);
    buf_u32(b, (uint32_t)body->len);
    buf_bytes(b, body->data, body->len);
}

static void put_file(struct buf *b, const char *name, uint64_t size)
{
    struct buf body = buf_init(MIB);

    buf_u64(&body, size);
    buf_str(&body, name);
    put(b, 1, &body);
    buf_done(&body);
}

static void put_text(struct buf *b, uint32_t kind, const char *text)
{
    struct buf body = {.data = (uint8_t *)(uintptr_t)text, .len = strlen(text)};

    put(b, kind, &body);
}

/* What a process that was taken over might say. */
static void test_lies(void **state)
{
    for (int i = 0; i < 12; i++) {
        struct buf b = buf_init(4 * MIB), log = buf_init(4 * MIB);
        struct sm_error err;

        switch (i) {
        case 0: /* data without a file */
            put_text(&b, 2, "x");
            break;
        case 1: /* more than was promised */
            put_file(&b, "x", 3);
            put_text(&b, 2, "1234");
            break;
        case 2: /* less */
            put_file(&b, "x", 3);
            put_text(&b, 2, "12");
            put_text(&b, 3, "");
            break;
        case 3: /* a file in a file */
            put_file(&b, "x", 3);
            put_file(&b, "y", 3);
            break;
        case 4: /* an end of nothing */
            put_text(&b, 3, "");
            break;
        case 5: /* unknown */
            put_text(&b, 99, "");
            break;
        case 6: /* a frame too large, of which nothing came */
            buf_u32(&b, 2);
            buf_u32(&b, FRAME_MAX + 1);
            break;
        case 7: /* bytes behind what a frame needs */
            put_text(&b, 1, "12345678\1\0\0\0xyy");
            break;
        case 8: /* a link in a file */
            put_file(&b, "x", 3);
            buf_u32(&b, 4);
            buf_u32(&b, 11);
            buf_u8(&b, 0);
            buf_str(&b, "a");
            buf_str(&b, "b");
            break;
        case 9: /* empty data */
            put_file(&b, "x", 3);
            put_text(&b, 2, "");
            break;
        case 10: /* a name with a zero in it */
            buf_u32(&b, 1);
            buf_u32(&b, 15);
            buf_u64(&b, 0);
            buf_u32(&b, 3);
            buf_bytes(&b, "a\0b", 3);
            break;
        default: { /* a name too long */
            char *name = calloc(1, OCI_PATH_MAX + 2);

            memset(name, 'n', OCI_PATH_MAX + 1);
            put_file(&b, name, 0);
            free(name);
        }
        }
        if (feed(&b, FRAME_BUF_SIZE, &log, &err) != -EPROTO)
            fail_msg("%d was believed", i);
        buf_done(&b);
        buf_done(&log);
    }
}

static void test_frame_limits(void **state)
{
    struct buf b = buf_init(16 * MIB), log = buf_init(64 * MIB);
    struct sm_error err;
    char *name = calloc(1, OCI_PATH_MAX + 1);

    put_file(&b, "x", OCI_ARCHIVE_MAX_BYTES + 1);
    assert_int_equal(feed(&b, 4096, &log, &err), -EFBIG);
    b.len = 0;
    put_file(&b, "refuse", 0);
    assert_int_equal(feed(&b, 4096, &log, &err), -EPERM);
    b.len = 0;
    for (unsigned i = 0; i <= OCI_ARCHIVE_MAX_ENTRIES; i++) {
        put_file(&b, "x", 0);
        put_text(&b, 3, "");
    }
    assert_int_equal(feed(&b, 4096, &log, &err), -E2BIG);
    assert_non_null(strstr(err.text, "more than 65536 files"));
    b.len = 0;
    memset(name, 'n', OCI_PATH_MAX);
    for (unsigned i = 0; i < 1000; i++) {
        put_file(&b, name, 0);
        put_text(&b, 3, "");
    }
    assert_false(b.bad);
    assert_int_equal(feed(&b, 4096, &log, &err), 0);
    free(name);
    buf_done(&b);
    buf_done(&log);
}

/* The table of contents */

static struct archive_file file_of(const char *content)
{
    return (struct archive_file){.digest = digest_of_buf(content, strlen(content)), .size = strlen(content)};
}

static void add(struct archive_files *f, const char *name, const char *content)
{
    struct archive_file file = file_of(content);

    assert_int_equal(files_add(f, name, &file, NULL), 0);
}

static void test_files(void **state)
{
    struct archive_files f = {.n = 0};
    struct digest one = digest_of_buf("1", 1), none = digest_of_buf("none", 4);

    add(&f, "z", "1");
    add(&f, "./a//b/./c", "2");
    add(&f, "a/b.json", "3");
    add(&f, "z", "1"); /* the same again */
    assert_int_equal(files_add_link(&f, "x/layer.tar", "../z", false, NULL), 0);
    assert_int_equal(files_add_link(&f, "x/hard", "x/layer.tar", true, NULL), 0);
    assert_int_equal(files_add_link(&f, "x/hard", "./x//layer.tar", true, NULL), 0);
    assert_int_equal(files_add_link(&f, "loop", "loop", false, NULL), 0);
    assert_int_equal(files_add_link(&f, "dangling", "nothing", false, NULL), 0);
    assert_int_equal(files_seal(&f, NULL), 0);
    assert_int_equal(f.n, 7);
    assert_string_equal(files_find(&f, "a/b/c")->name, "a/b/c");
    assert_string_equal(files_find(&f, "./a/b//c")->name, "a/b/c");
    assert_string_equal(files_find(&f, "x/layer.tar")->name, "z");
    assert_string_equal(files_find(&f, "x/hard")->name, "z");
    assert_string_equal(files_find(&f, "x/../z")->name, "z");
    assert_null(files_find(&f, "loop"));
    assert_null(files_find(&f, "dangling"));
    assert_null(files_find(&f, "a/b"));
    assert_null(files_find(&f, "/z"));
    assert_null(files_find(&f, "../z"));
    assert_null(files_find(&f, ""));
    assert_string_equal(files_by_digest(&f, &one)->name, "z");
    assert_null(files_by_digest(&f, &none));
    files_done(&f);
    assert_int_equal(files_seal(&f, NULL), 0);
    assert_null(files_find(&f, "z"));
    assert_null(files_by_digest(&f, &one));
    files_done(&f);
}

static void test_many_files(void **state)
{
    struct archive_files f = {.n = 0};
    char name[16], content[32];

    for (unsigned i = 0; i < 5000; i++) {
        snprintf(name, sizeof(name), "%u", i * 7919 % 5000);
        snprintf(content, sizeof(content), "content %s", name);
        add(&f, name, content);
    }
    assert_int_equal(files_seal(&f, NULL), 0);
    for (unsigned i = 0; i < 5000; i++) {
        struct archive_file file;

        snprintf(name, sizeof(name), "%u", i);
        snprintf(content, sizeof(content), "content %s", name);
        file = file_of(content);
        assert_string_equal(files_by_digest(&f, &file.digest)->name, name);
        assert_true(digest_equal(&files_find(&f, name)->digest, &file.digest));
    }
    files_done(&f);
}

static void test_bad_files(void **state)
{
    static const char *const names[] = {"", ".", "./", "/a", "..", "../a", "a/../../b", "a/../.."};
    struct archive_files f = {.n = 0};
    struct archive_file file = file_of("x");
    char hex[DIGEST_HEX_SIZE], name[100];
    struct sm_error err;

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (files_add(&f, names[i], &file, NULL) != -EBADMSG)
            fail_msg("accepted: \"%s\"", names[i]);
        assert_int_equal(files_add_link(&f, names[i], "x", false, NULL), -EBADMSG);
    }
    assert_int_equal(files_add_link(&f, "a/l", "../../x", false, NULL), -EBADMSG);
    assert_int_equal(files_add_link(&f, "a/l", "/x", false, NULL), -EBADMSG);
    assert_int_equal(files_add_link(&f, "a/l", "../x", true, NULL), -EBADMSG);
    assert_int_equal(f.n, 0);

    add(&f, "twice", "1");
    add(&f, "./twice", "2");
    assert_int_equal(files_seal(&f, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "\"twice\" is there twice"));
    files_done(&f);
    add(&f, "twice", "1");
    assert_int_equal(files_add_link(&f, "twice", "x", false, NULL), 0);
    assert_int_equal(files_seal(&f, NULL), -EBADMSG);
    files_done(&f);

    digest_hex(&file.digest, hex);
    snprintf(name, sizeof(name), "blobs/sha256/%s", hex);
    assert_int_equal(files_add(&f, name, &file, NULL), 0);
    assert_int_equal(files_seal(&f, NULL), 0);
    files_done(&f);
    name[20] ^= 1;
    assert_int_equal(files_add(&f, name, &file, NULL), 0);
    assert_int_equal(files_seal(&f, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "damaged or was tampered with"));
    files_done(&f);
}

static void test_forms(void **state)
{
    assert_int_equal(form_of((const uint8_t *)"\x1f\x8b\x08\x00", 4), FORM_GZIP);
    assert_int_equal(form_of((const uint8_t *)"\x28\xb5\x2f\xfd", 4), FORM_ZSTD);
    assert_int_equal(form_of((const uint8_t *)"\x28\xb5\x2f", 3), FORM_PLAIN);
    assert_int_equal(form_of((const uint8_t *)"etc/", 4), FORM_PLAIN);
    assert_int_equal(form_of((const uint8_t *)"", 0), FORM_PLAIN);
}

/* Names */

static void test_matches(void **state)
{
    static const struct {
        const char *written, *wanted;
        bool matches;
    } cases[] = {
        {"x:1", "x:1", true},
        {"docker.io/library/x:1", "x:1", true},
        {"x:1", "docker.io/library/x:1", true},
        {"x:1", "1", true},
        {"1", "1", true},
        {"host:5000/x", "5000/x", false},
        {"host:5000/x", "x", false},
        {"x:1", "x", false},
        {"x:latest", "x", true},
        {"x:1", "y:1", false},
        {"not a name", "not a name", true},
        {"not a name", "x", false},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        if (load_name_matches(cases[i].written, cases[i].wanted) != cases[i].matches)
            fail_msg("%s, %s", cases[i].written, cases[i].wanted);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames),       cmocka_unit_test(test_large_data), cmocka_unit_test(test_lies),
        cmocka_unit_test(test_frame_limits), cmocka_unit_test(test_files),      cmocka_unit_test(test_many_files),
        cmocka_unit_test(test_bad_files),    cmocka_unit_test(test_forms),      cmocka_unit_test(test_matches),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
