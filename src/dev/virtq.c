/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Split virtqueue, device side: see virtq.h.
 *
 * Theory of operation
 *
 * Three rings in guest memory (virtio 1.2 §2.7). The driver fills descriptors, puts a chain's first index into the
 * available ring and moves avail.idx; we read the chain, do the work, put the index into the used ring and move
 * used.idx. All three are looked up and bounds-checked once, in virtq_enable(); guest memory never moves while a
 * device holds it, so the pointers stay good until the reset.
 *
 * virtq_pop() is the door. It reads every descriptor exactly once into a local copy, checks the copy, and turns it
 * into an iovec by mem_ptr(), so nothing that the guest writes later can move a buffer out of memory. What it refuses:
 * an available index more than `size` ahead, a head or a next index outside its table, more descriptors than the table
 * has (a loop), an indirect table inside an indirect table, INDIRECT together with NEXT, a table whose length is not a
 * positive number of descriptors, an empty buffer, a buffer that is not inside one region of memory, a readable
 * buffer behind a writable one, more than VIRTQ_MAX_IOV buffers, more than 4 GiB in all (§2.7.5.2).
 *
 * Order of memory accesses: the guest's vCPUs run at the same time. Each barrier below says what it stands between.
 *
 * Threads: none of its own; whoever holds the device's lock.
 * Not done: packed rings, in-order completion, notification data.
 */
#include "dev/virtq.h"

#include <errno.h>
#include <stddef.h>

#include "base/checked.h"
#include "dev/le.h"

#define DESC_BYTES      16
#define DESC_F_NEXT     1
#define DESC_F_WRITE    2
#define DESC_F_INDIRECT 4

#define AVAIL_F_NO_INTERRUPT 1
#define USED_F_NO_NOTIFY     1

/* Both rings: le16 flags, le16 idx, the entries, and one more le16 for the event index (§2.7.6, §2.7.8). */
#define RING_FLAGS   0
#define RING_IDX     2
#define RING_ENTRIES 4
#define AVAIL_BYTES  2
#define USED_BYTES   8

#define CHAIN_MAX_BYTES (1ull << 32)

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

static uint8_t *used_event(const struct virtq *vq)
{
    return vq->avail + RING_ENTRIES + AVAIL_BYTES * (size_t)vq->size;
}

static uint8_t *avail_event(const struct virtq *vq)
{
    return vq->used + RING_ENTRIES + USED_BYTES * (size_t)vq->size;
}

int virtq_enable(struct virtq *vq)
{
    uint64_t n = vq->size;

    vq->ready = false;
    if (n == 0 || (n & (n - 1)) || n > VIRTQ_MAX_SIZE)
        return -EINVAL;
    /* Alignments: §2.7, table. */
    if (!is_aligned(vq->desc_gpa, 16) || !is_aligned(vq->avail_gpa, 2) || !is_aligned(vq->used_gpa, 4))
        return -EINVAL;
    vq->desc = mem_ptr(vq->mem, vq->desc_gpa, DESC_BYTES * n);
    vq->avail = mem_ptr(vq->mem, vq->avail_gpa, RING_ENTRIES + AVAIL_BYTES * n + 2);
    vq->used = mem_ptr(vq->mem, vq->used_gpa, RING_ENTRIES + USED_BYTES * n + 2);
    if (!vq->desc || !vq->avail || !vq->used)
        return -EINVAL;
    vq->next_avail = vq->next_used = 0;
    vq->signalled_used = 0;
    vq->signalled_valid = false;
    vq->ready = true;
    return 0;
}

static struct desc read_desc(const uint8_t *table, unsigned index)
{
    uint8_t raw[DESC_BYTES];

    copy_from_guest(raw, table + (size_t)index * DESC_BYTES, sizeof(raw));
    return (struct desc){
        .addr = load_le64(raw), .len = load_le32(raw + 8), .flags = load_le16(raw + 12), .next = load_le16(raw + 14)};
}

