/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory: the one door from a guest-physical address to a pointer.
 *
 * It lives beside the devices because both they and the machine use it, and dependencies go from machine to dev.
 * The map is made before the first vCPU runs and does not change while devices hold it, so it needs no lock.
 * What a pointer shows can change under the reader's eyes at any time: copy once, check the copy, use the copy.
 */
#ifndef SM_DEV_MEM_H
#define SM_DEV_MEM_H

#include <stdint.h>

#include <supermachine/supermachine.h>

#define MEM_MAX_REGIONS 4

struct mem_region {
    uint64_t gpa;
    uint64_t size; /* bytes */
    uint8_t *host;
};

struct guest_mem {
    struct mem_region region[MEM_MAX_REGIONS]; /* sorted by gpa, no overlap */
    unsigned n_regions;
};

/* Add `size` bytes at `gpa` (both 4 KiB-aligned, size > 0), backed by `host`, which stays the caller's. */
int mem_add(struct guest_mem *mem, uint64_t gpa, uint64_t size, void *host, struct sm_error *err);

/* Pointer to `len` bytes at `gpa`, or NULL unless all of them lie in one region. A zero length gives NULL. */
void *mem_ptr(const struct guest_mem *mem, uint64_t gpa, uint64_t len);

/* Sum of all regions' sizes. */
uint64_t mem_total(const struct guest_mem *mem);

#endif
