/* SPDX-License-Identifier: Apache-2.0 */
/* Saving and restoring a machine on a scripted hypervisor: the order of things, who waits for whom, every refusal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "arch/layout_x86_64.h"
#include "base/error.h"
#include "base/io.h"
#include "fake_hv.h"
#include "lifecycle_regs.h"
#include "machine/machine_private.h"
#include "machine_env.h"

#define MARK_AT 0x200000u

static void start(struct env *e, unsigned vcpus)
{
    env_start(e, vcpus);
    memcpy(mem_ptr(&e->m->mem, MARK_AT, 8), "original", 8);
    fake.vm_value = 7;
    for (unsigned i = 0; i < vcpus; i++)
        fake.vcpu_value[i] = 100 + i;
}

static void save(struct env *e, unsigned flags)
{
    struct machine_saved saved;

    assert_int_equal(machine_save(e->m, &e->files, flags, &saved, NULL), 0);
    assert_true(saved.pause_ns > 0 && saved.total_ns >= saved.pause_ns);
    assert_true(saved.data_pages > 0 && saved.data_pages < 100);
    /* What was never touched is not looked at; huge pages are touched as a whole. */
    assert_true(saved.data_pages + saved.zero_pages < 32 * 256);
    assert_int_equal(saved.devices, 1);
    assert_int_equal(saved.listeners, 0);
    assert_int_equal(saved.live_pages, 0);
}

/* Of a machine that runs on: the parent and its clone have lives of their own. */
static void a_clone_has_everything(void **state)
{
    struct env *e = *state;

    start(e, 2);
    save(e, 0);
    memcpy(mem_ptr(&e->m->mem, MARK_AT, 8), "changed!", 8);
    env_finish(e);

    env_build(e, 32, 2);
    assert_int_equal(machine_restore(e->m, &e->files, env_generation, NULL), 0);
    assert_memory_equal(mem_ptr(&e->m->mem, MARK_AT, 8), "original", 8);
    assert_int_equal(fake.vm_value, 7);
    assert_int_equal(fake.vcpu_value[0], 100);
    assert_int_equal(fake.vcpu_value[1], 101);
    assert_int_equal(fake_hv_calls("vcpu_setup"), 0); /* nothing of a boot */
    int vm = fake_hv_first("vm_state"), cpu = fake_hv_first("vcpu_state"), irq = fake_hv_first("vm_irqfd");
    assert_true(fake_hv_first("vm_irqchip") < vm && vm < cpu && cpu < irq);
    assert_true(fake_hv_first("vm_irq") > irq);
    assert_int_equal(fake.call[fake_hv_first("vm_irq")].a, LAYOUT_LIFECYCLE_IRQ);
    assert_int_equal(lifecycle_read(e->m->lifecycle, SM_LC_GENERATION, 8), 0x030201);
    assert_true(lifecycle_read(e->m->lifecycle, SM_LC_INT_STATUS, 4) & SM_LC_INT_RESTORED);
    /* The clone's memory is its own, too. */
    memcpy(mem_ptr(&e->m->mem, MARK_AT, 8), "clone's!", 8);
    char file[8];
    assert_int_equal(pread(e->files.memory, file, sizeof(file), MARK_AT), 8);
    assert_memory_equal(file, "original", 8);
}

static void vcpus_save_themselves_before_the_vm(void **state)
{
    struct env *e = *state;

    start(e, 3);
    save(e, 0);
    assert_int_equal(fake_hv_calls("vcpu_state"), 3);
    assert_true(fake_hv_first("vcpu_state") + 3 == fake_hv_first("vm_state"));
}

static void it_stays_when_asked_to(void **state)
{
    struct env *e = *state;

    start(e, 2);
    save(e, MACHINE_SAVE_STAY);
    assert_true(e->m->group.pause);
    assert_int_equal(e->m->group.resting, 2);
    machine_stop(e->m);
    assert_int_equal(loop_run(e->loop), 0);
    assert_int_equal(e->ends, 1);
}

static void a_failure_lets_it_run_on(void **state)
{
    static const char *const steps[] = {"vcpu_state", "vm_state"};
    struct env *e = *state;
    struct machine_saved saved;

    start(e, 2);
    for (size_t i = 0; i < 2; i++) {
        struct sm_error err = SM_ERROR_INIT;

        fake.fail = steps[i];
        assert_int_equal(machine_save(e->m, &e->files, MACHINE_SAVE_STAY, &saved, &err), -EIO);
        assert_non_null(strstr(err.text, "saving the machine"));
        assert_non_null(strstr(err.text, steps[i]));
        assert_false(e->m->group.pause);
        assert_int_equal(e->m->group.resting, 0);
    }
    fake.fail = NULL;
    save(e, 0);
}

