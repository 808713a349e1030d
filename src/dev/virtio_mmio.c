/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio over MMIO, version 2: see virtio_mmio.h.
 *
 * Theory of operation
 *
 * vCPU threads read and write registers; the loop's thread does the device's work. Between them stands one mutex per
 * device, held around every callback of the device and around every register but two: InterruptStatus and InterruptACK
 * are one atomic word, because a driver touches them on every interrupt and must not wait for a disk.
 *
 * Guest → device: a write to QueueNotify lands in the queue's eventfd, normally inside the kernel (ioeventfd), else by
 * virtio_mmio_write(). The eventfds are watched edge-triggered and never read: each write wakes the loop once more, and
 * the counter would need 2^64 notifications to be full.
 *
 * Device → guest: set the bit, then write the interrupt's eventfd, always in this order and always both. The interrupt
 * is an edge: a driver that reads the status between the two sees the bit early and later takes an edge for nothing,
 * which is harmless; leaving the edge out because the bit was still set would lose it for a driver that acknowledges
 * after it has looked at the rings.
 *
 * Status (virtio 1.2 §2.1, §3.1.1) only climbs: ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK; a step out of order or a
 * write that takes a bit back is ignored, and a driver that reads the register sees so. Features can change only before
 * FEATURES_OK, queues only between FEATURES_OK and DRIVER_OK and only while they are not ready. Writing 0 resets, at
 * any time and at once: the lock makes it wait for the request that is being handled, and the device drops the rest.
 *
 * Pausing is the transport's: while `paused` no notify runs, and a device with sources of its own asks virtio_paused()
 * before it touches a ring. Resuming runs notify for every queue, so nothing has to be remembered meanwhile, and a
 * notification that was in an eventfd when the machine was saved is made up for.
 *
 * A broken rule in a ring ends in virtio_broken(): DEVICE_NEEDS_RESET, no queue is looked at again until the reset.
 *
 * Threads: virtio_mmio_new() and _free() on the loop's thread with no vCPU running; everything else from any.
 * Limits: VIRTIO_MAX_QUEUES, VIRTIO_MAX_QUEUE_SIZE, VIRTIO_MAX_CONFIG.
 * Not done: shared memory regions, queue reset (§2.6.1), notification data, legacy (version 1).
 */
#include "dev/virtio_mmio.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "dev/le.h"

/* Registers, virtio 1.2 §4.2.2. */
enum {
    REG_MAGIC = 0x000,
    REG_VERSION = 0x004,
    REG_DEVICE_ID = 0x008,
    REG_VENDOR_ID = 0x00c,
    REG_DEVICE_FEATURES = 0x010,
    REG_DEVICE_FEATURES_SEL = 0x014,
    REG_DRIVER_FEATURES = 0x020,
    REG_DRIVER_FEATURES_SEL = 0x024,
    REG_QUEUE_SEL = 0x030,
    REG_QUEUE_SIZE_MAX = 0x034,
    REG_QUEUE_SIZE = 0x038,
    REG_QUEUE_READY = 0x044,
    REG_QUEUE_NOTIFY = VIRTIO_MMIO_QUEUE_NOTIFY,
    REG_INTERRUPT_STATUS = 0x060,
    REG_INTERRUPT_ACK = 0x064,
    REG_STATUS = 0x070,
    REG_QUEUE_DESC_LOW = 0x080,
    REG_QUEUE_DESC_HIGH = 0x084,
    REG_QUEUE_DRIVER_LOW = 0x090,
    REG_QUEUE_DRIVER_HIGH = 0x094,
    REG_QUEUE_DEVICE_LOW = 0x0a0,
    REG_QUEUE_DEVICE_HIGH = 0x0a4,
    REG_SHM_LEN_LOW = 0x0b0,
    REG_SHM_LEN_HIGH = 0x0b4,
    REG_SHM_BASE_LOW = 0x0b8,
    REG_SHM_BASE_HIGH = 0x0bc,
    REG_CONFIG_GENERATION = 0x0fc,
    REG_CONFIG = 0x100,
};

#define MAGIC_VALUE   0x74726976 /* "virt" */
#define VERSION_VALUE 2
#define VENDOR_VALUE  0x434d5553 /* "SUMC": ours, any value will do */

