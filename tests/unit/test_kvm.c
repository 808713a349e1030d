/* SPDX-License-Identifier: Apache-2.0 */
/* The KVM backend on a scripted ioctl(2): capabilities by name, retries, exits in their normal form. No /dev/kvm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/hv.h"

#define RUN_SIZE 8192
#define KVM_FD   1000

int __wrap_ioctl(int fd, unsigned long request, ...); /* linked in the place of ioctl(2) */

static struct {
    int missing_cap; /* -1: none */
    int version;
    unsigned long fail; /* this request fails with `error`, `times` times */
    int error;
    unsigned times;
    int vcpu_memory;     /* memfd in the place of a vCPU: its first page is struct kvm_run */
    struct kvm_run *run; /* the same, to play KVM's part */

    struct kvm_sregs sregs;
    struct kvm_regs regs;
    unsigned n_cpuid;
} kvm;

int __wrap_ioctl(int fd, unsigned long request, ...)
{
    va_list ap;

    va_start(ap, request);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    if (request == kvm.fail && kvm.times > 0) {
        kvm.times--;
        errno = kvm.error;
        return -1;
    }
    switch (request) {
    case KVM_GET_API_VERSION:
        return kvm.version;
    case KVM_CHECK_EXTENSION:
        return (int)(intptr_t)arg == kvm.missing_cap ? 0 : 32;
    case KVM_CREATE_VM:
        return dup(kvm.vcpu_memory);
    case KVM_GET_VCPU_MMAP_SIZE:
        return RUN_SIZE;
    case KVM_CREATE_VCPU:
        return dup(kvm.vcpu_memory);
#ifdef __x86_64__
    case KVM_GET_SUPPORTED_CPUID: {
        struct kvm_cpuid2 *c = arg;

        c->nent = 2;
        c->entries[0] = (struct kvm_cpuid_entry2){.function = 0, .eax = 1};
        c->entries[1] = (struct kvm_cpuid_entry2){.function = 0x80000008, .eax = 39};
        return 0;
    }
    case KVM_SET_CPUID2:
        kvm.n_cpuid = ((struct kvm_cpuid2 *)arg)->nent;
        return 0;
    case KVM_SET_MSRS:
        return 1;
    case KVM_GET_SREGS:
        memset(arg, 0, sizeof(struct kvm_sregs));
        return 0;
    case KVM_SET_SREGS:
        kvm.sregs = *(struct kvm_sregs *)arg;
        return 0;
    case KVM_SET_REGS:
        kvm.regs = *(struct kvm_regs *)arg;
        return 0;
    case KVM_GET_REGS:
        *(struct kvm_regs *)arg = (struct kvm_regs){.rip = 0x1234};
        return 0;
#endif
    default:
        return 0;
    }
}

static int set_up(void **state)
{
    memset(&kvm, 0, sizeof(kvm));
    kvm.version = KVM_API_VERSION;
    kvm.missing_cap = -1;
    kvm.vcpu_memory = memfd_create("run", MFD_CLOEXEC);
    if (kvm.vcpu_memory < 0 || ftruncate(kvm.vcpu_memory, RUN_SIZE) < 0)
        return -1;
    kvm.run = mmap(NULL, RUN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, kvm.vcpu_memory, 0);
    return kvm.run == MAP_FAILED;
}

static int tear_down(void **state)
{
    munmap(kvm.run, RUN_SIZE);
    return close(kvm.vcpu_memory);
}

