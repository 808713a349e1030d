/* SPDX-License-Identifier: Apache-2.0 */
/* Buses: who answers, and what nobody answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdint.h>

#include "machine/bus.h"

struct seen {
    uint64_t off, value;
    unsigned len, reads, writes;
};

static uint64_t seen_read(void *ctx, uint64_t off, unsigned len)
{
    struct seen *s = ctx;

    s->off = off;
    s->len = len;
    s->reads++;
    return 0xaabbccddeeff0011;
}

static void seen_write(void *ctx, uint64_t off, unsigned len, uint64_t value)
{
    struct seen *s = ctx;

    s->off = off;
    s->len = len;
    s->value = value;
    s->writes++;
}

static const struct bus_ops ops = {"test", seen_read, seen_write};

static void finds_the_owner(void **state)
{
    struct bus bus = {.n = 0};
    struct seen a = {0}, b = {0};
    uint64_t v;

    assert_int_equal(bus_add(&bus, 0x2000, 0x100, &ops, &b, NULL), 0);
    assert_int_equal(bus_add(&bus, 0x1000, 0x1000, &ops, &a, NULL), 0); /* sorted in before it */
    assert_true(bus_read(&bus, 0x1ffc, 4, &v));
    assert_int_equal(a.off, 0xffc);
    assert_int_equal(v, 0xeeff0011);
    assert_true(bus_write(&bus, 0x2000, 2, 0x12345678));
    assert_int_equal(b.value, 0x5678);
    assert_int_equal(b.off, 0);
    assert_true(bus_read(&bus, 0x1000, 8, &v));
    assert_int_equal(v, 0xaabbccddeeff0011);
    assert_int_equal(a.len, 8);
}

static void nobody_answers(void **state)
{
    struct bus bus = {.n = 0};
    struct seen a = {0}, b = {0};
    uint64_t v = 0;

    assert_int_equal(bus_add(&bus, 0x1000, 0x10, &ops, &a, NULL), 0);
    assert_int_equal(bus_add(&bus, 0x1010, 0x10, &ops, &b, NULL), 0);
    assert_false(bus_read(&bus, 0xfff, 1, &v));
    assert_int_equal(v, 0xff);
    assert_false(bus_read(&bus, 0xffe, 4, &v)); /* half in front */
    assert_int_equal(v, 0xffffffff);
    assert_false(bus_read(&bus, 0x101e, 4, &v)); /* half behind */
    assert_false(bus_read(&bus, 0x100e, 4, &v)); /* over two devices */
    assert_false(bus_read(&bus, UINT64_MAX, 8, &v));
    assert_true(v == UINT64_MAX);
    assert_false(bus_write(&bus, 0x1020, 1, 1));
    assert_int_equal(a.reads + a.writes + b.reads + b.writes, 0);
}

static void refuses_overlaps(void **state)
{
    struct bus bus = {.n = 0};

    assert_int_equal(bus_add(&bus, 0x1000, 0x10, &ops, NULL, NULL), 0);
    assert_int_equal(bus_add(&bus, 0x1000, 0x10, &ops, NULL, NULL), -EINVAL);
    assert_int_equal(bus_add(&bus, 0x100f, 1, &ops, NULL, NULL), -EINVAL);
    assert_int_equal(bus_add(&bus, 0xff1, 0x10, &ops, NULL, NULL), -EINVAL);
    assert_int_equal(bus_add(&bus, 0x800, 0x1000, &ops, NULL, NULL), -EINVAL);
    assert_int_equal(bus_add(&bus, 0x5000, 0, &ops, NULL, NULL), -EINVAL);
    assert_int_equal(bus_add(&bus, UINT64_MAX, 2, &ops, NULL, NULL), -EINVAL);
    assert_int_equal(bus_add(&bus, 0xff0, 0x10, &ops, NULL, NULL), 0);
    assert_int_equal(bus_add(&bus, 0x1010, 0x10, &ops, NULL, NULL), 0);
    for (unsigned i = bus.n; i < BUS_MAX_RANGES; i++)
        assert_int_equal(bus_add(&bus, 0x10000 * i, 1, &ops, NULL, NULL), 0);
    assert_int_equal(bus_add(&bus, 0x10000000, 1, &ops, NULL, NULL), -ENOSPC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_the_owner),
        cmocka_unit_test(nobody_answers),
        cmocka_unit_test(refuses_overlaps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
