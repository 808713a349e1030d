/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State of vCPUs and VM on a scripted ioctl(2) that keeps what it is given: round trips, the order of calls, every call
 * that fails, and what a hostile file may say.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "hv/hv.h"

#define RUN_SIZE           8192
#define KVM_FD             1000
#define MSRS               300
#define MSR_AT(i)          (0x1000u + (i)) /* but the two below */
#define MSR_TSC_PLACE      5
#define MSR_DEADLINE_PLACE 6
#define MSR_TSC            0x10u
#define MSR_DEADLINE       0x6e0u
#define LOG_MAX            256

int __wrap_ioctl(int fd, unsigned long request, ...); /* linked in the place of ioctl(2) */

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

static struct {
    struct machine_state m;
    unsigned long fail; /* this request fails with `error` */
    int error;
    uint32_t msr_absent, msr_fixed; /* not there; there, but it can't be written */
    uint32_t n_listed;
    bool no_offset, no_host_tsc, can_scale, another_exit;
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
} kvm;

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
    case KVM_IRQ_LINE:
        assert_int_equal(((struct kvm_irq_level *)arg)->irq, 5);
        kvm.levels = kvm.levels * 10 + ((struct kvm_irq_level *)arg)->level + 1;
        return 0;
    case KVM_RUN:
        assert_int_equal(kvm.run->immediate_exit, 1);
        errno = EINTR;
        return kvm.another_exit ? 0 : -1;
    default:
        return 0;
    }
}

/* Something else in every byte that is state; what a guest could have. */
static void fill(struct machine_state *m)
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

struct env {
    struct hv_vm *vm;
    struct hv_vcpu *vcpu;
    struct snap_stream s;
};

static struct env *env_new(void)
{
    const struct hv_boot boot = {.index = 1, .vcpus = 2};
    struct env *e = calloc(1, sizeof(*e));

    assert_int_equal(hv_kvm.vm_new(&e->vm, KVM_FD, NULL), 0);
    assert_int_equal(hv_kvm.vcpu_new(&e->vcpu, e->vm, 1, NULL), 0);
    assert_int_equal(hv_kvm.vcpu_setup(e->vcpu, &boot, NULL), 0);
    snap_stream_init(&e->s);
    return e;
}

static void env_free(struct env *e)
{
    hv_kvm.vcpu_free(e->vcpu);
    hv_kvm.vm_free(e->vm);
    snap_stream_clear(&e->s);
    free(e);
}

static int set_up(void **state)
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

static int tear_down(void **state)
{
    munmap(kvm.run, RUN_SIZE);
    return close(kvm.memory);
}

static void save(struct env *e)
{
    fill(&kvm.m);
    hv_kvm.vcpu_state(e->vcpu, &e->s);
    hv_kvm.vm_state(e->vm, &e->s);
    assert_int_equal(snap_done(&e->s, NULL), 0);
    e->s.loading = true;
}

static int load(struct env *e, struct sm_error *err)
{
    memset(&e->s.error, 0, sizeof(e->s.error));
    kvm.n_log = kvm.n_msr_order = 0;
    hv_kvm.vm_state(e->vm, &e->s);
    hv_kvm.vcpu_state(e->vcpu, &e->s);
    return snap_done(&e->s, err);
}

static unsigned position(unsigned long request)
{
    for (unsigned i = 0; i < kvm.n_log; i++)
        if (kvm.log[i] == request)
            return i;
    print_message("request 0x%lx was not made\n", request);
    fail();
    return 0;
}

static void everything_comes_back(void **state)
{
    struct env *e = env_new();
    struct machine_state before;

    save(e);
    assert_int_equal(kvm.run->immediate_exit, 0); /* as it was */
    assert_int_equal(e->s.n_sections, 2);
    before = kvm.m;
    memset(&kvm.m, 0, sizeof(kvm.m));
    for (unsigned i = 0; i < 3; i++)
        kvm.m.chip[i].chip_id = i;
    assert_int_equal(load(e, NULL), 0);
    assert_memory_equal(&kvm.m.regs, &before.regs, sizeof(before.regs));
    assert_memory_equal(&kvm.m.sregs, &before.sregs, sizeof(before.sregs));
    assert_memory_equal(&kvm.m.xcrs, &before.xcrs, sizeof(before.xcrs));
    assert_memory_equal(kvm.m.xsave, before.xsave, sizeof(before.xsave));
    assert_memory_equal(&kvm.m.debug, &before.debug, sizeof(before.debug));
    assert_memory_equal(&kvm.m.lapic, &before.lapic, sizeof(before.lapic));
    assert_memory_equal(&kvm.m.events, &before.events, sizeof(before.events));
    assert_int_equal(kvm.m.mp.mp_state, before.mp.mp_state);
    for (unsigned i = 0; i < MSRS; i++)
        assert_int_equal(kvm.m.msr[i], i == MSR_TSC_PLACE ? 0 : before.msr[i]);
    for (unsigned i = 0; i < 2; i++)
        assert_memory_equal(&kvm.m.chip[i].chip.pic, &before.chip[i].chip.pic, sizeof(struct kvm_pic_state));
    assert_memory_equal(kvm.m.chip[2].chip.ioapic.redirtbl, before.chip[2].chip.ioapic.redirtbl,
                        sizeof(before.chip[2].chip.ioapic.redirtbl));
    assert_int_equal(kvm.m.chip[2].chip.ioapic.irr, before.chip[2].chip.ioapic.irr);
    assert_int_equal(kvm.m.chip[2].chip.ioapic.pad, 0); /* what is KVM's stays KVM's */
    assert_int_equal(kvm.m.clock, before.clock);
    env_free(e);
}