#define STATUS_ACKNOWLEDGE (1u << 0)
#define STATUS_DRIVER      (1u << 1)
#define STATUS_DRIVER_OK   (1u << 2)
#define STATUS_FEATURES_OK (1u << 3)
#define STATUS_NEEDS_RESET (1u << 6)
#define STATUS_FAILED      (1u << 7)

#define INT_USED_BUFFER (1u << 0)
#define INT_CONFIG      (1u << 1)

#define TRANSPORT_FEATURES (1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_INDIRECT_DESC | 1ull << VIRTIO_F_EVENT_IDX)

struct notifier {
    struct virtio_mmio *t;
    int fd;
    struct loop_source source;
};

struct virtio_mmio {
    struct virtio_dev *dev;
    struct loop *loop;
    int irq_fd; /* not ours */
    atomic_uint interrupt_status;
    struct notifier notifier[VIRTIO_MAX_QUEUES];
    pthread_mutex_t lock; /* guards everything below, and the device */
    uint32_t status;
    uint32_t config_generation;
    uint32_t device_features_sel, driver_features_sel, queue_sel;
    uint64_t driver_features;
    const char *broken; /* static text, NULL while the driver behaves */
    bool paused;
};

void virtio_lock(struct virtio_dev *dev)
{
    int r = pthread_mutex_lock(&dev->transport->lock);

    assert(r == 0);
    (void)r;
}

void virtio_unlock(struct virtio_dev *dev)
{
    int r = pthread_mutex_unlock(&dev->transport->lock);

    assert(r == 0);
    (void)r;
}

/* Adds one to an eventfd. It can only fail when the counter is full: then the other side is about to be woken anyway.
 */
static void poke(int fd)
{
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof(one));

    (void)n;
}

static void raise_interrupt(struct virtio_mmio *t, unsigned bit)
{
    /* The bit first: see Theory of operation. */
    atomic_fetch_or(&t->interrupt_status, bit);
    poke(t->irq_fd);
}

bool virtio_signal(struct virtio_dev *dev, unsigned q)
{
    bool wanted = virtq_needs_signal(&dev->vq[q]);

    if (wanted)
        raise_interrupt(dev->transport, INT_USED_BUFFER);
    return wanted;
}

void virtio_requeue(struct virtio_dev *dev, unsigned q)
{
    poke(dev->transport->notifier[q].fd);
}

void virtio_config_changed(struct virtio_dev *dev)
{
    struct virtio_mmio *t = dev->transport;

    t->config_generation++;
    if (t->status & STATUS_DRIVER_OK)
        raise_interrupt(t, INT_CONFIG);
}

void virtio_broken(struct virtio_dev *dev, const char *why)
{
    struct virtio_mmio *t = dev->transport;

    if (t->broken)
        return;
    t->broken = why;
    for (unsigned q = 0; q < dev->n_queues; q++)
        dev->vq[q].ready = false;
    t->status |= STATUS_NEEDS_RESET;
    /* §2.1.2: told by a configuration change, but only to a driver that is up. */
    if (t->status & STATUS_DRIVER_OK)
        raise_interrupt(t, INT_CONFIG);
}

bool virtio_paused(const struct virtio_dev *dev)
{
    return dev->transport->paused;
}

static void on_notify(struct loop_source *src, uint32_t events)
{
    struct notifier *n = src->ctx;
    struct virtio_mmio *t = n->t;
    unsigned q = (unsigned)(n - t->notifier);

    virtio_lock(t->dev);
    if ((t->status & STATUS_DRIVER_OK) && t->dev->vq[q].ready && !t->paused)
        t->dev->ops->notify(t->dev, q);
    virtio_unlock(t->dev);
}

static void reset(struct virtio_mmio *t)
{
    struct virtio_dev *dev = t->dev;

    if ((t->status & STATUS_DRIVER_OK) && dev->ops->reset)
        dev->ops->reset(dev);
    for (unsigned q = 0; q < dev->n_queues; q++)
        dev->vq[q] = (struct virtq){.mem = dev->vq[q].mem};
    dev->features = 0;
    t->driver_features = 0;
    t->device_features_sel = t->driver_features_sel = t->queue_sel = 0;
    t->status = 0;
    t->broken = NULL;
    atomic_store(&t->interrupt_status, 0);
}

