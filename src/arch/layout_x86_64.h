/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest-physical memory map of an x86-64 machine, interrupts included.
 *
 *     0x00006000  PVH start info, memory map and module list (one page)
 *     0x00007000  kernel command line (one page)
 *     0x0009fc00  MP table, in the last KiB of base memory, where MP 1.4 §4 lets a kernel look for it
 *     0x000a0000  nothing up to 1 MiB
 *     0x00100000  kernel; initramfs at the top of low RAM
 *     0xc0000000  end of low RAM; devices up to 4 GiB
 *     0x100000000 high RAM
 */
#ifndef SM_ARCH_LAYOUT_X86_64_H
#define SM_ARCH_LAYOUT_X86_64_H

#define LAYOUT_START_INFO   0x6000u
#define LAYOUT_CMDLINE      0x7000u
#define LAYOUT_CMDLINE_SIZE 0x1000u
#define LAYOUT_MPTABLE      0x9fc00u
#define LAYOUT_MPTABLE_SIZE 0x400u
#define LAYOUT_BASE_END     0xa0000u
#define LAYOUT_HIMEM        0x100000u

#define LAYOUT_HOLE_START 0xc0000000ull
#define LAYOUT_HOLE_END   0x100000000ull

#define LAYOUT_LIFECYCLE     0xd0000000ull
#define LAYOUT_LIFECYCLE_IRQ 5u

#define LAYOUT_VIRTIO        0xd0001000ull /* + slot * stride */
#define LAYOUT_VIRTIO_STRIDE 0x1000ull
#define LAYOUT_VIRTIO_IRQ    6u /* + slot */
#define LAYOUT_VIRTIO_SLOTS  10u

#define LAYOUT_SERIAL_PORT 0x3f8u
#define LAYOUT_SERIAL_IRQ  4u

/* Reset by the keyboard controller (command 0xfe) and by the chipset's reset control (bit 2). */
#define LAYOUT_KBC_PORT   0x64u
#define LAYOUT_KBC_RESET  0xfeu
#define LAYOUT_RESET_PORT 0xcf9u
#define LAYOUT_RESET_CPU  0x04u

#define LAYOUT_IOAPIC 0xfec00000u
#define LAYOUT_LAPIC  0xfee00000u

/* Three pages for KVM on Intel (its real-mode TSS) and one for its identity map; not RAM, told to nobody. */
#define LAYOUT_KVM_TSS      0xfffbd000u
#define LAYOUT_KVM_IDENTITY 0xfffbc000ull

#endif
