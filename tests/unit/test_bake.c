/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bake in a machine on a scripted hypervisor: what the guest says meets the triggers before that vCPU enters again,
 * quiescing masks timers and unmasks them, and every way in which a bake ends. The list itself: test_triggers.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "arch/layout_x86_64.h"
#include "base/error.h"
#include "base/io.h"
#include "fake_hv.h"
#include "lifecycle_regs.h"
#include "machine/bake.h"
#include "machine/coord.h"
#include "machine/machine_private.h"
#include "pvh_kernel.h"

#define MS          1000000u
#define PATIENCE_MS 10000

struct env {
    struct loop *loop;
    struct machine *m;
    unsigned machine_ends, captures, baked;
    unsigned at[2]; /* how far the guest's vCPUs had come at the capture */
    bool masked;    /* any timer, then */
    uint64_t start_ns, captured_ns;
    int capture_error; /* errno */
    struct bake_outcome outcome;
};

static struct env env;

static bool on_event(void *ctx, uint32_t kind, uint64_t arg)
{
    return true;
}

static void on_machine_ended(void *ctx, enum machine_end end, const char *text)
{
    env.machine_ends++;
    loop_stop(env.loop);
}

static int on_thread(void *ctx, struct sm_error *err)
{
    return 0;
}

static const struct machine_ops ops = {.event = on_event, .ended = on_machine_ended, .vcpu_thread = on_thread};

static int set_up(void **state)
{
    env = (struct env){.machine_ends = 0};
    fake_hv_reset();
    return loop_new(&env.loop);
}

static int tear_down(void **state)
{
    machine_free(env.m);
    loop_free(env.loop);
    return fake.alive != 0;
}

/* What machine_save() does: come to rest, look, and go on. */
static int on_capture(void *ctx, struct machine_saved *ret, struct sm_error *err)
{
    int r = machine_rest(env.m, err);

    if (r < 0)
        return r;
    env.captures++;
    env.captured_ns = io_now_ns();
    for (unsigned i = 0; i < 2; i++)
        env.at[i] = fake.at[i];
    for (unsigned i = 0; i < HV_MAX_VCPUS; i++)
        env.masked = env.masked || fake.masked[i];
    assert_true(atomic_load(&env.m->group.pause));
    *ret = (struct machine_saved){
        .total_ns = 5 * MS, .data_pages = 512, .zero_pages = 256, .devices = 3, .listeners = env.m->listeners};
    machine_go_on(env.m);
    return env.capture_error ? sm_error_set(err, env.capture_error, "no room for memory") : 0;
}

static void on_baked(void *ctx, const struct bake_outcome *outcome)
{
    env.baked++;
    env.outcome = *outcome;
    loop_stop(env.loop);
}

static void ring(unsigned vcpu, uint32_t kind, uint64_t arg)
{
    fake_hv_exit(vcpu, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_EVENT_ARG, 8, arg);
    fake_hv_exit(vcpu, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_EVENT, 4, kind);
}

/* The guest's next instructions, which a vCPU that waits for a decision has not come to. */
static void later(unsigned vcpu, uint64_t reg, uint64_t value)
{
    fake_hv_exit(vcpu, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + reg, 4, value)->later = true;
}

static void build(unsigned vcpus)
{
    const struct machine_config config = {
        .hv = &hv_fake, .loop = env.loop, .memory_mib = 32, .vcpus = vcpus, .ops = &ops, .ctx = &env};
    struct pvh_kernel k = pvh_kernel();
    int fd = pvh_file(&k, sizeof(k));

    assert_int_equal(machine_new(&env.m, &config, NULL), 0);
    assert_int_equal(machine_boot(env.m, fd, -1, "", false, NULL), 0);
    close(fd);
    assert_int_equal(machine_spawn(env.m, NULL), 0);
}

static int arm(struct triggers_config triggers, struct sm_error *err)
{
    const struct bake_config config = {
        .triggers = triggers, .capture = triggers.save ? on_capture : NULL, .ended = on_baked};

    return machine_bake(env.m, &config, err);
}

/* Arm, run, and wait for the bake's end. */
static void bake(unsigned vcpus, struct triggers_config triggers)
{
    build(vcpus);
    assert_int_equal(arm(triggers, NULL), 0);
    env.start_ns = io_now_ns();
    machine_run(env.m);
    while (!env.baked)
        assert_int_equal(loop_run(env.loop), 0);
    assert_int_equal(env.baked, 1);
}

