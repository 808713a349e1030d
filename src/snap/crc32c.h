/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32C (Castagnoli; RFC 3720 appendix B.4): finds damage, not forgery. */
#ifndef SM_SNAP_CRC32C_H
#define SM_SNAP_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of what `crc` stands for (0: nothing) followed by `data`. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

#endif
