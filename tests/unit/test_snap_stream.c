/* SPDX-License-Identifier: Apache-2.0 */
/* The stream that saves and loads: one function for both ways, errors that stick, limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "snap/crc32c.h"
#include "snap/stream.h"

#define TAG   SNAP_TAG('W', 'D', 'G', 'T')
#define PARTS 4

struct widget {
    uint8_t a;
    uint16_t b;
    uint32_t c;
    uint64_t d;
    bool on;
    uint8_t raw[5];
    uint32_t n;
    uint32_t part[PARTS];
    unsigned version; /* that was loaded */
};

static void widget_state(struct widget *w, struct snap_stream *s)
{
    snap_begin(s, TAG, 7, 2, "widget");
    w->version = snap_version(s);
    snap_u8(s, "a", &w->a);
    snap_u16(s, "b", &w->b);
    snap_u32(s, "c", &w->c);
    snap_check(s, w->c != 13, "c", "%u is unlucky", w->c);
    snap_u64(s, "d", &w->d);
    snap_bool(s, "on", &w->on);
    snap_bytes(s, "raw", w->raw, sizeof(w->raw));
    snap_count(s, "parts", &w->n, PARTS);
    for (uint32_t i = 0; i < w->n; i++)
        snap_u32(s, "part", &w->part[i]);
    snap_end(s);
}

static const struct widget example = {.a = 0x12,
                                      .b = 0x3456,
                                      .c = 0x789abcde,
                                      .d = 0x1122334455667788,
                                      .on = true,
                                      .raw = {1, 2, 3, 4, 5},
                                      .n = 2,
                                      .part = {77, 88}};

static const uint8_t encoded[] = {0x12, 0x56, 0x34, 0xde, 0xbc, 0x9a, 0x78, 0x88, 0x77, 0x66, 0x55,
                                  0x44, 0x33, 0x22, 0x11, 1,    1,    2,    3,    4,    5,    2,
                                  0,    0,    0,    77,   0,    0,    0,    88,   0,    0,    0};

/* Turn a saved stream into one for loading, with `len` bytes of it. */
static void turn(struct snap_stream *s, uint32_t len)
{
    assert_int_equal(snap_done(s, NULL), 0);
    s->loading = true;
    s->section[0].length = len;
}

static void saved(struct snap_stream *s)
{
    struct widget w = example;

    snap_stream_init(s);
    widget_state(&w, s);
}

static void bytes_are_little_endian_and_come_back(void **state)
{
    struct snap_stream s;
    struct widget w = {.version = 0};

    saved(&s);
    assert_int_equal(s.n_sections, 1);
    assert_int_equal(s.data.len, sizeof(encoded));
    assert_memory_equal(s.data.data, encoded, sizeof(encoded));
    assert_int_equal(s.section[0].length, sizeof(encoded));
    turn(&s, sizeof(encoded));
    assert_true(snap_has(&s, TAG, 7));
    assert_false(snap_has(&s, TAG, 8));
    widget_state(&w, &s);
    assert_int_equal(snap_done(&s, NULL), 0);
    assert_int_equal(w.version, 2);
    w.version = 0;
    assert_memory_equal(&w, &example, sizeof(w));
    snap_stream_clear(&s);
}

static void every_truncation_names_the_field(void **state)
{
    static const struct {
        uint32_t from;
        const char *field;
    } fields[] = {{0, "\"a\""},   {1, "\"b\""},    {3, "\"c\""},      {7, "\"d\""},
                  {15, "\"on\""}, {16, "\"raw\""}, {21, "\"parts\""}, {25, "\"part\""}};

    for (uint32_t len = 0; len < sizeof(encoded); len++) {
        struct sm_error err = SM_ERROR_INIT;
        struct widget w = example;
        struct snap_stream s;
        const char *field = "";

        for (size_t i = 0; i < ARRAY_SIZE(fields) && fields[i].from <= len; i++)
            field = fields[i].field;
        saved(&s);
        turn(&s, len);
        widget_state(&w, &s);
        assert_int_equal(snap_done(&s, &err), -EBADMSG);
        assert_non_null(strstr(err.text, "\"widget 7\""));
        assert_non_null(strstr(err.text, field));
        assert_true(w.n <= PARTS);
        snap_stream_clear(&s);
    }
}

static void longer_is_refused(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct snap_stream s;
    struct widget w;

    saved(&s);
    buf_u8(&s.data, 0);
    turn(&s, sizeof(encoded) + 1);
    widget_state(&w, &s);
    assert_int_equal(snap_done(&s, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "1 bytes more"));
    snap_stream_clear(&s);
}

/* Load with one byte changed; the sentence, or NULL when it was taken. */
static const char *load_with(uint32_t at, uint8_t value, struct widget *w)
{
    static struct sm_error err;
    struct snap_stream s;

    memset(&err, 0, sizeof(err));
    saved(&s);
    turn(&s, sizeof(encoded));
    s.data.data[at] = value;
    if (at == 3)
        memset(s.data.data + 4, 0, 3);
    widget_state(w, &s);
    int r = snap_done(&s, &err);
    snap_stream_clear(&s);
    return r < 0 ? err.text : NULL;
}

