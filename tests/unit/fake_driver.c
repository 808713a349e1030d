/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio driver without a guest: see fake_driver.h. */
#include "fake_driver.h"

#include <assert.h>
#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/io.h"

/* Single accesses with order, as a driver on another processor than the device would make them. */
static uint16_t get16(struct fake *f, uint64_t gpa)
{
    return le16toh(__atomic_load_n((uint16_t *)fake_ptr(f, gpa), __ATOMIC_SEQ_CST));
}

static void put16(struct fake *f, uint64_t gpa, uint16_t v)
{
    __atomic_store_n((uint16_t *)fake_ptr(f, gpa), htole16(v), __ATOMIC_SEQ_CST);
}

static uint32_t get32(struct fake *f, uint64_t gpa)
{
    return get16(f, gpa) | (uint32_t)get16(f, gpa + 2) << 16;
}

static void put32(struct fake *f, uint64_t gpa, uint32_t v)
{
    put16(f, gpa, (uint16_t)v);
    put16(f, gpa + 2, (uint16_t)(v >> 16));
}

static uint8_t *map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert(p != MAP_FAILED);
    return p;
}

void fake_open(struct fake *f)
{
    int r;

    memset(f, 0, sizeof(*f));
    r = loop_new(&f->loop);
    assert(r == 0);
    f->ram = map(FAKE_RAM_SIZE);
    f->ram2 = map(FAKE_RAM2_SIZE);
    r = mem_add(&f->mem, 0, FAKE_RAM_SIZE, f->ram, NULL);
    assert(r == 0);
    r = mem_add(&f->mem, FAKE_RAM2_GPA, FAKE_RAM2_SIZE, f->ram2, NULL);
    assert(r == 0);
    f->irq_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    assert(f->irq_fd >= 0);
}

void fake_attach(struct fake *f, struct virtio_dev *dev)
{
    struct sm_error err = SM_ERROR_INIT;
    int r = virtio_mmio_new(&f->t, dev, &f->mem, f->loop, f->irq_fd, &err);

    assert(r == 0);
    (void)r;
}

void fake_close(struct fake *f)
{
    virtio_mmio_free(f->t);
    loop_free(f->loop);
    close(f->irq_fd);
    munmap(f->ram, FAKE_RAM_SIZE);
    munmap(f->ram2, FAKE_RAM2_SIZE);
}

void fake_clone(struct fake *to, const struct fake *from)
{
    memcpy(to->ram, from->ram, FAKE_RAM_SIZE);
    memcpy(to->ram2, from->ram2, FAKE_RAM2_SIZE);
    memcpy(to->q, from->q, sizeof(to->q));
    to->features = from->features;
    to->next = from->next;
}

uint32_t fake_read(struct fake *f, uint64_t reg)
{
    return (uint32_t)virtio_mmio_read(f->t, reg, 4);
}

void fake_write(struct fake *f, uint64_t reg, uint32_t value)
{
    virtio_mmio_write(f->t, reg, 4, value);
}

void fake_write64(struct fake *f, uint64_t reg, uint64_t value)
{
    fake_write(f, reg, (uint32_t)value);
    fake_write(f, reg + 4, (uint32_t)(value >> 32));
}

uint64_t fake_offered(struct fake *f)
{
    uint64_t v;

    fake_write(f, FAKE_DEVICE_FEATURES_SEL, 0);
    v = fake_read(f, FAKE_DEVICE_FEATURES);
    fake_write(f, FAKE_DEVICE_FEATURES_SEL, 1);
    return v | (uint64_t)fake_read(f, FAKE_DEVICE_FEATURES) << 32;
}

