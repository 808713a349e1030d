/* SPDX-License-Identifier: Apache-2.0 */
/* virtio over MMIO: registers, the status machine, queues, interrupts, and a device that is reset or broken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "fake_driver.h"

/* A device that notes what the transport asks of it. */
struct probe {
    struct virtio_dev dev;
    unsigned starts, notifies[3], resets, config_writes;
    bool *freed;
    bool hold; /* leave buffers in the queue */
};

static void probe_start(struct virtio_dev *dev)
{
    CONTAINER_OF(dev, struct probe, dev)->starts++;
}

static void probe_notify(struct virtio_dev *dev, unsigned q)
{
    struct probe *p = CONTAINER_OF(dev, struct probe, dev);
    struct virtq_chain chain;
    int r = 0;

    p->notifies[q]++;
    while (!p->hold && (r = virtq_pop(&dev->vq[q], &chain)) > 0)
        virtq_push(&dev->vq[q], chain.head, (uint32_t)chain.in_len);
    if (r < 0)
        virtio_broken(dev, "test");
    virtio_signal(dev, q);
}

static void probe_reset(struct virtio_dev *dev)
{
    CONTAINER_OF(dev, struct probe, dev)->resets++;
}

static void probe_config_written(struct virtio_dev *dev, unsigned off, unsigned len)
{
    CONTAINER_OF(dev, struct probe, dev)->config_writes += 100 * off + len;
}

static void probe_free(struct virtio_dev *dev)
{
    struct probe *p = CONTAINER_OF(dev, struct probe, dev);

    *p->freed = true;
    free(p);
}

static const struct virtio_dev_ops probe_ops = {
    .name = "probe",
    .start = probe_start,
    .notify = probe_notify,
    .reset = probe_reset,
    .config_written = probe_config_written,
    .free = probe_free,
};

#define PROBE_F_A (1ull << 3)
#define PROBE_F_B (1ull << 40)

struct env {
    struct fake f;
    struct probe *p;
    bool freed;
};

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    e->p = calloc(1, sizeof(*e->p));
    e->p->freed = &e->freed;
    e->p->dev = (struct virtio_dev){.ops = &probe_ops,
                                    .id = 77,
                                    .offered = PROBE_F_A | PROBE_F_B,
                                    .n_queues = 3,
                                    .queue_size = {256, 16, 1},
                                    .config = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10},
                                    .config_len = 10};
    fake_open(&e->f);
    fake_attach(&e->f, &e->p->dev);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    fake_close(&e->f);
    assert_true(e->freed);
    free(e);
    return 0;
}

static void identity(void **state)
{
    struct env *e = *state;

    assert_int_equal(fake_read(&e->f, FAKE_MAGIC), 0x74726976);
    assert_int_equal(fake_read(&e->f, FAKE_VERSION), 2);
    assert_int_equal(fake_read(&e->f, FAKE_DEVICE_ID), 77);
    assert_int_equal(fake_offered(&e->f),
                     PROBE_F_A | PROBE_F_B | FAKE_F_INDIRECT | FAKE_F_EVENT_IDX | FAKE_F_VERSION_1);
    fake_write(&e->f, FAKE_DEVICE_FEATURES_SEL, 2);
    assert_int_equal(fake_read(&e->f, FAKE_DEVICE_FEATURES), 0);
    assert_int_equal(fake_read(&e->f, FAKE_SHM_LEN_LOW), 0xffffffff);
    assert_int_equal(fake_read(&e->f, 0x1fc), 0);
    for (unsigned q = 0; q < 3; q++) {
        fake_write(&e->f, FAKE_QUEUE_SEL, q);
        assert_int_equal(fake_read(&e->f, FAKE_QUEUE_NUM_MAX), q == 0 ? 256 : q == 1 ? 16 : 1);
    }
    fake_write(&e->f, FAKE_QUEUE_SEL, 3);
    assert_int_equal(fake_read(&e->f, FAKE_QUEUE_NUM_MAX), 0);
    fake_write(&e->f, FAKE_QUEUE_SEL, 0xffffffff);
    assert_int_equal(fake_read(&e->f, FAKE_QUEUE_NUM_MAX), 0);
}

