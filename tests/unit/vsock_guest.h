/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's side of vsock for tests: packets by hand, over the fake driver's rings. */
#ifndef SM_TESTS_VSOCK_GUEST_H
#define SM_TESTS_VSOCK_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "dev/vsock.h"
#include "dev/vsock_packet.h"
#include "fake_driver.h"

enum { RX, TX, EVENT };

#define CID       42
#define HEADER    VSOCK_HEADER_BYTES
#define RX_BYTES  4096 /* payload room of one receive buffer */
#define N_RX      32
#define GUEST_BUF (64u << 10) /* buf_alloc that the guest tells */

struct env {
    struct fake f;
    struct virtio_dev *dev;
    uint64_t rx_gpa[FAKE_QUEUE_SIZE]; /* by head */
    uint64_t tx_gpa;
    unsigned posted;
    int accept_fd; /* what guest_connect gives next, or -errno */
    uint32_t accept_port;
    unsigned accepts;
};

struct packet {
    struct vsock_packet h;
    uint8_t data[RX_BYTES];
};

/* One connection as the guest sees it. */
struct guest_end {
    uint32_t guest_port, host_port;
    uint32_t fwd_cnt;
    uint32_t buf_alloc;
};

/* How far io_now_ns() goes ahead of the clock: the test's executable is linked with --wrap. */
extern uint64_t clock_ahead_ns;

void post_rx(struct env *e);
void vsock_start(struct env *e, unsigned n_rx, uint64_t features);
int vsock_setup(void **state);
int vsock_teardown(void **state);
/* The next packet for the guest, its buffer posted again; false when none comes though the loop has settled. */
bool receive(struct env *e, struct packet *p);
void expect(struct env *e, struct packet *p, unsigned op);
void expect_nothing(struct env *e);
void send_raw(struct env *e, const struct vsock_packet *h, const void *data, uint32_t len);
struct vsock_packet vsock_header(const struct guest_end *g, unsigned op);
void send_op(struct env *e, const struct guest_end *g, unsigned op, uint32_t flags);
void send_data(struct env *e, const struct guest_end *g, const void *data, uint32_t len);
int peer_pair(int *ret_device_end);
struct guest_end answer_request(struct env *e, uint32_t port);
/* Host connects, guest accepts; returns the far end of the socket. */
int connected(struct env *e, struct guest_end *g);
/* Guest connects, host accepts. */
int accepted(struct env *e, struct guest_end *g, uint32_t guest_port);
bool at_eof(int fd);
/* The other end is closed, perhaps with bytes of ours unread. */
bool hung_up(int fd);
bool would_block(int fd);

#endif