static void a_missing_capability_is_named(void **state)
{
    static const struct {
        int cap;
        const char *name;
    } caps[] = {{KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
                {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
                {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
                {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"}};

    for (size_t i = 0; i < sizeof(caps) / sizeof(caps[0]); i++) {
        struct sm_error err = SM_ERROR_INIT;
        struct hv_vm *vm = NULL;

        kvm.missing_cap = caps[i].cap;
        assert_int_equal(hv_kvm.vm_new(&vm, KVM_FD, &err), -ENOTSUP);
        assert_non_null(strstr(err.text, caps[i].name));
        assert_null(vm);
    }
}

static void another_api_is_refused(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct hv_vm *vm;

    kvm.version = 11;
    assert_int_equal(hv_kvm.vm_new(&vm, KVM_FD, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "version 11"));
    kvm.fail = KVM_GET_API_VERSION;
    kvm.error = ENOTTY;
    kvm.times = 1;
    assert_int_equal(hv_kvm.vm_new(&vm, KVM_FD, &err), -ENOTTY);
}

static struct hv_vcpu *vcpu_of(struct hv_vm **ret_vm, unsigned index)
{
    const struct hv_boot boot = {.index = index, .vcpus = 2, .entry = 0x1000000, .info = 0x6000};
    struct hv_vcpu *vcpu;

    assert_int_equal(hv_kvm.vm_new(ret_vm, KVM_FD, NULL), 0);
    assert_int_equal(hv_kvm.vcpu_new(&vcpu, *ret_vm, index, NULL), 0);
    assert_int_equal(hv_kvm.vcpu_setup(vcpu, &boot, NULL), 0);
    return vcpu;
}

static void interrupted_calls_are_made_again(void **state)
{
    struct hv_vm *vm = NULL;

    kvm.fail = KVM_CREATE_VM;
    kvm.error = EINTR;
    kvm.times = 3;
    assert_int_equal(hv_kvm.vm_new(&vm, KVM_FD, NULL), 0);
    assert_int_equal(hv_kvm.vm_address_limit(vm), 1ull << 39);
    hv_kvm.vm_free(vm);
    kvm.times = 1000; /* but not without end */
    assert_int_equal(hv_kvm.vm_new(&vm, KVM_FD, NULL), -EINTR);
    hv_kvm.vm_free(NULL);
    hv_kvm.vcpu_free(NULL);
}

static void boot_registers(void **state)
{
    struct hv_vm *vm;
    struct hv_vcpu *first = vcpu_of(&vm, 0);

    assert_int_equal(kvm.regs.rip, 0x1000000);
    assert_int_equal(kvm.regs.rbx, 0x6000);
    assert_int_equal(kvm.sregs.cs.db, 1);
    assert_int_equal(kvm.sregs.cr0 & 1, 1);
    assert_int_equal(kvm.n_cpuid, 2);
    hv_kvm.vcpu_free(first);
    hv_kvm.vm_free(vm);
    /* Others wait for the first to start them. */
    kvm.regs.rip = 0;
    struct hv_vcpu *second = vcpu_of(&vm, 1);
    assert_int_equal(kvm.regs.rip, 0);
    hv_kvm.vcpu_free(second);
    hv_kvm.vm_free(vm);
}

static void exits(void **state)
{
    struct hv_vm *vm;
    struct hv_vcpu *v = vcpu_of(&vm, 0);
    struct sm_error err = SM_ERROR_INIT;
    struct hv_exit e;

    kvm.run->exit_reason = KVM_EXIT_MMIO;
    kvm.run->mmio.phys_addr = 0xd0000010;
    kvm.run->mmio.len = 4;
    kvm.run->mmio.is_write = 1;
    kvm.run->mmio.data[0] = 0x5a;
    assert_int_equal(hv_kvm.vcpu_run(v, &e, &err), 0);
    assert_int_equal(e.kind, HV_EXIT_MMIO_WRITE);
    assert_int_equal(e.addr, 0xd0000010);
    assert_int_equal(e.len, 4);
    assert_int_equal(e.count, 1);
    assert_int_equal(e.data[0], 0x5a);
    kvm.run->mmio.is_write = 0;
    assert_int_equal(hv_kvm.vcpu_run(v, &e, &err), 0);
    assert_int_equal(e.kind, HV_EXIT_MMIO_READ);
    e.data[0] = 0x77;
    assert_int_equal(kvm.run->mmio.data[0], 0x77);

    kvm.run->exit_reason = KVM_EXIT_IO;
    kvm.run->io.direction = KVM_EXIT_IO_OUT;
    kvm.run->io.port = 0x3f8;
    kvm.run->io.size = 1;
    kvm.run->io.count = 3;
    kvm.run->io.data_offset = 4096;
    assert_int_equal(hv_kvm.vcpu_run(v, &e, &err), 0);
    assert_int_equal(e.kind, HV_EXIT_PIO_WRITE);
    assert_int_equal(e.count, 3);
    e.data[0] = 0x33;
    assert_int_equal(((uint8_t *)kvm.run)[4096], 0x33);
    kvm.run->io.direction = KVM_EXIT_IO_IN;
    assert_int_equal(hv_kvm.vcpu_run(v, &e, &err), 0);
    assert_int_equal(e.kind, HV_EXIT_PIO_READ);

    const struct {
        uint32_t reason;
        enum hv_exit_kind kind;
    } simple[] = {{KVM_EXIT_HLT, HV_EXIT_HALT}, {KVM_EXIT_SHUTDOWN, HV_EXIT_SHUTDOWN}, {KVM_EXIT_INTR, HV_EXIT_KICKED}};
    for (size_t i = 0; i < sizeof(simple) / sizeof(simple[0]); i++) {
        kvm.run->exit_reason = simple[i].reason;
        assert_int_equal(hv_kvm.vcpu_run(v, &e, &err), 0);
        assert_int_equal(e.kind, simple[i].kind);
    }
    kvm.run->exit_reason = KVM_EXIT_SYSTEM_EVENT;
    kvm.run->system_event.type = KVM_SYSTEM_EVENT_SHUTDOWN;
    assert_int_equal(hv_kvm.vcpu_run(v, &e, &err), 0);
    assert_int_equal(e.kind, HV_EXIT_POWER_OFF);
    kvm.run->system_event.type = KVM_SYSTEM_EVENT_RESET;
    assert_int_equal(hv_kvm.vcpu_run(v, &e, &err), 0);
    assert_int_equal(e.kind, HV_EXIT_RESET);
    hv_kvm.vcpu_free(v);
    hv_kvm.vm_free(vm);
}

static void failures_have_a_sentence(void **state)
{
    struct hv_vm *vm;
    struct hv_vcpu *v = vcpu_of(&vm, 0);
    struct sm_error err = SM_ERROR_INIT;
    struct hv_exit e;

    kvm.run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
    kvm.run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
    assert_int_equal(hv_kvm.vcpu_run(v, &e, &err), 0);
    assert_int_equal(e.kind, HV_EXIT_OTHER);
    assert_non_null(strstr(err.text, "vCPU 0"));
    assert_non_null(strstr(err.text, "0x1234"));
    kvm.run->exit_reason = KVM_EXIT_FAIL_ENTRY;
    assert_int_equal(hv_kvm.vcpu_run(v, &e, &err), 0);
    assert_non_null(strstr(err.text, "refused to enter"));
    kvm.run->exit_reason = 9999;
    assert_int_equal(hv_kvm.vcpu_run(v, &e, &err), 0);
    assert_int_equal(e.kind, HV_EXIT_OTHER);
    assert_non_null(strstr(err.text, "9999"));

    kvm.fail = KVM_RUN;
    kvm.times = 3;
    kvm.error = EINTR;
    assert_int_equal(hv_kvm.vcpu_run(v, &e, &err), 0);
    assert_int_equal(e.kind, HV_EXIT_KICKED);
    kvm.error = EAGAIN; /* a vCPU between INIT and SIPI */
    assert_int_equal(hv_kvm.vcpu_run(v, &e, &err), 0);
    assert_int_equal(e.kind, HV_EXIT_KICKED);
    kvm.error = EFAULT;
    assert_int_equal(hv_kvm.vcpu_run(v, &e, &err), -EFAULT);
    assert_non_null(strstr(err.text, "KVM_RUN"));
    hv_kvm.vcpu_free(v);
    hv_kvm.vm_free(vm);
}

static void a_kick_keeps_the_next_run_out(void **state)
{
    struct hv_vm *vm;
    struct hv_vcpu *v = vcpu_of(&vm, 0);
    struct sigaction ignore = {.sa_handler = SIG_IGN};

    sigaction(HV_KICK_SIGNAL, &ignore, NULL);
    assert_int_equal(kvm.run->immediate_exit, 0);
    hv_kvm.vcpu_kick(v, pthread_self());
    assert_int_equal(kvm.run->immediate_exit, 1);
    hv_kvm.vcpu_free(v);
    hv_kvm.vm_free(vm);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_missing_capability_is_named),
        TEST(another_api_is_refused),
        TEST(interrupted_calls_are_made_again),
        TEST(boot_registers),
        TEST(exits),
        TEST(failures_have_a_sentence),
        TEST(a_kick_keeps_the_next_run_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
