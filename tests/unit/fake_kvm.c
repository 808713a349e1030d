/* SPDX-License-Identifier: Apache-2.0 */
/* A KVM in the place of ioctl(2): see fake_kvm.h. */
#include "fake_kvm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"

int __wrap_ioctl(int fd, unsigned long request, ...); /* linked in the place of ioctl(2) */

struct fake_kvm kvm;

static uint32_t msr_at(unsigned i)
{
    return i == MSR_TSC_PLACE ? MSR_TSC : i == MSR_DEADLINE_PLACE ? MSR_DEADLINE : MSR_AT(i);
}

static uint64_t *find_msr(uint32_t index)
{
    for (unsigned i = 0; i < kvm.n_listed; i++)
        if (msr_at(i) == index && index != kvm.msr_absent)
            return &kvm.m.msr[i];
    return NULL;
}

static int get_msrs(struct kvm_msrs *msrs)
{
    assert_true(msrs->nmsrs <= 256);
    for (unsigned i = 0; i < msrs->nmsrs; i++) {
        uint64_t *v = find_msr(msrs->entries[i].index);

        if (!v)
            return (int)i;
        msrs->entries[i].data = *v;
    }
    return (int)msrs->nmsrs;
}

static int set_msrs(const struct kvm_msrs *msrs)
{
    for (unsigned i = 0; i < msrs->nmsrs; i++) {
        uint64_t *v = find_msr(msrs->entries[i].index);

        if (!v || msrs->entries[i].index == kvm.msr_fixed)
            return (int)i;
        *v = msrs->entries[i].data;
        kvm.msr_order[kvm.n_msr_order++ % (2 * MSRS)] = msrs->entries[i].index;
    }
    return (int)msrs->nmsrs;
}

static int list_msrs(struct kvm_msr_list *list)
{
    unsigned room = list->nmsrs;

    list->nmsrs = kvm.n_listed;
    if (room < kvm.n_listed) {
        errno = E2BIG;
        return -1;
    }
    for (unsigned i = 0; i < kvm.n_listed; i++)
        list->indices[i] = msr_at(i);
    return 0;
}

static int attr(unsigned long request, const struct kvm_device_attr *a)
{
    uint64_t *value = (uint64_t *)(uintptr_t)a->addr;

    assert_int_equal(a->group, KVM_VCPU_TSC_CTRL);
    assert_int_equal(a->attr, KVM_VCPU_TSC_OFFSET);
    if (kvm.no_offset) {
        errno = ENXIO;
        return -1;
    }
    if (request == KVM_GET_DEVICE_ATTR)
        *value = kvm.m.tsc_offset;
    if (request == KVM_SET_DEVICE_ATTR)
        kvm.m.tsc_offset = *value;
    return 0;
}

static void supported_cpuid(struct kvm_cpuid2 *c)
{
    c->nent = 4;
    c->entries[0] = (struct kvm_cpuid_entry2){.function = 0, .eax = 0xd, .ebx = 0x756e6547};
    c->entries[1] = (struct kvm_cpuid_entry2){.function = 1, .ecx = 1, .edx = 1};
    c->entries[2] =
        (struct kvm_cpuid_entry2){.function = 7, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ebx = kvm.features};
    c->entries[3] = (struct kvm_cpuid_entry2){.function = 0x80000008, .eax = 39};
}

/* Requests that move one structure: where KVM keeps it. */
static void *place(unsigned long request, size_t *ret_size, bool *ret_set)
{
    const struct {
        unsigned long get, set;
        void *p;
        size_t size;
    } places[] = {
        {KVM_GET_MP_STATE, KVM_SET_MP_STATE, &kvm.m.mp, sizeof(kvm.m.mp)},
        {KVM_GET_REGS, KVM_SET_REGS, &kvm.m.regs, sizeof(kvm.m.regs)},
        {KVM_GET_SREGS2, KVM_SET_SREGS2, &kvm.m.sregs, sizeof(kvm.m.sregs)},
        {KVM_GET_XCRS, KVM_SET_XCRS, &kvm.m.xcrs, sizeof(kvm.m.xcrs)},
        {KVM_GET_XSAVE, KVM_SET_XSAVE, &kvm.m.xsave, sizeof(kvm.m.xsave)},
        {KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, &kvm.m.debug, sizeof(kvm.m.debug)},
        {KVM_GET_LAPIC, KVM_SET_LAPIC, &kvm.m.lapic, sizeof(kvm.m.lapic)},
        {KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, &kvm.m.events, sizeof(kvm.m.events)},
    };

    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        if (request != places[i].get && request != places[i].set)
            continue;
        *ret_size = places[i].size;
        *ret_set = request == places[i].set;
        return places[i].p;
    }
    return NULL;
}

