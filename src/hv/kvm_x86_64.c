/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM backend, x86-64: CPUID, registers, interrupt controller.
 *
 * What a guest sees and how it starts is decided in src/arch; here it is only moved into KVM's structures.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#include "arch/layout_x86_64.h"
#include "arch/x86_boot_state.h"
#include "arch/x86_cpuid.h"
#include "base/checked.h"
#include "base/error.h"
#include "hv/kvm.h"

static int get_supported(struct hv_vm *vm, struct sm_error *err)
{
    vm->cpuid = calloc(1, sizeof(*vm->cpuid) + X86_CPUID_MAX * sizeof(vm->cpuid->entries[0]));
    if (!vm->cpuid)
        return sm_error_sys(err, ENOMEM, "cannot read the supported CPUID");
    vm->cpuid->nent = X86_CPUID_MAX;
    int r = kvm_ioctl(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, vm->cpuid);
    return r < 0 ? sm_error_sys(err, -r, "KVM does not tell which CPUID it supports") : 0;
}

/* Which MSRs are state: asked twice, first for their number. A KVM that does not tell has none that matter to us. */
static int get_msr_list(struct hv_vm *vm, struct sm_error *err)
{
    struct kvm_msr_list size = {.nmsrs = 0};
    int r = kvm_ioctl(vm->kvm_fd, KVM_GET_MSR_INDEX_LIST, &size);

    if (r < 0 && r != -E2BIG)
        return sm_error_sys(err, -r, "KVM does not tell which MSRs it keeps");
    if (size.nmsrs > KVM_MAX_MSRS)
        return sm_error_set(err, ENOTSUP, "this host's KVM keeps %u MSRs; at most %u are known how to save", size.nmsrs,
                            KVM_MAX_MSRS);
    struct kvm_msr_list *list = calloc(1, sizeof(*list) + size.nmsrs * sizeof(list->indices[0]));
    vm->msrs = calloc(size.nmsrs ? size.nmsrs : 1, sizeof(*vm->msrs));
    if (!list || !vm->msrs) {
        free(list);
        return sm_error_sys(err, ENOMEM, "cannot read the list of MSRs");
    }
    list->nmsrs = size.nmsrs;
    r = size.nmsrs ? kvm_ioctl(vm->kvm_fd, KVM_GET_MSR_INDEX_LIST, list) : 0;
    if (r >= 0) {
        vm->n_msrs = list->nmsrs < size.nmsrs ? list->nmsrs : size.nmsrs;
        memcpy(vm->msrs, list->indices, vm->n_msrs * sizeof(*vm->msrs));
    }
    free(list);
    return r < 0 ? sm_error_sys(err, -r, "KVM does not tell which MSRs it keeps") : 0;
}

/* KVM's entries in ours; returns how many. */
static unsigned from_kvm(const struct kvm_cpuid2 *in, struct x86_cpuid_entry *out)
{
    unsigned n = in->nent < X86_CPUID_MAX ? in->nent : X86_CPUID_MAX;

    for (unsigned i = 0; i < n; i++) {
        const struct kvm_cpuid_entry2 *e = &in->entries[i];

        out[i] = (struct x86_cpuid_entry){.leaf = e->function,
                                          .subleaf = e->index,
                                          .indexed = e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                                          .eax = e->eax,
                                          .ebx = e->ebx,
                                          .ecx = e->ecx,
                                          .edx = e->edx};
    }
    return n;
}

int kvm_arch_vm_init(struct hv_vm *vm, struct sm_error *err)
{
    struct x86_cpuid_entry entries[X86_CPUID_MAX];
    uint64_t identity = LAYOUT_KVM_IDENTITY;
    int r = get_supported(vm, err);

    if (r == 0)
        r = get_msr_list(vm, err);
    if (r < 0)
        return r;
    vm->tsc_deadline = kvm_ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, (void *)(uintptr_t)KVM_CAP_TSC_DEADLINE_TIMER) > 0;
    unsigned n = from_kvm(vm->cpuid, entries);
    vm->address_limit = 1ull << x86_cpuid_phys_bits(entries, n);
    /* Intel without "unrestricted guest" wants both; they cost nothing elsewhere. Before the first vCPU. */
    r = kvm_ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    if (r >= 0)
        r = kvm_ioctl(vm->fd, KVM_SET_TSS_ADDR, (void *)(uintptr_t)LAYOUT_KVM_TSS);
    return r < 0 ? sm_error_sys(err, -r, "KVM refuses the place of its own pages") : 0;
}

void kvm_arch_vm_done(struct hv_vm *vm)
{
    free(vm->cpuid);
    free(vm->msrs);
}

int kvm_arch_irqchip(struct hv_vm *vm, struct sm_error *err)
{
    /* PIC, I/O APIC and local APICs in the kernel; no PIT: clocks are the TSC deadline and kvm-clock. */
    int r = kvm_ioctl(vm->fd, KVM_CREATE_IRQCHIP, NULL);

    return r < 0 ? sm_error_sys(err, -r, "KVM cannot create its interrupt controllers") : 0;
}

