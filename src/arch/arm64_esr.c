/* SPDX-License-Identifier: Apache-2.0 */
/* Data abort syndrome: see arm64_esr.h. */
#include "arch/arm64_esr.h"

#define ESR_EC_SHIFT          26
#define ESR_EC_MASK           0x3fu
#define ESR_EC_DATA_ABORT_LOW 0x24 /* from a lower exception level */
#define ISS_ISV               (1u << 24)
#define ISS_SAS_SHIFT         22
#define ISS_SSE               (1u << 21)
#define ISS_SRT_SHIFT         16
#define ISS_SF                (1u << 15)
#define ISS_WNR               (1u << 6)

struct arm64_mmio arm64_mmio_decode(uint64_t esr)
{
    struct arm64_mmio m = {.reg = ARM64_REG_ZERO, .len = 1};

    if (((esr >> ESR_EC_SHIFT) & ESR_EC_MASK) != ESR_EC_DATA_ABORT_LOW)
        return m;
    m.write = esr & ISS_WNR;
    if (!(esr & ISS_ISV))
        return m;
    m.valid = true;
    m.len = 1u << ((esr >> ISS_SAS_SHIFT) & 3);
    m.reg = (esr >> ISS_SRT_SHIFT) & 31;
    m.sign_extend = esr & ISS_SSE;
    m.wide = esr & ISS_SF;
    return m;
}

static uint64_t low_bytes(uint64_t value, unsigned len)
{
    return len >= 8 ? value : value & ((1ull << (8 * len)) - 1);
}

uint64_t arm64_mmio_loaded(const struct arm64_mmio *m, uint64_t value)
{
    value = low_bytes(value, m->len);
    if (m->sign_extend && m->len < 8 && value >> (8 * m->len - 1))
        value |= ~0ull << (8 * m->len);
    return m->wide ? value : (uint32_t)value;
}

uint64_t arm64_mmio_stored(const struct arm64_mmio *m, uint64_t reg_value)
{
    return m->reg == ARM64_REG_ZERO ? 0 : low_bytes(reg_value, m->len);
}
