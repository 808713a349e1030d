/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest-physical memory map of an arm64 machine: devices below 1 GiB, RAM from there up in one piece.
 * SPI n is what the GIC calls interrupt 32 + n.
 */
#ifndef SM_ARCH_LAYOUT_ARM64_H
#define SM_ARCH_LAYOUT_ARM64_H

#define LAYOUT_ARM64_GIC_DIST        0x08000000ull
#define LAYOUT_ARM64_GIC_REDIST      0x080a0000ull /* + vcpu * 0x20000 */
#define LAYOUT_ARM64_GIC_REDIST_SIZE 0x20000ull

#define LAYOUT_ARM64_SERIAL     0x09000000ull
#define LAYOUT_ARM64_SERIAL_SPI 4u

#define LAYOUT_ARM64_LIFECYCLE     0x0a000000ull
#define LAYOUT_ARM64_LIFECYCLE_SPI 5u

#define LAYOUT_ARM64_VIRTIO        0x0a001000ull /* + slot * stride */
#define LAYOUT_ARM64_VIRTIO_STRIDE 0x1000ull
#define LAYOUT_ARM64_VIRTIO_SPI    6u /* + slot */

#define LAYOUT_ARM64_RAM 0x40000000ull

#endif
