/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-vsock: see vsock.h. vsock_conn.c is one connection.
 *
 * Theory of operation
 *
 * This file owns the three queues (virtio 1.2 §5.10.2), the table of connections and their sockets in the loop.
 *
 * From the guest: each packet of the transmit queue is copied out (header), checked, and handed to its connection,
 * found by (guest port, host port); the buffer goes back at once, whatever became of the packet, so the transmit queue
 * never waits for anything. A packet with a source that is not the guest's is dropped; one that fits no connection is
 * answered by RST.
 *
 * To the guest: connections that have a packet to send wait in a list; pump() takes them in turn, one packet each,
 * while there are receive buffers. Without buffers they wait in the list, their sockets unread, and the driver is
 * asked to notify. A RST that belongs to no connection waits in a small ring and is dropped when that is full: the
 * guest cannot make us remember more, and it will time out or ask again.
 *
 * A driver has nothing to do when its packets have been sent but to take the buffers back, so that alone is no reason
 * for an interrupt: it is told with the next packet for it, or when LAZY_PACKETS or LAZY_BYTES wait to be taken back,
 * which leaves it room for more at any time. (An interrupt of this transport is for all queues, virtio 1.2 §4.2.3.4.)
 *
 * A change to a connection is followed by settle(), which brings the outside in line with its state: the table, the
 * loop, the timer, the list of the ready, and its end.
 *
 * Restore: the guest has connections that no longer exist here. An event (§5.10.6.7) tells its driver to reset them
 * all; listeners stay. A packet of a new connection may not overtake that event, or the reset would hit the new one:
 * nothing goes into the receive queue until the driver has given the event's buffer back, which it does when it has
 * acted. A snapshot may be taken within that time; then the next restore waits for that buffer and sends its
 * own event after it.
 *
 * Threads: all on the loop's thread with the device's lock held, but reset: that one runs on a vCPU thread, where the
 * loop may not be touched. It takes every connection out of the tables, marks it stale, and wakes the loop by an
 * eventfd to take the sockets out of the loop and free them.
 *
 * Limits: VSOCK_MAX_CONNS connections (those that linger or wait to be freed included), VSOCK_BUF_ALLOC bytes of ring
 * for each, and below. Not done: SEQPACKET.
 */
#include "dev/vsock.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "dev/vsock_conn.h"

enum { QUEUE_RX, QUEUE_TX, QUEUE_EVENT, N_QUEUES };

#define VSOCK_QUEUE_SIZE   256
#define VSOCK_BUCKETS      256
#define VSOCK_ORPHAN_RSTS  64  /* RSTs that wait and belong to no connection */
#define VSOCK_ROUND        256 /* packets each way in one round of the loop */
#define VSOCK_FIRST_PORT   1024u
#define LAZY_PACKETS       16 /* or half of a queue that is smaller than two such */
#define LAZY_BYTES         (64u << 10)
#define VSOCK_PORT_ANY     0xffffffffu
#define VSOCK_CONFIG_BYTES 8 /* guest_cid, §5.10.4 */
#define VSOCK_EVENT_BYTES  4 /* le32 id, §5.10.6.7 */

#define VSOCK_EVENT_TRANSPORT_RESET 0

/* How long the guest may take to answer a REQUEST, and to answer our close by RST. */
#define VSOCK_CONNECT_NS (30ull * 1000000000)
#define VSOCK_CLOSE_NS   (8ull * 1000000000)

struct vsock {
    struct virtio_dev dev;
    struct vsock_config config;
    struct list table[VSOCK_BUCKETS];
    struct list all;   /* of live connections, by in_all */
    struct list stale; /* by in_all: to be freed by the loop's thread */
    struct list ready; /* by in_ready */
    unsigned n_conns;
    uint32_t next_port; /* the host port to try next for vsock_connect() */
    struct vsock_packet orphan[VSOCK_ORPHAN_RSTS];
    unsigned orphan_first, orphan_len;
    bool reset_owed;      /* the guest must learn that its connections are gone */
    bool reset_told;      /* it was told, and has not acted yet ... */
    uint16_t reset_index; /* ... while it has published so many event buffers */
    int reap_fd;          /* eventfd: `stale` has something */
    struct loop_source reap_source;
    unsigned done_packets; /* transmit buffers that the driver can take back and has not been told of */
    uint64_t done_bytes;
    struct virtq_chain chain; /* scratch */
};

static void pump(struct vsock *v);
static void settle(struct vsock *v, struct vsock_conn *c);

static struct list *bucket(struct vsock *v, uint32_t guest_port, uint32_t host_port)
{
    uint32_t h = (guest_port * 2654435761u) ^ (host_port * 2246822519u);

