/* SPDX-License-Identifier: Apache-2.0 */
/* Guest RAM: see ram.h. */
#include "machine/ram.h"

#include <errno.h>
#include <sys/mman.h>

#include "arch/layout_x86_64.h"
#include "base/checked.h"
#include "base/error.h"

#define HUGE_PAGE (2 * MIB)

int ram_init(struct ram *ram, uint64_t size, struct guest_mem *mem, struct sm_error *err)
{
    uint64_t low = size < LAYOUT_HOLE_START ? size : LAYOUT_HOLE_START;
    /* Room to start at a huge page's boundary: host and guest addresses must agree on those for KVM to use them. */
    size_t map_size = size + HUGE_PAGE;
    void *map = mmap(NULL, map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (map == MAP_FAILED)
        return sm_error_sys(err, errno,
                            "the host does not allow %llu MiB of guest memory (overcommit or address space limit); "
                            "ask for less",
                            (unsigned long long)(size / MIB));
    *ram = (struct ram){.map = map, .map_size = map_size};
    uint8_t *host = (uint8_t *)align_up((uintptr_t)map, HUGE_PAGE);
    /* Advice: hosts without huge pages run on. A core file must not hold the guest's secrets. */
    madvise(host, size, MADV_HUGEPAGE);
    madvise(host, size, MADV_DONTDUMP);
    int r = mem_add(mem, 0, low, host, err);
    if (r == 0 && size > low)
        r = mem_add(mem, LAYOUT_HOLE_END, size - low, host + low, err);
    if (r < 0)
        ram_done(ram);
    return r;
}

void ram_done(struct ram *ram)
{
    if (ram->map)
        munmap(ram->map, ram->map_size);
    *ram = (struct ram){0};
}
