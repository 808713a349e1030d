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
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "fake_kvm.h"
#include "hv/hv.h"

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

static void save(struct env *e)
{
    fake_kvm_fill(&kvm.m);
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
    fake_kvm_fill(&saved);
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
    fake_kvm_fill(&kvm.m);
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
    static const unsigned long gets[] = {KVM_GET_MP_STATE,    KVM_GET_REGS,        KVM_GET_SREGS2,  KVM_GET_XCRS,
                                         KVM_GET_XSAVE,       KVM_GET_DEBUGREGS,   KVM_GET_LAPIC,   KVM_GET_MSRS,
                                         KVM_GET_VCPU_EVENTS, KVM_GET_DEVICE_ATTR, KVM_GET_IRQCHIP, KVM_GET_CLOCK};
    static const unsigned long sets[] = {KVM_SET_MP_STATE,    KVM_SET_REGS,        KVM_SET_SREGS2,  KVM_SET_XCRS,
                                         KVM_SET_XSAVE,       KVM_SET_DEBUGREGS,   KVM_SET_LAPIC,   KVM_SET_MSRS,
                                         KVM_SET_DEVICE_ATTR, KVM_SET_VCPU_EVENTS, KVM_SET_IRQCHIP, KVM_SET_CLOCK};

    kvm.error = EINVAL;
    for (size_t i = 0; i < ARRAY_SIZE(gets); i++) {
        struct snap_stream s;

        fake_kvm_fill(&kvm.m);
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
#define TEST(f) cmocka_unit_test_setup_teardown(f, fake_kvm_setup, fake_kvm_teardown)
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
