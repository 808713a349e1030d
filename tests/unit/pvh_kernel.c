/* SPDX-License-Identifier: Apache-2.0 */
/* See pvh_kernel.h. */
#include "pvh_kernel.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct pvh_kernel pvh_kernel(void)
{
    struct pvh_kernel k = {.xen = {.name_len = 4, .desc_len = 8, .type = 18, .entry = PVH_KERNEL_ENTRY}};

    memcpy(k.xen.name, "Xen", 4);
    memcpy(k.head.e_ident, ELFMAG, SELFMAG);
    k.head.e_ident[EI_CLASS] = ELFCLASS64;
    k.head.e_ident[EI_DATA] = ELFDATA2LSB;
    k.head.e_type = ET_EXEC;
    k.head.e_machine = EM_X86_64;
    k.head.e_phoff = offsetof(struct pvh_kernel, load);
    k.head.e_phentsize = sizeof(Elf64_Phdr);
    k.head.e_phnum = 2;
    k.load = (Elf64_Phdr){.p_type = PT_LOAD,
                          .p_offset = offsetof(struct pvh_kernel, code),
                          .p_paddr = PVH_KERNEL_LOAD,
                          .p_filesz = sizeof(k.code),
                          .p_memsz = 0x2000};
    k.note = (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = offsetof(struct pvh_kernel, xen), .p_filesz = sizeof(k.xen)};
    for (size_t i = 0; i < sizeof(k.code); i++)
        k.code[i] = (uint8_t)(i + 1);
    return k;
}

int pvh_file(const void *data, size_t len)
{
    int fd = memfd_create("kernel", MFD_CLOEXEC);

    if (fd < 0 || write(fd, data, len) != (ssize_t)len)
        abort();
    return fd;
}
