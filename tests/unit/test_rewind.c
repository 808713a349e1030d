/* SPDX-License-Identifier: Apache-2.0 */
/* A restored machine put back in place, on a scripted hypervisor: what comes back, what goes, who waits, refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arch/layout_x86_64.h"
#include "base/error.h"
#include "base/io.h"
#include "dev/rng.h"
#include "fake_hv.h"
#include "lifecycle_regs.h"
#include "machine/bake.h"
#include "machine/coord.h"
#include "machine/machine_private.h"
#include "machine/rewind.h"
#include "pvh_kernel.h"

#define MARK_AT  0x200000u
#define OTHER_AT 0x800000u
#define MS       1000000u

struct env {
    struct loop *loop;
    struct machine *m;
    unsigned ends, events, baked;
    enum machine_end end;
    char text[EVENTS_MAX_TEXT];
    struct machine_files files;
    struct bake_outcome outcome;
};

static const uint8_t first[MACHINE_GENERATION_SIZE] = {1}, second[MACHINE_GENERATION_SIZE] = {2};

static bool on_event(void *ctx, uint32_t kind, uint64_t arg)
{
    struct env *e = ctx;

    e->events++;
    return true;
}

static void on_ended(void *ctx, enum machine_end end, const char *text)
{
    struct env *e = ctx;

    e->ends++;
    e->end = end;
    strcpy(e->text, text);
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

    e = (struct env){.files = {.state = memfd_create("state", MFD_CLOEXEC),
                               .memory = memfd_create("memory", MFD_CLOEXEC),
                               .diff = -1,
                               .base = -1,
                               .prefetch = -1}};
    fake_hv_reset();
    *state = &e;
    return loop_new(&e.loop);
}

static int tear_down(void **state)
{
    struct env *e = *state;

    machine_free(e->m);
    loop_free(e->loop);
    close(e->files.state);
    close(e->files.memory);
    return fake.alive != 0;
}

static void build(struct env *e, unsigned vcpus)
{
    const struct machine_config config = {
        .hv = &hv_fake, .loop = e->loop, .memory_mib = 32, .vcpus = vcpus, .ops = &ops, .ctx = e};
    struct virtio_dev *dev;

    assert_int_equal(machine_new(&e->m, &config, NULL), 0);
    assert_int_equal(rng_new(&dev, NULL), 0);
    assert_int_equal(machine_add_virtio(e->m, dev, NULL), 0);
}

static void *at(struct env *e, uint64_t gpa)
{
    return mem_ptr(&e->m->mem, gpa, 16);
}

static void boot(struct env *e, unsigned vcpus)
{
    struct pvh_kernel k = pvh_kernel();
    int fd = pvh_file(&k, sizeof(k));

    build(e, vcpus);
    assert_int_equal(machine_boot(e->m, fd, -1, "", false, NULL), 0);
    close(fd);
    memcpy(at(e, MARK_AT), "original", 8);
    fake.vm_value = 7;
    for (unsigned i = 0; i < vcpus; i++)
        fake.vcpu_value[i] = 100 + i;
    assert_int_equal(machine_spawn(e->m, NULL), 0);
    machine_run(e->m);
}

/* A running clone, and what its parent was is forgotten. */
static void make_clone(struct env *e, unsigned vcpus)
{
    struct machine_saved saved;

    boot(e, vcpus);
    assert_int_equal(machine_save(e->m, &e->files, MACHINE_SAVE_STAY, &saved, NULL), 0);
    machine_free(e->m);
    fake_hv_reset();
    build(e, vcpus);
    assert_int_equal(machine_restore(e->m, &e->files, first, NULL), 0);
    loop_timer_cancel(&e->m->patience);
    assert_int_equal(machine_spawn(e->m, NULL), 0);
}

static unsigned private_pages(struct env *e)
{
    const struct snap_memory memory = machine_memory(e->m);
    uint64_t *bitmap = machine_pages_new(e->m, NULL);
    unsigned n = 0;

    assert_int_equal(snap_memory_scan(&memory, e->m->pagemap_fd, SNAP_SCAN_PRIVATE, bitmap, NULL), 0);
    for (uint32_t i = 0; i < snap_memory_pages(&memory); i++)
        n += snap_bit(bitmap, i);
    free(bitmap);
    return n;
}

static void dirty(struct env *e)
{
    memcpy(at(e, MARK_AT), "changed!", 8);
    memcpy(at(e, OTHER_AT), "another", 8);
    fake.vm_value = 1;
    for (unsigned i = 0; i < e->m->n_vcpus; i++)
        fake.vcpu_value[i] = 1;
    lifecycle_write(e->m->lifecycle, SM_LC_TEXT, 4, 0x1234);
}

