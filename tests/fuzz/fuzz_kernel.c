/* SPDX-License-Identifier: Apache-2.0 */
/* The PVH loader with any file as kernel: no write outside guest memory, a sentence for every refusal. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine/boot_pvh.h"

#define RAM (2u * 1024 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct guest_mem mem = {.n_regions = 0};
    struct sm_error err = SM_ERROR_INIT;
    struct boot_entry entry = {0};
    int fd = memfd_create("kernel", MFD_CLOEXEC);
    /* An allocation of its own: the sanitizer sees a byte too many. Made once, for making it is what takes time. */
    static uint8_t *ram;

    if (!ram)
        ram = aligned_alloc(4096, RAM);

    if (fd < 0 || !ram || write(fd, data, size) != (ssize_t)size || mem_add(&mem, 0, RAM, ram, NULL) < 0)
        abort();
    struct boot_source src = {.kernel_fd = fd, .initramfs_fd = size % 2 ? fd : -1, .cmdline = "console=ttyS0"};
    int r = boot_pvh_load(&src, &mem, &entry, &err);
    assert(r == 0 ? entry.entry >= 0x100000 && entry.entry < RAM : err.text[0] && entry.entry == 0);
    close(fd);
    return 0;
}