static void odd_accesses_do_nothing(void **state)
{
    struct env *e = *state;
    static const unsigned lens[] = {1, 2, 8};

    for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
        for (uint64_t off = 0; off < FAKE_CONFIG; off++) {
            assert_int_equal(virtio_mmio_read(e->f.t, off, lens[i]), 0);
            virtio_mmio_write(e->f.t, off, lens[i], UINT64_MAX);
        }
    }
    for (uint64_t off = 1; off < FAKE_CONFIG; off += off % 4 == 3 ? 2 : 1) {
        assert_int_equal(virtio_mmio_read(e->f.t, off, 4), 0);
        virtio_mmio_write(e->f.t, off, 4, UINT64_MAX);
    }
    virtio_mmio_write(e->f.t, FAKE_STATUS, 16, 1);
    assert_int_equal(virtio_mmio_read(e->f.t, 0x1fd, 4), 0);
    assert_int_equal(virtio_mmio_read(e->f.t, 0x200, 4), 0);
    assert_int_equal(virtio_mmio_read(e->f.t, UINT64_MAX - 3, 4), 0);
    virtio_mmio_write(e->f.t, UINT64_MAX - 3, 4, 1);
    virtio_mmio_write(e->f.t, 0xffc, 4, 1);
    assert_int_equal(fake_read(&e->f, FAKE_STATUS), 0);
    assert_int_equal(e->p->starts, 0);
}

static void config_space(void **state)
{
    struct env *e = *state;

    assert_int_equal(virtio_mmio_read(e->f.t, FAKE_CONFIG, 1), 1);
    assert_int_equal(virtio_mmio_read(e->f.t, FAKE_CONFIG + 1, 2), 0x0302);
    assert_int_equal(virtio_mmio_read(e->f.t, FAKE_CONFIG, 8), 0x0807060504030201);
    assert_int_equal(virtio_mmio_read(e->f.t, FAKE_CONFIG + 8, 4), 0x0a09); /* its end reads as zeros */
    assert_int_equal(virtio_mmio_read(e->f.t, FAKE_CONFIG + 10, 4), 0);
    virtio_mmio_write(e->f.t, FAKE_CONFIG + 2, 2, 0xbbaa);
    assert_int_equal(e->p->config_writes, 0); /* no driver yet */
    fake_start(&e->f, 0);
    virtio_mmio_write(e->f.t, FAKE_CONFIG + 2, 2, 0xbbaa);
    assert_int_equal(e->p->config_writes, 202);
    assert_int_equal(virtio_mmio_read(e->f.t, FAKE_CONFIG + 2, 2), 0xbbaa);
    virtio_mmio_write(e->f.t, FAKE_CONFIG + 8, 4, 0);
    assert_int_equal(e->p->config_writes, 202); /* out of bounds */

    uint32_t generation = fake_read(&e->f, FAKE_CONFIG_GENERATION);
    virtio_lock(&e->p->dev);
    virtio_config_changed(&e->p->dev);
    virtio_unlock(&e->p->dev);
    assert_int_not_equal(fake_read(&e->f, FAKE_CONFIG_GENERATION), generation);
    assert_int_equal(fake_irqs(&e->f), 1);
    assert_int_equal(fake_read(&e->f, FAKE_INTERRUPT_STATUS), 2);
    fake_write(&e->f, FAKE_INTERRUPT_ACK, 1);
    assert_int_equal(fake_read(&e->f, FAKE_INTERRUPT_STATUS), 2);
    fake_write(&e->f, FAKE_INTERRUPT_ACK, 2);
    assert_int_equal(fake_read(&e->f, FAKE_INTERRUPT_STATUS), 0);
}