static void write_status(struct virtio_mmio *t, uint32_t value)
{
    struct virtio_dev *dev = t->dev;

    value &= 0xff;
    if (value == 0) {
        reset(t);
        return;
    }
    /* §2.1.1: a driver must not clear bits; a broken device leaves its state only by a reset. */
    if ((t->status & ~STATUS_NEEDS_RESET & ~value) || (t->status & STATUS_FAILED))
        return;
    uint32_t asked = value & ~t->status;
    t->status |= asked & (STATUS_ACKNOWLEDGE | STATUS_FAILED);
    if ((asked & STATUS_DRIVER) && (t->status & STATUS_ACKNOWLEDGE))
        t->status |= STATUS_DRIVER;
    if ((asked & STATUS_FEATURES_OK) && (t->status & STATUS_DRIVER)) {
        uint64_t offered = dev->offered | TRANSPORT_FEATURES;

        /* §6.1: a driver that does not take VERSION_1 is a legacy one; this register layout is not for it. */
        if (!(t->driver_features & ~offered) && (t->driver_features & 1ull << VIRTIO_F_VERSION_1)) {
            dev->features = t->driver_features;
            t->status |= STATUS_FEATURES_OK;
        }
    }
    if ((asked & STATUS_DRIVER_OK) && (t->status & STATUS_FEATURES_OK) && !t->broken && !(t->status & STATUS_FAILED)) {
        t->status |= STATUS_DRIVER_OK;
        if (dev->ops->start)
            dev->ops->start(dev);
        /* What a driver queued before DRIVER_OK it may already have notified, in vain. */
        for (unsigned q = 0; q < dev->n_queues; q++)
            if (dev->vq[q].ready)
                virtio_requeue(dev, q);
    }
}

static void write_driver_features(struct virtio_mmio *t, uint32_t value)
{
    unsigned shift = t->driver_features_sel * 32;

    if ((t->status & STATUS_FEATURES_OK) || t->driver_features_sel > 1)
        return;
    t->driver_features &= ~(0xffffffffull << shift);
    t->driver_features |= (uint64_t)value << shift;
}

/* The selected queue, or NULL. */
static struct virtq *selected(struct virtio_mmio *t)
{
    return t->queue_sel < t->dev->n_queues ? &t->dev->vq[t->queue_sel] : NULL;
}

static void write_queue_ready(struct virtio_mmio *t, struct virtq *vq, uint32_t value)
{
    if (!(value & 1)) {
        vq->ready = false;
        return;
    }
    vq->event_idx = t->dev->features & 1ull << VIRTIO_F_EVENT_IDX;
    vq->indirect = t->dev->features & 1ull << VIRTIO_F_INDIRECT_DESC;
    if (virtq_enable(vq) < 0)
        virtio_broken(t->dev, "a queue's size or addresses are bad");
}

static void set_low(uint64_t *v, uint32_t low)
{
    *v = (*v & ~0xffffffffull) | low;
}

static void set_high(uint64_t *v, uint32_t high)
{
    *v = (*v & 0xffffffffull) | (uint64_t)high << 32;
}

static void write_queue(struct virtio_mmio *t, uint64_t off, uint32_t value)
{
    struct virtq *vq = selected(t);

    if (!vq || t->broken)
        return;
    /* A queue may be taken away at any time, and set up once between FEATURES_OK and DRIVER_OK (§3.1.1, §4.2.3.2). */
    if (off == REG_QUEUE_READY && !(value & 1))
        vq->ready = false;
    if (vq->ready || (t->status & (STATUS_FEATURES_OK | STATUS_DRIVER_OK)) != STATUS_FEATURES_OK)
        return;
    switch (off) {
    case REG_QUEUE_SIZE:
        /* Checked again as a power of two when it is made ready. */
        vq->size = value <= t->dev->queue_size[t->queue_sel] ? (uint16_t)value : 0;
        break;
    case REG_QUEUE_READY:
        write_queue_ready(t, vq, value);
        break;
    case REG_QUEUE_DESC_LOW:
        set_low(&vq->desc_gpa, value);
        break;
    case REG_QUEUE_DESC_HIGH:
        set_high(&vq->desc_gpa, value);
        break;
    case REG_QUEUE_DRIVER_LOW:
        set_low(&vq->avail_gpa, value);
        break;
    case REG_QUEUE_DRIVER_HIGH:
        set_high(&vq->avail_gpa, value);
        break;
    case REG_QUEUE_DEVICE_LOW:
        set_low(&vq->used_gpa, value);
        break;
    case REG_QUEUE_DEVICE_HIGH:
        set_high(&vq->used_gpa, value);
        break;
    default:
        break;
    }
}

