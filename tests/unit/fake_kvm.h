/* SPDX-License-Identifier: Apache-2.0 */
/* A KVM in the place of ioctl(2) that keeps the state it is given and tells it again: for test_kvm_state.c. */
#ifndef SM_TESTS_FAKE_KVM_H
#define SM_TESTS_FAKE_KVM_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#define RUN_SIZE           8192
#define KVM_FD             1000
#define MSRS               300
#define MSR_AT(i)          (0x1000u + (i)) /* but the two below */
#define MSR_TSC_PLACE      5
#define MSR_DEADLINE_PLACE 6
#define MSR_TSC            0x10u
#define MSR_DEADLINE       0x6e0u
#define LOG_MAX            256

/* One machine's worth of KVM. */
struct machine_state {
    struct kvm_mp_state mp;
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;
    struct kvm_xcrs xcrs;
    uint8_t xsave[4096];
    struct kvm_debugregs debug;
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events;
    uint64_t msr[MSRS];
    uint64_t tsc_offset;
    struct kvm_irqchip chip[3];
    uint64_t clock;
};

struct fake_kvm {
    struct machine_state m;
    unsigned long fail; /* this request fails with `error` */
    int error;
    uint32_t msr_absent, msr_fixed; /* not there; there, but it can't be written */
    uint32_t n_listed;
    bool no_offset, no_host_tsc, can_scale;
    int tsc_khz;
    uint32_t set_khz;
    uint64_t host_tsc;
    uint32_t features; /* leaf 7 EBX of the host */
    int memory;
    struct kvm_run *run;
    unsigned long log[LOG_MAX];
    unsigned n_log;
    uint32_t msr_order[2 * MSRS];
    unsigned n_msr_order, n_cpuid_sets;
    unsigned levels;
    int stats; /* file in the place of a vCPU's statistics; 0: this KVM has none */
};

extern struct fake_kvm kvm;

/* For cmocka: an empty one. */
int fake_kvm_setup(void **state);
int fake_kvm_teardown(void **state);

/* Something else in every byte that is state; what a guest could have. */
void fake_kvm_fill(struct machine_state *m);

#endif
