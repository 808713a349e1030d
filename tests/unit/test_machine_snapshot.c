/* SPDX-License-Identifier: Apache-2.0 */
/* Saving and restoring a machine on a scripted hypervisor: the order of things, who waits for whom, every refusal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arch/layout_x86_64.h"
#include "base/error.h"
#include "base/io.h"
#include "dev/rng.h"
#include "fake_hv.h"
#include "lifecycle_regs.h"
#include "machine/machine.h"
#include "machine/machine_private.h"
#include "pvh_kernel.h"

#define MARK_AT 0x200000u

struct env {
    struct loop *loop;
    struct machine *m;
    unsigned ends;
    int state_fd, memory_fd;
};

static const uint8_t generation[MACHINE_GENERATION_SIZE] = {1, 2, 3};

static bool on_event(void *ctx, uint32_t kind, uint64_t arg)
{
    return true;
}

static void on_ended(void *ctx, enum machine_end end, const char *text)
{
    struct env *e = ctx;

    e->ends++;
    loop_stop(e->loop);
}

static int on_thread(void *ctx, struct sm_error *err)
{
    return 0;
}

static const struct machine_ops ops = {.event = on_event, .ended = on_ended, .vcpu_thread = on_thread};

static int set_up(void **state)
{
    static struct env e;

    e = (struct env){.state_fd = memfd_create("state", MFD_CLOEXEC), .memory_fd = memfd_create("memory", MFD_CLOEXEC)};
    fake_hv_reset();
    *state = &e;
    return loop_new(&e.loop);
}

static int tear_down(void **state)
{
    struct env *e = *state;

    machine_free(e->m);
    loop_free(e->loop);
    close(e->state_fd);
    close(e->memory_fd);
    return fake.alive != 0;
}

static void build(struct env *e, unsigned memory_mib, unsigned vcpus)
{
    const struct machine_config config = {
        .hv = &hv_fake, .loop = e->loop, .memory_mib = memory_mib, .vcpus = vcpus, .ops = &ops, .ctx = e};
    struct virtio_dev *dev;

    assert_int_equal(machine_new(&e->m, &config, NULL), 0);
    assert_int_equal(rng_new(&dev, NULL), 0);
    assert_int_equal(machine_add_virtio(e->m, dev, NULL), 0);
}

static void start(struct env *e, unsigned vcpus)
{
    struct pvh_kernel k = pvh_kernel();
    int fd = pvh_file(&k, sizeof(k));

    build(e, 32, vcpus);
    assert_int_equal(machine_boot(e->m, fd, -1, "", false, NULL), 0);
    close(fd);
    memcpy(mem_ptr(&e->m->mem, MARK_AT, 8), "original", 8);
    fake.vm_value = 7;
    for (unsigned i = 0; i < vcpus; i++)
        fake.vcpu_value[i] = 100 + i;
    assert_int_equal(machine_spawn(e->m, NULL), 0);
    machine_run(e->m);
}

static void finish(struct env *e)
{
    machine_free(e->m);
    e->m = NULL;
    fake_hv_reset();
}

static void save(struct env *e, bool stay)
{
    struct machine_saved saved;

    assert_int_equal(machine_save(e->m, e->state_fd, e->memory_fd, stay, &saved, NULL), 0);
    assert_true(saved.pause_ns > 0);
    assert_true(saved.data_pages > 0 && saved.data_pages < 100);
    /* What was never touched is not looked at; huge pages are touched as a whole. */
    assert_true(saved.data_pages + saved.zero_pages < 32 * 256);
}

/* Of a machine that runs on: the parent and its clone have lives of their own. */
static void a_clone_has_everything(void **state)
{
    struct env *e = *state;

    start(e, 2);
    save(e, false);
    memcpy(mem_ptr(&e->m->mem, MARK_AT, 8), "changed!", 8);
    finish(e);

    build(e, 32, 2);
    assert_int_equal(machine_restore(e->m, e->state_fd, e->memory_fd, generation, NULL), 0);
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
    assert_int_equal(pread(e->memory_fd, file, sizeof(file), MARK_AT), 8);
    assert_memory_equal(file, "original", 8);
}

static void vcpus_save_themselves_before_the_vm(void **state)
{
    struct env *e = *state;

    start(e, 3);
    save(e, false);
    assert_int_equal(fake_hv_calls("vcpu_state"), 3);
    assert_true(fake_hv_first("vcpu_state") + 3 == fake_hv_first("vm_state"));
}

static void it_stays_when_asked_to(void **state)
{
    struct env *e = *state;

    start(e, 2);
    save(e, true);
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
        assert_int_equal(machine_save(e->m, e->state_fd, e->memory_fd, true, &saved, &err), -EIO);
        assert_non_null(strstr(err.text, "saving the machine"));
        assert_non_null(strstr(err.text, steps[i]));
        assert_false(e->m->group.pause);
        assert_int_equal(e->m->group.resting, 0);
    }
    fake.fail = NULL;
    save(e, false);
}

static void an_ended_machine_cannot_be_saved(void **state)
{
    struct env *e = *state;
    struct machine_saved saved;
    struct sm_error err = SM_ERROR_INIT;

    fake_hv_exit(0, HV_EXIT_SHUTDOWN, 0, 0, 0);
    start(e, 1);
    assert_int_equal(machine_save(e->m, e->state_fd, e->memory_fd, false, &saved, &err), -ESHUTDOWN);
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
    save(e, false);
    for (size_t i = 0; i < 2; i++) {
        struct sm_error err = SM_ERROR_INIT;

        finish(e);
        build(e, machines[i].memory_mib, machines[i].vcpus);
        assert_true(machine_restore(e->m, e->state_fd, e->memory_fd, generation, &err) < 0);
        assert_non_null(strstr(err.text, machines[i].why));
    }
    finish(e);
    build(e, 32, 1);
    fake.fail = "vcpu_state";
    struct sm_error err = SM_ERROR_INIT;
    assert_int_equal(machine_restore(e->m, e->state_fd, e->memory_fd, generation, &err), -EIO);
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
    save(e, false);
    finish(e);
    build(e, 32, 2);
    assert_int_equal(machine_restore(e->m, e->state_fd, e->memory_fd, generation, NULL), 0);
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
    struct machine_saved saved;

    run_clone(e);
    loop_timer_cancel(&e->m->patience);
    assert_int_equal(machine_spawn(e->m, NULL), 0);
    machine_run(e->m);
    assert_int_equal(ftruncate(e->state_fd, 0), 0);
    assert_int_equal(ftruncate(e->memory_fd, 0), 0);
    assert_int_equal(machine_save(e->m, e->state_fd, e->memory_fd, false, &saved, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_clone_has_everything, set_up, tear_down),
        cmocka_unit_test_setup_teardown(vcpus_save_themselves_before_the_vm, set_up, tear_down),
        cmocka_unit_test_setup_teardown(it_stays_when_asked_to, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failure_lets_it_run_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_ended_machine_cannot_be_saved, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_does_not_fit_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_others_wait_until_it_is_renewed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(patience_with_a_silent_guest_ends, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_held_vcpu_comes_to_a_rendezvous, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