static void write_register(struct virtio_mmio *t, uint64_t off, uint32_t value)
{
    switch (off) {
    case REG_DEVICE_FEATURES_SEL:
        t->device_features_sel = value;
        break;
    case REG_DRIVER_FEATURES:
        write_driver_features(t, value);
        break;
    case REG_DRIVER_FEATURES_SEL:
        t->driver_features_sel = value;
        break;
    case REG_QUEUE_SEL:
        t->queue_sel = value;
        break;
    case REG_STATUS:
        write_status(t, value);
        break;
    default:
        write_queue(t, off, value);
        break;
    }
}

static void write_config(struct virtio_mmio *t, uint64_t off, unsigned len, uint64_t value)
{
    struct virtio_dev *dev = t->dev;

    if (!dev->ops->config_written || !range_within(off, len, dev->config_len) || !(t->status & STATUS_DRIVER))
        return;
    for (unsigned i = 0; i < len; i++)
        dev->config[off + i] = (uint8_t)(value >> (8 * i));
    dev->ops->config_written(dev, (unsigned)off, len);
}

static uint32_t read_register(struct virtio_mmio *t, uint64_t off)
{
    const struct virtio_dev *dev = t->dev;
    const struct virtq *vq = selected(t);

    switch (off) {
    case REG_MAGIC:
        return MAGIC_VALUE;
    case REG_VERSION:
        return VERSION_VALUE;
    case REG_DEVICE_ID:
        return dev->id;
    case REG_VENDOR_ID:
        return VENDOR_VALUE;
    case REG_DEVICE_FEATURES:
        if (t->device_features_sel > 1)
            return 0;
        return (uint32_t)((dev->offered | TRANSPORT_FEATURES) >> (32 * t->device_features_sel));
    case REG_QUEUE_SIZE_MAX:
        return vq ? dev->queue_size[t->queue_sel] : 0;
    case REG_QUEUE_READY:
        return vq && vq->ready;
    case REG_STATUS:
        return t->status;
    case REG_SHM_LEN_LOW:
    case REG_SHM_LEN_HIGH:
    case REG_SHM_BASE_LOW:
    case REG_SHM_BASE_HIGH:
        return 0xffffffff; /* §4.2.2: a length of 2^64 - 1 says that there is no such region */
    case REG_CONFIG_GENERATION:
        return t->config_generation;
    default:
        return 0;
    }
}

static uint64_t read_config(const struct virtio_mmio *t, uint64_t off, unsigned len)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < len && off + i < t->dev->config_len; i++)
        value |= (uint64_t)t->dev->config[off + i] << (8 * i);
    return value;
}

/* §4.2.2.2: control registers are accessed by aligned words only; anything else reads 0 and is not written. */
static bool is_word(uint64_t off, unsigned len)
{
    return len == 4 && off % 4 == 0;
}

uint64_t virtio_mmio_read(struct virtio_mmio *t, uint64_t off, unsigned len)
{
    uint64_t value = 0;

    if (off == REG_INTERRUPT_STATUS && len == 4)
        return atomic_load(&t->interrupt_status);
    if (len > 8 || !range_within(off, len, VIRTIO_MMIO_SIZE) || (off < REG_CONFIG && !is_word(off, len)))
        return 0;
    virtio_lock(t->dev);
    value = off < REG_CONFIG ? read_register(t, off) : read_config(t, off - REG_CONFIG, len);
    virtio_unlock(t->dev);
    return value;
}

