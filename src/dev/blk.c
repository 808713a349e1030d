/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-blk over files: see blk.h. blk_io.c does the file work.
 *
 * Theory of operation
 *
 * One queue. A request is a 16-byte header, data, and one status byte at the very end (virtio 1.2 §5.2.6), cut into
 * buffers as the driver likes. Work is done at once, on the loop's thread, straight between the file and guest memory.
 * At most BLK_ROUND_REQUESTS or BLK_ROUND_BYTES in one round of the loop, then the other sources get their turn;
 * the driver is signalled once a round, and asked not to notify while the queue is being drained.
 *
 * Every request is checked against the disk's size before a file is touched. A request without a status byte or with a
 * short header breaks the device; anything else is answered by a status. The used length counts the bytes that were
 * really written, from the first: after a failed read it stops before the status byte (§2.7.8.2).
 *
 * Without VIRTIO_BLK_F_FLUSH negotiated each write is made durable before it is answered (§5.2.6.2).
 *
 * Threads: the device's lock is held all along. Limits: blk.h, and below.
 * Not done: several queues, secure erase, asynchronous I/O.
 */
#include "dev/blk.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "dev/blk_io.h"
#include "dev/le.h"

#define BLK_QUEUE_SIZE 256

/* §5.2.3 */
#define BLK_F_SIZE_MAX     1
#define BLK_F_SEG_MAX      2
#define BLK_F_RO           5
#define BLK_F_BLK_SIZE     6
#define BLK_F_FLUSH        9
#define BLK_F_TOPOLOGY     10
#define BLK_F_DISCARD      13
#define BLK_F_WRITE_ZEROES 14

/* §5.2.4 */
#define CONFIG_CAPACITY                 0
#define CONFIG_SIZE_MAX                 8
#define CONFIG_SEG_MAX                  12
#define CONFIG_BLK_SIZE                 20
#define CONFIG_PHYSICAL_BLOCK_EXP       24
#define CONFIG_MIN_IO_SIZE              26
#define CONFIG_OPT_IO_SIZE              28
#define CONFIG_MAX_DISCARD_SECTORS      36
#define CONFIG_MAX_DISCARD_SEG          40
#define CONFIG_DISCARD_SECTOR_ALIGNMENT 44
#define CONFIG_MAX_WRITE_ZEROES_SECTORS 48
#define CONFIG_MAX_WRITE_ZEROES_SEG     52
#define CONFIG_WRITE_ZEROES_MAY_UNMAP   56
#define CONFIG_BYTES                    60

/* §5.2.6 */
#define T_IN           0
#define T_OUT          1
#define T_FLUSH        4
#define T_GET_ID       8
#define T_DISCARD      11
#define T_WRITE_ZEROES 13
#define S_OK           0
#define S_IOERR        1
#define S_UNSUPP       2
#define HEADER_BYTES   16
#define SEGMENT_BYTES  16
#define SEGMENT_UNMAP  (1u << 0)

/* One round of the loop. */
#define BLK_ROUND_REQUESTS 64
#define BLK_ROUND_BYTES    (4 * MIB)

/* The header and the status take a buffer each. What a driver can ask for in one request is the product. */
#define BLK_SEG_MAX           (VIRTQ_MAX_IOV - 2)
#define BLK_SIZE_MAX          (256 * 1024u)
#define BLK_MAX_REQUEST_BYTES ((uint64_t)BLK_SEG_MAX * BLK_SIZE_MAX)

#define BLK_MAX_SEGMENTS        16                     /* in one DISCARD or WRITE_ZEROES request */
#define BLK_MAX_DISCARD_SECTORS (GIB / BLK_SECTOR)     /* punching a hole costs little */
#define BLK_MAX_ZERO_SECTORS    (4 * MIB / BLK_SECTOR) /* may have to be written out */
#define BLK_OPT_IO_BYTES        (128 * 1024u)
#define BLK_PAGE                4096

