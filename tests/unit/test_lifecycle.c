/* SPDX-License-Identifier: Apache-2.0 */
/* The lifecycle device: registers, events, power. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "dev/lifecycle.h"
#include "lifecycle_regs.h"

struct env {
    struct lifecycle *lc;
    unsigned n_events, n_power;
    uint32_t kind, power;
    uint64_t arg;
    char text[SM_LC_TEXT_SIZE];
    bool has_text;
    size_t text_len;
};

static void on_event(void *ctx, uint32_t kind, uint64_t arg, const char *text, size_t text_len)
{
    struct env *e = ctx;

    e->n_events++;
    e->kind = kind;
    e->arg = arg;
    e->has_text = text != NULL;
    e->text_len = text_len;
    if (text)
        memcpy(e->text, text, text_len);
    lifecycle_read(e->lc, SM_LC_TEXT, 8); /* no lock is held */
}

static void on_power(void *ctx, uint32_t kind)
{
    struct env *e = ctx;

    e->n_power++;
    e->power = kind;
}

static const struct lifecycle_ops ops = {.event = on_event, .power = on_power};

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    *state = e;
    return lifecycle_new(&e->lc, &ops, e, NULL);
}

static int teardown(void **state)
{
    struct env *e = *state;

    lifecycle_free(e->lc);
    lifecycle_free(NULL);
    free(e);
    return 0;
}

static void identity(void **state)
{
    struct env *e = *state;

    assert_int_equal(lifecycle_read(e->lc, SM_LC_MAGIC, 4), SM_LC_MAGIC_VALUE);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_VERSION, 4), SM_LC_VERSION_VALUE);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_FEATURES, 4), SM_LC_F_EVENTS);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_INT_STATUS, 4), 0);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_MAGIC, 1), 0);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_MAGIC, 8), 0);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_MAGIC + 1, 4), 0);
    assert_int_equal(lifecycle_read(e->lc, 0xffc, 4), 0);
    assert_int_equal(lifecycle_read(e->lc, UINT64_MAX - 3, 4), 0);
}

static void events_carry_their_argument_once(void **state)
{
    struct env *e = *state;

    lifecycle_write(e->lc, SM_LC_EVENT_ARG, 8, 0x1122334455667788);
    lifecycle_write(e->lc, SM_LC_EVENT, 4, SM_LC_EV_LISTENER);
    assert_int_equal(e->kind, SM_LC_EV_LISTENER);
    assert_int_equal(e->arg, 0x1122334455667788);
    assert_false(e->has_text);
    lifecycle_write(e->lc, SM_LC_EVENT, 4, SM_LC_EV_HEARTBEAT);
    assert_int_equal(e->arg, 0);
    assert_int_equal(e->n_events, 2);
    lifecycle_write(e->lc, SM_LC_EVENT_ARG, 4, 5); /* not its width */
    lifecycle_write(e->lc, SM_LC_EVENT, 4, SM_LC_EV_AGENT_READY);
    assert_int_equal(e->arg, 0);
    lifecycle_write(e->lc, SM_LC_EVENT, 4, 0);
    lifecycle_write(e->lc, SM_LC_EVENT, 4, SM_LC_EV_PANIC + 1);
    lifecycle_write(e->lc, SM_LC_EVENT, 2, SM_LC_EV_AGENT_READY);
    lifecycle_write(e->lc, SM_LC_EVENT, 8, SM_LC_EV_AGENT_READY);
    lifecycle_write(e->lc, SM_LC_MAGIC, 4, 1);
    assert_int_equal(e->n_events, 3);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_MAGIC, 4), SM_LC_MAGIC_VALUE);
}

static void panic_brings_its_text(void **state)
{
    struct env *e = *state;

    lifecycle_write(e->lc, SM_LC_TEXT, 4, 0x70706f);   /* "opp" */
    lifecycle_write(e->lc, SM_LC_TEXT + 1, 2, 0x736f); /* "so" */
    lifecycle_write(e->lc, SM_LC_TEXT + 3, 1, '!');
    assert_int_equal(lifecycle_read(e->lc, SM_LC_TEXT, 4), 0x21736f6f);
    lifecycle_write(e->lc, SM_LC_EVENT_ARG, 8, 4);
    lifecycle_write(e->lc, SM_LC_EVENT, 4, SM_LC_EV_PANIC);
    assert_true(e->has_text);
    assert_int_equal(e->text_len, 4);
    assert_memory_equal(e->text, "oos!", 4);
    lifecycle_write(e->lc, SM_LC_EVENT_ARG, 8, UINT64_MAX); /* longer than the window */
    lifecycle_write(e->lc, SM_LC_EVENT, 4, SM_LC_EV_PANIC);
    assert_int_equal(e->text_len, SM_LC_TEXT_SIZE);
    lifecycle_write(e->lc, SM_LC_EVENT, 4, SM_LC_EV_PANIC);
    assert_int_equal(e->text_len, 0);
}

static void text_window_has_borders(void **state)
{
    struct env *e = *state;
    const uint64_t end = SM_LC_TEXT + SM_LC_TEXT_SIZE;

    lifecycle_write(e->lc, end - 8, 8, UINT64_MAX);
    assert_int_equal(lifecycle_read(e->lc, end - 8, 8), UINT64_MAX);
    lifecycle_write(e->lc, end - 4, 8, 0); /* sticks out: nothing of it is written */
    assert_int_equal(lifecycle_read(e->lc, end - 4, 4), 0xffffffff);
    assert_int_equal(lifecycle_read(e->lc, end - 4, 8), 0);
    assert_int_equal(lifecycle_read(e->lc, end, 4), 0);
    lifecycle_write(e->lc, SM_LC_TEXT - 1, 2, UINT64_MAX);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_TEXT, 1), 0);
}

static void power(void **state)
{
    struct env *e = *state;

    lifecycle_write(e->lc, SM_LC_POWER, 4, 0);
    lifecycle_write(e->lc, SM_LC_POWER, 4, 3);
    lifecycle_write(e->lc, SM_LC_POWER, 1, SM_LC_POWER_OFF);
    assert_int_equal(e->n_power, 0);
    lifecycle_write(e->lc, SM_LC_POWER, 4, SM_LC_POWER_OFF);
    assert_int_equal(e->power, SM_LC_POWER_OFF);
    lifecycle_write(e->lc, SM_LC_POWER, 4, SM_LC_POWER_RESET);
    assert_int_equal(e->power, SM_LC_POWER_RESET);
    assert_int_equal(e->n_power, 2);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(identity), T(events_carry_their_argument_once), T(panic_brings_its_text), T(text_window_has_borders),
        T(power),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