void fake_negotiate(struct fake *f, uint64_t features)
{
    f->features = fake_offered(f) & (features | FAKE_F_VERSION_1);
    fake_write(f, FAKE_STATUS, FAKE_S_ACKNOWLEDGE);
    fake_write(f, FAKE_STATUS, FAKE_S_ACKNOWLEDGE | FAKE_S_DRIVER);
    fake_write(f, FAKE_DRIVER_FEATURES_SEL, 0);
    fake_write(f, FAKE_DRIVER_FEATURES, (uint32_t)f->features);
    fake_write(f, FAKE_DRIVER_FEATURES_SEL, 1);
    fake_write(f, FAKE_DRIVER_FEATURES, (uint32_t)(f->features >> 32));
    fake_write(f, FAKE_STATUS, FAKE_S_ACKNOWLEDGE | FAKE_S_DRIVER | FAKE_S_FEATURES_OK);
    assert(fake_read(f, FAKE_STATUS) & FAKE_S_FEATURES_OK);
}

void fake_queues(struct fake *f, unsigned size)
{
    for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++) {
        struct fake_queue *q = &f->q[i];

        fake_write(f, FAKE_QUEUE_SEL, i);
        unsigned max = fake_read(f, FAKE_QUEUE_NUM_MAX);
        if (max == 0)
            break;
        *q = (struct fake_queue){.size = size && size < max ? size : max};
        q->desc = fake_alloc(f, 16ull * q->size, 16);
        q->avail = fake_alloc(f, 6 + 2ull * q->size, 2);
        q->used = fake_alloc(f, 6 + 8ull * q->size, 4);
        while (q->n_free < q->size) {
            q->free[q->n_free] = (uint16_t)(q->size - 1 - q->n_free);
            q->n_free++;
        }
        fake_write(f, FAKE_QUEUE_NUM, q->size);
        fake_write64(f, FAKE_QUEUE_DESC, q->desc);
        fake_write64(f, FAKE_QUEUE_DRIVER, q->avail);
        fake_write64(f, FAKE_QUEUE_DEVICE, q->used);
        fake_write(f, FAKE_QUEUE_READY, 1);
        assert(fake_read(f, FAKE_QUEUE_READY) == 1);
    }
}

void fake_driver_ok(struct fake *f)
{
    fake_write(f, FAKE_STATUS, FAKE_S_ACKNOWLEDGE | FAKE_S_DRIVER | FAKE_S_FEATURES_OK | FAKE_S_DRIVER_OK);
}

void fake_start(struct fake *f, uint64_t features)
{
    fake_negotiate(f, features);
    fake_queues(f, 0);
    fake_driver_ok(f);
    fake_settle(f);
    fake_irqs(f);
}

void fake_reset(struct fake *f)
{
    fake_write(f, FAKE_STATUS, 0);
    assert(fake_read(f, FAKE_STATUS) == 0);
}

uint64_t fake_alloc(struct fake *f, uint64_t len, uint64_t align)
{
    uint64_t at = (f->next + align - 1) & ~(align - 1);

    assert(at + len <= FAKE_RAM_SIZE);
    f->next = at + len;
    memset(f->ram + at, 0, len);
    return at;
}

void *fake_ptr(struct fake *f, uint64_t gpa)
{
    assert(gpa < FAKE_RAM_END);
    return gpa < FAKE_RAM2_GPA ? f->ram + gpa : f->ram2 + (gpa - FAKE_RAM2_GPA);
}

void fake_put_desc(struct fake *f, uint64_t table, unsigned i, uint64_t addr, uint32_t len, unsigned flags,
                   unsigned next)
{
    uint64_t at = table + 16ull * i;

    put32(f, at, (uint32_t)addr);
    put32(f, at + 4, (uint32_t)(addr >> 32));
    put32(f, at + 8, len);
    put16(f, at + 12, (uint16_t)flags);
    put16(f, at + 14, (uint16_t)next);
}

void fake_set_avail_idx(struct fake *f, unsigned q, uint16_t idx)
{
    f->q[q].avail_idx = idx;
    put16(f, f->q[q].avail + 2, idx);
}

