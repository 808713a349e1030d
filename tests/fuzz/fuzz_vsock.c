/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Door: packets of the vsock transmit queue, with sockets that do as they like at the other side. Input: a list of
 * steps. Ports are few, so that packets meet connections.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/io.h"
#include "dev/vsock.h"
#include "dev/vsock_packet.h"
#include "fake_driver.h"

#define CID      42
#define PEERS    4
#define STEPS    256
#define TX_BYTES (70u << 10)

enum { RX, TX, EVENT };

struct world {
    struct fake f;
    struct virtio_dev *dev;
    int peer[PEERS]; /* far ends, -1: none */
    uint64_t tx_gpa;
    uint32_t host_port; /* of the last packet from the device */
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A socket whose far end is peer `i`, or -errno. */
static int new_peer(struct world *w, unsigned i)
{
    int sv[2];

    if (w->peer[i] >= 0)
        close(w->peer[i]);
    w->peer[i] = -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
        return -errno;
    w->peer[i] = sv[0];
    io_set_nonblock(sv[0]);
    return sv[1];
}

static int guest_connect(void *ctx, uint32_t port)
{
    return port == 7 ? -ECONNREFUSED : new_peer(ctx, port % PEERS);
}

static void start(struct world *w, uint64_t features)
{
    w->f.next = 0;
    fake_start(&w->f, features);
    w->tx_gpa = fake_alloc(&w->f, TX_BYTES, 8);
}

static void post_rx(struct world *w, uint32_t len)
{
    if (w->f.q[RX].n_free == 0 || w->f.next + 8192 > FAKE_RAM_SIZE)
        return;
    struct fake_buf b = {fake_alloc(&w->f, len, 1), len, true};
    fake_add(&w->f, RX, &b, 1, false);
    fake_kick(&w->f, RX);
}

static void packet(struct world *w, struct reader *in)
{
    uint8_t ports = reader_u8(in), how = reader_u8(in);
    uint32_t room = reader_u16(in);
    struct vsock_packet p = {
        .src_cid = how & 0x10 ? reader_u64(in) : CID,
        .dst_cid = how & 0x20 ? reader_u64(in) : VSOCK_HOST_CID,
        .src_port = ports & 7,
        .dst_port = ports & 8 ? w->host_port : ports >> 4,
        .len = how & 0x40 ? reader_u32(in) : room,
        .type = how & 0x80 ? reader_u16(in) : VSOCK_TYPE_STREAM,
        .op = how & 15,
        .flags = reader_u8(in),
        .buf_alloc = (uint32_t)reader_u8(in) << 12,
        .fwd_cnt = reader_u32(in),
    };
    uint16_t head;
    uint32_t len;

    if (w->f.q[TX].n_free < 2)
        return;
    vsock_packet_encode(&p, fake_ptr(&w->f, w->tx_gpa));
    struct fake_buf b[2] = {{w->tx_gpa, VSOCK_HEADER_BYTES, false}, {w->tx_gpa + VSOCK_HEADER_BYTES, room, false}};
    fake_add(&w->f, TX, b, room ? 2 : 1, false);
    fake_kick(&w->f, TX);
    fake_settle(&w->f);
    while (fake_used(&w->f, TX, &head, &len))
        ;
}

static void take_rx(struct world *w)
{
    uint16_t head;
    uint32_t len;

    while (fake_used(&w->f, RX, &head, &len)) {
        /* The last descriptor of the ring that was given back still says where. */
        const uint8_t *d = fake_ptr(&w->f, w->f.q[RX].desc + 16ull * head);
        const uint8_t *raw = fake_ptr(&w->f, load_le64(d));
        struct vsock_packet p;

        assert(len >= VSOCK_HEADER_BYTES && len <= load_le32(d + 8));
        vsock_packet_decode(&p, raw);
        assert(p.len + VSOCK_HEADER_BYTES == len);
        w->host_port = p.src_port;
    }
}

static void step(struct world *w, struct reader *in)
{
    static uint8_t bytes[1 << 16];
    uint8_t op = reader_u8(in);
    unsigned i = (op >> 4) % PEERS;

    switch (op & 15) {
    case 0:
    case 1:
    case 2:
    case 3:
        packet(w, in);
        break;
    case 4: {
        int fd = new_peer(w, i);

        if (fd >= 0)
            vsock_connect(w->dev, i, fd, NULL);
        break;
    }
    case 5:
        post_rx(w, 1 + reader_u16(in) % 4096);
        break;
    case 6:
        for (unsigned k = 0; k < 8; k++)
            post_rx(w, 4096);
        break;
    case 7:
        take_rx(w);
        break;
    case 8:
        if (w->peer[i] >= 0)
            (void)!send(w->peer[i], bytes, reader_u16(in), MSG_NOSIGNAL);
        break;
    case 9:
        if (w->peer[i] >= 0)
            (void)!read(w->peer[i], bytes, sizeof(bytes));
        break;
    case 10:
        if (w->peer[i] >= 0)
            shutdown(w->peer[i], (int)(reader_u8(in) % 3));
        break;
    case 11:
        if (w->peer[i] >= 0)
            close(w->peer[i]);
        w->peer[i] = -1;
        break;
    case 12:
        if (i)
            fake_settle(&w->f);
        fake_reset(&w->f);
        start(w, i & 1 ? ~0ull : 0);
        break;
    case 13:
        fake_settle(&w->f);
        break;
    default:
        loop_once(w->f.loop, 0);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader in = reader_init(data, size);
    struct world w = {.peer = {-1, -1, -1, -1}};
    struct vsock_config config = {.guest_cid = CID, .guest_connect = guest_connect, .ctx = &w};

    fake_open(&w.f);
    config.loop = w.f.loop;
    int r = vsock_new(&w.dev, &config, NULL);
    assert(r == 0);
    (void)r;
    fake_attach(&w.f, w.dev);
    start(&w, ~0ull);
    for (unsigned i = 0; i < STEPS && in.left > 0; i++)
        step(&w, &in);
    fake_settle(&w.f);
    fake_close(&w.f);
    for (unsigned i = 0; i < PEERS; i++)
        if (w.peer[i] >= 0)
            close(w.peer[i]);
    return 0;
}
