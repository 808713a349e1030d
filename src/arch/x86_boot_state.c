/* SPDX-License-Identifier: Apache-2.0 */
/* PVH entry state: see x86_boot_state.h. Numbers: Intel SDM vol. 3A, 2.5 (CR0), 3.4.5 (descriptors), 11.11 (MTRRs). */
#include "arch/x86_boot_state.h"

#define CR0_PE (1u << 0)
#define CR0_ET (1u << 4)

#define RFLAGS_ALWAYS_ONE (1u << 1)

#define TYPE_CODE_RX  0xb /* execute/read, accessed */
#define TYPE_DATA_RW  0x3 /* read/write, accessed */
#define TYPE_TSS_BUSY 0xb /* 32-bit, busy: VM entry takes no other */

#define MSR_MISC_ENABLE       0x1a0
#define MISC_FAST_STRINGS     (1u << 0)
#define MSR_MTRR_DEFAULT_TYPE 0x2ff
#define MTRR_ENABLE           (1u << 11)
#define MTRR_WRITE_BACK       6u

const struct x86_msr x86_boot_msrs[X86_BOOT_MSRS] = {
    {MSR_MISC_ENABLE, MISC_FAST_STRINGS},
    /* Without this all memory is uncached by the letter, and Linux turns PAT off with a warning. */
    {MSR_MTRR_DEFAULT_TYPE, MTRR_ENABLE | MTRR_WRITE_BACK},
};

struct x86_boot_state x86_boot_state_pvh(uint64_t entry, uint64_t start_info)
{
    return (struct x86_boot_state){
        .rip = entry,
        .rbx = start_info,
        .rflags = RFLAGS_ALWAYS_ONE,
        .cr0 = CR0_PE | CR0_ET,
        .code = {.limit = 0xffffffff, .selector = 0x08, .type = TYPE_CODE_RX, .present = 1, .db = 1, .s = 1, .g = 1},
        .data = {.limit = 0xffffffff, .selector = 0x10, .type = TYPE_DATA_RW, .present = 1, .db = 1, .s = 1, .g = 1},
        .tss = {.limit = 0x67, .selector = 0x18, .type = TYPE_TSS_BUSY, .present = 1},
    };
}
