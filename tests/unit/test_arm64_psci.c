/* SPDX-License-Identifier: Apache-2.0 */
/* PSCI 1.0 decisions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdint.h>

#include "arch/arm64_psci.h"

static struct psci_decision call(uint64_t fn, uint64_t a, uint64_t b, uint64_t c)
{
    const struct psci_call pc = {.x = {fn, a, b, c}, .on = 0x5, .vcpus = 4}; /* 0 and 2 run */

    return psci_decide(&pc);
}

static int64_t value(uint64_t fn, uint64_t a, uint64_t b)
{
    struct psci_decision d = call(fn, a, b, 0);

    assert_int_equal(d.action, PSCI_RETURN);
    return d.result;
}

static void version_and_features(void **state)
{
    static const uint32_t have[] = {0x84000000, 0x84000002, 0x84000003, 0xc4000003, 0x84000004,
                                    0xc4000004, 0x84000008, 0x84000009, 0x8400000a};

    assert_int_equal(value(0x84000000, 0, 0), 0x10000);
    for (size_t i = 0; i < sizeof(have) / sizeof(have[0]); i++)
        assert_int_equal(value(0x8400000a, have[i], 0), 0);
    assert_int_equal(value(0x8400000a, 0x84000001, 0), -1); /* CPU_SUSPEND */
    assert_int_equal(value(0x8400000a, 0x84000012, 0), -1); /* SYSTEM_RESET2 */
}

static void anything_else_is_not_supported(void **state)
{
    assert_int_equal(value(0x84000001, 0, 0), -1);
    assert_int_equal(value(0, 0, 0), -1);
    assert_int_equal(value(0x80000000, 0, 0), -1);
    assert_int_equal(value(0xffffffff, 0, 0), -1);
}

static void cpu_on(void **state)
{
    struct psci_decision d = call(0xc4000003, 1, 0x4000000012345678, 0xfeedfacecafebeef);

    assert_int_equal(d.action, PSCI_CPU_ON);
    assert_int_equal(d.result, 0);
    assert_int_equal(d.target, 1);
    assert_int_equal(d.entry, 0x4000000012345678);
    assert_int_equal(d.context, 0xfeedfacecafebeef);
    /* The 32-bit call sees the low halves only. */
    d = call(0x84000003, 0xffffffff00000003, 0x4000000012345678, 0xfeedfacecafebeef);
    assert_int_equal(d.action, PSCI_CPU_ON);
    assert_int_equal(d.target, 3);
    assert_int_equal(d.entry, 0x12345678);
    assert_int_equal(d.context, 0xcafebeef);
    assert_int_equal(value(0xc4000003, 2, 0), -4);           /* already on */
    assert_int_equal(value(0xc4000003, 0, 0), -4);           /* itself */
    assert_int_equal(value(0xc4000003, 4, 0), -2);           /* no such vCPU */
    assert_int_equal(value(0xc4000003, 0x100, 0), -2);       /* Aff1 */
    assert_int_equal(value(0xc4000003, 0x100000001, 0), -2); /* Aff3 */
}

static void affinity_info(void **state)
{
    assert_int_equal(value(0xc4000004, 0, 0), 0);
    assert_int_equal(value(0xc4000004, 1, 0), 1);
    assert_int_equal(value(0x84000004, 2, 0), 0);
    assert_int_equal(value(0xc4000004, 4, 0), -2);
    assert_int_equal(value(0xc4000004, 0, 1), -2);
}

static void power(void **state)
{
    assert_int_equal(call(0x84000002, 0, 0, 0).action, PSCI_CPU_OFF);
    assert_int_equal(call(0x84000008, 0, 0, 0).action, PSCI_OFF);
    assert_int_equal(call(0x84000009, 0, 0, 0).action, PSCI_RESET);
    assert_int_equal(ARM64_SECONDARY_CPSR, 0x3c5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_and_features),
        cmocka_unit_test(anything_else_is_not_supported),
        cmocka_unit_test(cpu_on),
        cmocka_unit_test(affinity_info),
        cmocka_unit_test(power),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
