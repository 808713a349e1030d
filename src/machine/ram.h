/* SPDX-License-Identifier: Apache-2.0 */
/* Guest RAM: one private mapping of the host, shown to the guest below and above the device hole. */
#ifndef SM_MACHINE_RAM_H
#define SM_MACHINE_RAM_H

#include <stddef.h>
#include <stdint.h>

#include "dev/mem.h"

struct ram {
    void *map; /* NULL: none */
    size_t map_size;
};

/* Map `size` bytes (a multiple of 1 MiB) and add them to `mem`; nothing is touched yet. */
int ram_init(struct ram *ram, uint64_t size, struct guest_mem *mem, struct sm_error *err);
void ram_done(struct ram *ram);

#endif
