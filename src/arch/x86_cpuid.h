/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest may know of the processor: the CPUID table, made from what the hypervisor supports. Pure. */
#ifndef SM_ARCH_X86_CPUID_H
#define SM_ARCH_X86_CPUID_H

#include <stdbool.h>
#include <stdint.h>

#define X86_CPUID_MAX 256 /* entries */

struct x86_cpuid_entry {
    uint32_t leaf, subleaf;
    bool indexed; /* subleaf matters */
    uint32_t eax, ebx, ecx, edx;
};

struct x86_cpuid_params {
    uint32_t apic_id;  /* of the vCPU this table is for: 0 .. vcpus - 1 */
    uint32_t vcpus;    /* all in one package, one thread a core */
    bool tsc_deadline; /* the hypervisor's APIC timer has the TSC deadline mode */
};

/*
 * Turn the supported table into the one vCPU's, in place: hide what a microVM must not see, mark the hypervisor,
 * describe the topology. `n` entries of room for X86_CPUID_MAX; returns the new number.
 */
unsigned x86_cpuid_filter(struct x86_cpuid_entry *entries, unsigned n, const struct x86_cpuid_params *params);

/* The entry for a leaf (and subleaf, where those matter), or NULL. */
struct x86_cpuid_entry *x86_cpuid_find(struct x86_cpuid_entry *entries, unsigned n, uint32_t leaf, uint32_t subleaf);

struct x86_cpuid_misfit {
    const char *what;
    uint32_t leaf, subleaf;
    const char *reg;
    uint32_t bits; /* wanted, and not there */
};

/*
 * Can a guest that was given the table `want` run where a guest would be given `have`? True when not: *ret says why.
 * Features only; sizes of caches and topology may differ, and the guest keeps what it knows.
 */
bool x86_cpuid_misfits(struct x86_cpuid_entry *want, unsigned n_want, struct x86_cpuid_entry *have, unsigned n_have,
                       struct x86_cpuid_misfit *ret);

/* Bits of a guest-physical address; 36 when the table does not say. */
unsigned x86_cpuid_phys_bits(struct x86_cpuid_entry *entries, unsigned n);

#endif