    return &v->table[(h >> 16) % VSOCK_BUCKETS];
}

static struct vsock_conn *lookup(struct vsock *v, uint32_t guest_port, uint32_t host_port)
{
    struct list *head = bucket(v, guest_port, host_port);

    for (struct list *it = head->next; it != head; it = it->next) {
        struct vsock_conn *c = LIST_ENTRY(it, struct vsock_conn, in_table);

        if (c->guest_port == guest_port && c->host_port == host_port)
            return c;
    }
    return NULL;
}

/* Loop's thread only. */
static void free_conn(struct vsock *v, struct vsock_conn *c)
{
    list_remove(&c->in_table);
    list_remove(&c->in_ready);
    list_remove(&c->in_all);
    loop_timer_cancel(&c->timer);
    loop_remove(v->config.loop, &c->source);
    vsock_conn_done(c);
    free(c);
    v->n_conns--;
}

/* Take every connection out of service. Any thread. */
static void abandon_all(struct vsock *v)
{
    uint64_t one = 1;

    v->orphan_len = 0;
    v->reset_owed = v->reset_told = false;
    if (list_empty(&v->all))
        return;
    LIST_FOREACH_SAFE(&v->all, it, tmp)
    {
        struct vsock_conn *c = LIST_ENTRY(it, struct vsock_conn, in_all);

        c->stale = true;
        list_remove(&c->in_table);
        list_remove(&c->in_ready);
        list_remove(&c->in_all);
        list_push_back(&v->stale, &c->in_all);
    }
    ssize_t n = write(v->reap_fd, &one, sizeof(one));
    (void)n; /* fails only when the counter is full: the loop wakes anyway */
}

static void reap(struct vsock *v)
{
    LIST_FOREACH_SAFE(&v->stale, it, tmp)
    free_conn(v, LIST_ENTRY(it, struct vsock_conn, in_all));
}

static void on_reap(struct loop_source *src, uint32_t events)
{
    struct vsock *v = src->ctx;

    virtio_lock(&v->dev);
    reap(v);
    virtio_unlock(&v->dev);
}

static void on_timer(struct loop_timer *timer)
{
    struct vsock_conn *c = timer->ctx;
    struct vsock *v = c->owner;

    virtio_lock(&v->dev);
    if (!c->stale) {
        /* The guest did not answer in time. */
        vsock_conn_reset(c);
        settle(v, c);
        pump(v);
    }
    virtio_unlock(&v->dev);
}

/* Bring everything around `c` in line with its state; it may be freed. */
static void settle(struct vsock *v, struct vsock_conn *c)
{
    bool waits = c->guest_end == VSOCK_REQUESTED || c->guest_end == VSOCK_CLOSING;

    if (vsock_conn_socket_done(c)) {
        loop_remove(v->config.loop, &c->source);
        close_fd(&c->fd);
    } else {
        loop_mod(v->config.loop, &c->source, vsock_conn_events(c));
    }
    if (c->guest_end == VSOCK_GONE) {
        list_remove(&c->in_table);
        list_remove(&c->in_ready);
        if (c->fd < 0) {
            free_conn(v, c);
            return;
        }
    }
    if (!waits)
        loop_timer_cancel(&c->timer);
    else if (c->guest_end == VSOCK_CLOSING && !c->timer.at_ns)
        loop_timer_set(v->config.loop, &c->timer, io_now_ns() + VSOCK_CLOSE_NS, on_timer, c);
    if (vsock_conn_has_packet(c) && list_empty(&c->in_ready))
        list_push_back(&v->ready, &c->in_ready);
}

static void on_socket(struct loop_source *src, uint32_t events)
{
    struct vsock_conn *c = src->ctx;
    struct vsock *v = c->owner;

    virtio_lock(&v->dev);
    if (!c->stale) {
        vsock_conn_socket(c, events);
        settle(v, c);
        pump(v);
    }
    virtio_unlock(&v->dev);
}

/* Put a new connection into the tables; takes `fd` over. 0 or -errno. */
static int add_conn(struct vsock *v, uint32_t guest_port, uint32_t host_port, int fd,
                    const struct vsock_packet *request)
{
    struct vsock_conn *c = calloc(1, sizeof(*c));

    if (!c) {
        close(fd);
        return -ENOMEM;
    }
    vsock_conn_init(c, guest_port, host_port, fd, request);
    c->owner = v;
    int r = loop_add(v->config.loop, &c->source, fd, vsock_conn_events(c), on_socket, c);
    if (r < 0) {
        vsock_conn_done(c);
        free(c);
        return r;
    }
    list_push_back(bucket(v, guest_port, host_port), &c->in_table);
    list_push_back(&v->all, &c->in_all);
    v->n_conns++;
    if (c->guest_end == VSOCK_REQUESTED)
        loop_timer_set(v->config.loop, &c->timer, io_now_ns() + VSOCK_CONNECT_NS, on_timer, c);
    settle(v, c);
    return 0;
}

