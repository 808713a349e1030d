/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One vsock connection: its state machine, credit, and the unix socket at its host end. It knows packets and the
 * socket; the device (vsock.c) knows the rings, the table of connections and the loop.
 */
#ifndef SM_DEV_VSOCK_CONN_H
#define SM_DEV_VSOCK_CONN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/loop.h"
#include "dev/iov.h"
#include "dev/vsock_packet.h"

/* The end towards the guest. */
enum vsock_guest_end {
    VSOCK_REQUESTED, /* we asked, the guest has not answered */
    VSOCK_OPEN,
    VSOCK_CLOSING,   /* we told that the host end is gone for good; the guest owes a RST */
    VSOCK_RESETTING, /* we owe a RST, and nothing after it */
    VSOCK_GONE,      /* no packet belongs to it any more; bytes may be left for the socket */
};

/* Packets owed to the guest, as bits; sent in this order. */
#define VSOCK_OWE_REQUEST        (1u << 0)
#define VSOCK_OWE_RESPONSE       (1u << 1)
#define VSOCK_OWE_RST            (1u << 2)
#define VSOCK_OWE_SHUTDOWN       (1u << 3)
#define VSOCK_OWE_CREDIT_UPDATE  (1u << 4)
#define VSOCK_OWE_CREDIT_REQUEST (1u << 5)

struct vsock_conn {
    struct list in_table; /* device's: hash bucket, all but GONE */
    struct list in_all;   /* device's */
    struct list in_ready; /* device's: has something for the guest */
    struct vsock *owner;
    struct loop_source source; /* watches fd */
    struct loop_timer timer;   /* for REQUESTED and CLOSING */
    bool stale;                /* the device was reset: the loop's thread frees it */

    uint32_t guest_port, host_port;
    enum vsock_guest_end guest_end;
    unsigned owed;                  /* VSOCK_OWE_* */
    uint32_t guest_shut, host_shut; /* VSOCK_SHUT_*, as each side told */

    /* Credit, virtio 1.2 §5.10.6.3; counters of payload bytes, modulo 2^32. */
    uint32_t rx_cnt;   /* received from the guest */
    uint32_t fwd_cnt;  /* of these, gone to the socket */
    uint32_t fwd_told; /* fwd_cnt in the last packet we sent */
    uint32_t tx_cnt;   /* sent to the guest */
    uint32_t peer_buf_alloc, peer_fwd_cnt;
    bool credit_asked; /* a CREDIT_REQUEST was sent since data last went out */

    int fd;         /* -1: the host end is gone */
    bool readable;  /* edge-triggered: true until a read says otherwise */
    bool hung_up;   /* the peer will send no more: read on to the end of file */
    bool peer_gone; /* the socket is down in both directions, though there may be bytes to read */
    bool dead;      /* nothing more to do with the socket but to write out the ring */

    /* Bytes from the guest that the socket had no room for; a ring, there only while it holds something. */
    uint8_t *buf;
    uint32_t buf_cap, buf_start, buf_len;
};

/* `fd` is taken over; credit comes from the guest's `request`, NULL when we are the ones who ask. */
void vsock_conn_init(struct vsock_conn *c, uint32_t guest_port, uint32_t host_port, int fd,
                     const struct vsock_packet *request);

/* Closes the socket, frees the buffer. The source has left the loop. */
void vsock_conn_done(struct vsock_conn *c);

/* A packet of this connection; `payload` holds exactly p->len bytes. */
void vsock_conn_receive(struct vsock_conn *c, const struct vsock_packet *p, struct iov_run *payload);

/* The socket has EPOLL* events. */
void vsock_conn_socket(struct vsock_conn *c, uint32_t events);

/* What the socket should be watched for now. */
uint32_t vsock_conn_events(const struct vsock_conn *c);

/* Is there a packet to make for the guest? */
bool vsock_conn_has_packet(const struct vsock_conn *c);

/*
 * Make one: op, len, flags and credit of *p, the payload into `room`. False when there turned out to be none (the
 * socket had nothing to read).
 */
bool vsock_conn_packet(struct vsock_conn *c, struct vsock_packet *p, struct iov_run *room);

/* Break it off: RST to the guest, what is buffered is dropped, the socket is to be closed. */
void vsock_conn_reset(struct vsock_conn *c);

/* The host end has nothing left to do: the device takes fd out of the loop and closes it. */
bool vsock_conn_socket_done(const struct vsock_conn *c);

#endif
