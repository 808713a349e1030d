/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUID filter (Intel SDM vol. 2A CPUID, AMD APM vol. 3 appendix E).
 *
 * Theory of operation
 *
 * Input is what the hypervisor can virtualise on this host; nothing is ever added that it did not offer, but for
 * the hypervisor mark, the TSC deadline (offered apart by KVM) and topology. What goes out falls into four groups:
 * power and thermal control, debugging and performance counters, virtualisation itself, and features whose state is too
 * large or too broken to offer (TSX, AMX, SGX, MPX). The hypervisor's own leaves (0x40000000..) stay as they are: they
 * tell the guest of kvm-clock and the rest.
 *
 * One table of masks does the hiding; topology leaves are written by code below it. APIC id n is core n, one thread a
 * core, one package, one last-level cache.
 */
#include "arch/x86_cpuid.h"

#include <stddef.h>
#include <string.h>

#include "base/checked.h"

/* The last basic leaf that is shown: those above are SGX, tracing, resource control, AMX: all hidden. */
#define MAX_BASIC_LEAF 0xdu
#define EXTENDED_BASE  0x80000000u
#define ANY_SUBLEAF    UINT32_MAX

#define BIT(n) (1u << (n))

enum reg { EAX, EBX, ECX, EDX };

struct mask {
    uint32_t leaf, subleaf;
    enum reg reg;
    uint32_t clear, set;
};

static const struct mask masks[] = {
    /* DTES64, MONITOR, DS-CPL, VMX, SMX, EST, TM2, PDCM, DCA, OSXSAVE (KVM follows CR4 by itself); set: hypervisor */
    {0x1, ANY_SUBLEAF, ECX, BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(15) | BIT(18) | BIT(27),
     BIT(31)},
    /* DS, ACPI thermal control, TM, PBE */
    {0x1, ANY_SUBLEAF, EDX, BIT(21) | BIT(22) | BIT(29) | BIT(31), 0},
    /* MONITOR's own leaf */
    {0x5, ANY_SUBLEAF, EAX, ~0u, 0},
    {0x5, ANY_SUBLEAF, EBX, ~0u, 0},
    {0x5, ANY_SUBLEAF, ECX, ~0u, 0},
    {0x5, ANY_SUBLEAF, EDX, ~0u, 0},
    /* Power: only ARAT stays (the APIC timer never stops; without it Linux wants a PIT, which is not there) */
    {0x6, ANY_SUBLEAF, EAX, ~BIT(2), BIT(2)},
    {0x6, ANY_SUBLEAF, EBX, ~0u, 0},
    {0x6, ANY_SUBLEAF, ECX, ~0u, 0},
    {0x6, ANY_SUBLEAF, EDX, ~0u, 0},
    /* SGX, HLE, RTM, PQM, MPX, PQE, PT */
    {0x7, 0, EBX, BIT(2) | BIT(4) | BIT(11) | BIT(12) | BIT(14) | BIT(15) | BIT(25), 0},
    /* WAITPKG, SGX launch control */
    {0x7, 0, ECX, BIT(5) | BIT(30), 0},
    /* RTM_ALWAYS_ABORT, TSX_FORCE_ABORT, PCONFIG, ARCH_LBR, AMX-BF16, AMX-TILE, AMX-INT8 */
    {0x7, 0, EDX, BIT(11) | BIT(13) | BIT(18) | BIT(19) | BIT(22) | BIT(24) | BIT(25), 0},
    /* AMX-FP16; AMX-COMPLEX, AVX10 (its leaf is above the last) */
    {0x7, 1, EAX, BIT(21), 0},
    {0x7, 1, EDX, BIT(8) | BIT(19), 0},
    /* Performance counters: none */
    {0xa, ANY_SUBLEAF, EAX, ~0u, 0},
    {0xa, ANY_SUBLEAF, EBX, ~0u, 0},
    {0xa, ANY_SUBLEAF, ECX, ~0u, 0},
    {0xa, ANY_SUBLEAF, EDX, ~0u, 0},
    /* XCR0 without MPX (3, 4) and AMX (17, 18) */
    {0xd, 0, EAX, BIT(3) | BIT(4) | BIT(17) | BIT(18), 0},
    /* SVM, IBS, SKINIT, WDT, LWP, performance counters (core, NB, L3), MWAITX */
    {0x80000001, ANY_SUBLEAF, ECX,
     BIT(2) | BIT(10) | BIT(12) | BIT(13) | BIT(15) | BIT(23) | BIT(24) | BIT(28) | BIT(29), 0},
    /* Core performance boost, effective frequency, hardware P-states: only the invariant TSC stays */
    {0x80000007, ANY_SUBLEAF, EDX, ~BIT(8), 0},
};