static int add_buffer(const struct virtq *vq, struct virtq_chain *chain, const struct desc *d)
{
    unsigned n = chain->n_out + chain->n_in;
    void *host = mem_ptr(vq->mem, d->addr, d->len); /* NULL for an empty one, too */

    if (!host || n == VIRTQ_MAX_IOV || chain->out_len + chain->in_len + d->len > CHAIN_MAX_BYTES)
        return -EINVAL;
    chain->iov[n] = (struct iovec){.iov_base = host, .iov_len = d->len};
    if (d->flags & DESC_F_WRITE) {
        chain->n_in++;
        chain->in_len += d->len;
    } else if (chain->n_in == 0) {
        chain->n_out++;
        chain->out_len += d->len;
    } else {
        return -EINVAL;
    }
    return 0;
}

/* Follow a chain in a table of `size` descriptors; *ret_indirect is the last one when it points at another table. */
static int walk(const struct virtq *vq, struct virtq_chain *chain, const uint8_t *table, unsigned size, unsigned index,
                bool may_indirect, struct desc *ret_indirect)
{
    for (unsigned left = size; left > 0; left--) {
        if (index >= size)
            return -EINVAL;
        struct desc d = read_desc(table, index);
        if (d.flags & DESC_F_INDIRECT) {
            /* §2.7.5.3.1: the last of its chain, never inside a table; its WRITE flag means nothing (§2.7.5.3.2). */
            if (!may_indirect || (d.flags & DESC_F_NEXT))
                return -EINVAL;
            *ret_indirect = d;
            return 1;
        }
        int r = add_buffer(vq, chain, &d);
        if (r < 0)
            return r;
        if (!(d.flags & DESC_F_NEXT))
            return 0;
        index = d.next;
    }
    return -EINVAL; /* as many steps as descriptors and still a next one: a loop */
}

int virtq_pop(struct virtq *vq, struct virtq_chain *ret)
{
    if (!vq->ready)
        return 0;
    /* Acquire: the entries and descriptors below are read after the index that publishes them (driver: §2.7.13.3). */
    uint16_t idx = shared_load_le16(vq->avail + RING_IDX, __ATOMIC_ACQUIRE);
    uint16_t waiting = (uint16_t)(idx - vq->next_avail);
    if (waiting == 0)
        return 0;
    if (waiting > vq->size)
        return -EINVAL;
    unsigned slot = vq->next_avail & (vq->size - 1u);
    uint16_t head = shared_load_le16(vq->avail + RING_ENTRIES + AVAIL_BYTES * (size_t)slot, __ATOMIC_RELAXED);

    ret->head = head;
    ret->n_out = ret->n_in = 0;
    ret->out_len = ret->in_len = 0;
    struct desc d = {.len = 0};
    int r = walk(vq, ret, vq->desc, vq->size, head, vq->indirect, &d);
    if (r > 0) {
        const uint8_t *table = d.len % DESC_BYTES ? NULL : mem_ptr(vq->mem, d.addr, d.len);

        if (!table || d.len / DESC_BYTES > VIRTQ_MAX_IOV)
            return -EINVAL;
        r = walk(vq, ret, table, d.len / DESC_BYTES, 0, false, &d);
    }
    if (r < 0)
        return r;
    vq->next_avail++;
    return 1;
}

void virtq_unpop(struct virtq *vq)
{
    vq->next_avail--;
}

void virtq_push(struct virtq *vq, uint16_t head, uint32_t written)
{
    if (!vq->ready)
        return;
    uint8_t *entry = vq->used + RING_ENTRIES + USED_BYTES * (size_t)(vq->next_used & (vq->size - 1u));
    shared_store_le32(entry, head, __ATOMIC_RELAXED);
    shared_store_le32(entry + 4, written, __ATOMIC_RELAXED);
    vq->next_used++;
    /* Release: the buffers' bytes and the entry are visible before the index that gives them back (§2.7.8.2). */
    shared_store_le16(vq->used + RING_IDX, vq->next_used, __ATOMIC_RELEASE);
}

