/* SPDX-License-Identifier: Apache-2.0 */
/* virtio over MMIO, version 2 (virtio 1.2 §4.2). */
#ifndef SM_DEV_VIRTIO_MMIO_H
#define SM_DEV_VIRTIO_MMIO_H

#include <stdint.h>

#include "dev/virtio.h"

#define VIRTIO_MMIO_SIZE         0x200 /* registers and config space that we decode; the page has 0x1000 */
#define VIRTIO_MMIO_QUEUE_NOTIFY 0x050 /* virtio 1.2 §4.2.2: for ioeventfds, 32-bit write of the queue index */

struct virtio_mmio;

/*
 * Put `dev` behind a transport. Takes `dev` over (frees it also on failure). `irq_fd` is a non-blocking eventfd,
 * written to raise the (edge) interrupt; it stays the caller's, as do `mem` and `loop`, all alive until
 * virtio_mmio_free(). Both functions run on the loop's thread, with no vCPU running.
 */
int virtio_mmio_new(struct virtio_mmio **ret, struct virtio_dev *dev, const struct guest_mem *mem, struct loop *loop,
                    int irq_fd, struct sm_error *err);
void virtio_mmio_free(struct virtio_mmio *t);

/* Register access from any vCPU thread. `off` is within the page, `len` 1, 2, 4 or 8. */
uint64_t virtio_mmio_read(struct virtio_mmio *t, uint64_t off, unsigned len);
void virtio_mmio_write(struct virtio_mmio *t, uint64_t off, unsigned len, uint64_t value);

/* The eventfd that notifies queue `q` < dev->n_queues: for an ioeventfd at VIRTIO_MMIO_QUEUE_NOTIFY matching `q`. */
int virtio_mmio_notify_fd(const struct virtio_mmio *t, unsigned q);
struct virtio_dev *virtio_mmio_dev(const struct virtio_mmio *t);

/*
 * Between the two the device touches no guest memory and takes no request; what arrives waits. Resuming looks at every
 * queue again, and raises the interrupt again if one was pending: an edge may have been lost on its way (a spurious
 * one is harmless). Loop's thread, vCPUs stopped.
 */
void virtio_mmio_pause(struct virtio_mmio *t);
void virtio_mmio_resume(struct virtio_mmio *t);

/*
 * Save or load the transport and its device, as number `slot`. The device that is there may differ from the saved one
 * in its config space, which the guest is told then; in nothing else. Saving: paused. Loading leaves it paused; on
 * failure it is as after a reset.
 */
void virtio_mmio_state(struct virtio_mmio *t, unsigned slot, struct snap_stream *s);

/* What rule the driver broke (DEVICE_NEEDS_RESET is set), as evidence; NULL while all is well. Any thread. */
const char *virtio_mmio_broken(struct virtio_mmio *t);

#endif