struct blk {
    struct virtio_dev dev;
    struct blk_disk disk;
    bool writable;
    uint8_t serial[BLK_SERIAL_BYTES];
    struct virtq_chain chain; /* scratch */
};

struct request {
    uint32_t type;
    uint64_t sector;
    struct iov_run out; /* behind the header */
    struct iov_run in;  /* before the status byte */
    uint8_t *status;
    uint64_t moved; /* bytes written at the start of `in` */
};

/* Turn a sector number and a length in bytes into a position, if all of it is on the disk. */
static bool position(const struct blk *blk, uint64_t sector, uint64_t len, uint64_t *ret_pos)
{
    uint64_t pos;

    if (len % BLK_SECTOR || !CHECKED_MUL(sector, (uint64_t)BLK_SECTOR, &pos) ||
        !range_within(pos, len, blk->disk.length))
        return false;
    *ret_pos = pos;
    return true;
}

static uint8_t do_read(struct blk *blk, struct request *req)
{
    uint64_t pos;

    if (req->in.len > BLK_MAX_REQUEST_BYTES || !position(blk, req->sector, req->in.len, &pos))
        return S_IOERR;
    return blk_disk_read(&blk->disk, pos, &req->in, &req->moved) < 0 ? S_IOERR : S_OK;
}

static uint8_t do_write(struct blk *blk, struct request *req)
{
    uint64_t pos;

    if (!blk->writable || req->out.len > BLK_MAX_REQUEST_BYTES || !position(blk, req->sector, req->out.len, &pos))
        return S_IOERR;
    int r = blk_disk_write(&blk->disk, pos, &req->out);
    if (r == 0 && !(blk->dev.features & 1ull << BLK_F_FLUSH))
        r = blk_disk_flush(&blk->disk);
    return r < 0 ? S_IOERR : S_OK;
}

static uint8_t do_get_id(struct blk *blk, struct request *req)
{
    size_t n = req->in.len < BLK_SERIAL_BYTES ? (size_t)req->in.len : BLK_SERIAL_BYTES;

    iov_put(&req->in, blk->serial, n);
    req->moved = n;
    return S_OK;
}

struct segment {
    uint64_t pos, len;
    bool unmap;
};

/* One of the 16-byte segments of DISCARD and WRITE_ZEROES, checked; S_OK or why not. */
static uint8_t take_segment(struct blk *blk, struct request *req, struct segment *ret)
{
    bool discard = req->type == T_DISCARD;
    uint8_t raw[SEGMENT_BYTES];

    iov_take(&req->out, raw, sizeof(raw));
    uint64_t sectors = load_le32(raw + 8);
    uint32_t flags = load_le32(raw + 12);
    /* §5.2.6.2: unknown flags are refused, and so is `unmap` with DISCARD. */
    if (flags & (discard ? ~0u : ~SEGMENT_UNMAP))
        return S_UNSUPP;
    if (sectors > (discard ? BLK_MAX_DISCARD_SECTORS : BLK_MAX_ZERO_SECTORS) ||
        !position(blk, load_le64(raw), sectors * BLK_SECTOR, &ret->pos))
        return S_IOERR;
    ret->len = sectors * BLK_SECTOR;
    ret->unmap = flags & SEGMENT_UNMAP;
    return S_OK;
}

static uint8_t do_segments(struct blk *blk, struct request *req)
{
    struct segment seg[BLK_MAX_SEGMENTS];
    unsigned n = 0;
    int r = 0;

    if (!blk->writable)
        return S_UNSUPP;
    if (req->out.len == 0 || req->out.len % SEGMENT_BYTES || req->out.len / SEGMENT_BYTES > BLK_MAX_SEGMENTS)
        return S_IOERR;
    /* All are checked before the first is done. */
    for (; req->out.len > 0; n++) {
        uint8_t s = take_segment(blk, req, &seg[n]);

        if (s != S_OK)
            return s;
    }
    for (unsigned i = 0; i < n && r == 0; i++) {
        if (req->type == T_DISCARD)
            r = blk_disk_discard(&blk->disk, seg[i].pos, seg[i].len);
        else
            r = blk_disk_zero(&blk->disk, seg[i].pos, seg[i].len, seg[i].unmap);
    }
    if (r == 0 && !(blk->dev.features & 1ull << BLK_F_FLUSH))
        r = blk_disk_flush(&blk->disk);
    return r < 0 ? S_IOERR : S_OK;
}

