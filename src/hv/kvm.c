/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM backend, the part that is the same on every architecture (Linux Documentation/virt/kvm/api.rst).
 *
 * Theory of operation
 *
 * The device arrives open; capabilities are checked in one table before anything is made. Each vCPU has one shared
 * mapping, struct kvm_run; its `immediate_exit` byte closes the race between a kick's signal and entering the guest:
 * the kicker sets it first, so that a signal which came too early still keeps the next KVM_RUN from entering.
 * Memory that KVM maps stays the caller's and must outlive the VM.
 */
#include "hv/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/error.h"

struct kvm_need {
    int cap;
    int at_least;
    const char *name;
};

static const struct kvm_need needs[] = {
    {KVM_CAP_USER_MEMORY, 1, "KVM_CAP_USER_MEMORY"},   {KVM_CAP_NR_MEMSLOTS, 4, "KVM_CAP_NR_MEMSLOTS"},
    {KVM_CAP_MP_STATE, 1, "KVM_CAP_MP_STATE"},         {KVM_CAP_IRQFD, 1, "KVM_CAP_IRQFD"},
    {KVM_CAP_IOEVENTFD, 1, "KVM_CAP_IOEVENTFD"},       {KVM_CAP_IMMEDIATE_EXIT, 1, "KVM_CAP_IMMEDIATE_EXIT"},
#ifdef __x86_64__
    {KVM_CAP_IRQCHIP, 1, "KVM_CAP_IRQCHIP"},           {KVM_CAP_EXT_CPUID, 1, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_SET_TSS_ADDR, 1, "KVM_CAP_SET_TSS_ADDR"}, {KVM_CAP_ADJUST_CLOCK, 1, "KVM_CAP_ADJUST_CLOCK"},
#endif
};

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
    int r = -1;

    for (int i = 0; i < KVM_IOCTL_RETRIES; i++) {
        r = ioctl(fd, request, arg);
        if (r >= 0 || (errno != EINTR && errno != EAGAIN))
            break;
    }
    return r >= 0 ? r : -errno;
}

static int check_kvm(int fd, struct sm_error *err)
{
    int version = kvm_ioctl(fd, KVM_GET_API_VERSION, NULL);

    if (version < 0)
        return sm_error_sys(err, -version, "the descriptor given as /dev/kvm does not answer as KVM");
    if (version != KVM_API_VERSION)
        return sm_error_set(err, ENOTSUP, "/dev/kvm speaks API version %d; version %d is needed", version,
                            KVM_API_VERSION);
    for (size_t i = 0; i < ARRAY_SIZE(needs); i++)
        if (kvm_ioctl(fd, KVM_CHECK_EXTENSION, (void *)(uintptr_t)needs[i].cap) < needs[i].at_least)
            return sm_error_set(err, ENOTSUP, "this host's KVM lacks %s, which supermachine needs; use a newer kernel",
                                needs[i].name);
    return 0;
}

static void vm_free(struct hv_vm *vm)
{
    if (!vm)
        return;
    kvm_arch_vm_done(vm);
    if (vm->fd >= 0)
        close(vm->fd);
    free(vm);
}

static int vm_new(struct hv_vm **ret, int fd, struct sm_error *err)
{
    int r = check_kvm(fd, err);

    if (r < 0)
        return r;
    struct hv_vm *vm = calloc(1, sizeof(*vm));
    if (!vm)
        return sm_error_sys(err, ENOMEM, "cannot make a VM");
    vm->kvm_fd = fd;
    vm->fd = kvm_ioctl(fd, KVM_CREATE_VM, NULL);
    if (vm->fd < 0) {
        r = sm_error_sys(err, -vm->fd, "KVM cannot create a VM");
        goto fail;
    }
    int size = kvm_ioctl(fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (size < (int)sizeof(struct kvm_run)) {
        r = sm_error_set(err, EIO, "KVM tells no sensible size of a vCPU's shared memory (%d)", size);
        goto fail;
    }
    vm->run_size = (size_t)size;
    r = kvm_arch_vm_init(vm, err);
    if (r < 0)
        goto fail;
    *ret = vm;
    return 0;
fail:
    vm_free(vm);
    return r;
}

static int vm_map(struct hv_vm *vm, unsigned slot, uint64_t gpa, uint64_t size, void *host, struct sm_error *err)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)host};
    int r = kvm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);

    if (r < 0)
        return sm_error_sys(err, -r, "KVM cannot map %llu MiB of guest memory", (unsigned long long)(size / MIB));
    return 0;
}