static void status_climbs_in_order(void **state)
{
    struct env *e = *state;

    fake_write(&e->f, FAKE_STATUS, FAKE_S_DRIVER);
    assert_int_equal(fake_read(&e->f, FAKE_STATUS), 0);
    fake_write(&e->f, FAKE_STATUS, FAKE_S_ACKNOWLEDGE | FAKE_S_DRIVER_OK);
    assert_int_equal(fake_read(&e->f, FAKE_STATUS), FAKE_S_ACKNOWLEDGE);
    fake_write(&e->f, FAKE_STATUS, FAKE_S_ACKNOWLEDGE | FAKE_S_DRIVER | FAKE_S_FEATURES_OK); /* no VERSION_1 */
    assert_int_equal(fake_read(&e->f, FAKE_STATUS), FAKE_S_ACKNOWLEDGE | FAKE_S_DRIVER);
    fake_write(&e->f, FAKE_STATUS, FAKE_S_ACKNOWLEDGE); /* bits are not taken back */
    assert_int_equal(fake_read(&e->f, FAKE_STATUS), FAKE_S_ACKNOWLEDGE | FAKE_S_DRIVER);
    fake_write(&e->f, FAKE_STATUS, FAKE_S_ACKNOWLEDGE | FAKE_S_DRIVER | FAKE_S_NEEDS_RESET);
    assert_int_equal(fake_read(&e->f, FAKE_STATUS), FAKE_S_ACKNOWLEDGE | FAKE_S_DRIVER);
    fake_driver_ok(&e->f);
    assert_int_equal(e->p->starts, 0);
    fake_write(&e->f, FAKE_STATUS, 0xff);
    assert_true(fake_read(&e->f, FAKE_STATUS) & FAKE_S_FAILED);
    fake_write(&e->f, FAKE_STATUS, 0xff);
    assert_int_equal(e->p->starts, 0);
    fake_reset(&e->f);
    assert_int_equal(e->p->resets, 0); /* it never started */
    fake_start(&e->f, ~0ull);
    assert_int_equal(e->p->starts, 1);
    fake_driver_ok(&e->f);
    assert_int_equal(e->p->starts, 1);
    fake_reset(&e->f);
    assert_int_equal(e->p->resets, 1);
    fake_start(&e->f, 0);
    assert_int_equal(e->p->starts, 2);
}

static void features_are_checked_and_frozen(void **state)
{
    struct env *e = *state;

    fake_write(&e->f, FAKE_STATUS, FAKE_S_ACKNOWLEDGE | FAKE_S_DRIVER);
    fake_write(&e->f, FAKE_DRIVER_FEATURES_SEL, 1);
    fake_write(&e->f, FAKE_DRIVER_FEATURES, 1 | 1 << 5); /* VERSION_1 and one never offered */
    fake_write(&e->f, FAKE_STATUS, FAKE_S_ACKNOWLEDGE | FAKE_S_DRIVER | FAKE_S_FEATURES_OK);
    assert_false(fake_read(&e->f, FAKE_STATUS) & FAKE_S_FEATURES_OK);
    fake_write(&e->f, FAKE_DRIVER_FEATURES, 1 | 1 << 8);
    fake_write(&e->f, FAKE_DRIVER_FEATURES_SEL, 2); /* no such half */
    fake_write(&e->f, FAKE_DRIVER_FEATURES, 0xffffffff);
    fake_write(&e->f, FAKE_DRIVER_FEATURES_SEL, 0xffffffff);
    fake_write(&e->f, FAKE_DRIVER_FEATURES, 0xffffffff);
    fake_write(&e->f, FAKE_STATUS, FAKE_S_ACKNOWLEDGE | FAKE_S_DRIVER | FAKE_S_FEATURES_OK);
    assert_true(fake_read(&e->f, FAKE_STATUS) & FAKE_S_FEATURES_OK);
    assert_int_equal(e->p->dev.features, FAKE_F_VERSION_1 | PROBE_F_B);
    fake_write(&e->f, FAKE_DRIVER_FEATURES_SEL, 0);
    fake_write(&e->f, FAKE_DRIVER_FEATURES, 0xffffffff); /* too late */
    fake_queues(&e->f, 0);
    fake_driver_ok(&e->f);
    fake_write(&e->f, FAKE_DRIVER_FEATURES, 0xffffffff);
    assert_int_equal(e->p->dev.features, FAKE_F_VERSION_1 | PROBE_F_B);
    assert_int_equal(e->p->starts, 1);
}