static void the_order_is_what_kvm_needs(void **state)
{
    struct env *e = env_new();

    kvm.n_log = 0;
    save(e);
    assert_true(position(KVM_RUN) < position(KVM_GET_MP_STATE));
    assert_true(position(KVM_GET_MP_STATE) < position(KVM_GET_REGS));
    assert_true(position(KVM_GET_MP_STATE) < position(KVM_GET_LAPIC));
    assert_true(position(KVM_GET_LAPIC) < position(KVM_GET_MSRS));
    assert_true(position(KVM_GET_MSRS) < position(KVM_GET_VCPU_EVENTS));
    assert_true(position(KVM_GET_VCPU_EVENTS) < position(KVM_GET_CLOCK)); /* the VM's clock behind every vCPU */
    assert_int_equal(load(e, NULL), 0);
    assert_true(position(KVM_SET_CLOCK) < position(KVM_SET_SREGS2));
    assert_true(position(KVM_SET_SREGS2) < position(KVM_SET_LAPIC));
    assert_true(position(KVM_SET_XCRS) < position(KVM_SET_XSAVE));
    assert_true(position(KVM_SET_LAPIC) < position(KVM_SET_MSRS));
    assert_true(position(KVM_SET_DEVICE_ATTR) < position(KVM_SET_MSRS));
    assert_true(position(KVM_SET_MSRS) < position(KVM_SET_MP_STATE));
    assert_true(position(KVM_SET_MP_STATE) < position(KVM_SET_VCPU_EVENTS));
    assert_int_equal(kvm.n_msr_order, MSRS - 1);
    assert_int_equal(kvm.msr_order[MSRS - 2], MSR_DEADLINE);
    env_free(e);
}

static void clocks_go_on_from_one_moment(void **state)
{
    struct env *e = env_new();

    save(e);
    kvm.m.tsc_offset = 0;
    kvm.host_tsc = 9000000; /* another host, or a day later */
    struct machine_state saved;
    fill(&saved);
    assert_int_equal(load(e, NULL), 0);
    /* The guest's TSC: host now + new offset = host then + old offset. */
    assert_int_equal(9000000 + kvm.m.tsc_offset, 1000000 + saved.tsc_offset);
    assert_int_equal(kvm.m.clock, saved.clock);

    /* Without offsets the TSC goes in as an MSR. */
    kvm.no_offset = true;
    kvm.m.msr[MSR_TSC_PLACE] = 0;
    assert_int_equal(load(e, NULL), 0);
    assert_int_equal(kvm.m.msr[MSR_TSC_PLACE], saved.msr[MSR_TSC_PLACE]);
    assert_int_equal(kvm.n_msr_order, MSRS);
    kvm.no_offset = false;
    kvm.no_host_tsc = true; /* the host's own reading takes its place */
    assert_int_equal(load(e, NULL), 0);
    assert_int_not_equal(1 + kvm.m.tsc_offset, 1000000 + saved.tsc_offset);
    env_free(e);
}

static void clock_frequency(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct env *e = env_new();

    save(e);
    kvm.tsc_khz = 2000400; /* 200 ppm: the same processor, measured again */
    assert_int_equal(load(e, NULL), 0);
    assert_int_equal(kvm.set_khz, 0);
    kvm.tsc_khz = 2001000;
    assert_int_equal(load(e, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "2000000 kHz"));
    kvm.can_scale = true;
    assert_int_equal(load(e, NULL), 0);
    assert_int_equal(kvm.set_khz, 2000000);
    env_free(e);
}