static int chip(unsigned long request, struct kvm_irqchip *c)
{
    assert_true(c->chip_id < 3);
    if (request == KVM_SET_IRQCHIP)
        kvm.m.chip[c->chip_id] = *c;
    else
        *c = kvm.m.chip[c->chip_id];
    return 0;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    size_t size;
    bool set;

    va_start(ap, request);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    kvm.log[kvm.n_log++ % LOG_MAX] = request;
    if (request == kvm.fail) {
        errno = kvm.error;
        return -1;
    }
    void *p = place(request, &size, &set);
    if (p) {
        memcpy(set ? p : arg, set ? arg : p, size);
        return 0;
    }
    switch (request) {
    case KVM_GET_API_VERSION:
        return KVM_API_VERSION;
    case KVM_CHECK_EXTENSION:
        return (intptr_t)arg == KVM_CAP_TSC_CONTROL ? kvm.can_scale : 32;
    case KVM_CREATE_VM:
    case KVM_CREATE_VCPU:
        return dup(kvm.memory);
    case KVM_GET_VCPU_MMAP_SIZE:
        return RUN_SIZE;
    case KVM_GET_SUPPORTED_CPUID:
        supported_cpuid(arg);
        return 0;
    case KVM_SET_CPUID2:
        kvm.n_cpuid_sets++;
        return 0;
    case KVM_GET_MSR_INDEX_LIST:
        return list_msrs(arg);
    case KVM_GET_MSRS:
        return get_msrs(arg);
    case KVM_SET_MSRS:
        return set_msrs(arg);
    case KVM_GET_TSC_KHZ:
        return kvm.tsc_khz;
    case KVM_SET_TSC_KHZ:
        kvm.set_khz = (uint32_t)(uintptr_t)arg;
        return 0;
    case KVM_HAS_DEVICE_ATTR:
    case KVM_GET_DEVICE_ATTR:
    case KVM_SET_DEVICE_ATTR:
        return attr(request, arg);
    case KVM_GET_IRQCHIP:
    case KVM_SET_IRQCHIP:
        return chip(request, arg);
    case KVM_GET_CLOCK:
        *(struct kvm_clock_data *)arg = (struct kvm_clock_data){.clock = kvm.m.clock,
                                                                .flags = kvm.no_host_tsc ? 0 : KVM_CLOCK_HOST_TSC,
                                                                .host_tsc = kvm.no_host_tsc ? 1 : kvm.host_tsc};
        return 0;
    case KVM_SET_CLOCK:
        assert_int_equal(((struct kvm_clock_data *)arg)->flags, 0);
        kvm.m.clock = ((struct kvm_clock_data *)arg)->clock;
        return 0;
    case KVM_GET_STATS_FD:
        errno = ENOTTY;
        return kvm.stats ? dup(kvm.stats) : -1;
    case KVM_IRQ_LINE:
        assert_int_equal(((struct kvm_irq_level *)arg)->irq, 5);
        kvm.levels = kvm.levels * 10 + ((struct kvm_irq_level *)arg)->level + 1;
        return 0;
    default:
        return 0;
    }
}

void fake_kvm_fill(struct machine_state *m)
{
    uint8_t *p = (uint8_t *)m;

    memset(m, 0, sizeof(*m));
    for (size_t i = 0; i < sizeof(*m); i++)
        p[i] = (uint8_t)(i * 37 + i / 251 + 1);
    for (unsigned i = 0; i < 3; i++)
        m->chip[i].chip_id = i;
    m->mp.mp_state = KVM_MP_STATE_HALTED;
    m->xcrs.nr_xcrs = 1;
    m->xcrs.flags = 0;
    memset(m->xcrs.xcrs, 0, sizeof(m->xcrs.xcrs));
    m->xcrs.xcrs[0].value = 7;
    memset(m->xcrs.padding, 0, sizeof(m->xcrs.padding));
    for (unsigned i = 0; i < ARRAY_SIZE(m->xcrs.xcrs); i++)
        m->xcrs.xcrs[i].reserved = 0;
    /* Padding comes back as zero. */
    struct kvm_segment *segments[] = {&m->sregs.cs, &m->sregs.ds, &m->sregs.es, &m->sregs.fs,
                                      &m->sregs.gs, &m->sregs.ss, &m->sregs.tr, &m->sregs.ldt};
    for (unsigned i = 0; i < ARRAY_SIZE(segments); i++)
        segments[i]->padding = 0;
    memset(m->sregs.gdt.padding, 0, sizeof(m->sregs.gdt.padding));
    memset(m->sregs.idt.padding, 0, sizeof(m->sregs.idt.padding));
    memset(m->debug.reserved, 0, sizeof(m->debug.reserved));
    m->events.nmi.pad = 0;
    memset(m->events.reserved, 0, sizeof(m->events.reserved));
}

int fake_kvm_setup(void **state)
{
    memset(&kvm, 0, sizeof(kvm));
    kvm.tsc_khz = 2000000;
    kvm.host_tsc = 1000000;
    kvm.n_listed = MSRS;
    kvm.features = 0xf0;
    kvm.memory = memfd_create("run", MFD_CLOEXEC);
    if (kvm.memory < 0 || ftruncate(kvm.memory, RUN_SIZE) < 0)
        return -1;
    kvm.run = mmap(NULL, RUN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, kvm.memory, 0);
    return kvm.run == MAP_FAILED;
}

int fake_kvm_teardown(void **state)
{
    munmap(kvm.run, RUN_SIZE);
    return close(kvm.memory);
}