static void assert_saved(enum trigger trigger, const char *line)
{
    assert_int_equal(env.outcome.code, 0);
    assert_int_equal(env.outcome.exit, TRIGGERS_SNAPSHOT_SAVED);
    assert_int_equal(env.outcome.trigger, trigger);
    assert_int_equal(env.captures, 1);
    assert_false(env.masked);
    assert_non_null(strstr(env.outcome.text, line));
}

/* The machine still runs: it does what is left of the script, and ends by it. */
static void assert_runs_on(void)
{
    while (!env.machine_ends)
        assert_int_equal(loop_run(env.loop), 0);
    assert_int_equal(fake.at[0], fake.n[0]);
    assert_int_equal(env.baked, 1); /* and nothing more is told */
}

/* --- triggers --- */

static void pre_exec_is_captured_where_it_was_rung(void **state)
{
    ring(0, SM_LC_EV_PRE_EXEC, 0);
    later(0, SM_LC_POWER, SM_LC_POWER_OFF);
    bake(1, (struct triggers_config){.pre_exec = true, .quiesce_ms = 60000, .after_ms = 60000, .save = true});
    assert_saved(TRIGGER_PRE_EXEC, "trigger pre-exec fired after ");
    assert_int_equal(env.at[0], 2); /* not one instruction further */
    assert_int_equal(fake_hv_calls("vcpu_mask_timer"), 0);
    assert_runs_on();
}

static void its_line_says_what_was_saved(void **state)
{
    ring(0, SM_LC_EV_LISTENER, 80);
    ring(0, SM_LC_EV_LISTENER, 443);
    ring(0, SM_LC_EV_LISTENER, 80);
    ring(0, SM_LC_EV_PRE_EXEC, 0);
    bake(1, (struct triggers_config){.pre_exec = true, .save = true});
    assert_saved(TRIGGER_PRE_EXEC,
                 " ms: saved in 5000 us, 32 MiB of RAM (2048 KiB data, 1024 KiB zero), 3 devices, 2 listeners");
    assert_int_equal(env.outcome.saved.data_pages, 512);
}

static void pre_exec_wins_over_listener(void **state)
{
    build(1);
    ring(0, SM_LC_EV_LISTENER, 80);
    ring(0, SM_LC_EV_PRE_EXEC, 0);
    machine_run(env.m); /* both are there when it is armed */
    fake_hv_wait(0, 4);
    assert_int_equal(arm((struct triggers_config){.pre_exec = true, .listener = true, .save = true}, NULL), 0);
    assert_int_equal(env.baked, 0); /* not before the arming was answered */
    assert_int_equal(loop_run(env.loop), 0);
    assert_saved(TRIGGER_PRE_EXEC, "trigger pre-exec");
}

static void heartbeat_quiesces_once_then_fires(void **state)
{
    ring(0, SM_LC_EV_HEARTBEAT, 1);
    ring(0, SM_LC_EV_HEARTBEAT, 2);
    ring(0, SM_LC_EV_HEARTBEAT, 3);
    later(0, SM_LC_RENEWED, 1); /* the guest runs on while it comes to rest */
    ring(0, SM_LC_EV_HEARTBEAT, 4);
    bake(1, (struct triggers_config){.heartbeat = 3, .quiesce_ms = 30, .save = true});
    assert_saved(TRIGGER_HEARTBEAT, "trigger heartbeat fired after ");
    assert_int_equal(env.at[0], 9);
    assert_true(env.captured_ns - env.start_ns >= 30 * MS);
    assert_int_equal(fake_hv_calls("vcpu_mask_timer"), 1);
    assert_int_equal(fake_hv_calls("vcpu_unmask_timer"), 1);
}

static void listener_quiesces_on_every_vcpu(void **state)
{
    ring(1, SM_LC_EV_LISTENER, 8080);
    fake.idle[0] = true; /* one alone is not enough */
    bake(2, (struct triggers_config){.listener = true, .quiesce_ms = 30, .after_ms = 60000, .save = true});
    assert_saved(TRIGGER_LISTENER, "trigger listener fired after ");
    assert_true(env.captured_ns - env.start_ns >= 30 * MS);
    assert_int_equal(fake_hv_calls("vcpu_mask_timer"), 2);
    for (unsigned i = 0; i < 2; i++) /* each on its own thread */
        assert_true(pthread_equal(fake.worked_on[i], env.m->vcpu[i].thread));
    assert_int_equal(fake_hv_calls("vcpu_unmask_timer"), 2);
}