static int vm_irqchip(struct hv_vm *vm, struct sm_error *err)
{
    return kvm_arch_irqchip(vm, err);
}

static int vm_irqfd(struct hv_vm *vm, unsigned irq, int fd, struct sm_error *err)
{
    struct kvm_irqfd irqfd = {.fd = (uint32_t)fd, .gsi = irq};
    int r = kvm_ioctl(vm->fd, KVM_IRQFD, &irqfd);

    return r < 0 ? sm_error_sys(err, -r, "KVM cannot bind interrupt %u", irq) : 0;
}

static int vm_irq(struct hv_vm *vm, unsigned irq, struct sm_error *err)
{
    struct kvm_irq_level line = {.irq = irq, .level = 1};
    int r = kvm_ioctl(vm->fd, KVM_IRQ_LINE, &line);

    line.level = 0;
    if (r >= 0)
        r = kvm_ioctl(vm->fd, KVM_IRQ_LINE, &line);
    return r < 0 ? sm_error_sys(err, -r, "KVM cannot raise interrupt %u", irq) : 0;
}

static int vm_ioeventfd(struct hv_vm *vm, uint64_t gpa, unsigned len, uint64_t match, int fd, struct sm_error *err)
{
    struct kvm_ioeventfd io = {
        .datamatch = match, .addr = gpa, .len = len, .fd = fd, .flags = KVM_IOEVENTFD_FLAG_DATAMATCH};
    int r = kvm_ioctl(vm->fd, KVM_IOEVENTFD, &io);

    return r < 0 ? sm_error_sys(err, -r, "KVM cannot bind the doorbell at 0x%llx", (unsigned long long)gpa) : 0;
}

static uint64_t vm_address_limit(const struct hv_vm *vm)
{
    return vm->address_limit;
}

static void vcpu_free(struct hv_vcpu *vcpu)
{
    if (!vcpu)
        return;
    if (vcpu->run)
        munmap(vcpu->run, vcpu->vm->run_size);
    if (vcpu->fd >= 0)
        close(vcpu->fd);
    kvm_stats_done(vcpu);
    kvm_arch_vcpu_done(vcpu);
    free(vcpu);
}

static int vcpu_new(struct hv_vcpu **ret, struct hv_vm *vm, unsigned index, struct sm_error *err)
{
    struct hv_vcpu *vcpu = calloc(1, sizeof(*vcpu));
    int r;

    if (!vcpu)
        return sm_error_sys(err, ENOMEM, "cannot make vCPU %u", index);
    vcpu->vm = vm;
    vcpu->index = index;
    vcpu->stats_fd = -1;
    vcpu->fd = kvm_ioctl(vm->fd, KVM_CREATE_VCPU, (void *)(uintptr_t)index);
    if (vcpu->fd < 0) {
        r = sm_error_sys(err, -vcpu->fd, "KVM cannot create vCPU %u", index);
        goto fail;
    }
    void *run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (run == MAP_FAILED) {
        r = sm_error_sys(err, errno, "cannot map the shared memory of vCPU %u", index);
        goto fail;
    }
    vcpu->run = run;
    *ret = vcpu;
    return 0;
fail:
    vcpu_free(vcpu);
    return r;
}

static int vcpu_setup(struct hv_vcpu *vcpu, const struct hv_boot *boot, struct sm_error *err)
{
    return kvm_arch_vcpu_setup(vcpu, boot, err);
}

static int run_failed(struct hv_vcpu *vcpu, int code, struct sm_error *err)
{
    return sm_error_sys(err, code, "vCPU %u: KVM_RUN failed at 0x%llx", vcpu->index,
                        (unsigned long long)kvm_arch_vcpu_pc(vcpu));
}

