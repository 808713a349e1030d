/* SPDX-License-Identifier: Apache-2.0 */
/* Loading a kernel for PVH: an ELF file with a XEN_ELFNOTE_PHYS32_ENTRY note, initramfs, command line, memory map. */
#ifndef SM_MACHINE_BOOT_PVH_H
#define SM_MACHINE_BOOT_PVH_H

#include <stdint.h>

#include "dev/mem.h"

#define BOOT_MAX_SEGMENTS  32
#define BOOT_MAX_NOTES     (64 * 1024)            /* bytes of one note segment */
#define BOOT_MAX_INITRAMFS (512ull * 1024 * 1024) /* bytes */

struct boot_source {
    int kernel_fd;
    int initramfs_fd; /* -1: none */
    const char *cmdline;
};

struct boot_entry {
    uint64_t entry; /* where the boot processor starts */
    uint64_t info;  /* address of hvm_start_info */
};

/*
 * Load everything into guest memory. The files are read by position: shared descriptors are fine. A file that is not
 * a kernel for this machine is -ENOEXEC and a sentence.
 */
int boot_pvh_load(const struct boot_source *src, const struct guest_mem *mem, struct boot_entry *ret,
                  struct sm_error *err);

#endif
