/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel command line: see cmdline.h; guest/kernel/README.md has the reason for each word. */
#include "machine/cmdline.h"

#include <stdio.h>
#include <string.h>

#include "arch/layout_x86_64.h"

#define BASE_OPTIONS "console=ttyS0 panic=-1 reboot=t nomodule swiotlb=noforce tsc=nowatchdog dummy.numdummies=0"

static void put(struct buf *out, const char *word)
{
    if (out->len)
        buf_bytes(out, " ", 1);
    buf_bytes(out, word, strlen(word));
}

static void put_device(struct buf *out, const char *driver, unsigned long long at, unsigned irq)
{
    char word[80];

    snprintf(word, sizeof(word), "%s.device=4K@0x%llx:%u", driver, at, irq);
    put(out, word);
}

void cmdline_build(const struct cmdline *c, struct buf *out)
{
    put(out, BASE_OPTIONS);
    put(out, c->verbose ? "loglevel=7" : "quiet");
    if (*c->extra)
        put(out, c->extra);
    put_device(out, "supermachine", LAYOUT_LIFECYCLE, LAYOUT_LIFECYCLE_IRQ);
    for (unsigned i = 0; i < c->n_virtio; i++)
        put_device(out, "virtio_mmio", LAYOUT_VIRTIO + i * LAYOUT_VIRTIO_STRIDE, LAYOUT_VIRTIO_IRQ + i);
    buf_u8(out, 0);
}