bool virtq_needs_signal(struct virtq *vq)
{
    uint16_t now = vq->next_used, before = vq->signalled_used;
    bool first = !vq->signalled_valid;

    if (!vq->ready || now == before)
        return false;
    vq->signalled_used = now;
    vq->signalled_valid = true;
    /*
     * Full barrier: used.idx is written before we look whether the driver wants to hear of it. The driver does the
     * opposite (asks, barrier, looks at used.idx), so one of us sees the other; without it both could miss (§2.7.7).
     */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!vq->event_idx)
        return !(shared_load_le16(vq->avail + RING_FLAGS, __ATOMIC_RELAXED) & AVAIL_F_NO_INTERRUPT);
    uint16_t event = shared_load_le16(used_event(vq), __ATOMIC_RELAXED);
    /* Has the index moved past `event` since the last decision, in modulo arithmetic (§2.7.10)? */
    return first || (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

void virtq_disable_notify(struct virtq *vq)
{
    /* With the event index the driver stays silent until its index passes avail_event, which only we move. */
    if (vq->ready && !vq->event_idx)
        shared_store_le16(vq->used + RING_FLAGS, USED_F_NO_NOTIFY, __ATOMIC_RELAXED);
}

bool virtq_enable_notify(struct virtq *vq)
{
    if (!vq->ready)
        return false;
    if (vq->event_idx)
        shared_store_le16(avail_event(vq), vq->next_avail, __ATOMIC_RELAXED);
    else
        shared_store_le16(vq->used + RING_FLAGS, 0, __ATOMIC_RELAXED);
    /* Full barrier: we ask first and look after; the driver publishes first and looks after (§2.7.13.4.1). */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return shared_load_le16(vq->avail + RING_IDX, __ATOMIC_ACQUIRE) != vq->next_avail;
}

uint16_t virtq_watch(struct virtq *vq)
{
    if (!vq->ready)
        return 0;
    uint16_t idx = shared_load_le16(vq->avail + RING_IDX, __ATOMIC_ACQUIRE);
    if (vq->event_idx)
        shared_store_le16(avail_event(vq), idx, __ATOMIC_RELAXED);
    else
        shared_store_le16(vq->used + RING_FLAGS, 0, __ATOMIC_RELAXED);
    /* Full barrier: as in virtq_enable_notify(). What is published meanwhile shows at the next look at the index. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return idx;
}

void virtq_state(struct virtq *vq, struct snap_stream *s, unsigned max_size, bool may_be_ready)
{
    struct virtq q = *vq;

    snap_u16(s, "queue size", &q.size);
    snap_check(s, q.size <= max_size, "queue size", "%u is over the device's %u", q.size, max_size);
    snap_bool(s, "queue ready", &q.ready);
    snap_check(s, !q.ready || may_be_ready, "queue ready", "the device's status does not allow it");
    snap_u64(s, "descriptor table", &q.desc_gpa);
    snap_u64(s, "available ring", &q.avail_gpa);
    snap_u64(s, "used ring", &q.used_gpa);
    snap_u16(s, "next available", &q.next_avail);
    snap_u16(s, "next used", &q.next_used);
    snap_u16(s, "signalled", &q.signalled_used);
    snap_bool(s, "signalled before", &q.signalled_valid);
    if (!snap_loading(s) || !snap_ok(s))
        return;
    if (q.ready) {
        struct virtq rings = q;
        uint16_t with_device = (uint16_t)(q.next_avail - q.next_used);
        int r = virtq_enable(&rings);

        snap_check(s, r == 0, "queue ready", "its size or its rings' addresses do not fit guest memory");
        snap_check(s, with_device <= q.size, "next used", "%u chains would be with the device, in a queue of %u",
                   with_device, q.size);
        q.desc = rings.desc;
        q.avail = rings.avail;
        q.used = rings.used;
    }
    if (snap_ok(s))
        *vq = q;
}