void virtio_mmio_write(struct virtio_mmio *t, uint64_t off, unsigned len, uint64_t value)
{
    if (len > 8 || !range_within(off, len, VIRTIO_MMIO_SIZE) || (off < REG_CONFIG && !is_word(off, len)))
        return;
    if (off == REG_INTERRUPT_ACK) {
        atomic_fetch_and(&t->interrupt_status, ~(uint32_t)value);
        return;
    }
    if (off == REG_QUEUE_NOTIFY) {
        if ((uint32_t)value < t->dev->n_queues)
            virtio_requeue(t->dev, (uint32_t)value);
        return;
    }
    virtio_lock(t->dev);
    if (off < REG_CONFIG)
        write_register(t, off, (uint32_t)value);
    else
        write_config(t, off - REG_CONFIG, len, value);
    virtio_unlock(t->dev);
}

static int add_notifier(struct virtio_mmio *t, unsigned q, struct sm_error *err)
{
    struct notifier *n = &t->notifier[q];

    n->t = t;
    n->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (n->fd < 0)
        return sm_error_sys(err, errno, "cannot make an eventfd for virtio %s", t->dev->ops->name);
    int r = loop_add(t->loop, &n->source, n->fd, EPOLLIN | EPOLLET, on_notify, n);
    if (r < 0)
        return sm_error_sys(err, -r, "cannot watch a queue of virtio %s", t->dev->ops->name);
    return 0;
}

int virtio_mmio_new(struct virtio_mmio **ret, struct virtio_dev *dev, const struct guest_mem *mem, struct loop *loop,
                    int irq_fd, struct sm_error *err)
{
    struct virtio_mmio *t = calloc(1, sizeof(*t));

    assert(dev->n_queues <= VIRTIO_MAX_QUEUES && dev->config_len <= VIRTIO_MAX_CONFIG);
    if (!t) {
        dev->ops->free(dev);
        return sm_error_set(err, ENOMEM, "no memory for a virtio transport");
    }
    t->dev = dev;
    t->loop = loop;
    t->irq_fd = irq_fd;
    pthread_mutex_init(&t->lock, NULL);
    dev->transport = t;
    for (unsigned q = 0; q < VIRTIO_MAX_QUEUES; q++) {
        t->notifier[q].fd = t->notifier[q].source.fd = -1;
        dev->vq[q].mem = mem;
    }
    for (unsigned q = 0; q < dev->n_queues; q++) {
        int r = add_notifier(t, q, err);

        if (r < 0) {
            virtio_mmio_free(t);
            return r;
        }
    }
    *ret = t;
    return 0;
}

