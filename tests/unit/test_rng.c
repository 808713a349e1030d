/* SPDX-License-Identifier: Apache-2.0 */
/* virtio entropy device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "dev/rng.h"
#include "fake_driver.h"

static int setup(void **state)
{
    struct fake *f = calloc(1, sizeof(*f));
    struct virtio_dev *dev;

    fake_open(f);
    assert_int_equal(rng_new(&dev, NULL), 0);
    fake_attach(f, dev);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fake_close(*state);
    free(*state);
    return 0;
}

static void buffers_are_filled(void **state)
{
    struct fake *f = *state;
    uint8_t zeros[64] = {0}, first[64];

    assert_int_equal(fake_read(f, FAKE_DEVICE_ID), 4);
    fake_start(f, FAKE_F_EVENT_IDX | FAKE_F_INDIRECT);
    struct fake_buf b[2] = {{fake_alloc(f, 64, 1), 64, true}, {fake_alloc(f, 64, 1), 64, true}};
    for (unsigned round = 0; round < 20; round++) {
        uint16_t head = fake_add(f, 0, b, 2, round & 1);
        fake_kick(f, 0);
        assert_int_equal(fake_wait(f, 0, head), 128);
        assert_memory_not_equal(fake_ptr(f, b[0].gpa), zeros, 64);
        assert_memory_not_equal(fake_ptr(f, b[0].gpa), fake_ptr(f, b[1].gpa), 64);
        if (round)
            assert_memory_not_equal(fake_ptr(f, b[0].gpa), first, 64);
        memcpy(first, fake_ptr(f, b[0].gpa), 64);
    }
    assert_true(fake_irqs(f) > 0);
}

static void one_request_is_bounded(void **state)
{
    struct fake *f = *state;

    fake_start(f, 0);
    struct fake_buf b = {fake_alloc(f, 100 * 1024, 1), 100 * 1024, true};
    uint16_t head = fake_add(f, 0, &b, 1, false);
    fake_kick(f, 0);
    assert_int_equal(fake_wait(f, 0, head), 64 * 1024);
    uint8_t *p = fake_ptr(f, b.gpa);
    for (unsigned i = 64 * 1024; i < 100 * 1024; i++)
        assert_int_equal(p[i], 0);
}

static void chain_without_room_comes_back_empty(void **state)
{
    struct fake *f = *state;

    fake_start(f, 0);
    struct fake_buf b = {fake_alloc(f, 64, 1), 64, false};
    uint16_t head = fake_add(f, 0, &b, 1, false);
    fake_kick(f, 0);
    assert_int_equal(fake_wait(f, 0, head), 0);
    fake_publish(f, 0, 4242);
    fake_kick(f, 0);
    fake_settle(f);
    assert_true(fake_read(f, FAKE_STATUS) & FAKE_S_NEEDS_RESET);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(buffers_are_filled),
        T(one_request_is_bounded),
        T(chain_without_room_comes_back_empty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
