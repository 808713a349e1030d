/* SPDX-License-Identifier: Apache-2.0 */
/* Register state in which the boot processor enters a kernel by PVH. Pure. */
#ifndef SM_ARCH_X86_BOOT_STATE_H
#define SM_ARCH_X86_BOOT_STATE_H

#include <stdint.h>

struct x86_segment {
    uint64_t base;
    uint32_t limit;
    uint16_t selector;
    uint8_t type, present, db, s, g; /* dpl, l and avl are 0 */
};

struct x86_msr {
    uint32_t index;
    uint64_t value;
};

#define X86_BOOT_MSRS 2

struct x86_boot_state {
    uint64_t rip, rbx, rflags;
    uint64_t cr0, cr4, efer;
    struct x86_segment code, data, tss;
};

/* 32-bit flat protected mode, paging off, EBX = `start_info` (Xen's x86/HVM direct boot ABI). */
struct x86_boot_state x86_boot_state_pvh(uint64_t entry, uint64_t start_info);

/* MSRs that firmware would have set, for every vCPU. */
extern const struct x86_msr x86_boot_msrs[X86_BOOT_MSRS];

#endif