unsigned kvm_x86_own_cpuid(const struct hv_vm *vm, struct x86_cpuid_entry *entries, unsigned apic_id, unsigned vcpus)
{
    const struct x86_cpuid_params params = {.apic_id = apic_id, .vcpus = vcpus, .tsc_deadline = vm->tsc_deadline};

    return x86_cpuid_filter(entries, from_kvm(vm->cpuid, entries), &params);
}

int kvm_x86_set_cpuid(struct hv_vcpu *vcpu, const struct x86_cpuid_entry *entries, unsigned n, struct sm_error *err)
{
    struct kvm_cpuid2 *out = calloc(1, sizeof(*out) + n * sizeof(out->entries[0]));
    struct x86_cpuid_entry *copy = calloc(n ? n : 1, sizeof(*copy));

    if (!out || !copy) {
        free(out);
        free(copy);
        return sm_error_sys(err, ENOMEM, "vCPU %u: cannot set CPUID", vcpu->index);
    }
    out->nent = n;
    for (unsigned i = 0; i < n; i++)
        out->entries[i] = (struct kvm_cpuid_entry2){.function = entries[i].leaf,
                                                    .index = entries[i].subleaf,
                                                    .flags = entries[i].indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
                                                    .eax = entries[i].eax,
                                                    .ebx = entries[i].ebx,
                                                    .ecx = entries[i].ecx,
                                                    .edx = entries[i].edx};
    int r = kvm_ioctl(vcpu->fd, KVM_SET_CPUID2, out);
    free(out);
    if (r < 0) {
        free(copy);
        return sm_error_sys(err, -r, "vCPU %u: KVM refuses the CPUID table", vcpu->index);
    }
    memcpy(copy, entries, n * sizeof(*copy));
    free(vcpu->cpuid);
    vcpu->cpuid = copy;
    vcpu->n_cpuid = n;
    return 0;
}

void kvm_arch_vcpu_done(struct hv_vcpu *vcpu)
{
    free(vcpu->cpuid);
}

static int set_msrs(struct hv_vcpu *vcpu, struct sm_error *err)
{
    union {
        struct kvm_msrs head;
        uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
    } one;

    /* One at a time: a set of several stops at the first that KVM does not know, and none of them is vital. */
    for (unsigned i = 0; i < X86_BOOT_MSRS; i++) {
        memset(&one, 0, sizeof(one));
        one.head.nmsrs = 1;
        one.head.entries[0].index = x86_boot_msrs[i].index;
        one.head.entries[0].data = x86_boot_msrs[i].value;
        int r = kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &one);
        if (r < 0)
            return sm_error_sys(err, -r, "vCPU %u: KVM refuses to set MSRs", vcpu->index);
    }
    return 0;
}

static struct kvm_segment segment(const struct x86_segment *s)
{
    return (struct kvm_segment){.base = s->base,
                                .limit = s->limit,
                                .selector = s->selector,
                                .type = s->type,
                                .present = s->present,
                                .db = s->db,
                                .s = s->s,
                                .g = s->g};
}

static int set_registers(struct hv_vcpu *vcpu, const struct hv_boot *boot, struct sm_error *err)
{
    struct x86_boot_state state = x86_boot_state_pvh(boot->entry, boot->info);
    struct kvm_regs regs = {.rip = state.rip, .rbx = state.rbx, .rflags = state.rflags};
    struct kvm_sregs sregs;
    int r = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs);

    if (r < 0)
        goto fail;
    sregs.cs = segment(&state.code);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment(&state.data);
    sregs.tr = segment(&state.tss);
    sregs.cr0 = state.cr0;
    sregs.cr4 = state.cr4;
    sregs.efer = state.efer;
    r = kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &sregs);
    if (r >= 0)
        r = kvm_ioctl(vcpu->fd, KVM_SET_REGS, &regs);
    if (r >= 0)
        return 0;
fail:
    return sm_error_sys(err, -r, "vCPU %u: KVM refuses the boot registers", vcpu->index);
}

int kvm_arch_vcpu_setup(struct hv_vcpu *vcpu, const struct hv_boot *boot, struct sm_error *err)
{
    struct x86_cpuid_entry entries[X86_CPUID_MAX];
    unsigned n = kvm_x86_own_cpuid(vcpu->vm, entries, boot->index, boot->vcpus);
    int r = kvm_x86_set_cpuid(vcpu, entries, n, err);

    if (r == 0)
        r = set_msrs(vcpu, err);
    /* The others stay in wait-for-SIPI, where the irqchip has put them. */
    if (r == 0 && boot->index == 0)
        r = set_registers(vcpu, boot, err);
    return r;
}

uint64_t kvm_arch_vcpu_pc(struct hv_vcpu *vcpu)
{
    struct kvm_regs regs;

    return kvm_ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0 ? 0 : regs.rip;
}