static void hostile_values_are_refused(void **state)
{
    struct widget w;

    assert_null(load_with(0, 99, &w));
    assert_int_equal(w.a, 99);
    assert_non_null(strstr(load_with(15, 2, &w), "2 is neither 0 nor 1"));
    assert_non_null(strstr(load_with(21, PARTS + 1, &w), "5 is over the limit of 4"));
    assert_int_equal(w.n, 0);
    assert_non_null(strstr(load_with(24, 0x80, &w), "over the limit"));
    assert_non_null(strstr(load_with(3, 13, &w), "field \"c\": 13 is unlucky"));
    assert_int_equal(w.d, 0); /* what follows an error is zero */
}

static void the_first_error_stays(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct snap_stream s;
    struct widget w = example;

    snap_stream_init(&s);
    snap_fail(&s, EIO, "no register %d", 5);
    snap_fail(&s, ENOMEM, "another");
    widget_state(&w, &s);
    assert_int_equal(snap_done(&s, &err), -EIO);
    assert_string_equal(err.text, "no register 5");
    assert_int_equal(s.data.len, 0);
    snap_stream_clear(&s);
    snap_stream_clear(&s);
}

static void missing_and_newer_sections(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct snap_stream s;
    struct widget w;

    saved(&s);
    turn(&s, sizeof(encoded));
    s.section[0].index = 6;
    widget_state(&w, &s);
    assert_int_equal(snap_done(&s, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "missing"));
    snap_stream_clear(&s);
    for (unsigned v = 0; v <= 3; v++) {
        saved(&s);
        turn(&s, sizeof(encoded));
        s.section[0].version = (uint16_t)v;
        widget_state(&w, &s);
        assert_int_equal(snap_done(&s, &err), v == 1 || v == 2 ? 0 : -EBADMSG);
        if (snap_ok(&s))
            assert_int_equal(w.version, v);
        else
            assert_non_null(strstr(err.text, "reads versions 1 to 2"));
        snap_stream_clear(&s);
    }
}

static void saving_has_limits(void **state)
{
    static uint8_t big[SNAP_SECTION_MAX_BYTES + 1];
    struct sm_error err = SM_ERROR_INIT;
    struct snap_stream s;

    snap_stream_init(&s);
    snap_begin(&s, TAG, 0, 1, "big");
    snap_bytes(&s, "bytes", big, sizeof(big));
    snap_end(&s);
    assert_int_equal(snap_done(&s, &err), -E2BIG);
    assert_non_null(strstr(err.text, "\"big 0\""));
    snap_stream_clear(&s);

    snap_stream_init(&s);
    for (unsigned i = 0; i <= SNAP_STATE_MAX_SECTIONS; i++) {
        snap_begin(&s, TAG, i, 1, "small");
        snap_end(&s);
        assert_int_equal(snap_done(&s, NULL), i < SNAP_STATE_MAX_SECTIONS ? 0 : -E2BIG);
    }
    snap_stream_clear(&s);

    snap_stream_init(&s);
    for (unsigned i = 0; i <= SNAP_STATE_MAX_BYTES / SNAP_SECTION_MAX_BYTES; i++) {
        snap_begin(&s, TAG, i, 1, "big");
        snap_bytes(&s, "bytes", big, sizeof(big) - 1);
        snap_end(&s);
    }
    assert_int_equal(snap_done(&s, &err), -E2BIG);
    assert_non_null(strstr(err.text, "over 4 MiB"));
    snap_stream_clear(&s);
}

static void checksum(void **state)
{
    uint8_t zeros[32] = {0}, ones[32], up[32];

    /* RFC 3720 appendix B.4. */
    memset(ones, 0xff, sizeof(ones));
    for (unsigned i = 0; i < sizeof(up); i++)
        up[i] = (uint8_t)i;
    assert_int_equal(crc32c(0, zeros, 32), 0x8a9136aa);
    assert_int_equal(crc32c(0, ones, 32), 0x62a8ab43);
    assert_int_equal(crc32c(0, up, 32), 0x46dd794e);
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    for (size_t cut = 0; cut <= 32; cut++)
        assert_int_equal(crc32c(crc32c(0, up, cut), up + cut, 32 - cut), 0x46dd794e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_little_endian_and_come_back),
        cmocka_unit_test(every_truncation_names_the_field),
        cmocka_unit_test(longer_is_refused),
        cmocka_unit_test(hostile_values_are_refused),
        cmocka_unit_test(the_first_error_stays),
        cmocka_unit_test(missing_and_newer_sections),
        cmocka_unit_test(saving_has_limits),
        cmocka_unit_test(checksum),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
