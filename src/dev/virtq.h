/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Split virtqueue, device side (virtio 1.2 §2.7): the one door for what a driver puts into a ring.
 *
 * A chain is copied out of guest memory whole, checked, and handed over as host iovecs; after that nothing the guest
 * writes can change its shape. (The bytes it points at can still change: devices copy headers before they look.)
 */
#ifndef SM_DEV_VIRTQ_H
#define SM_DEV_VIRTQ_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "dev/mem.h"
#include "snap/stream.h"

#define VIRTQ_MAX_SIZE 256 /* entries */
#define VIRTQ_MAX_IOV  256 /* buffers in one chain, indirect ones included */

struct virtq {
    const struct guest_mem *mem;
    uint16_t size; /* entries, a power of two */
    bool ready;
    bool event_idx; /* VIRTIO_F_EVENT_IDX negotiated */
    bool indirect;  /* VIRTIO_F_INDIRECT_DESC negotiated */
    uint64_t desc_gpa, avail_gpa, used_gpa;
    /* Checked once when the queue is made ready. */
    uint8_t *desc, *avail, *used;
    uint16_t next_avail, next_used;
    uint16_t signalled_used; /* used index at the last interrupt decision */
    bool signalled_valid;
};

struct virtq_chain {
    uint16_t head;
    unsigned n_out, n_in;            /* device-readable first (§2.7.4.2), then device-writable */
    uint64_t out_len, in_len;        /* bytes */
    struct iovec iov[VIRTQ_MAX_IOV]; /* n_out readable, then n_in writable */
};

/* Size, addresses and flags are set: check them against memory and make the queue usable. 0 or -EINVAL. */
int virtq_enable(struct virtq *vq);

/* Next chain: 1 and *ret, 0 when there is none, -EINVAL when the driver broke the rules (the device is broken then). */
int virtq_pop(struct virtq *vq, struct virtq_chain *ret);

/* Put the chain popped last back, unused and unseen by the driver; nothing was pushed since. */
void virtq_unpop(struct virtq *vq);

/* Give a chain back with `written` bytes filled in its writable part. */
void virtq_push(struct virtq *vq, uint16_t head, uint32_t written);

/* Must the driver be interrupted for what was pushed since the last call (§2.7.7.2, §2.7.10)? */
bool virtq_needs_signal(struct virtq *vq);

/* Driver notifications off while draining, on again after; on returns true when buffers came meanwhile: drain again. */
void virtq_disable_notify(struct virtq *vq);
bool virtq_enable_notify(struct virtq *vq);

/*
 * How many buffers the driver has published so far, modulo 2^16; it will notify when it publishes the next one, also
 * when some are waiting now.
 */
uint16_t virtq_watch(struct virtq *vq);

/*
 * Save or load. `mem` and the flags are set already when loading; the queue's largest size is `max_size`, and it may
 * be ready only if `may_be_ready`. Rings that are not within memory are refused.
 */
void virtq_state(struct virtq *vq, struct snap_stream *s, unsigned max_size, bool may_be_ready);

#endif
