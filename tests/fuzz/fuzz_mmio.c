/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Door: register accesses of any offset, width and value, and guest memory of any content, with each kind of device
 * behind the registers. Input: the kind, then a list of steps.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "dev/blk.h"
#include "dev/lifecycle.h"
#include "dev/rng.h"
#include "dev/serial.h"
#include "dev/vsock.h"
#include "fake_driver.h"

#define STEPS 512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct world {
    struct fake f;
    struct serial *serial;
    struct lifecycle *lifecycle;
    int vsock; /* 1 when it is one */
};

static void on_event(void *ctx, uint32_t kind, uint64_t arg, const char *text, size_t text_len)
{
    char copy[1024];

    assert(kind && text_len <= sizeof(copy));
    if (text)
        memcpy(copy, text, text_len);
}

static void on_power(void *ctx, uint32_t kind)
{
    assert(kind == 1 || kind == 2);
}

static const struct lifecycle_ops lifecycle_ops = {.event = on_event, .power = on_power};

static int guest_connect(void *ctx, uint32_t port)
{
    int sv[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
        return -1;
    close(sv[0]);
    return sv[1];
}

static struct virtio_dev *make(struct world *w, unsigned kind)
{
    struct virtio_dev *dev = NULL;
    int r;

    if (kind < 2) {
        int fd = memfd_create("disk", MFD_CLOEXEC);
        struct blk_extent e = {fd, 0, 8192};
        struct blk_config config = {.extents = &e, .n_extents = 1, .writable = kind};

        r = ftruncate(fd, 8192);
        assert(r == 0);
        r = blk_new(&dev, &config, NULL);
    } else if (kind == 2) {
        struct vsock_config config = {.loop = w->f.loop, .guest_cid = 3, .guest_connect = guest_connect};

        w->vsock = 1;
        r = vsock_new(&dev, &config, NULL);
    } else {
        r = rng_new(&dev, NULL);
    }
    assert(r == 0);
    return dev;
}

static unsigned width(uint8_t v)
{
    static const unsigned widths[] = {1, 2, 4, 4, 4, 8, 3, 16};

    return widths[v % 8];
}

static void step(struct world *w, struct reader *in)
{
    uint8_t op = reader_u8(in);
    unsigned len = width(op >> 4);

    switch (op & 15) {
    case 0:
        virtio_mmio_read(w->f.t, reader_u16(in), len);
        break;
    case 1:
    case 2: {
        uint16_t off = reader_u16(in);
        virtio_mmio_write(w->f.t, off, len, op & 1 ? reader_u8(in) : reader_u64(in));
        break;
    }
    case 3: /* an aligned register, any value that fits a byte: most of what matters */
    case 4: {
        uint64_t off = (reader_u8(in) & 0x3f) * 4u;
        virtio_mmio_write(w->f.t, off, 4, op & 1 ? reader_u8(in) : reader_u32(in));
        break;
    }
    case 5: { /* guest memory; the rings lie at its start */
        uint64_t at = reader_u16(in);
        size_t n = reader_u8(in) % 64;
        const void *p = reader_bytes(in, n);

        if (p && n)
            memcpy(w->f.ram + at, p, n);
        break;
    }
    case 6:
        fake_reset(&w->f);
        w->f.next = 0;
        fake_start(&w->f, len & 1 ? ~0ull : 0);
        break;
    case 7: {
        unsigned q = len % 3;
        struct fake_buf b = {0x20000 + reader_u16(in), 1 + reader_u8(in) * 16u, op & 128};

        if (w->f.q[q].size && w->f.q[q].n_free && w->f.next + 4096 < FAKE_RAM_SIZE) {
            fake_add(&w->f, q, &b, 1, op & 64);
            fake_kick(&w->f, q);
        }
        break;
    }
    case 8:
        fake_kick(&w->f, op >> 4);
        break;
    case 9:
        lifecycle_write(w->lifecycle, reader_u16(in) & 0xfff, len, reader_u64(in));
        break;
    case 10:
        lifecycle_read(w->lifecycle, reader_u16(in) & 0xfff, len);
        break;
    case 11:
        serial_write(w->serial, (op >> 4) & 7, reader_u8(in));
        break;
    case 12:
        serial_read(w->serial, (op >> 4) & 7);
        break;
    case 13:
        if (w->vsock) {
            int fd = guest_connect(NULL, 0);

            if (fd >= 0)
                vsock_connect(virtio_mmio_dev(w->f.t), 1, fd, NULL);
        }
        break;
    default:
        loop_once(w->f.loop, 0);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader in = reader_init(data, size);
    struct world w = {.vsock = 0};
    char tail[64];

    fake_open(&w.f);
    int r = serial_new(&w.serial, w.f.irq_fd, NULL, NULL, NULL);
    assert(r == 0);
    r = lifecycle_new(&w.lifecycle, w.f.irq_fd, &lifecycle_ops, NULL, NULL);
    assert(r == 0);
    (void)r;
    fake_attach(&w.f, make(&w, reader_u8(&in) % 4));
    for (unsigned i = 0; i < STEPS && in.left > 0; i++)
        step(&w, &in);
    for (unsigned i = 0; i < 16; i++)
        loop_once(w.f.loop, 0);
    serial_tail(w.serial, tail, sizeof(tail));
    serial_free(w.serial);
    lifecycle_free(w.lifecycle);
    fake_close(&w.f);
    return 0;
}
