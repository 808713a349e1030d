/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The seam between a virtio device and its transport (virtio 1.2).
 *
 * A device sees guest memory (through virtq), its queues, and the loop; it knows nothing of MMIO, KVM or the machine.
 * Its table is one const struct at the end of its file. Device data (id, features, queue sizes, config space) are
 * fields, not functions.
 *
 * Threads: callbacks run either on the loop's thread (notify) or on a vCPU thread (features, reset, config write). The
 * transport holds the device's lock around every callback; a device that is woken by its own sources (a socket, a
 * timer) takes it by virtio_lock() first. Nothing else is shared. The loop belongs to its thread: a reset on a vCPU
 * thread may not touch it, so a device with sources of its own marks them stale there and drops them on the loop's
 * thread.
 */
#ifndef SM_DEV_VIRTIO_H
#define SM_DEV_VIRTIO_H

#include <stdbool.h>
#include <stdint.h>

#include <supermachine/supermachine.h>

#include "base/loop.h"
#include "dev/mem.h"
#include "dev/virtq.h"
#include "snap/stream.h"

#define VIRTIO_MAX_QUEUES     8
#define VIRTIO_MAX_QUEUE_SIZE VIRTQ_MAX_SIZE
#define VIRTIO_MAX_CONFIG     64 /* bytes of device-specific config space */

/* Device ids, virtio 1.2 §5. */
#define VIRTIO_ID_NET     1
#define VIRTIO_ID_BLOCK   2
#define VIRTIO_ID_RNG     4
#define VIRTIO_ID_BALLOON 5
#define VIRTIO_ID_VSOCK   19

/* Device-independent feature bits, virtio 1.2 §6. */
#define VIRTIO_F_INDIRECT_DESC 28
#define VIRTIO_F_EVENT_IDX     29
#define VIRTIO_F_VERSION_1     32

struct virtio_dev;
struct virtio_mmio; /* the transport */

struct virtio_dev_ops {
    const char *name;
    /*
     * The driver has set DRIVER_OK: `dev->features` holds what was negotiated and the queues are ready. Notify runs for
     * each ready queue soon after. May be NULL.
     */
    void (*start)(struct virtio_dev *dev);
    /* Queue `q` may have new buffers. */
    void (*notify)(struct virtio_dev *dev, unsigned q);
    /* Back to the state before start; drop everything in flight. Called only after start. May be NULL. */
    void (*reset)(struct virtio_dev *dev);
    /* The driver wrote config space; NULL: it is read-only and writes are dropped. */
    void (*config_written)(struct virtio_dev *dev, unsigned off, unsigned len);
    /*
     * Save or load what the device has beside its queues, features and config space, which are the transport's; in a
     * section of its own, of `state_version`. Before loading, the device was reset. NULL: it has nothing.
     */
    void (*state)(struct virtio_dev *dev, struct snap_stream *s);
    unsigned state_version;
    /* Owns everything; called with no lock held, after the transport has let go. */
    void (*free)(struct virtio_dev *dev);
};

/* First member of every device's own struct. */
struct virtio_dev {
    const struct virtio_dev_ops *ops;
    uint32_t id;
    uint64_t offered;  /* feature bits; the transport adds VERSION_1, INDIRECT_DESC and EVENT_IDX */
    uint64_t features; /* negotiated, valid from start to reset */
    unsigned n_queues;
    uint16_t queue_size[VIRTIO_MAX_QUEUES]; /* the largest size offered */
    uint8_t config[VIRTIO_MAX_CONFIG];      /* little-endian, as the guest sees it */
    unsigned config_len;
    struct virtq vq[VIRTIO_MAX_QUEUES];
    struct virtio_mmio *transport; /* set before start */
};

/* The device's lock (see Threads). Not recursive; held by the transport around every callback. */
void virtio_lock(struct virtio_dev *dev);
void virtio_unlock(struct virtio_dev *dev);

/* Raise the used-buffer interrupt if the driver wants one for `q`. Lock held. True: it was raised. */
bool virtio_signal(struct virtio_dev *dev, unsigned q);

/*
 * Run notify for `q` once more, in a later round of the loop: for a device that has done its share of this round. Any
 * thread.
 */
void virtio_requeue(struct virtio_dev *dev, unsigned q);

/* True from pause to resume: no guest memory may be touched; notify runs for each queue afterwards. Lock held. */
bool virtio_paused(const struct virtio_dev *dev);

/* `dev->config` has changed: bump the generation and raise the configuration interrupt. Lock held. */
void virtio_config_changed(struct virtio_dev *dev);

/* The driver broke the rules: set DEVICE_NEEDS_RESET (virtio 1.2 §2.1.2), stop the queues, tell it. Lock held. */
void virtio_broken(struct virtio_dev *dev, const char *why);

#endif
