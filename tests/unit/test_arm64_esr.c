/* SPDX-License-Identifier: Apache-2.0 */
/* arm64 data aborts: syndrome fields and register effects. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdint.h>

#include "arch/arm64_esr.h"

#define ABORT (0x24ull << 26)
#define ISV   (1ull << 24)

static uint64_t esr(unsigned sas, unsigned srt, unsigned sse, unsigned sf, unsigned wnr)
{
    return ABORT | ISV | (uint64_t)sas << 22 | (uint64_t)sse << 21 | (uint64_t)srt << 16 | (uint64_t)sf << 15 |
           (uint64_t)wnr << 6;
}

static void every_field(void **state)
{
    for (unsigned sas = 0; sas < 4; sas++)
        for (unsigned srt = 0; srt < 32; srt++)
            for (unsigned bits = 0; bits < 8; bits++) {
                struct arm64_mmio m = arm64_mmio_decode(esr(sas, srt, bits & 1, bits >> 1 & 1, bits >> 2));

                assert_true(m.valid);
                assert_int_equal(m.len, 1u << sas);
                assert_int_equal(m.reg, srt);
                assert_int_equal(m.sign_extend, bits & 1);
                assert_int_equal(m.wide, bits >> 1 & 1);
                assert_int_equal(m.write, bits >> 2);
            }
}

static void without_a_syndrome_nothing_is_believed(void **state)
{
    struct arm64_mmio m = arm64_mmio_decode(ABORT | 3ull << 22 | 5ull << 16 | 1ull << 6);

    assert_false(m.valid);
    assert_true(m.write);
    assert_int_equal(m.reg, ARM64_REG_ZERO);
    /* An instruction abort, a trapped register, and so on. */
    for (uint64_t ec = 0; ec < 64; ec++)
        if (ec != 0x24)
            assert_false(arm64_mmio_decode(ec << 26 | ISV).valid);
}

static void loads(void **state)
{
    const struct {
        unsigned sas, sse, sf;
        uint64_t bus, reg;
    } cases[] = {
        {0, 0, 0, 0xffffffffffffff80, 0x80},
        {0, 1, 0, 0x80, 0xffffff80},
        {0, 1, 1, 0x80, 0xffffffffffffff80},
        {0, 1, 1, 0x7f, 0x7f},
        {1, 1, 1, 0x8000, 0xffffffffffff8000},
        {1, 1, 0, 0x8000, 0xffff8000},
        {2, 0, 0, 0x1234567889abcdef, 0x89abcdef},
        {2, 1, 1, 0x89abcdef, 0xffffffff89abcdef},
        {3, 0, 1, 0x1234567889abcdef, 0x1234567889abcdef},
        {3, 1, 1, 0x8000000000000000, 0x8000000000000000},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct arm64_mmio m = arm64_mmio_decode(esr(cases[i].sas, 3, cases[i].sse, cases[i].sf, 0));

        assert_int_equal(arm64_mmio_loaded(&m, cases[i].bus), cases[i].reg);
    }
}

static void stores(void **state)
{
    struct arm64_mmio half = arm64_mmio_decode(esr(1, 7, 0, 0, 1));
    struct arm64_mmio zero = arm64_mmio_decode(esr(3, ARM64_REG_ZERO, 0, 1, 1));
    struct arm64_mmio whole = arm64_mmio_decode(esr(3, 0, 0, 1, 1));

    assert_int_equal(arm64_mmio_stored(&half, 0x12345678), 0x5678);
    assert_int_equal(arm64_mmio_stored(&zero, 0x12345678), 0);
    assert_int_equal(arm64_mmio_stored(&whole, UINT64_MAX), UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field),
        cmocka_unit_test(without_a_syndrome_nothing_is_believed),
        cmocka_unit_test(loads),
        cmocka_unit_test(stores),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