/* Extended leaves that are hidden whole: SVM, IBS, LWP, SEV, resource control, performance counters. */
static const uint32_t hidden_extended[] = {0x8000000a, 0x8000001b, 0x8000001c, 0x8000001f, 0x80000020, 0x80000022};

static uint32_t *reg_of(struct x86_cpuid_entry *e, enum reg reg)
{
    switch (reg) {
    case EAX:
        return &e->eax;
    case EBX:
        return &e->ebx;
    case ECX:
        return &e->ecx;
    case EDX:
        break;
    }
    return &e->edx;
}

/* Bits that number `n` things, n >= 1. */
static uint32_t log2_up(uint32_t n)
{
    uint32_t bits = 0;

    while ((1u << bits) < n)
        bits++;
    return bits;
}

static bool is_hidden(const struct x86_cpuid_entry *e)
{
    if (e->leaf > MAX_BASIC_LEAF && e->leaf < 0x40000000)
        return true;
    /* Written anew below. */
    if (e->leaf == 0xb)
        return true;
    /* Sizes of state that XCR0 no longer has. */
    if (e->leaf == 0xd && (e->subleaf == 3 || e->subleaf == 4 || e->subleaf == 17 || e->subleaf == 18))
        return true;
    for (size_t i = 0; i < ARRAY_SIZE(hidden_extended); i++)
        if (e->leaf == hidden_extended[i])
            return true;
    return false;
}

/* How many threads share a cache: its own core, or all for the last level. */
static void share_cache(struct x86_cpuid_entry *e, uint32_t vcpus)
{
    uint32_t level = (e->eax >> 5) & 7;
    uint32_t sharing = level >= 3 ? (1u << log2_up(vcpus)) - 1 : 0;

    e->eax = (e->eax & ~(0xfffu << 14)) | sharing << 14;
}

static void set_topology(struct x86_cpuid_entry *e, const struct x86_cpuid_params *p)
{
    uint32_t bits = log2_up(p->vcpus);

    switch (e->leaf) {
    case 0x1:
        e->ebx = (e->ebx & 0x0000ffff) | (1u << bits) << 16 | p->apic_id << 24;
        e->edx = p->vcpus > 1 ? e->edx | BIT(28) : e->edx & ~BIT(28);
        if (p->tsc_deadline)
            e->ecx |= BIT(24);
        break;
    case 0x4: /* type 0 ends the list */
        if ((e->eax & 0x1f) == 0)
            break;
        share_cache(e, p->vcpus);
        e->eax = (e->eax & 0x03ffffff) | ((1u << bits) - 1) << 26;
        break;
    case 0x80000001: /* CmpLegacy: the logical processors are cores */
        e->ecx = p->vcpus > 1 ? e->ecx | BIT(1) : e->ecx & ~BIT(1);
        break;
    case 0x80000008:
        e->ecx = bits << 12 | (p->vcpus - 1);
        break;
    case 0x8000001d:
        if (e->eax & 0x1f)
            share_cache(e, p->vcpus);
        break;
    case 0x8000001e:
        e->eax = p->apic_id;
        e->ebx = p->apic_id & 0xff;
        e->ecx = 0;
        break;
    default:
        break;
    }
}

/* Leaf 0xb: one thread a core, all cores in one package, then the end. */
static unsigned add_extended_topology(struct x86_cpuid_entry *entries, unsigned n, const struct x86_cpuid_params *p)
{
    const struct x86_cpuid_entry levels[] = {
        {.leaf = 0xb, .subleaf = 0, .indexed = true, .eax = 0, .ebx = 1, .ecx = 0x100, .edx = p->apic_id},
        {.leaf = 0xb,
         .subleaf = 1,
         .indexed = true,
         .eax = log2_up(p->vcpus),
         .ebx = p->vcpus,
         .ecx = 0x201,
         .edx = p->apic_id},
        {.leaf = 0xb, .subleaf = 2, .indexed = true, .ecx = 2, .edx = p->apic_id},
    };

    if (n + ARRAY_SIZE(levels) > X86_CPUID_MAX)
        return n;
    memcpy(&entries[n], levels, sizeof(levels));
    return n + (unsigned)ARRAY_SIZE(levels);
}