static void who_idles_already_is_not_waited_for(void **state)
{
    ring(0, SM_LC_EV_LISTENER, 8080);
    fake.idle[0] = fake.idle[1] = true;
    bake(2, (struct triggers_config){.listener = true, .quiesce_ms = 60000, .save = true});
    assert_saved(TRIGGER_LISTENER, "trigger listener");
    assert_int_equal(fake_hv_calls("vcpu_unmask_timer"), 2);
    assert_true(env.captured_ns - env.start_ns < 30000ull * MS);
}

static void a_parked_workload_fires_before_the_clock(void **state)
{
    ring(0, SM_LC_EV_WORKLOAD_PARKED, 0);
    bake(1, (struct triggers_config){.listener = true, .quiesce_ms = 60000, .after_ms = 60000, .save = true});
    assert_saved(TRIGGER_PARKED, "; no listener appeared: saved in");
    assert_int_equal(fake_hv_calls("vcpu_mask_timer"), 0);
}

static void the_clock_needs_no_event(void **state)
{
    bake(1, (struct triggers_config){.listener = true, .after_ms = 20, .save = true});
    assert_saved(TRIGGER_AFTER, "trigger wall-clock fired after 2");
    assert_non_null(strstr(env.outcome.text, "no listener appeared"));
    assert_true(env.captured_ns - env.start_ns >= 19 * MS);
}

static void a_demanded_listener_that_never_came(void **state)
{
    ring(0, SM_LC_EV_WORKLOAD_PARKED, 0);
    later(0, SM_LC_POWER, SM_LC_POWER_OFF);
    fake.script[0][2].kind = HV_EXIT_KICKED; /* only goes on */
    bake(1, (struct triggers_config){.listener = true, .require_listener = true, .after_ms = 20, .save = true});
    assert_int_equal(env.outcome.code, ETIMEDOUT);
    assert_string_equal(env.outcome.text,
                        "vCPU 0: listener readiness timeout after 20 ms; refusing zero-listener snapshot");
    assert_int_equal(env.captures, 0);
    assert_int_equal(env.outcome.trigger, TRIGGERS);
    assert_int_equal(env.machine_ends, 0);
}

static void what_is_no_trigger_does_not_stop_a_vcpu(void **state)
{
    build(1);
    ring(0, SM_LC_EV_AGENT_READY, 0);
    later(0, SM_LC_RENEWED, 1);
    ring(0, SM_LC_EV_HEARTBEAT, 1);
    later(0, SM_LC_POWER, SM_LC_POWER_OFF);
    assert_int_equal(arm((struct triggers_config){.heartbeat = 2, .save = true}, NULL), 0);
    machine_run(env.m);
    while (!env.machine_ends)
        assert_int_equal(loop_run(env.loop), 0);
    assert_int_equal(env.captures, 0);
    assert_int_equal(fake.at[0], fake.n[0]);
}

/* --- firing --- */

static void a_capture_that_fails_lets_it_run_on(void **state)
{
    ring(0, SM_LC_EV_PRE_EXEC, 0);
    later(0, SM_LC_EVENT, SM_LC_EV_PRE_EXEC);
    later(0, SM_LC_POWER, SM_LC_POWER_OFF);
    env.capture_error = ENOSPC;
    bake(1, (struct triggers_config){.pre_exec = true, .save = true});
    assert_int_equal(env.outcome.code, ENOSPC);
    assert_string_equal(env.outcome.text, "snapshot capture at trigger pre-exec: no room for memory");
    assert_int_equal(env.outcome.trigger, TRIGGER_PRE_EXEC);
    assert_runs_on();
    assert_int_equal(env.captures, 1);
}

static void bake_then_pool_leaves_once(void **state)
{
    ring(0, SM_LC_EV_PRE_EXEC, 0);
    later(0, SM_LC_EVENT, SM_LC_EV_PRE_EXEC);
    later(0, SM_LC_POWER, SM_LC_POWER_OFF);
    bake(1, (struct triggers_config){.pre_exec = true, .pool = true});
    assert_int_equal(env.outcome.exit, TRIGGERS_BAKE_READY);
    assert_int_equal(env.outcome.code, 0);
    assert_int_equal(env.captures, 0);
    assert_runs_on();
}