static void another_processor_is_refused(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct env *e = env_new(), *other;

    save(e);
    unsigned sets = kvm.n_cpuid_sets;
    assert_int_equal(load(e, NULL), 0);
    assert_int_equal(kvm.n_cpuid_sets, sets); /* it has that table */
    kvm.features = 0x70;
    other = env_new();
    snap_stream_clear(&other->s);
    struct snap_stream mine = other->s;
    other->s = e->s;
    assert_int_equal(load(other, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "leaf 0x7.0, EBX, 0x80"));
    kvm.features = 0xff; /* one that has more will do */
    struct env *newer = env_new();
    struct snap_stream spare = newer->s;
    newer->s = e->s;
    sets = kvm.n_cpuid_sets;
    assert_int_equal(load(newer, NULL), 0);
    assert_int_equal(kvm.n_cpuid_sets, sets + 1);
    newer->s = spare;
    other->s = mine;
    env_free(newer);
    env_free(other);
    env_free(e);
}

static void msrs_that_differ(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct env *e;

    kvm.msr_absent = MSR_AT(130); /* listed, but this vCPU has it not */
    e = env_new();
    save(e);
    assert_int_equal(load(e, NULL), 0);
    assert_int_equal(kvm.n_msr_order, MSRS - 2);
    kvm.msr_absent = 0;

    kvm.msr_fixed = MSR_AT(7); /* refused, but it has that value */
    assert_int_equal(load(e, NULL), 0);
    kvm.m.msr[7]++;
    assert_int_equal(load(e, &err), -EINVAL);
    assert_non_null(strstr(err.text, "vCPU 1: this host's KVM refuses MSR 0x1007"));
    kvm.msr_fixed = 0;

    /* A host whose KVM keeps fewer. */
    kvm.n_listed = MSRS - 1;
    struct env *older = env_new();
    struct snap_stream mine = older->s;
    older->s = e->s;
    assert_int_equal(load(older, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "no MSR 0x112b"));
    kvm.n_listed = MSRS;
    older->s = mine;
    env_free(older);
    env_free(e);

    e = env_new();
    fill(&kvm.m);
    kvm.m.msr[MSRS - 1] = 0;
    hv_kvm.vcpu_state(e->vcpu, &e->s);
    hv_kvm.vm_state(e->vm, &e->s);
    e->s.loading = true;
    kvm.n_listed = MSRS - 1;
    older = env_new();
    mine = older->s;
    older->s = e->s;
    assert_int_equal(load(older, NULL), 0); /* zero: not missed */
    older->s = mine;
    env_free(older);
    env_free(e);
}

static void every_call_that_fails_is_told(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct env *e = env_new();
    static const unsigned long gets[] = {KVM_GET_MP_STATE, KVM_GET_REGS,        KVM_GET_SREGS2,      KVM_GET_XCRS,
                                         KVM_GET_XSAVE,    KVM_GET_DEBUGREGS,   KVM_GET_LAPIC,       KVM_GET_MSRS,
                                         KVM_RUN,          KVM_GET_VCPU_EVENTS, KVM_GET_DEVICE_ATTR, KVM_GET_IRQCHIP,
                                         KVM_GET_CLOCK};
    static const unsigned long sets[] = {KVM_SET_MP_STATE,    KVM_SET_REGS,        KVM_SET_SREGS2,  KVM_SET_XCRS,
                                         KVM_SET_XSAVE,       KVM_SET_DEBUGREGS,   KVM_SET_LAPIC,   KVM_SET_MSRS,
                                         KVM_SET_DEVICE_ATTR, KVM_SET_VCPU_EVENTS, KVM_SET_IRQCHIP, KVM_SET_CLOCK};

    kvm.error = EINVAL;
    for (size_t i = 0; i < ARRAY_SIZE(gets); i++) {
        struct snap_stream s;

        fill(&kvm.m);
        snap_stream_init(&s);
        kvm.fail = gets[i];
        hv_kvm.vcpu_state(e->vcpu, &s);
        hv_kvm.vm_state(e->vm, &s);
        assert_int_equal(snap_done(&s, &err), -EINVAL);
        assert_non_null(strstr(err.text, "Invalid argument"));
        assert_non_null(strstr(err.text, "KVM"));
        snap_stream_clear(&s);
    }
    kvm.fail = 0;
    save(e);
    for (size_t i = 0; i < ARRAY_SIZE(sets); i++) {
        kvm.fail = sets[i];
        assert_int_equal(load(e, &err), -EINVAL);
        assert_non_null(strstr(err.text, "KVM refuses the snapshot's"));
    }
    kvm.fail = 0;
    assert_int_equal(load(e, NULL), 0);
    kvm.another_exit = true;
    struct snap_stream s;
    snap_stream_init(&s);
    hv_kvm.vcpu_state(e->vcpu, &s);
    assert_int_equal(snap_done(&s, &err), -EBUSY);
    assert_non_null(strstr(err.text, "in the middle of an access"));
    snap_stream_clear(&s);
    env_free(e);
}