/* The exits that end the guest without its wish. */
static void explain(struct hv_vcpu *vcpu, struct sm_error *err)
{
    const struct kvm_run *run = vcpu->run;
    unsigned long long pc = kvm_arch_vcpu_pc(vcpu);

    if (run->exit_reason == KVM_EXIT_FAIL_ENTRY)
        sm_error_set(err, EIO, "vCPU %u: the processor refused to enter the guest at 0x%llx (hardware reason 0x%llx)",
                     vcpu->index, pc, (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
    else if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR && run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
        sm_error_set(err, EIO, "vCPU %u: KVM could not emulate the instruction at 0x%llx", vcpu->index, pc);
    else if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
        sm_error_set(err, EIO, "vCPU %u: KVM reports internal error %u at 0x%llx", vcpu->index, run->internal.suberror,
                     pc);
    else
        sm_error_set(err, EIO, "vCPU %u: KVM reports exit %u at 0x%llx, which is not expected", vcpu->index,
                     run->exit_reason, pc);
}

static int vcpu_run(struct hv_vcpu *vcpu, struct hv_exit *ret, struct sm_error *err)
{
    struct kvm_run *run = vcpu->run;

    ret->kind = HV_EXIT_KICKED;
    if (ioctl(vcpu->fd, KVM_RUN, NULL) < 0)
        return errno == EINTR || errno == EAGAIN ? 0 : run_failed(vcpu, errno, err);
    switch (run->exit_reason) {
    case KVM_EXIT_MMIO:
        *ret = (struct hv_exit){.kind = run->mmio.is_write ? HV_EXIT_MMIO_WRITE : HV_EXIT_MMIO_READ,
                                .addr = run->mmio.phys_addr,
                                .len = run->mmio.len,
                                .count = 1,
                                .data = run->mmio.data};
        break;
    case KVM_EXIT_IO:
        *ret = (struct hv_exit){.kind = run->io.direction == KVM_EXIT_IO_OUT ? HV_EXIT_PIO_WRITE : HV_EXIT_PIO_READ,
                                .addr = run->io.port,
                                .len = run->io.size,
                                .count = run->io.count,
                                .data = (uint8_t *)run + run->io.data_offset};
        break;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        break;
    case KVM_EXIT_HLT:
        ret->kind = HV_EXIT_HALT;
        break;
    case KVM_EXIT_SHUTDOWN:
        ret->kind = HV_EXIT_SHUTDOWN;
        break;
    case KVM_EXIT_SYSTEM_EVENT:
        if (run->system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN) {
            ret->kind = HV_EXIT_POWER_OFF;
            break;
        }
        if (run->system_event.type == KVM_SYSTEM_EVENT_RESET) {
            ret->kind = HV_EXIT_RESET;
            break;
        }
        __attribute__((fallthrough));
    default:
        ret->kind = HV_EXIT_OTHER;
        explain(vcpu, err);
        break;
    }
    return 0;
}

static void vcpu_kick(struct hv_vcpu *vcpu, pthread_t thread)
{
    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    pthread_kill(thread, HV_KICK_SIGNAL);
}

static void vcpu_unkick(struct hv_vcpu *vcpu)
{
    __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
}

static int vcpu_mask_timer(struct hv_vcpu *vcpu, bool masked, struct sm_error *err)
{
    return kvm_arch_vcpu_mask_timer(vcpu, masked, err);
}

static int vcpu_idle(struct hv_vcpu *vcpu, struct sm_error *err)
{
    return kvm_arch_vcpu_idle(vcpu, err);
}

static uint64_t vcpu_pc(struct hv_vcpu *vcpu)
{
    return kvm_arch_vcpu_pc(vcpu);
}

const struct hv hv_kvm = {
    .name = "KVM",
    .run_request = KVM_RUN,
    .vm_new = vm_new,
    .vm_free = vm_free,
    .vm_map = vm_map,
    .vm_irqchip = vm_irqchip,
    .vm_irqfd = vm_irqfd,
    .vm_irq = vm_irq,
    .vm_ioeventfd = vm_ioeventfd,
    .vm_address_limit = vm_address_limit,
    .vcpu_new = vcpu_new,
    .vcpu_free = vcpu_free,
    .vcpu_setup = vcpu_setup,
    .vcpu_run = vcpu_run,
    .vcpu_kick = vcpu_kick,
    .vcpu_unkick = vcpu_unkick,
    .vm_state = kvm_arch_vm_state,
    .vcpu_state = kvm_arch_vcpu_state,
    .vcpu_mask_timer = vcpu_mask_timer,
    .vcpu_idle = vcpu_idle,
    .state_requests = kvm_arch_state_requests,
    .vcpu_count = kvm_vcpu_count,
    .vcpu_counters = kvm_vcpu_counters,
    .vcpu_pc = vcpu_pc,
};