static uint8_t do_request(struct blk *blk, struct request *req)
{
    switch (req->type) {
    case T_IN:
        return do_read(blk, req);
    case T_OUT:
        return do_write(blk, req);
    case T_FLUSH:
        if (!blk->writable)
            return S_UNSUPP;
        return blk_disk_flush(&blk->disk) < 0 ? S_IOERR : S_OK;
    case T_GET_ID:
        return do_get_id(blk, req);
    case T_DISCARD:
    case T_WRITE_ZEROES:
        return do_segments(blk, req);
    default:
        return S_UNSUPP;
    }
}

/* Carry out blk->chain and give it back. Bytes of data moved, or -EINVAL when it is no request at all. */
static int64_t handle(struct blk *blk, struct virtq *vq)
{
    struct virtq_chain *chain = &blk->chain;
    struct request req = {
        .out = {.iov = chain->iov, .n = chain->n_out, .len = chain->out_len},
        .in = {.iov = chain->iov + chain->n_out, .n = chain->n_in, .len = chain->in_len},
    };
    uint8_t header[HEADER_BYTES];

    if (req.out.len < HEADER_BYTES || req.in.len < 1)
        return -EINVAL;
    iov_take(&req.out, header, sizeof(header));
    req.type = load_le32(header);
    req.sector = load_le64(header + 8);
    req.status = iov_at(&req.in, req.in.len - 1);
    iov_trim(&req.in, req.in.len - 1);
    uint64_t room = req.in.len, bytes = req.in.len + req.out.len;

    *req.status = do_request(blk, &req);
    /* The status byte counts only when all before it was written, too. */
    virtq_push(vq, chain->head, (uint32_t)(req.moved == room ? room + 1 : req.moved));
    return (int64_t)bytes;
}

static void blk_notify(struct virtio_dev *dev, unsigned q)
{
    struct blk *blk = CONTAINER_OF(dev, struct blk, dev);
    struct virtq *vq = &dev->vq[q];
    uint64_t bytes = 0;

    virtq_disable_notify(vq);
    for (unsigned n = 0; n < BLK_ROUND_REQUESTS && bytes < BLK_ROUND_BYTES;) {
        int r = virtq_pop(vq, &blk->chain);

        if (r == 0) {
            if (virtq_enable_notify(vq)) {
                virtq_disable_notify(vq);
                n++; /* so that a driver that flips its index cannot hold us here */
                continue;
            }
            virtio_signal(dev, q);
            return;
        }
        int64_t moved = r < 0 ? r : handle(blk, vq);
        if (moved < 0) {
            virtio_signal(dev, q);
            virtio_broken(dev, "bad chain in the disk's queue");
            return;
        }
        bytes += (uint64_t)moved;
        n++;
    }
    virtio_signal(dev, q);
    virtio_requeue(dev, q);
}

static void blk_free(struct virtio_dev *dev)
{
    struct blk *blk = CONTAINER_OF(dev, struct blk, dev);

    blk_disk_done(&blk->disk);
    free(blk);
}