static void all_of_it_is_as_it_was(void **state)
{
    static const char zeros[16];
    struct env *e = *state;

    make_clone(e, 2);
    machine_run(e->m);
    for (unsigned i = 0; i < 20; i++) {
        dirty(e);
        assert_true(private_pages(e) >= 2);
        assert_int_equal(machine_rewind(e->m, i % 2 ? first : second, NULL), 0);
        assert_memory_equal(at(e, MARK_AT), "original", 8);
        assert_memory_equal(at(e, OTHER_AT), zeros, 8);
        assert_int_equal(fake.vm_value, 7);
        assert_int_equal(fake.vcpu_value[0], 100);
        assert_int_equal(fake.vcpu_value[1], 101);
        assert_true(pthread_equal(fake.worked_on[0], e->m->vcpu[0].thread));
        assert_true(pthread_equal(fake.worked_on[1], e->m->vcpu[1].thread));
        assert_int_equal(lifecycle_read(e->m->lifecycle, SM_LC_TEXT, 4), 0);
        assert_int_equal(lifecycle_read(e->m->lifecycle, SM_LC_GENERATION, 8), i % 2 ? 1 : 2);
        assert_true(lifecycle_read(e->m->lifecycle, SM_LC_INT_STATUS, 4) & SM_LC_INT_RESTORED);
        assert_int_equal(private_pages(e), 0); /* and nothing is copied to get there */
        loop_timer_cancel(&e->m->patience);
        fake.n_calls = 0;
    }
}

static void it_goes_back_to_a_diff(void **state)
{
    struct machine_files diff = {.state = memfd_create("state", MFD_CLOEXEC),
                                 .memory = memfd_create("memory", MFD_CLOEXEC),
                                 .diff = memfd_create("diff", MFD_CLOEXEC),
                                 .base = -1,
                                 .prefetch = -1};
    struct machine_saved saved;
    struct env *e = *state;

    make_clone(e, 1);
    machine_run(e->m);
    memcpy(at(e, OTHER_AT), "of diff", 8);
    assert_int_equal(machine_save(e->m, &diff, MACHINE_SAVE_DIFF | MACHINE_SAVE_STAY, &saved, NULL), 0);
    assert_int_equal(saved.data_pages, 1);
    machine_free(e->m);
    build(e, 1);
    diff.base = e->files.memory;
    assert_int_equal(machine_restore(e->m, &diff, first, NULL), 0);
    assert_int_equal(machine_spawn(e->m, NULL), 0);
    machine_run(e->m);
    dirty(e);
    assert_int_equal(machine_rewind(e->m, second, NULL), 0);
    assert_memory_equal(at(e, MARK_AT), "original", 8);
    assert_memory_equal(at(e, OTHER_AT), "of diff", 8);
    close(diff.state);
    close(diff.memory);
    close(diff.diff);
}

static void without_page_tables_all_is_dropped(void **state)
{
    struct env *e = *state;

    make_clone(e, 1);
    machine_run(e->m);
    dirty(e);
    close(e->m->pagemap_fd);
    e->m->pagemap_fd = -1;
    assert_int_equal(machine_rewind(e->m, second, NULL), 0);
    assert_memory_equal(at(e, MARK_AT), "original", 8);
}

static void the_others_wait_until_it_is_renewed(void **state)
{
    struct env *e = *state;

    make_clone(e, 3);
    machine_run(e->m);
    vcpus_release_others(&e->m->group);
    assert_int_equal(coord_pause(e->m->vcpu, 3), 0);
    for (unsigned i = 0; i < 3; i++)
        fake_hv_exit(i, HV_EXIT_PIO_WRITE, 0x80, 1, 0)->later = true;
    assert_int_equal(machine_rewind(e->m, second, NULL), 0);
    loop_timer_cancel(&e->m->patience); /* the guest's word must do */
    coord_resume(e->m->vcpu, 3);
    fake_hv_wait(0, 1);
    assert_true(atomic_load(&e->m->group.hold));
    assert_int_equal(fake.at[1] + fake.at[2], 0);
    lifecycle_write(e->m->lifecycle, SM_LC_RENEWED, 4, 1);
    fake_hv_wait(1, 1);
    fake_hv_wait(2, 1);
}

/* What a pool does: everything but the snapshot is there, threads included. */
static void a_prepared_machine_takes_a_snapshot(void **state)
{
    struct machine_saved saved;
    struct env *e = *state;

    boot(e, 2);
    assert_int_equal(machine_save(e->m, &e->files, MACHINE_SAVE_STAY, &saved, NULL), 0);
    machine_free(e->m);
    fake_hv_reset();
    build(e, 2);
    assert_int_equal(machine_prepare(e->m, NULL), 0);
    assert_int_equal(machine_spawn(e->m, NULL), 0);
    unsigned lines = fake_hv_calls("vm_irqfd"), bells = fake_hv_calls("vm_ioeventfd");
    assert_true(lines >= 3 && bells >= 1);
    assert_int_equal(machine_restore(e->m, &e->files, first, NULL), 0);
    assert_int_equal(fake_hv_calls("vm_irqfd"), lines); /* not bound twice */
    assert_int_equal(fake_hv_calls("vm_ioeventfd"), bells);
    assert_memory_equal(at(e, MARK_AT), "original", 8);
    assert_int_equal(fake.vcpu_value[1], 101);
    assert_int_equal(e->m->group.first_entry_ns, 0);
    fake_hv_exit(0, HV_EXIT_PIO_WRITE, 0x80, 1, 0);
    machine_run(e->m);
    fake_hv_wait(0, 1);
}

