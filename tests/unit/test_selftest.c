/* SPDX-License-Identifier: Apache-2.0 */
/* The self-test's verdict, on hypervisors that break in each way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "fake_hv.h"
#include "hv/selftest.h"
#include "hv/selftest_guest.h"

static void step(uint64_t number)
{
    fake_hv_exit(0, HV_EXIT_PIO_WRITE, PORT_STEP, 1, number);
}

/* A guest that reports all steps up to `last`, then does `then`. */
static void script(uint64_t last, enum hv_exit_kind then, uint64_t verdict)
{
    fake_hv_reset();
    for (uint64_t s = STEP_LONG_MODE; s <= last; s++) {
        step(s);
        if (s == STEP_LOOP_END)
            fake_hv_exit(0, HV_EXIT_PIO_READ, PORT_AGAIN, 1, 0xff);
    }
    if (verdict)
        step(verdict);
    else
        fake_hv_exit(0, then, 0, 0, 0);
}

static struct selftest_result run(void)
{
    struct selftest_result res;

    assert_int_equal(selftest_run(&res, &hv_fake, -1, NULL), 0);
    assert_int_equal(fake.alive, 0);
    assert_true(res.sentence[0] != 0);
    return res;
}

static void a_good_one(void **state)
{
    script(STEP_SYSCALL, HV_EXIT_HALT, STEP_DONE);
    struct selftest_result res = run();

    assert_true(res.usable);
    assert_string_equal(res.failed, "");
    assert_true(res.instructions_per_second > 5000000);
    assert_int_equal(fake.script[0][3].data[0], 0); /* one round was enough */
}

static void each_step_can_fail(void **state)
{
    static const char *const names[] = {"long-mode",  "ports",  "loop", "cpuid", "popcnt",
                                        "cmpxchg16b", "xrstor", "clac", "int3",  "syscall"};
    static const struct {
        enum hv_exit_kind kind;
        uint64_t verdict;
    } ways[] = {{HV_EXIT_SHUTDOWN, 0},      {HV_EXIT_OTHER, 0},        {HV_EXIT_HALT, 0},
                {HV_EXIT_HALT, STEP_WRONG}, {HV_EXIT_HALT, STEP_TRAP}, {HV_EXIT_MMIO_READ, 0}};

    for (uint64_t last = 0; last <= STEP_SYSCALL; last++)
        for (size_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++) {
            script(last, ways[w].kind, ways[w].verdict);
            struct selftest_result res = run();

            assert_false(res.usable);
            assert_string_equal(res.failed, names[last]);
        }
}

static void a_guest_that_runs_wild_is_ended(void **state)
{
    fake_hv_reset();
    for (unsigned i = 0; i < FAKE_MAX_EXITS; i++)
        step(STEP_LONG_MODE);
    fake.run_error = -EFAULT;
    assert_string_equal(run().failed, "ports");
}

static const struct hv *slow_base = &hv_fake;

/* Kernel code at some 2 million instructions a second, for as many rounds as are asked. */
static int slow_run(struct hv_vcpu *vcpu, struct hv_exit *ret, struct sm_error *err)
{
    int r = slow_base->vcpu_run(vcpu, ret, err);

    if (r == 0 && ret->kind == HV_EXIT_PIO_WRITE && ret->data[0] == STEP_LOOP_END) {
        struct timespec t = {.tv_nsec = 10000000};

        nanosleep(&t, NULL); /* the time that such a host takes: what is measured, not waited for */
    }
    return r;
}

static void an_interpreter_is_too_slow(void **state)
{
    struct hv slow = hv_fake;
    struct selftest_result res;

    slow.vcpu_run = slow_run;
    fake_hv_reset();
    step(STEP_LONG_MODE);
    for (unsigned i = 0; i < 8; i++) {
        step(STEP_LOOP);
        step(STEP_LOOP_END);
        fake_hv_exit(0, HV_EXIT_PIO_READ, PORT_AGAIN, 1, 0xff);
    }
    for (uint64_t s = STEP_POPCNT; s <= STEP_DONE; s++)
        step(s);
    assert_int_equal(selftest_run(&res, &slow, -1, NULL), 0);
    assert_false(res.usable);
    assert_string_equal(res.failed, "speed");
    /* Asked again seven times, then no more. */
    assert_int_equal(fake.script[0][3].data[0], 1);
    assert_int_equal(fake.script[0][3 * 7].data[0], 1);
    assert_int_equal(fake.script[0][3 * 8].data[0], 0);
}

static void no_machine_no_verdict(void **state)
{
    static const char *const calls[] = {"vm_new", "vm_map", "vcpu_new", "vcpu_setup"};

    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        struct selftest_result res;
        struct sm_error err = SM_ERROR_INIT;

        fake_hv_reset();
        fake.fail = calls[i];
        assert_int_equal(selftest_run(&res, &hv_fake, -1, &err), -EIO);
        assert_non_null(strstr(err.text, "self-test"));
        assert_int_equal(fake.alive, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_one),
        cmocka_unit_test(each_step_can_fail),
        cmocka_unit_test(a_guest_that_runs_wild_is_ended),
        cmocka_unit_test(an_interpreter_is_too_slow),
        cmocka_unit_test(no_machine_no_verdict),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
