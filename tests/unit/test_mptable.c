/* SPDX-License-Identifier: Apache-2.0 */
/* MP table: read back as a kernel reads it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "base/buf.h"
#include "machine/mptable.h"

#define BASE 0x9fc00u

static uint8_t sum(const uint8_t *p, size_t n)
{
    uint8_t s = 0;

    while (n--)
        s = (uint8_t)(s + *p++);
    return s;
}

static void reads_back(void **state)
{
    for (unsigned vcpus = 1; vcpus <= MPTABLE_MAX_VCPUS; vcpus++) {
        uint8_t t[1024] = {0};
        int len = mptable_build(t, sizeof(t), BASE, vcpus);
        unsigned cpus = 0, boot = 0, buses = 0, ioapics = 0, lines = 0, locals = 0;
        uint32_t seen_irqs = 0;
        uint8_t ioapic_id = 0;

        assert_true(len > 16 + 44);
        assert_memory_equal(t, "_MP_", 4);
        assert_int_equal(sum(t, 16), 0);
        assert_int_equal(t[11], 0); /* no default configuration: the table counts */
        struct reader fp = reader_init(t + 4, 4);
        assert_int_equal(reader_u32(&fp), BASE + 16);

        const uint8_t *h = t + 16;
        assert_memory_equal(h, "PCMP", 4);
        unsigned total = h[4] | h[5] << 8, entries = h[34] | h[35] << 8;
        assert_int_equal(total, len - 16);
        assert_int_equal(sum(h, total), 0);
        assert_int_equal(h[36] | h[37] << 8 | h[38] << 16 | (uint32_t)h[39] << 24, 0xfee00000);

        const uint8_t *p = h + 44, *end = h + total;
        while (p < end) {
            entries--;
            switch (p[0]) {
            case 0:
                assert_int_equal(p[1], cpus++);
                assert_int_equal(p[3] & 1, 1);
                boot += !!(p[3] & 2);
                p += 20;
                continue;
            case 1:
                assert_memory_equal(p + 2, "ISA   ", 6);
                buses++;
                break;
            case 2:
                ioapic_id = p[1];
                assert_int_equal(p[3], 1);
                assert_int_equal(p[4] | p[5] << 8 | p[6] << 16 | (uint32_t)p[7] << 24, 0xfec00000);
                ioapics++;
                break;
            case 3:
                assert_int_equal(p[1], 0);         /* vectored */
                assert_int_equal(p[2] & 0xf, 0x5); /* edge, active high */
                assert_int_equal(p[5], p[7]);      /* 1:1 */
                assert_int_equal(p[6], ioapic_id);
                seen_irqs |= 1u << p[5];
                lines++;
                break;
            case 4:
                locals++;
                break;
            default:
                fail_msg("entry of type %d", p[0]);
            }
            p += 8;
        }
        assert_ptr_equal(p, end);
        assert_int_equal(entries, 0);
        assert_int_equal(cpus, vcpus);
        assert_int_equal(boot, 1);
        assert_int_equal(buses, 1);
        assert_int_equal(ioapics, 1);
        assert_int_equal(lines, 16);
        assert_int_equal(seen_irqs, 0xffff);
        assert_int_equal(locals, 2);
    }
}

static void refuses_what_does_not_fit(void **state)
{
    uint8_t t[1024];

    memset(t, 0x55, sizeof(t));
    assert_int_equal(mptable_build(t, sizeof(t), BASE, 0), -EINVAL);
    assert_int_equal(mptable_build(t, sizeof(t), BASE, MPTABLE_MAX_VCPUS + 1), -EINVAL);
    assert_int_equal(mptable_build(t, sizeof(t), 0x100000000, 1), -EINVAL);
    for (size_t size = 0; size < 240; size++)
        assert_int_equal(mptable_build(t, size, BASE, 1), -ENOSPC);
    for (size_t i = 0; i < sizeof(t); i++)
        assert_int_equal(t[i], 0x55);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_back),
        cmocka_unit_test(refuses_what_does_not_fit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
