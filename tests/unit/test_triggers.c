/* SPDX-License-Identifier: Apache-2.0 */
/* Triggers: each fires when and only when it should, in order; what firing is; how the loop ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "machine/triggers.h"

#define START 1000000u

static struct triggers made(struct triggers_config config)
{
    struct triggers t;
    struct sm_error err = SM_ERROR_INIT;

    assert_int_equal(triggers_init(&t, &config, START, &err), 0);
    return t;
}

static enum triggers_action check(struct triggers *t, struct triggers_seen seen)
{
    enum triggers_action action;

    if (!seen.now_ms)
        seen.now_ms = START;
    assert_int_equal(triggers_check(t, &seen, &action, NULL), 0);
    return action;
}

static void assert_line(const struct triggers *t, const char *expected)
{
    char text[TRIGGERS_MAX_TEXT];

    triggers_line(t, text);
    assert_string_equal(text, expected);
}

static void assert_left(struct triggers *t, const char *name)
{
    assert_true(t->leaving);
    assert_string_equal(triggers_exit_name(t->exit), name);
}

static const struct triggers_config everything = {
    .heartbeat = 5, .pre_exec = true, .listener = true, .after_ms = 7000, .quiesce_ms = 50, .save = true};

static const struct triggers_seen all_seen = {
    .now_ms = START + 7000, .heartbeat = 5, .pre_exec = true, .parked = true, .listeners = 1};

static void stop_comes_first(void **state)
{
    struct triggers t = made(everything);
    struct triggers_seen seen = all_seen;

    seen.stop = seen.canceled = true;
    assert_int_equal(check(&t, seen), TRIGGERS_LEAVE);
    assert_left(&t, "stopped");
    assert_false(t.has_fired);
    t = made(everything);
    seen.stop = false;
    assert_int_equal(check(&t, seen), TRIGGERS_LEAVE);
    assert_left(&t, "canceled");
}

static void heartbeat_rests_once_then_fires(void **state)
{
    struct triggers t = made((struct triggers_config){.heartbeat = 5, .quiesce_ms = 50, .save = true});

    assert_int_equal(check(&t, (struct triggers_seen){.heartbeat = 4}), TRIGGERS_RUN);
    assert_int_equal(check(&t, (struct triggers_seen){.pre_exec = true, .listeners = 3, .parked = true}), TRIGGERS_RUN);
    assert_int_equal(check(&t, (struct triggers_seen){.heartbeat = 5}), TRIGGERS_QUIESCE);
    triggers_quiesced(&t, false);
    assert_int_equal(check(&t, (struct triggers_seen){.heartbeat = 9, .now_ms = START + 77}), TRIGGERS_CAPTURE);
    assert_line(&t, "trigger heartbeat fired after 77 ms");
    triggers_captured(&t, true);
    assert_int_equal(check(&t, (struct triggers_seen){.heartbeat = 9}), TRIGGERS_LEAVE);
    assert_left(&t, "snapshot_saved");
}

static void pre_exec_fires_at_once(void **state)
{
    struct triggers t = made((struct triggers_config){.pre_exec = true, .quiesce_ms = 50, .save = true});

    assert_int_equal(check(&t, (struct triggers_seen){.heartbeat = 99, .listeners = 1, .parked = true}), TRIGGERS_RUN);
    assert_int_equal(check(&t, (struct triggers_seen){.pre_exec = true, .now_ms = START + 3}), TRIGGERS_CAPTURE);
    assert_line(&t, "trigger pre-exec fired after 3 ms");
}

static void listener_rests_once_then_fires(void **state)
{
    struct triggers t = made((struct triggers_config){.listener = true, .quiesce_ms = 50, .save = true});

    assert_int_equal(check(&t, (struct triggers_seen){.pre_exec = true}), TRIGGERS_RUN);
    assert_int_equal(check(&t, (struct triggers_seen){.listeners = 1}), TRIGGERS_QUIESCE);
    triggers_quiesced(&t, false);
    assert_int_equal(check(&t, (struct triggers_seen){.listeners = 2, .now_ms = START + 60}), TRIGGERS_CAPTURE);
    assert_line(&t, "trigger listener fired after 60 ms");
}

static void a_parked_workload_does_not_wait_out_the_clock(void **state)
{
    struct triggers t = made((struct triggers_config){.listener = true, .after_ms = 7000, .save = true});

    assert_int_equal(check(&t, (struct triggers_seen){.now_ms = START + 10}), TRIGGERS_RUN);
    assert_int_equal(check(&t, (struct triggers_seen){.parked = true, .now_ms = START + 20}), TRIGGERS_CAPTURE);
    assert_line(&t, "trigger workload-parked fired after 20 ms; no listener appeared");
    /* Without the listener trigger nobody waits for one. */
    t = made((struct triggers_config){.pre_exec = true, .after_ms = 7000, .save = true});
    assert_int_equal(check(&t, (struct triggers_seen){.parked = true}), TRIGGERS_RUN);
    /* A listener that is there is the listener's trigger. */
    t = made((struct triggers_config){.listener = true, .after_ms = 7000, .save = true});
    assert_int_equal(check(&t, (struct triggers_seen){.parked = true, .listeners = 1}), TRIGGERS_CAPTURE);
    assert_line(&t, "trigger listener fired after 0 ms");
}