static void queues_are_set_up_once(void **state)
{
    struct env *e = *state;
    struct virtq *vq = &e->p->dev.vq[0];

    fake_write(&e->f, FAKE_QUEUE_SEL, 0);
    fake_write(&e->f, FAKE_QUEUE_NUM, 8); /* before FEATURES_OK */
    assert_int_equal(vq->size, 0);
    fake_negotiate(&e->f, FAKE_F_EVENT_IDX);
    fake_queues(&e->f, 0);
    assert_true(vq->event_idx);
    assert_false(vq->indirect);
    uint64_t desc = vq->desc_gpa;
    fake_write(&e->f, FAKE_QUEUE_SEL, 0);
    fake_write64(&e->f, FAKE_QUEUE_DESC, 0x100000); /* it is ready: frozen */
    fake_write(&e->f, FAKE_QUEUE_NUM, 2);
    assert_int_equal(vq->desc_gpa, desc);
    assert_int_equal(vq->size, 256);
    fake_write(&e->f, FAKE_QUEUE_READY, 0);
    assert_int_equal(fake_read(&e->f, FAKE_QUEUE_READY), 0);
    fake_write(&e->f, FAKE_QUEUE_NUM, 64);
    fake_write(&e->f, FAKE_QUEUE_READY, 1);
    assert_int_equal(vq->size, 64);
    fake_driver_ok(&e->f);
    fake_write(&e->f, FAKE_QUEUE_READY, 0);
    assert_int_equal(fake_read(&e->f, FAKE_QUEUE_READY), 0);
    fake_write(&e->f, FAKE_QUEUE_READY, 1); /* after DRIVER_OK */
    assert_int_equal(fake_read(&e->f, FAKE_QUEUE_READY), 0);
    fake_settle(&e->f);
    unsigned before = e->p->notifies[0];
    fake_kick(&e->f, 0);
    fake_settle(&e->f);
    assert_int_equal(e->p->notifies[0], before);
    fake_write(&e->f, FAKE_QUEUE_SEL, 3); /* no such queue */
    fake_write(&e->f, FAKE_QUEUE_NUM, 8);
    fake_write(&e->f, FAKE_QUEUE_READY, 1);
    assert_int_equal(fake_read(&e->f, FAKE_QUEUE_READY), 0);
}

static void bad_queue_breaks_the_device(void **state)
{
    struct env *e = *state;
    static const struct {
        uint32_t size;
        uint64_t desc, avail, used;
    } bad[] = {
        {0, 0x1000, 0x2000, 0x3000},       {3, 0x1000, 0x2000, 0x3000},
        {512, 0x1000, 0x2000, 0x3000},     {0x10100, 0x1000, 0x2000, 0x3000}, /* 256 in its low half */
        {256, 0x1008, 0x2000, 0x3000},     {256, FAKE_RAM_END, 0x2000, 0x3000},
        {256, 0x1000, 1ull << 60, 0x3000}, {256, 0x1000, 0x2000, FAKE_RAM_SIZE - 8},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        fake_reset(&e->f);
        assert_null(virtio_mmio_broken(e->f.t));
        fake_negotiate(&e->f, 0);
        fake_write(&e->f, FAKE_QUEUE_SEL, 0);
        fake_write(&e->f, FAKE_QUEUE_NUM, bad[i].size);
        fake_write64(&e->f, FAKE_QUEUE_DESC, bad[i].desc);
        fake_write64(&e->f, FAKE_QUEUE_DRIVER, bad[i].avail);
        fake_write64(&e->f, FAKE_QUEUE_DEVICE, bad[i].used);
        fake_write(&e->f, FAKE_QUEUE_READY, 1);
        assert_int_equal(fake_read(&e->f, FAKE_QUEUE_READY), 0);
        assert_true(fake_read(&e->f, FAKE_STATUS) & FAKE_S_NEEDS_RESET);
        assert_non_null(virtio_mmio_broken(e->f.t));
        assert_int_equal(fake_irqs(&e->f), 0); /* no driver to tell yet */
        fake_driver_ok(&e->f);
        assert_int_equal(e->p->starts, 0);
    }
    fake_reset(&e->f);
    fake_start(&e->f, 0);
    assert_int_equal(e->p->starts, 1);
}

static void buffers_go_round(void **state)
{
    struct env *e = *state;

    fake_start(&e->f, 0);
    struct fake_buf b = {.gpa = fake_alloc(&e->f, 64, 1), .len = 64, .write = true};
    uint16_t head = fake_add(&e->f, 1, &b, 1, false);
    fake_settle(&e->f);
    assert_int_equal(e->p->notifies[1], 1); /* only the one at DRIVER_OK */
    fake_kick(&e->f, 1);
    assert_int_equal(fake_wait(&e->f, 1, head), 64);
    assert_int_equal(fake_irqs(&e->f), 1);
    assert_int_equal(fake_read(&e->f, FAKE_INTERRUPT_STATUS), 1);
    fake_write(&e->f, FAKE_INTERRUPT_ACK, 1);
    assert_int_equal(fake_read(&e->f, FAKE_INTERRUPT_STATUS), 0);
    fake_set_no_interrupt(&e->f, 1, true);
    head = fake_add(&e->f, 1, &b, 1, false);
    fake_kick(&e->f, 1);
    fake_kick(&e->f, 3); /* no such queue */
    fake_kick(&e->f, 0xffffffff);
    fake_wait(&e->f, 1, head);
    assert_int_equal(fake_irqs(&e->f), 0);
    assert_int_equal(fake_read(&e->f, FAKE_INTERRUPT_STATUS), 0);
    /* The eventfd is the same door: what an ioeventfd signals. */
    head = fake_add(&e->f, 1, &b, 1, false);
    uint64_t one = 1;
    assert_int_equal(write(virtio_mmio_notify_fd(e->f.t, 1), &one, 8), 8);
    fake_wait(&e->f, 1, head);
}

