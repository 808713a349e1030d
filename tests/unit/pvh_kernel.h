/* SPDX-License-Identifier: Apache-2.0 */
/* For tests: a minimal kernel file that the PVH loader accepts, to be broken field by field. */
#ifndef SM_TESTS_PVH_KERNEL_H
#define SM_TESTS_PVH_KERNEL_H

#include <elf.h>
#include <stddef.h>
#include <stdint.h>

#define PVH_KERNEL_LOAD  0x100000u
#define PVH_KERNEL_ENTRY 0x100010u

struct pvh_kernel {
    Elf64_Ehdr head;
    Elf64_Phdr load, note;
    struct {
        uint32_t name_len, desc_len, type;
        char name[4];
        uint64_t entry;
    } xen;
    uint8_t code[64];
};

struct pvh_kernel pvh_kernel(void);

/* A memfd with these bytes. */
int pvh_file(const void *data, size_t len);

#endif
