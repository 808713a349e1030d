/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory: see mem.h. */
#include "dev/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>

#include "base/checked.h"
#include "base/error.h"

#define MEM_PAGE 4096

int mem_add(struct guest_mem *mem, uint64_t gpa, uint64_t size, void *host, struct sm_error *err)
{
    uint64_t end;
    unsigned at = 0;

    if (mem->n_regions == MEM_MAX_REGIONS)
        return sm_error_set(err, ENOSPC, "guest memory has %u regions already", MEM_MAX_REGIONS);
    if (size == 0 || !is_aligned(gpa, MEM_PAGE) || !is_aligned(size, MEM_PAGE) ||
        !is_aligned((uintptr_t)host, MEM_PAGE) || !CHECKED_ADD(gpa, size, &end))
        return sm_error_set(err, EINVAL, "guest memory of %" PRIu64 " bytes at 0x%" PRIx64 " is not made of pages",
                            size, gpa);
    while (at < mem->n_regions && mem->region[at].gpa < gpa)
        at++;
    if ((at > 0 && gpa - mem->region[at - 1].gpa < mem->region[at - 1].size) ||
        (at < mem->n_regions && end > mem->region[at].gpa))
        return sm_error_set(err, EEXIST, "guest memory at 0x%" PRIx64 " overlaps another region", gpa);
    for (unsigned i = mem->n_regions; i > at; i--)
        mem->region[i] = mem->region[i - 1];
    mem->region[at] = (struct mem_region){.gpa = gpa, .size = size, .host = host};
    mem->n_regions++;
    return 0;
}

void *mem_ptr(const struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
    if (len == 0)
        return NULL;
    for (unsigned i = 0; i < mem->n_regions; i++) {
        const struct mem_region *r = &mem->region[i];

        /* Below the region the subtraction wraps to an offset that no size reaches. */
        if (range_within(gpa - r->gpa, len, r->size) && gpa >= r->gpa)
            return r->host + (gpa - r->gpa);
    }
    return NULL;
}

uint64_t mem_total(const struct guest_mem *mem)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < mem->n_regions; i++)
        sum += mem->region[i].size;
    return sum;
}