static void an_ended_machine_cannot_be_saved(void **state)
{
    struct env *e = *state;
    struct machine_saved saved;
    struct sm_error err = SM_ERROR_INIT;

    fake_hv_exit(0, HV_EXIT_SHUTDOWN, 0, 0, 0);
    start(e, 1);
    assert_int_equal(machine_save(e->m, &e->files, 0, &saved, &err), -ESHUTDOWN);
    assert_non_null(strstr(err.text, "has ended"));
}

static void what_does_not_fit_is_refused(void **state)
{
    static const struct {
        unsigned memory_mib, vcpus;
        const char *why;
    } machines[] = {{64, 1, "memory"}, {32, 2, "it has 1, this machine 2"}};
    struct env *e = *state;

    start(e, 1);
    save(e, 0);
    for (size_t i = 0; i < 2; i++) {
        struct sm_error err = SM_ERROR_INIT;

        env_finish(e);
        env_build(e, machines[i].memory_mib, machines[i].vcpus);
        assert_true(machine_restore(e->m, &e->files, env_generation, &err) < 0);
        assert_non_null(strstr(err.text, machines[i].why));
    }
    env_finish(e);
    env_build(e, 32, 1);
    fake.fail = "vcpu_state";
    struct sm_error err = SM_ERROR_INIT;
    assert_int_equal(machine_restore(e->m, &e->files, env_generation, &err), -EIO);
    assert_non_null(strstr(err.text, "vcpu_state failed"));
}

static bool has_run(const struct machine *m, unsigned vcpu)
{
    return atomic_load(&m->vcpu[vcpu].exits[HV_EXIT_PIO_WRITE]) > 0;
}

/* Restores two vCPUs, each with a port write to do. */
static void run_clone(struct env *e)
{
    start(e, 2);
    save(e, 0);
    env_finish(e);
    env_build(e, 32, 2);
    assert_int_equal(machine_restore(e->m, &e->files, env_generation, NULL), 0);
    assert_true(e->m->group.hold);
}

static void the_others_wait_until_it_is_renewed(void **state)
{
    struct env *e = *state;

    run_clone(e);
    fake_hv_exit(0, HV_EXIT_PIO_WRITE, 0x80, 1, 0);
    fake_hv_exit(0, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_RENEWED, 4, 1);
    fake_hv_exit(1, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_POWER, 4, SM_LC_POWER_OFF);
    loop_timer_cancel(&e->m->patience); /* it alone must do */
    assert_int_equal(machine_spawn(e->m, NULL), 0);
    machine_run(e->m);
    assert_int_equal(loop_run(e->loop), 0); /* the second vCPU ended it */
    assert_true(has_run(e->m, 0));
}

static void patience_with_a_silent_guest_ends(void **state)
{
    struct env *e = *state;
    uint64_t start_ns = io_now_ns();

    run_clone(e);
    fake_hv_exit(1, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_POWER, 4, SM_LC_POWER_OFF);
    assert_int_equal(machine_spawn(e->m, NULL), 0);
    machine_run(e->m);
    assert_int_equal(loop_run(e->loop), 0);
    assert_true(io_now_ns() - start_ns >= 50000000u);
}

static void a_held_vcpu_comes_to_a_rendezvous(void **state)
{
    struct env *e = *state;
    struct machine_files files = env_files(false);
    struct machine_saved saved;

    run_clone(e);
    loop_timer_cancel(&e->m->patience);
    assert_int_equal(machine_spawn(e->m, NULL), 0);
    machine_run(e->m);
    assert_int_equal(machine_save(e->m, &files, 0, &saved, NULL), 0);
    env_close(&files);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_clone_has_everything, env_set_up, env_tear_down),
        cmocka_unit_test_setup_teardown(vcpus_save_themselves_before_the_vm, env_set_up, env_tear_down),
        cmocka_unit_test_setup_teardown(it_stays_when_asked_to, env_set_up, env_tear_down),
        cmocka_unit_test_setup_teardown(a_failure_lets_it_run_on, env_set_up, env_tear_down),
        cmocka_unit_test_setup_teardown(an_ended_machine_cannot_be_saved, env_set_up, env_tear_down),
        cmocka_unit_test_setup_teardown(what_does_not_fit_is_refused, env_set_up, env_tear_down),
        cmocka_unit_test_setup_teardown(the_others_wait_until_it_is_renewed, env_set_up, env_tear_down),
        cmocka_unit_test_setup_teardown(patience_with_a_silent_guest_ends, env_set_up, env_tear_down),
        cmocka_unit_test_setup_teardown(a_held_vcpu_comes_to_a_rendezvous, env_set_up, env_tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
