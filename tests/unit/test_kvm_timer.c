/* SPDX-License-Identifier: Apache-2.0 */
/* A guest's timer stopped and let go on, in each of its modes, on a scripted ioctl(2); who idles; KVM's counters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "fake_kvm.h"
#include "hv/hv.h"

#define LVTT         0x320u
#define TMICT        0x380u
#define TMCCT        0x390u
#define MASKED       (1u << 16)
#define ONE_SHOT     (0u << 17)
#define PERIODIC     (1u << 17)
#define TSC_DEADLINE (2u << 17)
#define VECTOR       0xecu

static struct hv_vm *vm;
static struct hv_vcpu *vcpu;

static int set_up(void **state)
{
    if (fake_kvm_setup(state) < 0)
        return -1;
    return hv_kvm.vm_new(&vm, KVM_FD, NULL) < 0 || hv_kvm.vcpu_new(&vcpu, vm, 3, NULL) < 0;
}

static int tear_down(void **state)
{
    hv_kvm.vcpu_free(vcpu);
    hv_kvm.vm_free(vm);
    return fake_kvm_teardown(state);
}

static uint32_t apic(unsigned reg)
{
    uint32_t v;

    memcpy(&v, kvm.m.lapic.regs + reg, sizeof(v));
    return v;
}

static void set_apic(unsigned reg, uint32_t v)
{
    memcpy(kvm.m.lapic.regs + reg, &v, sizeof(v));
}

static uint64_t *deadline(void)
{
    return &kvm.m.msr[MSR_DEADLINE_PLACE];
}

static void mask(bool masked)
{
    assert_int_equal(hv_kvm.vcpu_mask_timer(vcpu, masked, NULL), 0);
}

static void a_deadline_goes_and_comes_back(void **state)
{
    set_apic(LVTT, TSC_DEADLINE | VECTOR);
    *deadline() = 123456789;
    mask(true);
    assert_int_equal(*deadline(), 0);
    assert_int_equal(apic(LVTT), TSC_DEADLINE | VECTOR);
    mask(false);
    assert_int_equal(*deadline(), 123456789);
    /* And it is not given back twice. */
    *deadline() = 0;
    mask(false);
    assert_int_equal(*deadline(), 0);
}

static void a_newer_deadline_stays(void **state)
{
    set_apic(LVTT, TSC_DEADLINE | VECTOR);
    *deadline() = 1000;
    mask(true);
    *deadline() = 2000;
    mask(false);
    assert_int_equal(*deadline(), 2000);
}

static void no_deadline_no_work(void **state)
{
    set_apic(LVTT, TSC_DEADLINE | VECTOR);
    *deadline() = 0;
    mask(true);
    mask(false);
    assert_int_equal(*deadline(), 0);
    assert_int_equal(kvm.n_msr_order, 0); /* nothing was written */
}

static void another_timer_has_its_vector_masked(void **state)
{
    static const struct {
        uint32_t mode, initial, current, then, after;
    } timers[] = {
        {PERIODIC, 1000, 400, 0, 0},     /* goes on by itself */
        {ONE_SHOT, 1000, 400, 300, 300}, /* still runs */
        {ONE_SHOT, 1000, 400, 0, 1},     /* has run out behind the mask: once more */
        {ONE_SHOT, 1000, 0, 0, 0},       /* had run out before */
        {ONE_SHOT, 0, 0, 0, 0},          /* none */
    };

    for (unsigned i = 0; i < sizeof(timers) / sizeof(timers[0]); i++) {
        set_apic(LVTT, timers[i].mode | VECTOR);
        set_apic(TMICT, timers[i].initial);
        set_apic(TMCCT, timers[i].current);
        mask(true);
        assert_int_equal(apic(LVTT), timers[i].mode | VECTOR | MASKED);
        set_apic(TMCCT, timers[i].then);
        mask(false);
        assert_int_equal(apic(LVTT), timers[i].mode | VECTOR);
        assert_int_equal(apic(TMCCT), timers[i].after);
    }
}

static void a_masked_vector_stays_masked(void **state)
{
    set_apic(LVTT, PERIODIC | VECTOR | MASKED);
    mask(true);
    mask(false);
    assert_int_equal(apic(LVTT), PERIODIC | VECTOR | MASKED);
}

static void errors_name_the_vcpu(void **state)
{
    struct sm_error err = SM_ERROR_INIT;

    set_apic(LVTT, PERIODIC | VECTOR);
    kvm.error = EIO;
    kvm.fail = KVM_SET_LAPIC;
    assert_int_equal(hv_kvm.vcpu_mask_timer(vcpu, true, &err), -EIO);
    assert_string_equal(err.text, "vCPU 3: KVM cannot mask the guest's timer: Input/output error");
    kvm.fail = 0;
    mask(true);
    kvm.fail = KVM_SET_LAPIC;
    assert_int_equal(hv_kvm.vcpu_mask_timer(vcpu, false, &err), -EIO);
    assert_string_equal(err.text, "vCPU 3: KVM cannot unmask the guest's timer: Input/output error");
    kvm.fail = KVM_GET_MSRS;
    set_apic(LVTT, TSC_DEADLINE | VECTOR);
    assert_int_equal(hv_kvm.vcpu_mask_timer(vcpu, true, &err), -EIO);
    kvm.fail = KVM_GET_MP_STATE;
    assert_int_equal(hv_kvm.vcpu_idle(vcpu, &err), -EIO);
    assert_string_equal(err.text, "vCPU 3: KVM does not tell whether it runs: Input/output error");
}