unsigned x86_cpuid_filter(struct x86_cpuid_entry *entries, unsigned n, const struct x86_cpuid_params *params)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < n; i++)
        if (!is_hidden(&entries[i]))
            entries[kept++] = entries[i];
    n = kept;
    for (unsigned i = 0; i < n; i++) {
        struct x86_cpuid_entry *e = &entries[i];

        for (size_t m = 0; m < ARRAY_SIZE(masks); m++) {
            if (masks[m].leaf != e->leaf || (masks[m].subleaf != ANY_SUBLEAF && masks[m].subleaf != e->subleaf))
                continue;
            uint32_t *reg = reg_of(e, masks[m].reg);
            *reg = (*reg & ~masks[m].clear) | masks[m].set;
        }
        set_topology(e, params);
    }
    struct x86_cpuid_entry *first = x86_cpuid_find(entries, n, 0, 0);
    if (!first)
        return n;
    if (first->eax > MAX_BASIC_LEAF)
        first->eax = MAX_BASIC_LEAF;
    return first->eax >= 0xb ? add_extended_topology(entries, n, params) : n;
}

struct x86_cpuid_entry *x86_cpuid_find(struct x86_cpuid_entry *entries, unsigned n, uint32_t leaf, uint32_t subleaf)
{
    for (unsigned i = 0; i < n; i++)
        if (entries[i].leaf == leaf && (!entries[i].indexed || entries[i].subleaf == subleaf))
            return &entries[i];
    return NULL;
}

unsigned x86_cpuid_phys_bits(struct x86_cpuid_entry *entries, unsigned n)
{
    const struct x86_cpuid_entry *e = x86_cpuid_find(entries, n, EXTENDED_BASE + 8, 0);
    unsigned bits = e ? e->eax & 0xff : 0;

    /* A host that reserves physical bits says here how many a guest really has (APM vol. 3, 8000_0008 EAX[23:16]). */
    unsigned guest = e ? (e->eax >> 16) & 0xff : 0;
    if (guest && guest < bits)
        bits = guest;
    return bits ? bits : 36;
}

/* Where features are, one bit each. `ignore`: what follows CR4 (OSXSAVE, OSPKE) or topology (HTT, CmpLegacy). */
static const struct feature_word {
    uint32_t leaf, subleaf;
    enum reg reg;
    uint32_t ignore;
} feature_words[] = {
    {0x1, 0, ECX, BIT(27)},
    {0x1, 0, EDX, BIT(28)},
    {0x6, 0, EAX, 0},
    {0x7, 0, EBX, 0},
    {0x7, 0, ECX, BIT(4)},
    {0x7, 0, EDX, 0},
    {0x7, 1, EAX, 0},
    {0x7, 1, EDX, 0},
    {0xd, 0, EAX, 0},
    {0xd, 0, EDX, 0},
    {0xd, 1, EAX, 0},
    {0x40000001, 0, EAX, 0},
    {EXTENDED_BASE + 1, 0, ECX, BIT(1)},
    {EXTENDED_BASE + 1, 0, EDX, 0},
    {EXTENDED_BASE + 7, 0, EDX, 0},
    {EXTENDED_BASE + 8, 0, EBX, 0},
    {EXTENDED_BASE + 0x21, 0, EAX, 0},
};

static const char *const reg_names[] = {[EAX] = "EAX", [EBX] = "EBX", [ECX] = "ECX", [EDX] = "EDX"};

static uint32_t word_of(struct x86_cpuid_entry *entries, unsigned n, uint32_t leaf, uint32_t subleaf, enum reg reg)
{
    struct x86_cpuid_entry *e = x86_cpuid_find(entries, n, leaf, subleaf);

    return e ? *reg_of(e, reg) : 0;
}

bool x86_cpuid_misfits(struct x86_cpuid_entry *want, unsigned n_want, struct x86_cpuid_entry *have, unsigned n_have,
                       struct x86_cpuid_misfit *ret)
{
    for (enum reg reg = EBX; reg <= EDX; reg++) {
        uint32_t maker = word_of(want, n_want, 0, 0, reg);

        if (maker != word_of(have, n_have, 0, 0, reg)) {
            *ret = (struct x86_cpuid_misfit){"the maker's name", 0, 0, reg_names[reg], maker};
            return true;
        }
    }
    for (size_t i = 0; i < ARRAY_SIZE(feature_words); i++) {
        const struct feature_word *f = &feature_words[i];
        uint32_t missing = word_of(want, n_want, f->leaf, f->subleaf, f->reg) &
                           ~word_of(have, n_have, f->leaf, f->subleaf, f->reg) & ~f->ignore;

        if (missing) {
            *ret = (struct x86_cpuid_misfit){"features", f->leaf, f->subleaf, reg_names[f->reg], missing};
            return true;
        }
    }
    if (x86_cpuid_phys_bits(want, n_want) > x86_cpuid_phys_bits(have, n_have)) {
        *ret = (struct x86_cpuid_misfit){"physical address bits", EXTENDED_BASE + 8, 0, "EAX",
                                         x86_cpuid_phys_bits(want, n_want)};
        return true;
    }
    return false;
}
