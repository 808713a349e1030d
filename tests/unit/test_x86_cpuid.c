/* SPDX-License-Identifier: Apache-2.0 */
/* CPUID filter: what is hidden, what is shown, topology. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdint.h>
#include <string.h>

#include "arch/x86_cpuid.h"
#include "base/checked.h"

#define BIT(n) (1u << (n))

static struct x86_cpuid_entry table[X86_CPUID_MAX];
static unsigned n;

/* A host that supports everything: all bits set in every leaf there is. */
static void all_ones(void)
{
    static const uint32_t leaves[] = {0x1,        0x2,        0x5,        0x6,        0xa,        0x12,
                                      0x14,       0x15,       0x16,       0x40000001, 0x80000001, 0x80000007,
                                      0x8000000a, 0x8000001b, 0x8000001e, 0x8000001f, 0x80000022};
    static const uint32_t indexed[][2] = {{0x4, 0}, {0x4, 3}, {0x7, 0}, {0x7, 1},  {0xb, 0}, {0xb, 1},
                                          {0xd, 0}, {0xd, 1}, {0xd, 2}, {0xd, 17}, {0xd, 18}};

    n = 0;
    memset(table, 0, sizeof(table));
    table[n++] = (struct x86_cpuid_entry){.leaf = 0, .eax = 0x20, .ebx = 0x68747541};
    table[n++] = (struct x86_cpuid_entry){.leaf = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b};
    table[n++] = (struct x86_cpuid_entry){.leaf = 0x80000008, .eax = 0x3030, .ecx = ~0u};
    for (size_t i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++)
        table[n++] = (struct x86_cpuid_entry){.leaf = leaves[i], .eax = ~0u, .ebx = ~0u, .ecx = ~0u, .edx = ~0u};
    for (size_t i = 0; i < sizeof(indexed) / sizeof(indexed[0]); i++)
        table[n++] = (struct x86_cpuid_entry){.leaf = indexed[i][0],
                                              .subleaf = indexed[i][1],
                                              .indexed = true,
                                              .eax = ~0u,
                                              .ebx = ~0u,
                                              .ecx = ~0u,
                                              .edx = ~0u};
    /* Caches: level in EAX[7:5]. */
    x86_cpuid_find(table, n, 4, 0)->eax = 1u << 5 | 1 | 0xffffc000;
    x86_cpuid_find(table, n, 4, 3)->eax = 3u << 5 | 3 | 0xffffc000;
}

static struct x86_cpuid_entry *leaf(uint32_t l, uint32_t sub)
{
    return x86_cpuid_find(table, n, l, sub);
}

static void filter(uint32_t apic_id, uint32_t vcpus)
{
    const struct x86_cpuid_params p = {.apic_id = apic_id, .vcpus = vcpus, .tsc_deadline = true};

    all_ones();
    n = x86_cpuid_filter(table, n, &p);
}

static void hides_what_a_microvm_must_not_see(void **state)
{
    filter(0, 1);
    assert_int_equal(leaf(1, 0)->ecx & (BIT(3) | BIT(5) | BIT(6) | BIT(15)), 0); /* MONITOR, VMX, SMX, PDCM */
    assert_int_equal(leaf(1, 0)->edx & (BIT(21) | BIT(22)), 0);
    assert_int_equal(leaf(7, 0)->ebx & (BIT(2) | BIT(4) | BIT(11) | BIT(14)), 0); /* SGX, HLE, RTM, MPX */
    assert_int_equal(leaf(7, 0)->edx & (BIT(22) | BIT(24) | BIT(25)), 0);         /* AMX */
    assert_int_equal(leaf(0x80000001, 0)->ecx & (BIT(2) | BIT(10) | BIT(29)), 0); /* SVM, IBS, MWAITX */
    assert_int_equal(leaf(0xa, 0)->eax, 0);
    assert_int_equal(leaf(5, 0)->edx, 0);
    assert_int_equal(leaf(6, 0)->eax, BIT(2));
    assert_int_equal(leaf(0xd, 0)->eax & (BIT(3) | BIT(4) | BIT(17) | BIT(18)), 0);
    assert_int_equal(leaf(0x80000007, 0)->edx, BIT(8));
    assert_null(leaf(0xd, 17));
    assert_null(leaf(0x8000000a, 0));
    assert_null(leaf(0x8000001f, 0));
    assert_null(leaf(0x80000022, 0));
    for (uint32_t l = 0xe; l < 0x30; l++)
        assert_null(leaf(l, 0));
    assert_int_equal(leaf(0, 0)->eax, 0xd);
}

static void keeps_what_programs_use(void **state)
{
    filter(0, 1);
    assert_true(leaf(1, 0)->ecx & BIT(23));   /* POPCNT */
    assert_true(leaf(1, 0)->ecx & BIT(28));   /* AVX */
    assert_true(leaf(1, 0)->ecx & BIT(21));   /* x2APIC */
    assert_true(leaf(7, 0)->ebx & BIT(5));    /* AVX2 */
    assert_true(leaf(7, 0)->ebx & BIT(20));   /* SMAP */
    assert_int_equal(leaf(0xd, 2)->eax, ~0u); /* AVX state */
    assert_int_equal(leaf(0x40000001, 0)->eax, ~0u);
    assert_int_equal(leaf(0x40000000, 0)->ebx, 0x4b4d564b);
}

static void marks_the_hypervisor_and_its_timer(void **state)
{
    const struct x86_cpuid_params without = {.vcpus = 1, .tsc_deadline = false};

    filter(0, 1);
    assert_true(leaf(1, 0)->ecx & BIT(31));
    assert_true(leaf(1, 0)->ecx & BIT(24));
    all_ones();
    leaf(1, 0)->ecx = 0;
    n = x86_cpuid_filter(table, n, &without);
    assert_int_equal(leaf(1, 0)->ecx, BIT(31));
}

