/* SPDX-License-Identifier: Apache-2.0 */
/* What a data abort taken from a guest asks for: Arm ARM (DDI 0487) D17.2.37 ESR_ELx, ISS for data aborts. Pure. */
#ifndef SM_ARCH_ARM64_ESR_H
#define SM_ARCH_ARM64_ESR_H

#include <stdbool.h>
#include <stdint.h>

#define ARM64_REG_ZERO 31 /* SRT of the zero register: reads as 0, writes vanish */

struct arm64_mmio {
    bool valid;       /* false: not a data abort, or no syndrome: read gives 0, write is dropped, step over */
    bool write;       /* also where the syndrome is not valid: WnR is */
    bool sign_extend; /* SSE */
    bool wide;        /* SF: the register is 64 bits; else its upper half becomes 0 */
    unsigned len;     /* bytes: 1, 2, 4, 8; SAS */
    unsigned reg;     /* SRT */
};

struct arm64_mmio arm64_mmio_decode(uint64_t esr);

/* What a load of `value` (its low `len` bytes count) leaves in the register. */
uint64_t arm64_mmio_loaded(const struct arm64_mmio *mmio, uint64_t value);

/* What a store of a register that holds `reg_value` puts on the bus. */
uint64_t arm64_mmio_stored(const struct arm64_mmio *mmio, uint64_t reg_value);

#endif