static void the_clock_fires_with_what_there_is(void **state)
{
    struct triggers t = made((struct triggers_config){.listener = true, .after_ms = 7000, .save = true});

    assert_int_equal(triggers_deadline_ms(&t), START + 7000);
    assert_int_equal(check(&t, (struct triggers_seen){.now_ms = START + 6999}), TRIGGERS_RUN);
    assert_int_equal(check(&t, (struct triggers_seen){.now_ms = START + 7000}), TRIGGERS_CAPTURE);
    assert_line(&t, "trigger wall-clock fired after 7000 ms; no listener appeared");
    triggers_captured(&t, false);
    assert_int_equal(triggers_deadline_ms(&t), UINT64_MAX);
    /* When none was waited for, none is missed. */
    t = made((struct triggers_config){.after_ms = 20, .save = true});
    assert_int_equal(check(&t, (struct triggers_seen){.now_ms = START + 25}), TRIGGERS_CAPTURE);
    assert_line(&t, "trigger wall-clock fired after 25 ms");
    /* A clock that has gone back is no time at all. */
    t = made((struct triggers_config){.after_ms = 20, .save = true});
    assert_int_equal(check(&t, (struct triggers_seen){.now_ms = START - 25}), TRIGGERS_RUN);
    t = made((struct triggers_config){.listener = true, .save = true});
    assert_int_equal(triggers_deadline_ms(&t), UINT64_MAX);
    assert_int_equal(check(&t, (struct triggers_seen){.now_ms = UINT64_MAX}), TRIGGERS_RUN);
}

static void a_demanded_listener_that_never_came(void **state)
{
    const struct triggers_config demand = {
        .listener = true, .require_listener = true, .after_ms = 1500, .quiesce_ms = 50, .save = true};
    struct triggers t = made(demand);
    struct triggers_seen late = {.now_ms = START + 1500};
    struct sm_error err = SM_ERROR_INIT;
    enum triggers_action action;

    assert_int_equal(check(&t, (struct triggers_seen){.parked = true}), TRIGGERS_RUN); /* nothing to save yet */
    assert_int_equal(triggers_check(&t, &late, &action, &err), -ETIMEDOUT);
    assert_non_null(strstr(err.text, "listener readiness timeout after 1500 ms; refusing zero-listener snapshot"));
    assert_non_null(strstr(err.text, "vCPU 0"));
    assert_false(t.has_fired);
    t = made(demand);
    late.listeners = 1; /* in the last moment */
    assert_int_equal(check(&t, late), TRIGGERS_QUIESCE);
    triggers_quiesced(&t, false);
    assert_int_equal(check(&t, late), TRIGGERS_CAPTURE);
    assert_line(&t, "trigger listener fired after 1500 ms");
}

static void the_order(void **state)
{
    static const char *const lines[] = {
        "trigger heartbeat fired after 7000 ms",
        "trigger pre-exec fired after 7000 ms",
        "trigger listener fired after 7000 ms",
        "trigger wall-clock fired after 7000 ms",
    };
    struct triggers t = made(everything);

    /* All apply at once; each capture fails, so the next one gets its turn, and none a second one. */
    for (unsigned i = 0; i < ARRAY_SIZE(lines); i++) {
        enum triggers_action action = check(&t, all_seen);

        assert_int_equal(action, i == 0 || i == 2 ? TRIGGERS_QUIESCE : TRIGGERS_CAPTURE);
        if (action == TRIGGERS_QUIESCE) {
            triggers_quiesced(&t, false);
            assert_int_equal(check(&t, all_seen), TRIGGERS_CAPTURE);
        }
        assert_line(&t, lines[i]);
        triggers_captured(&t, false);
    }
    assert_int_equal(check(&t, all_seen), TRIGGERS_RUN);
    /* Parked stands between listener and clock. */
    struct triggers_seen seen = all_seen;
    seen.listeners = 0;
    seen.heartbeat = 0;
    seen.pre_exec = false;
    t = made(everything);
    assert_int_equal(check(&t, seen), TRIGGERS_CAPTURE);
    assert_int_equal(t.fired, TRIGGER_PARKED);
    triggers_captured(&t, false);
    assert_int_equal(check(&t, seen), TRIGGERS_CAPTURE);
    assert_int_equal(t.fired, TRIGGER_AFTER);
}

