/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the KVM backend: what kvm.c and the file of the architecture share. */
#ifndef SM_HV_KVM_H
#define SM_HV_KVM_H

#include <stddef.h>
#include <stdint.h>

#include "hv/hv.h"

#define KVM_IOCTL_RETRIES 16 /* of calls that give up with EINTR or EAGAIN when a signal comes at the wrong time */

struct kvm_run;

struct hv_vm {
    int kvm_fd; /* the caller's */
    int fd;
    size_t run_size; /* bytes of a vCPU's shared page(s) */
    uint64_t address_limit;
    struct kvm_cpuid2 *cpuid; /* supported features; x86 only */
};

struct hv_vcpu {
    struct hv_vm *vm;
    int fd;
    unsigned index;
    struct kvm_run *run;
};

/* The architecture's part. */
int kvm_arch_vm_init(struct hv_vm *vm, struct sm_error *err); /* before memory and vCPUs */
void kvm_arch_vm_done(struct hv_vm *vm);
int kvm_arch_irqchip(struct hv_vm *vm, struct sm_error *err);
int kvm_arch_vcpu_setup(struct hv_vcpu *vcpu, const struct hv_boot *boot, struct sm_error *err);
uint64_t kvm_arch_vcpu_pc(struct hv_vcpu *vcpu);

/* ioctl that is repeated after EINTR and EAGAIN, a bounded number of times; >= 0 or -errno. */
int kvm_ioctl(int fd, unsigned long request, void *arg);

#endif