static void what_was_said_before_is_forgotten(void **state)
{
    struct env *e = *state;

    make_clone(e, 1);
    fake_hv_exit(0, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_EVENT_ARG, 8, 80);
    fake_hv_exit(0, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_EVENT, 4, SM_LC_EV_LISTENER);
    fake_hv_exit(0, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_EVENT, 4, SM_LC_EV_PRE_EXEC);
    machine_run(e->m);
    fake_hv_wait(0, 3);
    assert_int_equal(atomic_load(&e->m->listeners), 1);
    assert_int_equal(machine_rewind(e->m, second, NULL), 0);
    assert_int_equal(atomic_load(&e->m->listeners), 0);
    assert_false(e->m->bake.seen.pre_exec);
    machine_deliver(e->m);
    assert_int_equal(e->events, 0);
}

static int on_capture(void *ctx, struct machine_saved *ret, struct sm_error *err)
{
    return 0;
}

static void on_baked(void *ctx, const struct bake_outcome *outcome)
{
    struct env *e = ctx;

    e->baked++;
    e->outcome = *outcome;
    loop_stop(e->loop);
}

static void a_bake_is_not_canceled_by_it(void **state)
{
    const struct bake_config config = {.triggers = {.pre_exec = true, .after_ms = 50, .save = true},
                                       .capture = on_capture,
                                       .ended = on_baked,
                                       .ctx = *state};
    struct env *e = *state;

    make_clone(e, 1);
    machine_run(e->m);
    assert_int_equal(machine_bake(e->m, &config, NULL), 0);
    assert_int_equal(machine_rewind(e->m, second, NULL), 0);
    assert_int_equal(loop_run(e->loop), 0);
    assert_int_equal(e->baked, 1);
    assert_int_equal(e->outcome.exit, TRIGGERS_SNAPSHOT_SAVED);
    assert_int_equal(e->outcome.trigger, TRIGGER_AFTER);
}

static void what_has_no_snapshot_stays(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct env *e = *state;

    boot(e, 1);
    assert_int_equal(machine_rewind(e->m, second, &err), -EINVAL);
    assert_string_equal(err.text, "a machine that was booted has no snapshot to go back to");
    assert_memory_equal(at(e, MARK_AT), "original", 8);
}

static void what_has_ended_stays(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct env *e = *state;

    make_clone(e, 1);
    fake_hv_exit(0, HV_EXIT_POWER_OFF, 0, 0, 0);
    machine_run(e->m);
    assert_int_equal(machine_rewind(e->m, second, &err), -ESHUTDOWN);
    assert_non_null(strstr(err.text, "has ended"));
}

static void a_failure_ends_it_with_a_reason(void **state)
{
    static const char *const calls[] = {"vm_state", "vcpu_state", "vm_irq"};
    struct env *e = *state;

    for (unsigned i = 0; i < 3; i++) {
        struct sm_error err = SM_ERROR_INIT;

        make_clone(e, 2);
        machine_run(e->m);
        fake.fail = calls[i];
        e->ends = 0;
        assert_int_equal(machine_rewind(e->m, second, &err), -EIO);
        assert_non_null(strstr(err.text, "putting the machine back: "));
        assert_non_null(strstr(err.text, calls[i]));
        while (!e->ends)
            assert_int_equal(loop_run(e->loop), 0);
        assert_int_equal(e->end, MACHINE_VCPU_ERROR);
        assert_string_equal(e->text, err.text);
        machine_free(e->m);
        e->m = NULL;
        fake_hv_reset();
        assert_int_equal(ftruncate(e->files.state, 0), 0);
        assert_int_equal(ftruncate(e->files.memory, 0), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_of_it_is_as_it_was, set_up, tear_down),
        cmocka_unit_test_setup_teardown(it_goes_back_to_a_diff, set_up, tear_down),
        cmocka_unit_test_setup_teardown(without_page_tables_all_is_dropped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_others_wait_until_it_is_renewed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_prepared_machine_takes_a_snapshot, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_was_said_before_is_forgotten, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_bake_is_not_canceled_by_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_has_no_snapshot_stays, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_has_ended_stays, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failure_ends_it_with_a_reason, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