static void one_after_the_other(void **state)
{
    struct sm_error err = SM_ERROR_INIT;

    build(1);
    ring(0, SM_LC_EV_PRE_EXEC, 0);
    assert_int_equal(arm((struct triggers_config){.pre_exec = true, .save = true}, NULL), 0);
    assert_int_equal(arm((struct triggers_config){.pre_exec = true, .save = true}, &err), -EBUSY);
    assert_string_equal(err.text, "the machine is being baked already");
    machine_run(env.m);
    assert_int_equal(loop_run(env.loop), 0);
    assert_int_equal(env.captures, 1);
    /* That pre-exec is over; the next bake's is another. */
    assert_int_equal(arm((struct triggers_config){.pre_exec = true, .after_ms = 20, .save = true}, NULL), 0);
    assert_int_equal(loop_run(env.loop), 0);
    assert_int_equal(env.captures, 2);
    assert_int_equal(env.outcome.trigger, TRIGGER_AFTER);
    assert_int_equal(arm((struct triggers_config){.save = true}, &err), -EINVAL);
}

/* --- quiesce --- */

static void a_guest_that_powers_off_at_rest(void **state)
{
    ring(0, SM_LC_EV_LISTENER, 80);
    later(0, SM_LC_POWER, SM_LC_POWER_OFF);
    bake(1, (struct triggers_config){.listener = true, .quiesce_ms = 60000, .save = true});
    assert_int_equal(env.outcome.exit, TRIGGERS_SYSTEM_OFF);
    assert_int_equal(env.outcome.code, 0);
    assert_int_equal(env.captures, 0);
}

static void an_unmask_error_is_told_though_all_went_well(void **state)
{
    ring(0, SM_LC_EV_LISTENER, 80);
    later(0, SM_LC_POWER, SM_LC_POWER_OFF);
    fake.script[0][2].kind = HV_EXIT_KICKED;
    fake.fail = "vcpu_unmask_timer";
    for (unsigned i = 0; i < 2; i++) {
        fake.idle[0] = i > 0;
        bake(1, (struct triggers_config){.listener = true, .quiesce_ms = 20, .save = true});
        assert_int_equal(env.outcome.code, EIO);
        assert_string_equal(env.outcome.text, "vcpu_unmask_timer failed");
        assert_int_equal(env.captures, 0);
        assert_int_equal(env.m->group.pauses, 0); /* it runs on */
        machine_free(env.m);
        env.m = NULL;
        env.baked = fake.at[0] = 0;
    }
}

static void a_mask_error_unmasks_the_others(void **state)
{
    static const char *const calls[] = {"vcpu_mask_timer", "vcpu_idle"};

    for (unsigned i = 0; i < 2; i++) {
        ring(0, SM_LC_EV_LISTENER, 80);
        fake.fail = calls[i];
        bake(2, (struct triggers_config){.listener = true, .quiesce_ms = 60000, .save = true});
        assert_int_equal(env.outcome.code, EIO);
        assert_non_null(strstr(env.outcome.text, calls[i]));
        assert_false(fake.masked[0] || fake.masked[1]);
        assert_int_equal(env.m->group.pauses, 0);
        machine_free(env.m);
        env.m = NULL;
        env.baked = 0;
        fake_hv_reset();
    }
}

static void a_save_meanwhile_sees_no_masked_timer(void **state)
{
    ring(0, SM_LC_EV_LISTENER, 80);
    build(1);
    assert_int_equal(arm((struct triggers_config){.listener = true, .quiesce_ms = 60000, .save = true}, NULL), 0);
    machine_run(env.m);
    while (!fake.masked[0])
        assert_true(loop_once(env.loop, PATIENCE_MS) > 0);
    assert_int_equal(machine_rest(env.m, NULL), 0);
    assert_false(fake.masked[0]);
    machine_go_on(env.m);
    /* It was forced out, which is the end of its rest and no cancellation. */
    assert_int_equal(loop_run(env.loop), 0);
    assert_saved(TRIGGER_LISTENER, "trigger listener");
    assert_int_equal(fake_hv_calls("vcpu_unmask_timer"), 1);
}

/* --- other ends --- */

