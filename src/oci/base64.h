/* SPDX-License-Identifier: Apache-2.0 */
/* Base64 with padding (RFC 4648, 4), as Go's standard encoding reads it: line ends inside are skipped. */
#ifndef SM_OCI_BASE64_H
#define SM_OCI_BASE64_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* `ret` has room for 3 bytes for every 4 characters begun, or is NULL when only the form matters. */
bool base64_decode(const char *s, uint8_t *ret, size_t *ret_len);

#endif