static void every_call_is_on_the_filters_list(void **state)
{
    struct env *e = env_new();

    kvm.n_log = 0;
    save(e);
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < kvm.n_log; i++) {
            const unsigned long *r = hv_kvm.state_requests;

            while (*r && *r != kvm.log[i])
                r++;
            assert_int_equal(*r, kvm.log[i]);
        }
        load(e, NULL);
    }
    env_free(e);
}

static uint32_t section_of(const struct env *e, const char *tag)
{
    for (unsigned i = 0; i < e->s.n_sections; i++)
        if (memcmp(&e->s.section[i].tag, tag, 4) == 0)
            return i;
    fail();
    return 0;
}

static void put32(struct env *e, uint32_t at, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        e->s.data.data[at + i] = (uint8_t)(v >> (8 * i));
}

static void hostile_counts_are_refused(void **state)
{
    struct env *e = env_new();
    struct sm_error err = SM_ERROR_INIT;

    save(e);
    const struct snap_section *vcpu = &e->s.section[section_of(e, "VCPU")];
    uint32_t at = vcpu->offset, end = at + vcpu->length;
    uint32_t n_cpuid = e->s.data.data[at], after_cpuid = at + 4 + n_cpuid * 25;
    uint32_t xcrs = after_cpuid + 13 + 4 + 18 * 8 + 8 * 23 + 2 * 10 + 12 * 8;
    const struct {
        uint32_t at, value;
        const char *sentence;
    } bad[] = {
        {at, 257, "\"CPUID entries\": 257 is over"},
        {after_cpuid + 13, 5, "\"run state\": 5 is none"},
        {xcrs, 17, "\"XCRs\": 17 is over"},
        {xcrs + 16, 0xffffffff, "\"XSAVE bytes\""},
        {xcrs + 16, 4095, "\"XSAVE bytes\""},
        {end - 37 - MSRS * 12 - 4, 1025, "\"MSRs\": 1025 is over"},
        {end - 37 - MSRS * 12, 0xc0000fff, "no MSR 0xc0000fff"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        uint8_t was[4];

        memcpy(was, e->s.data.data + bad[i].at, 4);
        put32(e, bad[i].at, bad[i].value);
        assert_true(load(e, &err) < 0);
        if (!strstr(err.text, bad[i].sentence))
            print_message("%s\n", err.text);
        assert_non_null(strstr(err.text, bad[i].sentence));
        memcpy(e->s.data.data + bad[i].at, was, 4);
    }
    assert_int_equal(load(e, NULL), 0);
    for (uint32_t len = 0; len < end - at; len += len % 97 + 1) {
        e->s.section[section_of(e, "VCPU")].length = len;
        assert_int_equal(load(e, &err), -EBADMSG);
        assert_non_null(strstr(err.text, "\"vcpu 1\""));
    }
    env_free(e);
}

static void nothing_in_the_file_can_harm(void **state)
{
    struct env *e = env_new();
    static const uint8_t values[] = {0, 0x80, 0xff};

    save(e);
    for (size_t at = 0; at < e->s.data.len; at++) {
        uint8_t was = e->s.data.data[at];

        e->s.data.data[at] = values[at % 3];
        load(e, NULL);
        e->s.data.data[at] = was;
    }
    assert_int_equal(load(e, NULL), 0);
    env_free(e);
}

static void an_edge_is_raised_at_once(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct env *e = env_new();

    assert_int_equal(hv_kvm.vm_irq(e->vm, 5, NULL), 0);
    assert_int_equal(kvm.levels, 21); /* up, then down */
    kvm.fail = KVM_IRQ_LINE;
    kvm.error = EINVAL;
    assert_int_equal(hv_kvm.vm_irq(e->vm, 5, &err), -EINVAL);
    assert_non_null(strstr(err.text, "interrupt 5"));
    env_free(e);
}

static void too_many_msrs(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct hv_vm *vm;

    kvm.n_listed = 2000;
    assert_int_equal(hv_kvm.vm_new(&vm, KVM_FD, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "2000 MSRs"));
    kvm.n_listed = MSRS;
    kvm.fail = KVM_GET_MSR_INDEX_LIST;
    kvm.error = EFAULT;
    assert_int_equal(hv_kvm.vm_new(&vm, KVM_FD, &err), -EFAULT);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(everything_comes_back),         TEST(the_order_is_what_kvm_needs),
        TEST(clocks_go_on_from_one_moment),  TEST(clock_frequency),
        TEST(another_processor_is_refused),  TEST(msrs_that_differ),
        TEST(every_call_that_fails_is_told), TEST(every_call_is_on_the_filters_list),
        TEST(hostile_counts_are_refused),    TEST(nothing_in_the_file_can_harm),
        TEST(an_edge_is_raised_at_once),     TEST(too_many_msrs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
