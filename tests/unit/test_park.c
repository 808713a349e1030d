/* SPDX-License-Identifier: Apache-2.0 */
/* A machine at rest for a capture: its guest is asked to park, is waited for and let go again, whatever happens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arch/layout_x86_64.h"
#include "base/error.h"
#include "base/io.h"
#include "fake_hv.h"
#include "lifecycle_regs.h"
#include "machine/machine_private.h"
#include "machine/park.h"
#include "pvh_kernel.h"

#define PATIENCE_NS 50000000u

struct env {
    struct loop *loop;
    struct machine *m;
    pthread_t driver;
    unsigned words, word[4]; /* what the guest's driver writes to PARK_STATE when it is asked */
};

static struct env env;

static bool on_event(void *ctx, uint32_t kind, uint64_t arg)
{
    return true;
}

static void on_ended(void *ctx, enum machine_end end, const char *text)
{
}

static int on_thread(void *ctx, struct sm_error *err)
{
    return 0;
}

static const struct machine_ops ops = {.event = on_event, .ended = on_ended, .vcpu_thread = on_thread};

static int set_up(void **state)
{
    env = (struct env){.words = 0};
    fake_hv_reset();
    return loop_new(&env.loop);
}

static int tear_down(void **state)
{
    machine_free(env.m);
    loop_free(env.loop);
    return fake.alive != 0;
}

static void start(unsigned vcpus)
{
    const struct machine_config config = {
        .hv = &hv_fake, .loop = env.loop, .memory_mib = 32, .vcpus = vcpus, .ops = &ops, .ctx = &env};
    struct pvh_kernel k = pvh_kernel();
    int fd = pvh_file(&k, sizeof(k));

    assert_int_equal(machine_new(&env.m, &config, NULL), 0);
    assert_int_equal(machine_boot(env.m, fd, -1, "", false, NULL), 0);
    close(fd);
    assert_int_equal(machine_spawn(env.m, NULL), 0);
    machine_run(env.m);
}

static uint32_t status(void)
{
    return (uint32_t)lifecycle_read(env.m->lifecycle, SM_LC_INT_STATUS, 4);
}

/* The guest's driver, in the interrupt that asks it. */
static void *driver(void *arg)
{
    struct pollfd p = {.fd = env.m->lifecycle_irq, .events = POLLIN};

    assert_int_equal(poll(&p, 1, 10000), 1);
    assert_int_equal(status(), SM_LC_INT_PARK);
    lifecycle_write(env.m->lifecycle, SM_LC_INT_ACK, 4, SM_LC_INT_PARK);
    for (unsigned i = 0; i < env.words; i++)
        lifecycle_write(env.m->lifecycle, SM_LC_PARK_STATE, 4, env.word[i]);
    return NULL;
}

static void with_driver(void)
{
    assert_int_equal(pthread_create(&env.driver, NULL, driver, NULL), 0);
}

static void parked_before_the_rendezvous_and_released_after_it(void **state)
{
    env.words = 2;
    env.word[0] = 2; /* the words of different processors may come in any order */
    env.word[1] = 1;
    start(3);
    with_driver();
    assert_int_equal(machine_rest(env.m, NULL), 0);
    pthread_join(env.driver, NULL);
    assert_true(env.m->park.asked);
    assert_int_equal(env.m->group.resting, 3);
    assert_int_equal(status(), 0); /* what is saved now has neither wish */
    machine_go_on(env.m);
    assert_int_equal(status(), SM_LC_INT_UNPARK);
    assert_false(env.m->park.asked);
}

static void tired_of_waiting(void **state)
{
    uint64_t before = io_now_ns();

    env.words = 1;
    env.word[0] = 1; /* not all of them */
    start(3);
    with_driver();
    assert_int_equal(machine_rest(env.m, NULL), 0);
    pthread_join(env.driver, NULL);
    assert_true(io_now_ns() - before >= PATIENCE_NS);
    assert_int_equal(env.m->group.resting, 3); /* the rendezvous alone */
    assert_int_equal(status(), SM_LC_INT_UNPARK);
    machine_go_on(env.m);
    assert_int_equal(status(), SM_LC_INT_UNPARK);
}

/* A clone that read the wish of its parent's host would wait for one that nobody takes back. */
static void the_wish_is_in_no_snapshot(void **state)
{
    start(2);
    assert_int_equal(machine_rest(env.m, NULL), 0); /* no driver answers */
    assert_int_equal(status(), SM_LC_INT_UNPARK);
    machine_go_on(env.m);
}

static void who_has_nothing_to_park_is_not_asked(void **state)
{
    start(1);
    assert_int_equal(machine_rest(env.m, NULL), 0);
    assert_int_equal(status(), 0);
    machine_go_on(env.m);
    assert_int_equal(status(), 0);
}

static void a_clone_that_is_not_renewed_is_not_asked(void **state)
{
    start(2);
    atomic_store(&env.m->group.hold, true);
    assert_int_equal(machine_rest(env.m, NULL), 0);
    assert_int_equal(status(), 0);
    machine_go_on(env.m);
    vcpus_release_others(&env.m->group);
}

static void it_nests(void **state)
{
    env.words = 1;
    env.word[0] = 1;
    start(2);
    with_driver();
    assert_int_equal(machine_rest(env.m, NULL), 0);
    pthread_join(env.driver, NULL);
    assert_int_equal(machine_rest(env.m, NULL), 0); /* at once, and nobody is asked again */
    machine_go_on(env.m);
    assert_int_equal(status(), 0);
    assert_int_equal(env.m->group.resting, 2);
    machine_go_on(env.m);
    assert_int_equal(status(), SM_LC_INT_UNPARK);
    assert_int_equal(env.m->group.resting, 0);
}

static void a_failed_save_unparks(void **state)
{
    struct machine_files files = {.state = memfd_create("state", MFD_CLOEXEC),
                                  .memory = memfd_create("memory", MFD_CLOEXEC),
                                  .diff = -1,
                                  .base = -1,
                                  .prefetch = -1};
    struct machine_saved saved;

    env.words = 1;
    env.word[0] = 1;
    start(2);
    with_driver();
    fake.fail = "vm_state";
    assert_int_equal(machine_save(env.m, &files, 0, &saved, NULL), -EIO);
    pthread_join(env.driver, NULL);
    assert_true(status() & SM_LC_INT_UNPARK);
    assert_int_equal(env.m->group.pauses, 0);
    close(files.state);
    close(files.memory);
}

static void an_end_is_not_waited_out(void **state)
{
    struct sm_error err = SM_ERROR_INIT;

    fake_hv_exit(1, HV_EXIT_SHUTDOWN, 0, 0, 0);
    start(2);
    assert_int_equal(machine_rest(env.m, &err), -ESHUTDOWN);
    assert_string_equal(err.text, "the machine has ended");
}

/* The number is the guest's word: any. */
static void boasting_does_no_harm(void **state)
{
    env.words = 1;
    env.word[0] = UINT32_MAX;
    start(2);
    with_driver();
    assert_int_equal(machine_rest(env.m, NULL), 0);
    pthread_join(env.driver, NULL);
    assert_int_equal(env.m->group.resting, 2);
    machine_go_on(env.m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(parked_before_the_rendezvous_and_released_after_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(tired_of_waiting, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_wish_is_in_no_snapshot, set_up, tear_down),
        cmocka_unit_test_setup_teardown(who_has_nothing_to_park_is_not_asked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_clone_that_is_not_renewed_is_not_asked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(it_nests, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failed_save_unparks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_end_is_not_waited_out, set_up, tear_down),
        cmocka_unit_test_setup_teardown(boasting_does_no_harm, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
