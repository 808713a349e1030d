/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio driver without a guest: its memory is a plain array, it sets a device up through the MMIO registers as an
 * operating system would, and it turns the event loop while it waits. For unit tests and fuzz targets; a failure of
 * its own is an assert. Its ring code shares nothing with src/dev, so that both can't be wrong in the same way.
 */
#ifndef SM_TESTS_FAKE_DRIVER_H
#define SM_TESTS_FAKE_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "dev/mem.h"
#include "dev/virtio_mmio.h"

/* Two regions, neighbours to the guest but not on the host: a buffer across the border is a hole in the map. */
#define FAKE_RAM_SIZE    (4u << 20)
#define FAKE_RAM2_GPA    FAKE_RAM_SIZE
#define FAKE_RAM2_SIZE   (1u << 20)
#define FAKE_RAM_END     (FAKE_RAM2_GPA + FAKE_RAM2_SIZE)
#define FAKE_QUEUE_SIZE  256
#define FAKE_DEADLINE_MS 10000

#define FAKE_F_INDIRECT  (1ull << 28)
#define FAKE_F_EVENT_IDX (1ull << 29)
#define FAKE_F_VERSION_1 (1ull << 32)

/* Registers, virtio 1.2 §4.2.2. */
enum {
    FAKE_MAGIC = 0x000,
    FAKE_VERSION = 0x004,
    FAKE_DEVICE_ID = 0x008,
    FAKE_DEVICE_FEATURES = 0x010,
    FAKE_DEVICE_FEATURES_SEL = 0x014,
    FAKE_DRIVER_FEATURES = 0x020,
    FAKE_DRIVER_FEATURES_SEL = 0x024,
    FAKE_QUEUE_SEL = 0x030,
    FAKE_QUEUE_NUM_MAX = 0x034,
    FAKE_QUEUE_NUM = 0x038,
    FAKE_QUEUE_READY = 0x044,
    FAKE_QUEUE_NOTIFY = 0x050,
    FAKE_INTERRUPT_STATUS = 0x060,
    FAKE_INTERRUPT_ACK = 0x064,
    FAKE_STATUS = 0x070,
    FAKE_QUEUE_DESC = 0x080,
    FAKE_QUEUE_DRIVER = 0x090,
    FAKE_QUEUE_DEVICE = 0x0a0,
    FAKE_SHM_LEN_LOW = 0x0b0,
    FAKE_CONFIG_GENERATION = 0x0fc,
    FAKE_CONFIG = 0x100,
};

#define FAKE_S_ACKNOWLEDGE 1u
#define FAKE_S_DRIVER      2u
#define FAKE_S_DRIVER_OK   4u
#define FAKE_S_FEATURES_OK 8u
#define FAKE_S_NEEDS_RESET 64u
#define FAKE_S_FAILED      128u

#define FAKE_DESC_NEXT     1u
#define FAKE_DESC_WRITE    2u
#define FAKE_DESC_INDIRECT 4u

struct fake_queue {
    uint64_t desc, avail, used; /* guest addresses */
    unsigned size;
    uint16_t avail_idx, last_used;
    uint16_t free[FAKE_QUEUE_SIZE];
    unsigned n_free;
};

struct fake {
    struct loop *loop;
    struct guest_mem mem;
    uint8_t *ram, *ram2;
    int irq_fd;
    struct virtio_mmio *t;
    uint64_t features;
    uint64_t next; /* allocation mark in the first region */
    struct fake_queue q[VIRTIO_MAX_QUEUES];
};

struct fake_buf {
    uint64_t gpa;
    uint32_t len;
    bool write; /* the device writes */
};

void fake_open(struct fake *f);
void fake_attach(struct fake *f, struct virtio_dev *dev);
void fake_close(struct fake *f);
/* `to`, opened, gets the memory and the driver of `from`, as after a restore; its device is attached apart. */
void fake_clone(struct fake *to, const struct fake *from);

uint32_t fake_read(struct fake *f, uint64_t reg);
void fake_write(struct fake *f, uint64_t reg, uint32_t value);
void fake_write64(struct fake *f, uint64_t reg, uint64_t value); /* low and high halves */

/* Steps of the handshake; `features` are masked with what the device offers, VERSION_1 is always taken. */
uint64_t fake_offered(struct fake *f);
void fake_negotiate(struct fake *f, uint64_t features);
void fake_queues(struct fake *f, unsigned size); /* 0: the largest */
void fake_driver_ok(struct fake *f);
void fake_start(struct fake *f, uint64_t features); /* all of them */
void fake_reset(struct fake *f);

/* Guest memory. */
uint64_t fake_alloc(struct fake *f, uint64_t len, uint64_t align); /* zeroed */
void *fake_ptr(struct fake *f, uint64_t gpa);
void fake_put_desc(struct fake *f, uint64_t table, unsigned i, uint64_t addr, uint32_t len, unsigned flags,
                   unsigned next);

/* Add a chain (in one indirect table when asked), publish it; returns its head. */
uint16_t fake_add(struct fake *f, unsigned q, const struct fake_buf *bufs, unsigned n, bool indirect);
/* Publish an available entry with a head of one's own making. */
void fake_publish(struct fake *f, unsigned q, uint16_t head);
void fake_set_avail_idx(struct fake *f, unsigned q, uint16_t idx);
/* Tell the device, whatever it asked for. */
void fake_kick(struct fake *f, unsigned q);
/* Would a driver have to notify the device for a buffer published as number `idx`? */
bool fake_wants_kick(struct fake *f, unsigned q, uint16_t idx);
void fake_set_used_event(struct fake *f, unsigned q, uint16_t v);
void fake_set_no_interrupt(struct fake *f, unsigned q, bool on);

/* The next used entry, if there is one. */
bool fake_used(struct fake *f, unsigned q, uint16_t *ret_head, uint32_t *ret_len);
/* The same, turning the loop until the deadline; its head must be `head`. Returns the length. */
uint32_t fake_wait(struct fake *f, unsigned q, uint16_t head);
/* Turn the loop until it has nothing more to do. */
void fake_settle(struct fake *f);
/* Interrupts since the last call. */
uint64_t fake_irqs(struct fake *f);

#endif