static void buffers_queued_before_driver_ok_are_seen(void **state)
{
    struct env *e = *state;

    fake_negotiate(&e->f, 0);
    fake_queues(&e->f, 0);
    struct fake_buf b = {.gpa = fake_alloc(&e->f, 64, 1), .len = 64, .write = true};
    uint16_t head = fake_add(&e->f, 0, &b, 1, false);
    fake_kick(&e->f, 0);
    fake_settle(&e->f);
    assert_int_equal(e->p->notifies[0], 0);
    fake_driver_ok(&e->f);
    assert_int_equal(fake_wait(&e->f, 0, head), 64);
}

static void reset_in_the_middle_of_a_request(void **state)
{
    struct env *e = *state;

    fake_start(&e->f, 0);
    struct fake_buf b = {.gpa = fake_alloc(&e->f, 64, 1), .len = 64, .write = true};
    uint16_t head;
    uint32_t len;

    head = fake_add(&e->f, 1, &b, 1, false);
    fake_kick(&e->f, 1);
    fake_wait(&e->f, 1, head);
    assert_int_equal(fake_read(&e->f, FAKE_INTERRUPT_STATUS), 1); /* never acknowledged */
    e->p->hold = true;
    fake_add(&e->f, 0, &b, 1, false);
    fake_kick(&e->f, 0);
    fake_settle(&e->f);
    fake_kick(&e->f, 0); /* under way when the reset comes */
    unsigned before = e->p->notifies[0];
    fake_reset(&e->f);
    assert_int_equal(e->p->resets, 1);
    assert_int_equal(fake_read(&e->f, FAKE_INTERRUPT_STATUS), 0);
    fake_settle(&e->f);
    assert_int_equal(e->p->notifies[0], before);
    assert_false(fake_used(&e->f, 0, &head, &len));
    assert_int_equal(e->p->dev.vq[0].desc_gpa, 0);
    assert_int_equal(e->p->dev.features, 0);
    e->p->hold = false;
    fake_start(&e->f, 0);
    head = fake_add(&e->f, 0, &b, 1, false);
    fake_kick(&e->f, 0);
    assert_int_equal(fake_wait(&e->f, 0, head), 64);
}

static void broken_ring_needs_a_reset(void **state)
{
    struct env *e = *state;

    fake_start(&e->f, 0);
    fake_publish(&e->f, 0, 9999);
    fake_kick(&e->f, 0);
    fake_settle(&e->f);
    assert_true(fake_read(&e->f, FAKE_STATUS) & FAKE_S_NEEDS_RESET);
    assert_int_equal(fake_read(&e->f, FAKE_INTERRUPT_STATUS), 2);
    assert_int_equal(fake_irqs(&e->f), 1);
    assert_string_equal(virtio_mmio_broken(e->f.t), "test");
    unsigned before = e->p->notifies[1];
    fake_kick(&e->f, 1); /* no queue is looked at any more */
    fake_settle(&e->f);
    assert_int_equal(e->p->notifies[1], before);
    fake_write(&e->f, FAKE_QUEUE_SEL, 0);
    fake_write(&e->f, FAKE_QUEUE_READY, 1);
    assert_int_equal(fake_read(&e->f, FAKE_QUEUE_READY), 0);
    fake_reset(&e->f);
    fake_start(&e->f, 0);
    struct fake_buf b = {.gpa = fake_alloc(&e->f, 64, 1), .len = 64, .write = true};
    uint16_t head = fake_add(&e->f, 0, &b, 1, false);
    fake_kick(&e->f, 0);
    fake_wait(&e->f, 0, head);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(identity),
        T(odd_accesses_do_nothing),
        T(config_space),
        T(status_climbs_in_order),
        T(features_are_checked_and_frozen),
        T(queues_are_set_up_once),
        T(bad_queue_breaks_the_device),
        T(buffers_go_round),
        T(buffers_queued_before_driver_ok_are_seen),
        T(reset_in_the_middle_of_a_request),
        T(broken_ring_needs_a_reset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