/* The driver broke the rules: nobody will serve the connections until it resets the device. */
static void give_up(struct vsock *v, const char *why)
{
    virtio_broken(&v->dev, why);
    abandon_all(v);
}

static void refuse(struct vsock *v, const struct vsock_packet *p)
{
    if (p->op == VSOCK_OP_RST || v->orphan_len == VSOCK_ORPHAN_RSTS)
        return;
    v->orphan[(v->orphan_first + v->orphan_len++) % VSOCK_ORPHAN_RSTS] = (struct vsock_packet){
        .src_cid = p->dst_cid,
        .dst_cid = p->src_cid,
        .src_port = p->dst_port,
        .dst_port = p->src_port,
        .type = p->type,
        .op = VSOCK_OP_RST,
    };
}

static void guest_connects(struct vsock *v, const struct vsock_packet *p)
{
    int fd = -ECONNREFUSED;

    if (p->op == VSOCK_OP_REQUEST && v->config.guest_connect && v->n_conns < VSOCK_MAX_CONNS)
        fd = v->config.guest_connect(v->config.ctx, p->dst_port);
    if (fd < 0 || add_conn(v, p->src_port, p->dst_port, fd, p) < 0)
        refuse(v, p);
}

/* One packet from the guest; `run` is what followed the header. */
static void receive(struct vsock *v, const struct vsock_packet *p, struct iov_run *run)
{
    struct vsock_conn *c;

    if (p->src_cid != v->config.guest_cid)
        return; /* forged: nobody to answer */
    if (p->dst_cid != VSOCK_HOST_CID || p->type != VSOCK_TYPE_STREAM) {
        refuse(v, p);
        return;
    }
    c = lookup(v, p->src_port, p->dst_port);
    if (!c) {
        guest_connects(v, p);
        return;
    }
    if (p->len > run->len) {
        vsock_conn_reset(c); /* it says more than it brought */
    } else {
        iov_trim(run, p->len);
        vsock_conn_receive(c, p, run);
    }
    settle(v, c);
}

static void told_of_done(struct vsock *v)
{
    v->done_packets = 0;
    v->done_bytes = 0;
}

/* Is it time to say so? */
static bool much_is_done(const struct vsock *v)
{
    return v->done_packets >= LAZY_PACKETS || v->done_packets * 2 >= v->dev.vq[QUEUE_TX].size ||
           v->done_bytes >= LAZY_BYTES;
}

static void transmit_queue(struct vsock *v)
{
    struct virtq *vq = &v->dev.vq[QUEUE_TX];
    struct virtq_chain *chain = &v->chain;
    unsigned n;

    virtq_disable_notify(vq);
    for (n = 0; n < VSOCK_ROUND; n++) {
        uint8_t raw[VSOCK_HEADER_BYTES];
        struct vsock_packet p;
        int r = virtq_pop(vq, chain);

        if (r == 0) {
            if (!virtq_enable_notify(vq))
                break;
            virtq_disable_notify(vq);
            continue;
        }
        if (r < 0 || chain->out_len < sizeof(raw)) {
            give_up(v, "bad chain in the vsock transmit queue");
            return;
        }
        struct iov_run run = {.iov = chain->iov, .n = chain->n_out, .len = chain->out_len};
        iov_take(&run, raw, sizeof(raw));
        vsock_packet_decode(&p, raw);
        receive(v, &p, &run);
        virtq_push(vq, chain->head, 0);
        v->done_packets++;
        v->done_bytes += chain->out_len;
    }
    if (n == VSOCK_ROUND)
        virtio_requeue(&v->dev, QUEUE_TX);
    pump(v);
    if (much_is_done(v)) {
        virtio_signal(&v->dev, QUEUE_TX);
        told_of_done(v);
    }
}

/* The next packet for the guest, payload into `room`; false when the connection whose turn it was had none. */
static bool next_packet(struct vsock *v, struct vsock_packet *p, struct iov_run *room)
{
    if (v->orphan_len > 0) {
        *p = v->orphan[v->orphan_first];
        v->orphan_first = (v->orphan_first + 1) % VSOCK_ORPHAN_RSTS;
        v->orphan_len--;
        return true;
    }
    struct vsock_conn *c = LIST_ENTRY(v->ready.next, struct vsock_conn, in_ready);
    *p = (struct vsock_packet){
        .src_cid = VSOCK_HOST_CID,
        .dst_cid = v->config.guest_cid,
        .src_port = c->host_port,
        .dst_port = c->guest_port,
        .type = VSOCK_TYPE_STREAM,
    };
    /* Out of the list; settle() puts it back at its end when there is more: each in its turn. */
    list_remove(&c->in_ready);
    bool made = vsock_conn_packet(c, p, room);
    settle(v, c);
    return made;
}