static void fill_config(struct blk *blk)
{
    uint8_t *c = blk->dev.config;

    store_le64(c + CONFIG_CAPACITY, blk->disk.length / BLK_SECTOR);
    store_le32(c + CONFIG_SIZE_MAX, BLK_SIZE_MAX);
    store_le32(c + CONFIG_SEG_MAX, BLK_SEG_MAX);
    store_le32(c + CONFIG_BLK_SIZE, BLK_SECTOR);
    c[CONFIG_PHYSICAL_BLOCK_EXP] = 3; /* 4 KiB: the page cache's unit */
    store_le16(c + CONFIG_MIN_IO_SIZE, BLK_PAGE / BLK_SECTOR);
    store_le32(c + CONFIG_OPT_IO_SIZE, BLK_OPT_IO_BYTES / BLK_SECTOR);
    blk->dev.config_len = CONFIG_BYTES;
    blk->dev.offered = 1ull << BLK_F_SIZE_MAX | 1ull << BLK_F_SEG_MAX | 1ull << BLK_F_BLK_SIZE | 1ull << BLK_F_TOPOLOGY;
    if (!blk->writable) {
        blk->dev.offered |= 1ull << BLK_F_RO;
        return;
    }
    store_le32(c + CONFIG_MAX_DISCARD_SECTORS, (uint32_t)BLK_MAX_DISCARD_SECTORS);
    store_le32(c + CONFIG_MAX_DISCARD_SEG, BLK_MAX_SEGMENTS);
    store_le32(c + CONFIG_DISCARD_SECTOR_ALIGNMENT, BLK_PAGE / BLK_SECTOR);
    store_le32(c + CONFIG_MAX_WRITE_ZEROES_SECTORS, (uint32_t)BLK_MAX_ZERO_SECTORS);
    store_le32(c + CONFIG_MAX_WRITE_ZEROES_SEG, BLK_MAX_SEGMENTS);
    c[CONFIG_WRITE_ZEROES_MAY_UNMAP] = 1;
    blk->dev.offered |= 1ull << BLK_F_FLUSH | 1ull << BLK_F_DISCARD | 1ull << BLK_F_WRITE_ZEROES;
}

static const struct virtio_dev_ops blk_ops;

static int open_disk(struct blk_disk *ret, const struct blk_config *config, struct sm_error *err)
{
    int r = blk_disk_init(ret, config->extents, config->n_extents, err);

    if (r < 0 || !config->writable || config->n_extents == 1)
        return r;
    blk_disk_done(ret);
    return sm_error_set(err, EINVAL, "a writable disk is one file, not %u extents", config->n_extents);
}

static void put_disk(struct blk *blk, const struct blk_disk *disk, const struct blk_config *config)
{
    blk->disk = *disk;
    memset(blk->serial, 0, sizeof(blk->serial));
    memcpy(blk->serial, config->serial, strnlen(config->serial, BLK_SERIAL_BYTES));
    fill_config(blk);
}

int blk_attach(struct virtio_dev *dev, const struct blk_config *config, struct sm_error *err)
{
    struct blk *blk = CONTAINER_OF(dev, struct blk, dev);
    struct blk_disk disk;
    int r = open_disk(&disk, config, err);

    if (r < 0)
        return r;
    if (config->writable != blk->writable) {
        blk_disk_done(&disk);
        return sm_error_set(err, EINVAL, "the disk is %s and stays so", blk->writable ? "writable" : "read-only");
    }
    virtio_lock(dev);
    blk_disk_done(&blk->disk);
    put_disk(blk, &disk, config);
    virtio_unlock(dev);
    return 0;
}

int blk_new(struct virtio_dev **ret, const struct blk_config *config, struct sm_error *err)
{
    struct blk_disk disk;
    int r = open_disk(&disk, config, err);

    if (r < 0)
        return r;
    struct blk *blk = calloc(1, sizeof(*blk));
    if (!blk) {
        blk_disk_done(&disk);
        return sm_error_set(err, ENOMEM, "no memory for a disk");
    }
    blk->writable = config->writable;
    blk->dev.ops = &blk_ops;
    blk->dev.id = VIRTIO_ID_BLOCK;
    blk->dev.n_queues = 1;
    blk->dev.queue_size[0] = BLK_QUEUE_SIZE;
    put_disk(blk, &disk, config);
    *ret = &blk->dev;
    return 0;
}

static const struct virtio_dev_ops blk_ops = {
    .name = "blk",
    .notify = blk_notify,
    .free = blk_free,
};