static void topology_of_each_vcpu(void **state)
{
    for (uint32_t vcpus = 1; vcpus <= 16; vcpus++) {
        uint32_t bits = 0;

        while ((1u << bits) < vcpus)
            bits++;
        for (uint32_t id = 0; id < vcpus; id++) {
            filter(id, vcpus);
            assert_int_equal(leaf(1, 0)->ebx >> 24, id);
            assert_int_equal(leaf(1, 0)->ebx >> 16 & 0xff, 1u << bits);
            assert_int_equal(!!(leaf(1, 0)->edx & BIT(28)), vcpus > 1);
            assert_int_equal(leaf(0xb, 0)->edx, id);
            assert_int_equal(leaf(0xb, 0)->eax, 0);
            assert_int_equal(leaf(0xb, 1)->eax, bits);
            assert_int_equal(leaf(0xb, 1)->ebx, vcpus);
            assert_int_equal(leaf(0xb, 2)->ecx >> 8, 0);
            assert_int_equal(leaf(0x8000001e, 0)->eax, id);
            assert_int_equal(leaf(0x80000008, 0)->ecx, bits << 12 | (vcpus - 1));
            assert_int_equal(leaf(4, 0)->eax >> 26, (1u << bits) - 1);
            assert_int_equal(leaf(4, 0)->eax >> 14 & 0xfff, 0);                /* first level: its own */
            assert_int_equal(leaf(4, 3)->eax >> 14 & 0xfff, (1u << bits) - 1); /* last level: all */
        }
    }
}

static void survives_odd_tables(void **state)
{
    const struct x86_cpuid_params p = {.vcpus = 2};

    assert_int_equal(x86_cpuid_filter(table, 0, &p), 0);
    /* A short host gets no leaf that it says it has not. */
    table[0] = (struct x86_cpuid_entry){.leaf = 0, .eax = 1};
    assert_int_equal(x86_cpuid_filter(table, 1, &p), 1);
    /* A full table leaves no room for topology. */
    for (unsigned i = 0; i < X86_CPUID_MAX; i++)
        table[i] = (struct x86_cpuid_entry){.leaf = i ? 2 : 0, .eax = 0xd};
    assert_int_equal(x86_cpuid_filter(table, X86_CPUID_MAX, &p), X86_CPUID_MAX);
}

static void physical_bits(void **state)
{
    struct x86_cpuid_entry e = {.leaf = 0x80000008, .eax = 0x3030};

    assert_int_equal(x86_cpuid_phys_bits(&e, 1), 48);
    e.eax = 40 << 16 | 48;
    assert_int_equal(x86_cpuid_phys_bits(&e, 1), 40);
    assert_int_equal(x86_cpuid_phys_bits(&e, 0), 36);
}

static void a_guest_moves_to_what_has_as_much(void **state)
{
    struct x86_cpuid_entry want[] = {
        {.leaf = 0, .ebx = 1, .ecx = 2, .edx = 3},
        {.leaf = 1, .ecx = 0xf0, .edx = 1u << 28 | 1},
        {.leaf = 7, .subleaf = 0, .indexed = true, .ebx = 0x10, .ecx = 1u << 4},
        {.leaf = 0x40000001, .eax = 0x1000},
        {.leaf = 0x80000008, .eax = 40},
    };
    struct x86_cpuid_entry have[ARRAY_SIZE(want)];
    struct x86_cpuid_misfit why;
    const unsigned n_want = ARRAY_SIZE(want);
    static const struct {
        unsigned entry;
        uint32_t missing;
        uint32_t leaf;
    } needed[] = {{1, 0x10, 1}, {2, 0x10, 7}, {3, 0x1000, 0x40000001}};

    assert_false(x86_cpuid_misfits(want, n_want, want, n_want, &why));
    memcpy(have, want, sizeof(have));
    have[1].ecx = UINT32_MAX; /* more is fine */
    have[1].edx = 1;          /* HTT is topology */
    have[2].ecx = 0;          /* OSPKE follows CR4 */
    have[4].eax = 46;
    assert_false(x86_cpuid_misfits(want, n_want, have, n_want, &why));
    for (unsigned i = 0; i < ARRAY_SIZE(needed); i++) {
        memcpy(have, want, sizeof(have));
        have[needed[i].entry].eax &= ~needed[i].missing;
        have[needed[i].entry].ebx &= ~needed[i].missing;
        have[needed[i].entry].ecx &= ~needed[i].missing;
        assert_true(x86_cpuid_misfits(want, n_want, have, n_want, &why));
        assert_int_equal(why.leaf, needed[i].leaf);
        assert_int_equal(why.bits, needed[i].missing);
        assert_true(x86_cpuid_misfits(want, n_want, have, needed[i].entry, &why)); /* no such leaf at all */
    }
    memcpy(have, want, sizeof(have));
    have[4].eax = 39;
    assert_true(x86_cpuid_misfits(want, n_want, have, n_want, &why));
    assert_string_equal(why.what, "physical address bits");
    have[0].edx = 4;
    assert_true(x86_cpuid_misfits(want, n_want, have, n_want, &why));
    assert_string_equal(why.what, "the maker's name");
    assert_string_equal(why.reg, "EDX");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hides_what_a_microvm_must_not_see),
        cmocka_unit_test(keeps_what_programs_use),
        cmocka_unit_test(marks_the_hypervisor_and_its_timer),
        cmocka_unit_test(topology_of_each_vcpu),
        cmocka_unit_test(survives_odd_tables),
        cmocka_unit_test(physical_bits),
        cmocka_unit_test(a_guest_moves_to_what_has_as_much),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
