/* SPDX-License-Identifier: Apache-2.0 */
/* The rendezvous of vCPUs on a scripted hypervisor: who waits for whom, on which thread work is done, how it ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "fake_hv.h"
#include "machine/coord.h"

#define VCPUS 4

static struct vcpu_group group;
static struct events events;
static struct vcpu vcpus[VCPUS];
static unsigned order[2 * VCPUS], n_done;

static int no_init(void *ctx, struct sm_error *err)
{
    return 0;
}

static void start(unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        vcpus[i] = (struct vcpu){.group = &group, .index = i};
        assert_int_equal(hv_fake.vcpu_new(&vcpus[i].hv, NULL, i, NULL), 0);
    }
    assert_int_equal(vcpus_spawn(vcpus, n, NULL), 0);
    vcpus_go(&group);
}

static int set_up(void **state)
{
    fake_hv_reset();
    n_done = 0;
    memset(&group, 0, sizeof(group));
    events_init(&events);
    vcpu_group_init(&group);
    group.hv = &hv_fake;
    group.events = &events;
    group.thread_init = no_init;
    group.wake_fd = eventfd(0, EFD_NONBLOCK);
    return 0;
}

static void stop(unsigned n)
{
    vcpus_join(vcpus, n);
    for (unsigned i = 0; i < n; i++)
        hv_fake.vcpu_free(vcpus[i].hv);
}

static int tear_down(void **state)
{
    close(group.wake_fd);
    vcpu_group_done(&group);
    events_done(&events);
    return 0;
}

static int note(struct vcpu *v, void *ctx, struct sm_error *err)
{
    assert_true(pthread_equal(pthread_self(), v->thread));
    order[n_done++] = v->index;
    return ctx && *(unsigned *)ctx == v->index ? sm_error_set(err, EIO, "vCPU %u is stuck", v->index) : 0;
}

static void each_works_on_its_own_thread_in_turn(void **state)
{
    start(VCPUS);
    assert_int_equal(coord_pause(vcpus, VCPUS), 0);
    assert_int_equal(coord_each(vcpus, VCPUS, note, NULL, NULL), 0);
    assert_int_equal(n_done, VCPUS);
    for (unsigned i = 0; i < VCPUS; i++)
        assert_int_equal(order[i], i);
    coord_resume(vcpus, VCPUS);
    stop(VCPUS);
}

static void a_failure_ends_the_round(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    unsigned bad = 1;

    start(VCPUS);
    assert_int_equal(coord_pause(vcpus, VCPUS), 0);
    assert_int_equal(coord_each(vcpus, VCPUS, note, &bad, &err), -EIO);
    assert_string_equal(err.text, "vCPU 1 is stuck");
    assert_int_equal(n_done, 2);
    assert_int_equal(coord_each(vcpus, VCPUS, note, NULL, NULL), 0); /* and they are still there */
    coord_resume(vcpus, VCPUS);
    stop(VCPUS);
}

/* A kick of the last pause must not be missing at the next, nor the other way round. */
static void again_and_again(void **state)
{
    start(VCPUS);
    for (unsigned round = 0; round < 500; round++) {
        n_done = 0;
        assert_int_equal(coord_pause(vcpus, VCPUS), 0);
        assert_int_equal(group.resting, VCPUS);
        assert_int_equal(coord_each(vcpus, VCPUS, note, NULL, NULL), 0);
        assert_int_equal(n_done, VCPUS);
        coord_resume(vcpus, VCPUS);
        assert_int_equal(group.resting, 0);
    }
    stop(VCPUS);
}

/* The fake plays its script before it looks at kicks, as a hypervisor finishes accesses before it honours one. */
static void accesses_are_finished_before_resting(void **state)
{
    for (unsigned i = 0; i < 10; i++)
        fake_hv_exit(1, HV_EXIT_MMIO_READ, 0xd0000000, 4, 0);
    start(2);
    assert_int_equal(coord_pause(vcpus, 2), 0);
    assert_int_equal(fake.at[1], 10);
    assert_int_equal(vcpus[1].exits[HV_EXIT_MMIO_READ], 10);
    coord_resume(vcpus, 2);
    stop(2);
}

static void a_pause_is_no_end(void **state)
{
    start(2);
    assert_int_equal(coord_pause(vcpus, 2), 0);
    coord_resume(vcpus, 2);
    assert_false(group.stop);
    assert_int_equal(group.gone, 0);
    assert_int_equal(coord_pause(vcpus, 2), 0);
    stop(2); /* also out of a rendezvous */
    assert_int_equal(group.gone, 2);
}

static void the_end_calls_it_off(void **state)
{
    char text[EVENTS_MAX_TEXT];

    fake_hv_exit(1, HV_EXIT_SHUTDOWN, 0, 0, 0);
    start(2);
    assert_int_equal(coord_pause(vcpus, 2), -ESHUTDOWN);
    stop(2);
    assert_int_equal(events_ended(&events, text), MACHINE_TRIPLE_FAULT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_works_on_its_own_thread_in_turn, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failure_ends_the_round, set_up, tear_down),
        cmocka_unit_test_setup_teardown(again_and_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(accesses_are_finished_before_resting, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_pause_is_no_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_end_calls_it_off, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
