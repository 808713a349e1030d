/* SPDX-License-Identifier: Apache-2.0 */
/* MP table (MP specification 1.4, chapter 4): written field by field, little-endian. */
#include "machine/mptable.h"

#include <errno.h>
#include <string.h>

#include "arch/layout_x86_64.h"
#include "base/buf.h"

#define FLOATING_SIZE   16 /* 4.1 */
#define HEADER_SIZE     44 /* 4.2 */
#define HEADER_CHECKSUM 7  /* offset in it */

#define ENTRY_PROCESSOR 0
#define ENTRY_BUS       1
#define ENTRY_IOAPIC    2
#define ENTRY_INTERRUPT 3
#define ENTRY_LOCAL     4

#define APIC_VERSION   0x14
#define IOAPIC_VERSION 0x11
#define CPU_ENABLED    1
#define CPU_BOOT       2

#define INT_TYPE_INT    0
#define INT_TYPE_NMI    1
#define INT_TYPE_EXTINT 3
#define INT_EDGE_HIGH   0x5 /* polarity and trigger stated, not left to the bus: every line here is an eventfd's edge */
#define ALL_APICS       0xff

#define ISA_BUS 0

static uint8_t checksum(const uint8_t *p, size_t len)
{
    uint8_t sum = 0;

    while (len--)
        sum = (uint8_t)(sum + *p++);
    return (uint8_t)-sum;
}

static void put_interrupt(struct buf *b, uint8_t entry, uint8_t type, uint16_t flags, uint8_t irq, uint8_t apic,
                          uint8_t pin)
{
    buf_u8(b, entry);
    buf_u8(b, type);
    buf_u16(b, flags);
    buf_u8(b, ISA_BUS);
    buf_u8(b, irq);
    buf_u8(b, apic);
    buf_u8(b, pin);
}

static unsigned put_entries(struct buf *b, unsigned vcpus)
{
    /* Ids of I/O APICs have 4 bits; with 16 processors one must be shared, which Linux does not mind. */
    uint8_t ioapic = (uint8_t)(vcpus & 0xf);

    for (unsigned i = 0; i < vcpus; i++) {
        buf_u8(b, ENTRY_PROCESSOR);
        buf_u8(b, (uint8_t)i);
        buf_u8(b, APIC_VERSION);
        buf_u8(b, CPU_ENABLED | (i == 0 ? CPU_BOOT : 0));
        buf_u32(b, 0x600); /* signature and features: unused since CPUID tells them */
        buf_u32(b, 0x201);
        buf_u64(b, 0);
    }
    buf_u8(b, ENTRY_BUS);
    buf_u8(b, ISA_BUS);
    buf_bytes(b, "ISA   ", 6);
    buf_u8(b, ENTRY_IOAPIC);
    buf_u8(b, ioapic);
    buf_u8(b, IOAPIC_VERSION);
    buf_u8(b, 1); /* usable */
    buf_u32(b, LAYOUT_IOAPIC);
    for (uint8_t irq = 0; irq < MPTABLE_ISA_IRQS; irq++)
        put_interrupt(b, ENTRY_INTERRUPT, INT_TYPE_INT, INT_EDGE_HIGH, irq, ioapic, irq);
    put_interrupt(b, ENTRY_LOCAL, INT_TYPE_EXTINT, 0, 0, 0, 0);
    put_interrupt(b, ENTRY_LOCAL, INT_TYPE_NMI, 0, 0, ALL_APICS, 1);
    return vcpus + 2 + MPTABLE_ISA_IRQS + 2;
}

int mptable_build(uint8_t *out, size_t size, uint64_t base, unsigned vcpus)
{
    struct buf entries = buf_init(size);
    struct buf b = buf_init(size);
    int r = -ENOSPC;

    if (vcpus < 1 || vcpus > MPTABLE_MAX_VCPUS || base + FLOATING_SIZE > UINT32_MAX)
        return -EINVAL;
    unsigned n = put_entries(&entries, vcpus);

    buf_bytes(&b, "_MP_", 4);
    buf_u32(&b, (uint32_t)(base + FLOATING_SIZE));
    buf_u8(&b, FLOATING_SIZE / 16);
    buf_u8(&b, 4); /* specification 1.4 */
    buf_u8(&b, 0); /* checksum */
    for (int i = 0; i < 5; i++)
        buf_u8(&b, 0); /* no default configuration, virtual wire mode */

    buf_bytes(&b, "PCMP", 4);
    buf_u16(&b, (uint16_t)(HEADER_SIZE + entries.len));
    buf_u8(&b, 4);
    buf_u8(&b, 0); /* checksum */
    buf_bytes(&b, "SUPERMCH", 8);
    buf_bytes(&b, "MICROVM     ", 12);
    buf_u32(&b, 0);
    buf_u16(&b, 0);
    buf_u16(&b, (uint16_t)n);
    buf_u32(&b, LAYOUT_LAPIC);
    buf_u32(&b, 0);
    buf_bytes(&b, entries.data, entries.len);

    if (!b.bad && !entries.bad) {
        b.data[10] = checksum(b.data, FLOATING_SIZE);
        uint8_t *header = b.data + FLOATING_SIZE;
        header[HEADER_CHECKSUM] = checksum(header, b.len - FLOATING_SIZE);
        memcpy(out, b.data, b.len);
        r = (int)b.len;
    }
    buf_done(&entries);
    buf_done(&b);
    return r;
}