static void the_list_begins_anew_after_a_rest(void **state)
{
    struct triggers t = made(everything);

    /* While the guest came to rest for its listener, its heartbeat arrived: that comes first, with a rest of its own.
     */
    assert_int_equal(check(&t, (struct triggers_seen){.listeners = 1}), TRIGGERS_QUIESCE);
    triggers_quiesced(&t, false);
    assert_int_equal(check(&t, (struct triggers_seen){.listeners = 1, .heartbeat = 5}), TRIGGERS_QUIESCE);
    triggers_quiesced(&t, false);
    assert_int_equal(check(&t, (struct triggers_seen){.listeners = 1, .heartbeat = 5}), TRIGGERS_CAPTURE);
    assert_int_equal(t.fired, TRIGGER_HEARTBEAT);
    /* Or its listener went away: it is waited for again, and needs no second rest. */
    t = made(everything);
    assert_int_equal(check(&t, (struct triggers_seen){.listeners = 1}), TRIGGERS_QUIESCE);
    triggers_quiesced(&t, false);
    assert_int_equal(check(&t, (struct triggers_seen){.listeners = 0}), TRIGGERS_RUN);
    assert_int_equal(check(&t, (struct triggers_seen){.listeners = 1}), TRIGGERS_CAPTURE);
    /* Stop is heard then, too. */
    t = made(everything);
    assert_int_equal(check(&t, (struct triggers_seen){.listeners = 1}), TRIGGERS_QUIESCE);
    triggers_quiesced(&t, false);
    assert_int_equal(check(&t, (struct triggers_seen){.listeners = 1, .stop = true}), TRIGGERS_LEAVE);
    assert_left(&t, "stopped");
}

static void a_guest_that_powers_off_at_rest(void **state)
{
    struct triggers t = made(everything);

    assert_int_equal(check(&t, (struct triggers_seen){.heartbeat = 5}), TRIGGERS_QUIESCE);
    triggers_quiesced(&t, true);
    assert_int_equal(check(&t, all_seen), TRIGGERS_LEAVE);
    assert_left(&t, "system_off");
    assert_int_equal(check(&t, all_seen), TRIGGERS_LEAVE); /* and stays so */
    assert_false(t.has_fired);
}

static void without_quiesce_time_there_is_no_rest(void **state)
{
    struct triggers t = made((struct triggers_config){.heartbeat = 1, .listener = true, .save = true});

    assert_int_equal(check(&t, (struct triggers_seen){.listeners = 1}), TRIGGERS_CAPTURE);
}

static void fire_is_one_thing_never_both(void **state)
{
    /* Bake, then pool: left once, then the guest just runs. */
    struct triggers t = made((struct triggers_config){.pre_exec = true, .listener = true, .pool = true});

    assert_int_equal(check(&t, (struct triggers_seen){.pre_exec = true}), TRIGGERS_LEAVE);
    assert_left(&t, "bake_ready");
    assert_line(&t, "trigger pre-exec fired after 0 ms");
    assert_int_equal(check(&t, all_seen), TRIGGERS_RUN);
    assert_int_equal(check(&t, all_seen), TRIGGERS_RUN);
    assert_int_equal(check(&t, (struct triggers_seen){.stop = true}), TRIGGERS_LEAVE);
    assert_left(&t, "stopped");
    /* With somewhere to save to, saving is what happens. */
    t = made((struct triggers_config){.pre_exec = true, .pool = true, .save = true});
    assert_int_equal(check(&t, (struct triggers_seen){.pre_exec = true}), TRIGGERS_CAPTURE);
    triggers_captured(&t, true);
    assert_int_equal(check(&t, all_seen), TRIGGERS_LEAVE);
    assert_left(&t, "snapshot_saved");
    /* With neither, nothing fires. */
    t = made((struct triggers_config){.pre_exec = true, .listener = true, .after_ms = 1});
    assert_int_equal(check(&t, all_seen), TRIGGERS_RUN);
    assert_int_equal(triggers_deadline_ms(&t), UINT64_MAX);
    assert_false(t.has_fired);
}

static void configurations_that_make_no_sense(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct triggers t;
    struct triggers_config config = {.save = true, .quiesce_ms = 5};

    assert_int_equal(triggers_init(&t, &config, START, &err), -EINVAL);
    assert_non_null(strstr(err.text, "needs a trigger"));
    config.require_listener = config.listener = true; /* for ever */
    assert_int_equal(triggers_init(&t, &config, START, &err), -EINVAL);
    config.after_ms = TRIGGERS_DEFAULT_AFTER_MS;
    assert_int_equal(triggers_init(&t, &config, START, &err), 0);
    config.listener = false;
    assert_int_equal(triggers_init(&t, &config, START, &err), -EINVAL);
    assert_int_equal(TRIGGERS_DEFAULT_AFTER_MS, 7000);
    assert_string_equal(trigger_name(TRIGGER_PARKED), "workload-parked");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stop_comes_first),
        cmocka_unit_test(heartbeat_rests_once_then_fires),
        cmocka_unit_test(pre_exec_fires_at_once),
        cmocka_unit_test(listener_rests_once_then_fires),
        cmocka_unit_test(a_parked_workload_does_not_wait_out_the_clock),
        cmocka_unit_test(the_clock_fires_with_what_there_is),
        cmocka_unit_test(a_demanded_listener_that_never_came),
        cmocka_unit_test(the_order),
        cmocka_unit_test(the_list_begins_anew_after_a_rest),
        cmocka_unit_test(a_guest_that_powers_off_at_rest),
        cmocka_unit_test(without_quiesce_time_there_is_no_rest),
        cmocka_unit_test(fire_is_one_thing_never_both),
        cmocka_unit_test(configurations_that_make_no_sense),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