void fake_publish(struct fake *f, unsigned qi, uint16_t head)
{
    struct fake_queue *q = &f->q[qi];

    put16(f, q->avail + 4 + 2ull * (q->avail_idx % q->size), head);
    fake_set_avail_idx(f, qi, (uint16_t)(q->avail_idx + 1));
}

static uint16_t take_desc(struct fake_queue *q)
{
    assert(q->n_free > 0);
    return q->free[--q->n_free];
}

uint16_t fake_add(struct fake *f, unsigned qi, const struct fake_buf *bufs, unsigned n, bool indirect)
{
    struct fake_queue *q = &f->q[qi];
    uint16_t head = take_desc(q), at = head;

    if (indirect) {
        uint64_t table = fake_alloc(f, 16ull * n, 16);

        for (unsigned i = 0; i < n; i++)
            fake_put_desc(f, table, i, bufs[i].gpa, bufs[i].len,
                          (bufs[i].write ? FAKE_DESC_WRITE : 0) | (i + 1 < n ? FAKE_DESC_NEXT : 0), i + 1);
        fake_put_desc(f, q->desc, head, table, 16 * n, FAKE_DESC_INDIRECT, 0);
    } else {
        for (unsigned i = 0; i < n; i++) {
            bool more = i + 1 < n;
            uint16_t next = more ? take_desc(q) : 0;

            fake_put_desc(f, q->desc, at, bufs[i].gpa, bufs[i].len,
                          (bufs[i].write ? FAKE_DESC_WRITE : 0) | (more ? FAKE_DESC_NEXT : 0), next);
            at = next;
        }
    }
    fake_publish(f, qi, head);
    return head;
}

void fake_kick(struct fake *f, unsigned q)
{
    fake_write(f, FAKE_QUEUE_NOTIFY, q);
}

bool fake_wants_kick(struct fake *f, unsigned qi, uint16_t idx)
{
    struct fake_queue *q = &f->q[qi];

    if (f->features & FAKE_F_EVENT_IDX)
        return get16(f, q->used + 4 + 8ull * q->size) == idx;
    return !(get16(f, q->used) & 1);
}

void fake_set_used_event(struct fake *f, unsigned q, uint16_t v)
{
    put16(f, f->q[q].avail + 4 + 2ull * f->q[q].size, v);
}

void fake_set_no_interrupt(struct fake *f, unsigned q, bool on)
{
    put16(f, f->q[q].avail, on);
}

static void give_back(struct fake *f, struct fake_queue *q, uint16_t head)
{
    uint16_t flags, at = head;

    do {
        uint64_t d = q->desc + 16ull * at;

        flags = get16(f, d + 12);
        assert(q->n_free < q->size);
        q->free[q->n_free++] = at;
        at = get16(f, d + 14);
    } while (flags & FAKE_DESC_NEXT);
}

bool fake_used(struct fake *f, unsigned qi, uint16_t *ret_head, uint32_t *ret_len)
{
    struct fake_queue *q = &f->q[qi];
    uint64_t entry = q->used + 4 + 8ull * (q->last_used % q->size);

    if (get16(f, q->used + 2) == q->last_used)
        return false;
    *ret_head = (uint16_t)get32(f, entry);
    *ret_len = get32(f, entry + 4);
    q->last_used++;
    if (*ret_head < q->size)
        give_back(f, q, *ret_head);
    return true;
}

uint32_t fake_wait(struct fake *f, unsigned q, uint16_t head)
{
    uint64_t deadline = io_now_ns() + FAKE_DEADLINE_MS * 1000000ull;
    uint16_t got;
    uint32_t len;

    while (!fake_used(f, q, &got, &len)) {
        assert(io_now_ns() < deadline);
        loop_once(f->loop, 10);
    }
    assert(got == head);
    return len;
}

void fake_settle(struct fake *f)
{
    while (loop_once(f->loop, 0) > 0)
        ;
}

uint64_t fake_irqs(struct fake *f)
{
    uint64_t n = 0;

    return read(f->irq_fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}
