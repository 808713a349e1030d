/* SPDX-License-Identifier: Apache-2.0 */
/* The lifecycle device: registers, events, power. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

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
    int irq_fd;
    uint32_t parked, renewed;
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

static void on_parked(void *ctx, uint32_t n)
{
    ((struct env *)ctx)->parked = n;
}

static void on_renewed(void *ctx)
{
    ((struct env *)ctx)->renewed++;
}

static const struct lifecycle_ops ops = {
    .event = on_event, .power = on_power, .parked = on_parked, .renewed = on_renewed};

static uint64_t irqs(struct env *e)
{
    uint64_t n = 0;

    return read(e->irq_fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    *state = e;
    e->irq_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return lifecycle_new(&e->lc, e->irq_fd, &ops, e, NULL);
}

static int teardown(void **state)
{
    struct env *e = *state;

    lifecycle_free(e->lc);
    lifecycle_free(NULL);
    close(e->irq_fd);
    free(e);
    return 0;
}

static void identity(void **state)
{
    struct env *e = *state;

    assert_int_equal(lifecycle_read(e->lc, SM_LC_MAGIC, 4), SM_LC_MAGIC_VALUE);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_VERSION, 4), SM_LC_VERSION_VALUE);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_FEATURES, 4), SM_LC_F_EVENTS | SM_LC_F_RESTORE | SM_LC_F_PARK);
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

static void a_clone_learns_who_it_is(void **state)
{
    struct env *e = *state;
    uint8_t generation[LIFECYCLE_GENERATION_BYTES], seed[LIFECYCLE_SEED_BYTES];
    struct timespec now;

    assert_int_equal(lifecycle_read(e->lc, SM_LC_GENERATION, 8), 0);
    memset(generation, 0x11, 8);
    memset(generation + 8, 0x22, 8);
    for (unsigned i = 0; i < sizeof(seed); i++)
        seed[i] = (uint8_t)(0xa0 + i / 8);
    lifecycle_restored(e->lc, generation, seed);
    assert_int_equal(irqs(e), 1);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_INT_STATUS, 4), SM_LC_INT_RESTORED);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_GENERATION, 8), 0x1111111111111111);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_GENERATION + 8, 8), 0x2222222222222222);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_GENERATION + 4, 8), 0);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_GENERATION, 4), 0);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_SEED, 4), 0); /* takes nothing */
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(lifecycle_read(e->lc, SM_LC_SEED + 8 * i, 8), (0xa0 + i) * 0x0101010101010101ull);
        assert_int_equal(lifecycle_read(e->lc, SM_LC_SEED + 8 * i, 8), 0);
    }
    assert_int_equal(lifecycle_read(e->lc, SM_LC_SEED + 32, 8), 0);
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t wall = lifecycle_read(e->lc, SM_LC_WALL_CLOCK, 8);
    assert_true(wall - (uint64_t)now.tv_sec * 1000000000u - (uint64_t)now.tv_nsec < 10000000000u);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_WALL_CLOCK, 4), 0);

    /* Another restore before the first was acknowledged: the bit is set, so no edge is due. */
    lifecycle_restored(e->lc, generation, seed);
    assert_int_equal(irqs(e), 0);
    lifecycle_write(e->lc, SM_LC_INT_ACK, 4, SM_LC_INT_PARK);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_INT_STATUS, 4), SM_LC_INT_RESTORED);
    lifecycle_write(e->lc, SM_LC_INT_ACK, 4, SM_LC_INT_RESTORED);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_INT_STATUS, 4), 0);
}

static void park_and_unpark(void **state)
{
    struct env *e = *state;

    lifecycle_park(e->lc, true);
    assert_int_equal(irqs(e), 1);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_INT_STATUS, 4), SM_LC_INT_PARK);
    lifecycle_park(e->lc, true);
    assert_int_equal(irqs(e), 0);
    lifecycle_park(e->lc, false); /* the newest wish stands */
    assert_int_equal(irqs(e), 1);
    assert_int_equal(lifecycle_read(e->lc, SM_LC_INT_STATUS, 4), SM_LC_INT_UNPARK);
    lifecycle_write(e->lc, SM_LC_PARK_STATE, 4, 3);
    assert_int_equal(e->parked, 3);
    lifecycle_write(e->lc, SM_LC_PARK_STATE, 8, 4);
    assert_int_equal(e->parked, 3);
    lifecycle_write(e->lc, SM_LC_RENEWED, 4, 0);
    lifecycle_write(e->lc, SM_LC_RENEWED, 8, 1);
    assert_int_equal(e->renewed, 0);
    lifecycle_write(e->lc, SM_LC_RENEWED, 4, 1);
    assert_int_equal(e->renewed, 1);
}

static void state_comes_back(void **state)
{
    struct env *e = *state;
    struct lifecycle *other;
    struct snap_stream s;
    uint8_t generation[LIFECYCLE_GENERATION_BYTES] = {9}, seed[LIFECYCLE_SEED_BYTES] = {7, 7, 7, 7, 7, 7, 7, 7};

    lifecycle_write(e->lc, SM_LC_EVENT_ARG, 8, 0x1234567890);
    lifecycle_write(e->lc, SM_LC_TEXT, 4, 0x64636261);
    lifecycle_restored(e->lc, generation, seed);
    lifecycle_park(e->lc, true);
    snap_stream_init(&s);
    lifecycle_state(e->lc, &s);
    assert_int_equal(snap_done(&s, NULL), 0);
    for (size_t i = 0; i + 8 <= s.data.len; i++) /* the seed is a secret of this machine alone */
        assert_memory_not_equal(s.data.data + i, seed, 8);
    s.loading = true;
    assert_int_equal(lifecycle_new(&other, e->irq_fd, &ops, e, NULL), 0);
    lifecycle_state(other, &s);
    assert_int_equal(snap_done(&s, NULL), 0);
    assert_int_equal(lifecycle_read(other, SM_LC_INT_STATUS, 4), SM_LC_INT_RESTORED | SM_LC_INT_PARK);
    assert_int_equal(lifecycle_read(other, SM_LC_GENERATION, 8), 0);
    assert_int_equal(lifecycle_read(other, SM_LC_TEXT, 4), 0x64636261);
    irqs(e);
    lifecycle_resume(other);
    assert_int_equal(irqs(e), 1);
    lifecycle_restored(other, generation, seed); /* what its parent was asked is not its own */
    assert_int_equal(lifecycle_read(other, SM_LC_INT_STATUS, 4), SM_LC_INT_RESTORED);
    lifecycle_write(other, SM_LC_INT_ACK, 4, 7);
    lifecycle_resume(other);
    assert_int_equal(irqs(e), 0);
    lifecycle_write(other, SM_LC_EVENT, 4, SM_LC_EV_HEARTBEAT);
    assert_int_equal(e->arg, 0x1234567890);

    struct sm_error err = SM_ERROR_INIT;
    s.data.data[8] = 8; /* a reason that there is not */
    lifecycle_state(other, &s);
    assert_int_equal(snap_done(&s, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "\"lifecycle 0\", field \"interrupt status\""));
    lifecycle_free(other);
    snap_stream_clear(&s);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(identity), T(events_carry_their_argument_once), T(panic_brings_its_text), T(text_window_has_borders),
        T(power),    T(a_clone_learns_who_it_is),         T(park_and_unpark),       T(state_comes_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
