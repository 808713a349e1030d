/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Door: virtq_pop(). Input: options, then the start of guest memory as it is, rings included; what is left is written
 * over it between the calls, as a guest that races with us would.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "dev/virtq.h"

#define RAM   0x4000u /* two regions of this size, apart on the host */
#define AVAIL 0x1000u
#define USED  0x1400u
#define STEPS 600

static void check(const struct virtq_chain *chain, const uint8_t *ram, const uint8_t *ram2)
{
    uint64_t sum[2] = {0, 0};

    assert(chain->n_out + chain->n_in >= 1 && chain->n_out + chain->n_in <= VIRTQ_MAX_IOV);
    for (unsigned i = 0; i < chain->n_out + chain->n_in; i++) {
        const uint8_t *p = chain->iov[i].iov_base;
        size_t len = chain->iov[i].iov_len;

        assert(len > 0 && len <= RAM);
        assert((p >= ram && p + len <= ram + RAM) || (p >= ram2 && p + len <= ram2 + RAM));
        sum[i >= chain->n_out] += len;
    }
    assert(sum[0] == chain->out_len && sum[1] == chain->in_len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader in = reader_init(data, size);
    struct guest_mem mem = {.n_regions = 0};
    static struct virtq_chain chain;
    uint8_t options = reader_u8(&in);
    uint8_t *ram = aligned_alloc(4096, RAM), *ram2 = aligned_alloc(4096, RAM);

    memset(ram, 0, RAM);
    memset(ram2, 0, RAM);
    mem_add(&mem, 0, RAM, ram, NULL);
    mem_add(&mem, RAM, RAM, ram2, NULL);
    size_t n = in.left < RAM ? in.left : RAM;
    if (n)
        memcpy(ram, reader_bytes(&in, n), n);
    struct virtq vq = {.mem = &mem,
                       .size = (uint16_t)(1u << (options & 7)),
                       .event_idx = options & 8,
                       .indirect = options & 16,
                       .desc_gpa = 0,
                       .avail_gpa = options & 32 ? AVAIL : (uint64_t)reader_u32(&in),
                       .used_gpa = USED};
    if (virtq_enable(&vq) == 0) {
        for (unsigned i = 0; i < STEPS; i++) {
            int r = virtq_pop(&vq, &chain);

            if (r < 0)
                break;
            if (r == 0) {
                if (!virtq_enable_notify(&vq))
                    break;
                virtq_disable_notify(&vq);
                continue;
            }
            check(&chain, ram, ram2);
            if (in.left >= 4) {
                uint16_t at = reader_u16(&in);
                uint16_t v = reader_u16(&in);
                memcpy(ram + at % (RAM - 1), &v, 2);
            }
            if (i % 7 == 0) {
                virtq_unpop(&vq);
                continue;
            }
            virtq_push(&vq, chain.head, (uint32_t)chain.in_len);
            virtq_needs_signal(&vq);
        }
    }
    free(ram);
    free(ram2);
    return 0;
}