void virtio_mmio_free(struct virtio_mmio *t)
{
    if (!t)
        return;
    for (unsigned q = 0; q < VIRTIO_MAX_QUEUES; q++) {
        loop_remove(t->loop, &t->notifier[q].source);
        close_fd(&t->notifier[q].fd);
    }
    t->dev->ops->free(t->dev);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

int virtio_mmio_notify_fd(const struct virtio_mmio *t, unsigned q)
{
    assert(q < t->dev->n_queues);
    return t->notifier[q].fd;
}

struct virtio_dev *virtio_mmio_dev(const struct virtio_mmio *t)
{
    return t->dev;
}

const char *virtio_mmio_broken(struct virtio_mmio *t)
{
    const char *why;

    virtio_lock(t->dev);
    why = t->broken;
    virtio_unlock(t->dev);
    return why;
}

void virtio_mmio_pause(struct virtio_mmio *t)
{
    virtio_lock(t->dev);
    t->paused = true;
    virtio_unlock(t->dev);
}

void virtio_mmio_resume(struct virtio_mmio *t)
{
    virtio_lock(t->dev);
    t->paused = false;
    if (t->status & STATUS_DRIVER_OK)
        for (unsigned q = 0; q < t->dev->n_queues; q++)
            virtio_requeue(t->dev, q);
    if (atomic_load(&t->interrupt_status))
        poke(t->irq_fd);
    virtio_unlock(t->dev);
}

/* Could the ladder of §3.1.1 have led there? */
static bool is_status(uint32_t v)
{
    return !(v & ~(STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK | STATUS_FEATURES_OK | STATUS_NEEDS_RESET |
                   STATUS_FAILED)) &&
           (!(v & STATUS_DRIVER) || (v & STATUS_ACKNOWLEDGE)) && (!(v & STATUS_FEATURES_OK) || (v & STATUS_DRIVER)) &&
           (!(v & STATUS_DRIVER_OK) || (v & STATUS_FEATURES_OK));
}

/* What follows from the loaded registers. */
static void apply_registers(struct virtio_mmio *t, struct snap_stream *s, uint32_t pending)
{
    uint64_t offered = t->dev->offered | TRANSPORT_FEATURES;

    atomic_store(&t->interrupt_status, pending);
    if (t->status & STATUS_NEEDS_RESET)
        t->broken = "the driver had broken a rule before the snapshot was made";
    if (!(t->status & STATUS_FEATURES_OK))
        return;
    snap_check(s, !(t->driver_features & ~offered) && (t->driver_features & 1ull << VIRTIO_F_VERSION_1), "features",
               "the guest uses 0x%llx, this device offers 0x%llx", (unsigned long long)t->driver_features,
               (unsigned long long)offered);
    if (snap_ok(s))
        t->dev->features = t->driver_features;
}

static void registers_state(struct virtio_mmio *t, struct snap_stream *s)
{
    uint32_t pending = atomic_load(&t->interrupt_status);

    snap_u32(s, "status", &t->status);
    snap_check(s, is_status(t->status), "status", "no driver could have set 0x%x", t->status);
    snap_u64(s, "features", &t->driver_features);
    snap_u32(s, "device features selector", &t->device_features_sel);
    snap_u32(s, "driver features selector", &t->driver_features_sel);
    snap_u32(s, "queue selector", &t->queue_sel);
    snap_u32(s, "config generation", &t->config_generation);
    snap_u32(s, "interrupt status", &pending);
    snap_check(s, pending <= (INT_USED_BUFFER | INT_CONFIG), "interrupt status", "0x%x has unknown bits", pending);
    if (snap_loading(s) && snap_ok(s))
        apply_registers(t, s, pending);
}

/* True when what the guest has read there is not what it would read now. */
static bool config_state(const struct virtio_dev *dev, struct snap_stream *s)
{
    uint8_t config[VIRTIO_MAX_CONFIG];
    uint32_t len = dev->config_len;

    memcpy(config, dev->config, sizeof(config));
    snap_count(s, "config length", &len, VIRTIO_MAX_CONFIG);
    snap_bytes(s, "config", config, len);
    return len != dev->config_len || memcmp(config, dev->config, len) != 0;
}

static void queues_state(struct virtio_mmio *t, struct snap_stream *s)
{
    struct virtio_dev *dev = t->dev;
    uint32_t n = dev->n_queues;

    snap_u32(s, "queues", &n);
    snap_check(s, n == dev->n_queues, "queues", "the device has %u, not %u", dev->n_queues, n);
    for (unsigned q = 0; q < dev->n_queues; q++) {
        struct virtq *vq = &dev->vq[q];

        vq->event_idx = dev->features & 1ull << VIRTIO_F_EVENT_IDX;
        vq->indirect = dev->features & 1ull << VIRTIO_F_INDIRECT_DESC;
        virtq_state(vq, s, dev->queue_size[q], (t->status & STATUS_FEATURES_OK) && !t->broken);
    }
}

void virtio_mmio_state(struct virtio_mmio *t, unsigned slot, struct snap_stream *s)
{
    struct virtio_dev *dev = t->dev;
    uint32_t id = dev->id;

    virtio_lock(dev);
    assert(snap_loading(s) || t->paused);
    if (snap_loading(s)) {
        t->paused = true;
        reset(t);
    }
    snap_begin(s, SNAP_TAG('V', 'I', 'R', 'T'), slot, 1, "virtio");
    snap_u32(s, "device id", &id);
    snap_check(s, id == dev->id, "device id", "device %u was there, and here is %u (%s)", id, dev->id, dev->ops->name);
    registers_state(t, s);
    bool config_differs = config_state(dev, s);
    queues_state(t, s);
    snap_end(s);
    if (dev->ops->state) {
        snap_begin(s, SNAP_TAG('V', 'D', 'E', 'V'), slot, dev->ops->state_version, dev->ops->name);
        dev->ops->state(dev, s);
        snap_end(s);
    }
    if (snap_loading(s) && !snap_ok(s))
        reset(t);
    else if (snap_loading(s) && config_differs)
        virtio_config_changed(dev);
    virtio_unlock(dev);
}
