/* SPDX-License-Identifier: Apache-2.0 */
/* The header of every vsock packet, virtio 1.2 §5.10.6. */
#ifndef SM_DEV_VSOCK_PACKET_H
#define SM_DEV_VSOCK_PACKET_H

#include <stdint.h>

#include "dev/le.h"

#define VSOCK_HEADER_BYTES 44

#define VSOCK_TYPE_STREAM 1

enum vsock_op {
    VSOCK_OP_INVALID = 0,
    VSOCK_OP_REQUEST = 1,
    VSOCK_OP_RESPONSE = 2,
    VSOCK_OP_RST = 3,
    VSOCK_OP_SHUTDOWN = 4,
    VSOCK_OP_RW = 5,
    VSOCK_OP_CREDIT_UPDATE = 6,
    VSOCK_OP_CREDIT_REQUEST = 7,
};

/* Flags of SHUTDOWN: the sender will not receive, will not send any more. */
#define VSOCK_SHUT_RCV  (1u << 0)
#define VSOCK_SHUT_SEND (1u << 1)
#define VSOCK_SHUT_BOTH (VSOCK_SHUT_RCV | VSOCK_SHUT_SEND)

struct vsock_packet {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port;
    uint32_t len;
    uint16_t type, op;
    uint32_t flags;
    uint32_t buf_alloc, fwd_cnt;
};

static inline void vsock_packet_decode(struct vsock_packet *p, const uint8_t raw[VSOCK_HEADER_BYTES])
{
    p->src_cid = load_le64(raw);
    p->dst_cid = load_le64(raw + 8);
    p->src_port = load_le32(raw + 16);
    p->dst_port = load_le32(raw + 20);
    p->len = load_le32(raw + 24);
    p->type = load_le16(raw + 28);
    p->op = load_le16(raw + 30);
    p->flags = load_le32(raw + 32);
    p->buf_alloc = load_le32(raw + 36);
    p->fwd_cnt = load_le32(raw + 40);
}

static inline void vsock_packet_encode(const struct vsock_packet *p, uint8_t raw[VSOCK_HEADER_BYTES])
{
    store_le64(raw, p->src_cid);
    store_le64(raw + 8, p->dst_cid);
    store_le32(raw + 16, p->src_port);
    store_le32(raw + 20, p->dst_port);
    store_le32(raw + 24, p->len);
    store_le16(raw + 28, p->type);
    store_le16(raw + 30, p->op);
    store_le32(raw + 32, p->flags);
    store_le32(raw + 36, p->buf_alloc);
    store_le32(raw + 40, p->fwd_cnt);
}

#endif