static bool anything_to_send(const struct vsock *v)
{
    return v->orphan_len > 0 || !list_empty(&v->ready);
}

/* Packets into receive buffers, while there are both. */
static void pump(struct vsock *v)
{
    struct virtq *vq = &v->dev.vq[QUEUE_RX];
    struct virtq_chain *chain = &v->chain;
    unsigned n;

    if (virtio_paused(&v->dev) || v->reset_owed || v->reset_told)
        return;
    for (n = 0; n < VSOCK_ROUND && anything_to_send(v); n++) {
        struct iovec head[VSOCK_HEADER_BYTES]; /* a buffer has a byte at least */
        uint8_t raw[VSOCK_HEADER_BYTES];
        struct vsock_packet p;
        int r = virtq_pop(vq, chain);

        if (r == 0) {
            if (!virtq_enable_notify(vq))
                break;
            virtq_disable_notify(vq);
            continue;
        }
        if (r < 0 || chain->in_len <= sizeof(raw)) {
            give_up(v, "bad chain in the vsock receive queue");
            return;
        }
        struct iov_run run = {.iov = chain->iov + chain->n_out, .n = chain->n_in, .len = chain->in_len};
        struct iov_run head_run = {.iov = head, .n = iov_first(&run, sizeof(raw), head), .len = sizeof(raw)};
        iov_skip(&run, sizeof(raw));
        if (!next_packet(v, &p, &run)) {
            virtq_unpop(vq);
            continue;
        }
        vsock_packet_encode(&p, raw);
        iov_put(&head_run, raw, sizeof(raw));
        virtq_push(vq, chain->head, (uint32_t)sizeof(raw) + p.len);
    }
    if (n == VSOCK_ROUND)
        virtio_requeue(&v->dev, QUEUE_RX);
    if (virtio_signal(&v->dev, QUEUE_RX))
        told_of_done(v);
}

/* Tell the driver that its connections are gone; without an event buffer it is told when it brings one. */
static void tell_reset(struct vsock *v)
{
    struct virtq *vq = &v->dev.vq[QUEUE_EVENT];
    struct virtq_chain *chain = &v->chain;
    uint8_t raw[VSOCK_EVENT_BYTES];
    /* Before the event is there to be seen: what the driver publishes from here on is its answer. */
    uint16_t index = virtq_watch(vq);
    int r = virtq_pop(vq, chain);

    if (r == 0)
        return;
    if (r < 0 || chain->in_len < sizeof(raw)) {
        give_up(v, "bad chain in the vsock event queue");
        return;
    }
    struct iov_run run = {.iov = chain->iov + chain->n_out, .n = chain->n_in, .len = chain->in_len};
    store_le32(raw, VSOCK_EVENT_TRANSPORT_RESET);
    iov_put(&run, raw, sizeof(raw));
    v->reset_owed = false;
    v->reset_told = true;
    v->reset_index = index;
    virtq_push(vq, chain->head, sizeof(raw));
    virtio_signal(&v->dev, QUEUE_EVENT);
}

static void event_queue(struct vsock *v)
{
    if (v->reset_told && virtq_watch(&v->dev.vq[QUEUE_EVENT]) != v->reset_index)
        v->reset_told = false;
    if (v->reset_owed && !v->reset_told)
        tell_reset(v);
    pump(v);
}

static void vsock_start(struct virtio_dev *dev)
{
    /* Receive buffers are wanted only when we have something for them: see pump(). */
    virtq_disable_notify(&dev->vq[QUEUE_RX]);
    told_of_done(CONTAINER_OF(dev, struct vsock, dev));
}

static void vsock_notify(struct virtio_dev *dev, unsigned q)
{
    struct vsock *v = CONTAINER_OF(dev, struct vsock, dev);

    if (q == QUEUE_TX)
        transmit_queue(v);
    if (q == QUEUE_RX) {
        virtq_disable_notify(&dev->vq[QUEUE_RX]);
        pump(v);
    }
    if (q == QUEUE_EVENT)
        event_queue(v);
}