static void a_pause_is_no_cancellation(void **state)
{
    build(2);
    assert_int_equal(arm((struct triggers_config){.pre_exec = true, .after_ms = 60, .save = true}, NULL), 0);
    machine_run(env.m);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(loop_once(env.loop, 0) >= 0);
        assert_int_equal(coord_pause(env.m->vcpu, 2), 0);
        coord_resume(env.m->vcpu, 2);
    }
    assert_int_equal(env.baked, 0);
    while (!env.baked)
        assert_int_equal(loop_run(env.loop), 0);
    assert_saved(TRIGGER_AFTER, "trigger wall-clock");
}

static void a_pause_before_the_decision_does_not_let_it_run(void **state)
{
    ring(0, SM_LC_EV_PRE_EXEC, 0);
    later(0, SM_LC_POWER, SM_LC_POWER_OFF);
    build(1);
    struct pollfd wake = {.fd = env.m->group.wake_fd, .events = POLLIN};
    assert_int_equal(arm((struct triggers_config){.pre_exec = true, .save = true}, NULL), 0);
    machine_run(env.m);
    assert_int_equal(poll(&wake, 1, PATIENCE_MS), 1); /* the loop does not run yet */
    assert_int_equal(vcpus_asking(env.m->vcpu, 1), 1);
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(coord_pause(env.m->vcpu, 1), 0);
        coord_resume(env.m->vcpu, 1);
    }
    assert_int_equal(fake.at[0], 2);
    assert_int_equal(loop_run(env.loop), 0);
    assert_saved(TRIGGER_PRE_EXEC, "trigger pre-exec");
    assert_int_equal(env.at[0], 2);
}

static void its_owner_stops_it(void **state)
{
    build(1);
    assert_int_equal(arm((struct triggers_config){.pre_exec = true, .save = true}, NULL), 0);
    machine_run(env.m);
    assert_true(loop_once(env.loop, PATIENCE_MS) >= 0);
    machine_stop(env.m);
    assert_int_equal(loop_run(env.loop), 0);
    assert_int_equal(env.outcome.exit, TRIGGERS_STOPPED);
    assert_int_equal(env.outcome.code, 0);
    assert_string_equal(env.outcome.text, "no trigger fired");
    assert_int_equal(env.baked, 1);
    assert_int_equal(env.machine_ends, 1);
}

static void it_powers_off(void **state)
{
    fake_hv_exit(0, HV_EXIT_POWER_OFF, 0, 0, 0);
    bake(1, (struct triggers_config){.pre_exec = true, .save = true});
    assert_int_equal(env.outcome.exit, TRIGGERS_SYSTEM_OFF);
}

static void a_run_that_is_cut_is_canceled(void **state)
{
    fake_hv_exit(0, HV_EXIT_OTHER, 0, 0, 0);
    bake(1, (struct triggers_config){.pre_exec = true, .save = true});
    assert_int_equal(env.outcome.exit, TRIGGERS_CANCELED);
    assert_int_equal(env.outcome.code, ECANCELED);
    assert_string_equal(env.outcome.text, "the machine ended before it was baked: the hypervisor is lost");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pre_exec_is_captured_where_it_was_rung, set_up, tear_down),
        cmocka_unit_test_setup_teardown(its_line_says_what_was_saved, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pre_exec_wins_over_listener, set_up, tear_down),
        cmocka_unit_test_setup_teardown(heartbeat_quiesces_once_then_fires, set_up, tear_down),
        cmocka_unit_test_setup_teardown(listener_quiesces_on_every_vcpu, set_up, tear_down),
        cmocka_unit_test_setup_teardown(who_idles_already_is_not_waited_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_parked_workload_fires_before_the_clock, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_clock_needs_no_event, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_demanded_listener_that_never_came, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_no_trigger_does_not_stop_a_vcpu, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_capture_that_fails_lets_it_run_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bake_then_pool_leaves_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_after_the_other, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_guest_that_powers_off_at_rest, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_unmask_error_is_told_though_all_went_well, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_mask_error_unmasks_the_others, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_save_meanwhile_sees_no_masked_timer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_pause_is_no_cancellation, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_pause_before_the_decision_does_not_let_it_run, set_up, tear_down),
        cmocka_unit_test_setup_teardown(its_owner_stops_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(it_powers_off, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_run_that_is_cut_is_canceled, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
