/* SPDX-License-Identifier: Apache-2.0 */
/* All devices of a machine: see snap_machine.h. */
#include "snap_machine.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dev/blk.h"
#include "dev/rng.h"
#include "dev/vsock.h"
#include "lifecycle_regs.h"

#define DISK_BYTES (1u << 20)

static void on_event(void *ctx, uint32_t kind, uint64_t arg, const char *text, size_t text_len)
{
}

static void on_power(void *ctx, uint32_t kind)
{
}

static const struct lifecycle_ops lifecycle_ops = {.event = on_event, .power = on_power};

static struct virtio_dev *new_device(struct snap_machine *m, unsigned slot)
{
    struct vsock_config vsock = {.loop = m->f[slot].loop, .guest_cid = 3};
    struct virtio_dev *dev = NULL;
    int r;

    if (slot == SLOT_DISK) {
        struct blk_extent extent = {memfd_create("disk", MFD_CLOEXEC), 0, DISK_BYTES};
        struct blk_config blk = {.extents = &extent, .n_extents = 1, .writable = true, .serial = "sample"};

        r = ftruncate(extent.fd, DISK_BYTES);
        assert(r == 0);
        r = blk_new(&dev, &blk, NULL);
    } else {
        r = slot == SLOT_VSOCK ? vsock_new(&dev, &vsock, NULL) : rng_new(&dev, NULL);
    }
    assert(r == 0);
    (void)r;
    return dev;
}

void snap_machine_open(struct snap_machine *m)
{
    memset(m, 0, sizeof(*m));
    for (unsigned i = 0; i < SNAP_SLOTS; i++) {
        fake_open(&m->f[i]);
        fake_attach(&m->f[i], new_device(m, i));
    }
    int r = serial_new(&m->serial, m->f[0].irq_fd, NULL, NULL, NULL);
    assert(r == 0);
    r = lifecycle_new(&m->lifecycle, m->f[0].irq_fd, &lifecycle_ops, NULL, NULL);
    assert(r == 0);
    (void)r;
}

void snap_machine_close(struct snap_machine *m)
{
    for (unsigned i = 0; i < SNAP_SLOTS; i++)
        fake_close(&m->f[i]);
    serial_free(m->serial);
    lifecycle_free(m->lifecycle);
}

void snap_machine_run(struct snap_machine *m)
{
    for (unsigned i = 0; i < SNAP_SLOTS; i++)
        fake_start(&m->f[i], ~0ull);
    serial_write(m->serial, 7, 0x5a);
    serial_write(m->serial, 3, 0x13);
    lifecycle_write(m->lifecycle, SM_LC_EVENT_ARG, 8, 0x1234);
    lifecycle_write(m->lifecycle, SM_LC_TEXT, 4, 0x64636261);
    lifecycle_park(m->lifecycle, true);
}

void snap_machine_state(struct snap_machine *m, struct snap_stream *s)
{
    serial_state(m->serial, s);
    lifecycle_state(m->lifecycle, s);
    for (unsigned i = 0; i < SNAP_SLOTS; i++)
        virtio_mmio_state(m->f[i].t, i, s);
}

void snap_machine_pause(struct snap_machine *m)
{
    for (unsigned i = 0; i < SNAP_SLOTS; i++)
        virtio_mmio_pause(m->f[i].t);
}

void snap_machine_resume(struct snap_machine *m)
{
    for (unsigned i = 0; i < SNAP_SLOTS; i++)
        virtio_mmio_resume(m->f[i].t);
    serial_resume(m->serial);
    lifecycle_resume(m->lifecycle);
}