/* Connections are not saved: they have an end on this host. */
static void vsock_state(struct virtio_dev *dev, struct snap_stream *s)
{
    struct vsock *v = CONTAINER_OF(dev, struct vsock, dev);

    snap_u32(s, "next port", &v->next_port);
    snap_check(s, v->next_port >= VSOCK_FIRST_PORT && v->next_port < VSOCK_PORT_ANY, "next port", "%u is none",
               v->next_port);
    snap_bool(s, "reset told", &v->reset_told);
    snap_u16(s, "reset index", &v->reset_index);
    if (!snap_loading(s))
        return;
    if (!snap_ok(s))
        v->next_port = VSOCK_FIRST_PORT;
    /* A driver without an event queue is not up, and has no connections. */
    v->reset_told = v->reset_told && dev->vq[QUEUE_EVENT].ready;
    v->reset_owed = dev->vq[QUEUE_EVENT].ready;
}

static void vsock_reset(struct virtio_dev *dev)
{
    abandon_all(CONTAINER_OF(dev, struct vsock, dev));
}

/* A host port that no connection to `guest_port` uses. There are more ports than connections, so the search ends. */
static uint32_t pick_port(struct vsock *v, uint32_t guest_port)
{
    uint32_t port;

    do {
        port = v->next_port++;
        if (v->next_port == VSOCK_PORT_ANY)
            v->next_port = VSOCK_FIRST_PORT;
    } while (lookup(v, guest_port, port));
    return port;
}

int vsock_connect(struct virtio_dev *dev, uint32_t port, int fd, struct sm_error *err)
{
    struct vsock *v = CONTAINER_OF(dev, struct vsock, dev);
    int r;

    virtio_lock(dev);
    if (!dev->vq[QUEUE_RX].ready || !dev->vq[QUEUE_TX].ready) {
        r = sm_error_set(err, ENOTCONN, "cannot connect to port %u of the guest: its vsock driver is not up", port);
    } else if (v->n_conns >= VSOCK_MAX_CONNS) {
        r = sm_error_set(err, EMFILE, "cannot connect to port %u of the guest: %d connections are open already", port,
                         VSOCK_MAX_CONNS);
    } else {
        r = add_conn(v, port, pick_port(v, port), steal_fd(&fd), NULL);
        if (r < 0)
            sm_error_sys(err, -r, "cannot connect to port %u of the guest", port);
        pump(v);
    }
    virtio_unlock(dev);
    if (fd >= 0)
        close(fd);
    return r;
}

static void vsock_free(struct virtio_dev *dev)
{
    struct vsock *v = CONTAINER_OF(dev, struct vsock, dev);

    abandon_all(v);
    reap(v);
    loop_remove(v->config.loop, &v->reap_source);
    close_fd(&v->reap_fd);
    free(v);
}

static const struct virtio_dev_ops vsock_ops;

int vsock_new(struct virtio_dev **ret, const struct vsock_config *config, struct sm_error *err)
{
    if (config->guest_cid <= VSOCK_HOST_CID || config->guest_cid >= UINT32_MAX)
        return sm_error_set(err, EINVAL, "the guest's vsock id must be 3 or more and less than 2^32 - 1");
    struct vsock *v = calloc(1, sizeof(*v));
    if (!v)
        return sm_error_set(err, ENOMEM, "no memory for the vsock device");
    v->config = *config;
    for (unsigned i = 0; i < VSOCK_BUCKETS; i++)
        list_init(&v->table[i]);
    list_init(&v->all);
    list_init(&v->stale);
    list_init(&v->ready);
    v->next_port = VSOCK_FIRST_PORT;
    v->reap_source.fd = -1;
    v->reap_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int r = v->reap_fd < 0 ? -errno : 0;
    if (r == 0)
        r = loop_add(config->loop, &v->reap_source, v->reap_fd, EPOLLIN | EPOLLET, on_reap, v);
    if (r < 0) {
        vsock_free(&v->dev);
        return sm_error_sys(err, -r, "cannot make the vsock device");
    }
    v->dev.ops = &vsock_ops;
    v->dev.id = VIRTIO_ID_VSOCK;
    v->dev.n_queues = N_QUEUES;
    for (unsigned q = 0; q < N_QUEUES; q++)
        v->dev.queue_size[q] = VSOCK_QUEUE_SIZE;
    store_le64(v->dev.config, config->guest_cid);
    v->dev.config_len = VSOCK_CONFIG_BYTES;
    *ret = &v->dev;
    return 0;
}

static const struct virtio_dev_ops vsock_ops = {
    .name = "vsock",
    .start = vsock_start,
    .notify = vsock_notify,
    .reset = vsock_reset,
    .state = vsock_state,
    .state_version = 1,
    .free = vsock_free,
};