static void who_idles(void **state)
{
    static const struct {
        uint32_t state;
        int idle;
    } states[] = {{KVM_MP_STATE_RUNNABLE, 0},
                  {KVM_MP_STATE_HALTED, 1},
                  {KVM_MP_STATE_UNINITIALIZED, 1},
                  {KVM_MP_STATE_INIT_RECEIVED, 1},
                  {KVM_MP_STATE_SIPI_RECEIVED, 0}};

    for (unsigned i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        kvm.m.mp.mp_state = states[i].state;
        assert_int_equal(hv_kvm.vcpu_idle(vcpu, NULL), states[i].idle);
    }
}

/* A system call filter lets through what these make. */
static void all_requests_are_on_the_list(void **state)
{
    static const unsigned long needed[] = {KVM_GET_LAPIC, KVM_SET_LAPIC,    KVM_GET_MSRS,
                                           KVM_SET_MSRS,  KVM_GET_MP_STATE, KVM_IRQ_LINE};

    for (unsigned i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
        const unsigned long *r = hv_kvm.state_requests;

        while (*r && *r != needed[i])
            r++;
        assert_int_equal(*r, needed[i]);
    }
}

#define NAME_BYTES 24

#define ENTRY_BYTES (sizeof(struct kvm_stats_desc) + NAME_BYTES)

union stat_entry {
    struct kvm_stats_desc desc; /* and the name behind it */
    uint8_t room[ENTRY_BYTES];
};

/* The file of api.rst: header, descriptors, data. */
static int stats_file(uint32_t n_said, uint32_t name_size)
{
    static const char *const names[] = {"guest_mode", "exits", "hypercalls"};
    static const uint64_t values[] = {1, 1203, 7};
    struct kvm_stats_header h = {.name_size = name_size, .num_desc = n_said, .desc_offset = sizeof(h)};
    int fd = memfd_create("stats", MFD_CLOEXEC);

    h.data_offset = (uint32_t)(sizeof(h) + 3 * ENTRY_BYTES);
    assert_int_equal(pwrite(fd, &h, sizeof(h), 0), sizeof(h));
    for (unsigned i = 0; i < 3; i++) {
        union stat_entry e = {.room = {0}};

        e.desc.offset = i * 8;
        e.desc.size = 1;
        strcpy((char *)e.room + sizeof(e.desc), names[i]);
        assert_int_equal(pwrite(fd, &e, ENTRY_BYTES, (off_t)(sizeof(h) + i * ENTRY_BYTES)), ENTRY_BYTES);
        assert_int_equal(pwrite(fd, &values[i], 8, (off_t)(h.data_offset + i * 8)), 8);
    }
    return fd;
}

static void what_kvm_counts(void **state)
{
    struct hv_counter counter[HV_MAX_COUNTERS];

    assert_int_equal(hv_kvm.vcpu_counters(vcpu, counter), 0); /* nobody has asked it to */
    kvm.stats = stats_file(3, NAME_BYTES);
    hv_kvm.vcpu_count(vcpu);
    assert_int_equal(hv_kvm.vcpu_counters(vcpu, counter), 2);
    assert_string_equal(counter[0].name, "exits");
    assert_int_equal(counter[0].value, 1203);
    assert_string_equal(counter[1].name, "hypercalls");
    assert_int_equal(counter[1].value, 7);
    close(kvm.stats);
}

static void a_kvm_that_counts_nothing(void **state)
{
    static const struct {
        uint32_t n, name_size;
    } odd[] = {{5000, NAME_BYTES}, {3, 5000}};
    struct hv_counter counter[HV_MAX_COUNTERS];

    hv_kvm.vcpu_count(vcpu);
    assert_int_equal(hv_kvm.vcpu_counters(vcpu, counter), 0);
    for (unsigned i = 0; i < 2; i++) {
        struct hv_vcpu *other;

        kvm.stats = stats_file(odd[i].n, odd[i].name_size);
        assert_int_equal(hv_kvm.vcpu_new(&other, vm, 4, NULL), 0);
        hv_kvm.vcpu_count(other);
        assert_int_equal(hv_kvm.vcpu_counters(other, counter), 0);
        hv_kvm.vcpu_free(other);
        close(kvm.stats);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_deadline_goes_and_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_newer_deadline_stays, set_up, tear_down),
        cmocka_unit_test_setup_teardown(no_deadline_no_work, set_up, tear_down),
        cmocka_unit_test_setup_teardown(another_timer_has_its_vector_masked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_masked_vector_stays_masked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(errors_name_the_vcpu, set_up, tear_down),
        cmocka_unit_test_setup_teardown(who_idles, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_kvm_counts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_kvm_that_counts_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(all_requests_are_on_the_list, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
