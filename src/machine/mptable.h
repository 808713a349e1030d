/* SPDX-License-Identifier: Apache-2.0 */
/* Intel MultiProcessor Specification 1.4 table: processors and the interrupt wiring. Pure. */
#ifndef SM_MACHINE_MPTABLE_H
#define SM_MACHINE_MPTABLE_H

#include <stddef.h>
#include <stdint.h>

#define MPTABLE_MAX_VCPUS 16
#define MPTABLE_ISA_IRQS  16

/*
 * Write the table for `vcpus` (1 to MPTABLE_MAX_VCPUS) processors with APIC ids from 0 as it must lie at guest-physical
 * `base`. Returns its length, or -EINVAL / -ENOSPC when it does not fit `size`.
 */
int mptable_build(uint8_t *out, size_t size, uint64_t base, unsigned vcpus);

#endif
