/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the KVM backend: what kvm.c and the file of the architecture share. */
#ifndef SM_HV_KVM_H
#define SM_HV_KVM_H

#include <stddef.h>
#include <stdint.h>

#include "arch/x86_cpuid.h"
#include "hv/hv.h"

#define KVM_MAX_MSRS      1024u /* that KVM keeps for a vCPU; it has about 150 */
#define KVM_IOCTL_RETRIES 16    /* of calls that give up with EINTR or EAGAIN when a signal comes at the wrong time */

struct kvm_run;

struct hv_vm {
    int kvm_fd; /* the caller's */
    int fd;
    size_t run_size; /* bytes of a vCPU's shared page(s) */
    uint64_t address_limit;
    /* x86 only. */
    struct kvm_cpuid2 *cpuid; /* supported features */
    bool tsc_deadline;        /* the APIC timer has that mode */
    uint32_t *msrs;           /* that make up a vCPU's state, by KVM's own list */
    uint32_t n_msrs;
    uint64_t tsc_delta; /* a restored VM: from the host's TSC of now to that of the snapshot, modulo 2^64 */
};

struct hv_vcpu {
    struct hv_vm *vm;
    int fd;
    unsigned index;
    struct kvm_run *run;
    int stats_fd;                      /* -1: not asked for, or not to be had */
    uint64_t stat_at[HV_MAX_COUNTERS]; /* kvm_stats.c's */
    /* x86 only: what the guest was given. */
    struct x86_cpuid_entry *cpuid;
    unsigned n_cpuid;
    struct {
        uint64_t deadline; /* 0: none was taken away */
        bool vector;       /* it was masked */
        bool counts;       /* a one-shot timer was running then */
    } timer;               /* x86: from masking to unmasking */
};

/* The architecture's part. */
int kvm_arch_vm_init(struct hv_vm *vm, struct sm_error *err); /* before memory and vCPUs */
void kvm_arch_vm_done(struct hv_vm *vm);
int kvm_arch_irqchip(struct hv_vm *vm, struct sm_error *err);
int kvm_arch_vcpu_setup(struct hv_vcpu *vcpu, const struct hv_boot *boot, struct sm_error *err);
uint64_t kvm_arch_vcpu_pc(struct hv_vcpu *vcpu);
void kvm_arch_vcpu_done(struct hv_vcpu *vcpu);
void kvm_arch_vm_state(struct hv_vm *vm, struct snap_stream *s);
void kvm_arch_vcpu_state(struct hv_vcpu *vcpu, struct snap_stream *s);
int kvm_arch_vcpu_mask_timer(struct hv_vcpu *vcpu, bool masked, struct sm_error *err);
int kvm_arch_vcpu_idle(struct hv_vcpu *vcpu, struct sm_error *err);
extern const unsigned long kvm_arch_state_requests[];

/* kvm_stats.c */
void kvm_vcpu_count(struct hv_vcpu *vcpu);
unsigned kvm_vcpu_counters(struct hv_vcpu *vcpu, struct hv_counter ret[HV_MAX_COUNTERS]);
void kvm_stats_done(struct hv_vcpu *vcpu);

/* x86: the table of a vCPU made here, with room for X86_CPUID_MAX; returns how many. */
unsigned kvm_x86_own_cpuid(const struct hv_vm *vm, struct x86_cpuid_entry *entries, unsigned apic_id, unsigned vcpus);
/* x86: give it to the vCPU, and remember it. */
int kvm_x86_set_cpuid(struct hv_vcpu *vcpu, const struct x86_cpuid_entry *entries, unsigned n, struct sm_error *err);

/* ioctl that is repeated after EINTR and EAGAIN, a bounded number of times; >= 0 or -errno. */
int kvm_ioctl(int fd, unsigned long request, void *arg);

#endif
