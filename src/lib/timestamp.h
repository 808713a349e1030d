/* SPDX-License-Identifier: Apache-2.0 */
/* Times as documents of images write them (RFC 3339, section 5.6). */
#ifndef SM_LIB_TIMESTAMP_H
#define SM_LIB_TIMESTAMP_H

#include <stdint.h>

/* "2024-02-29T12:30:00.5+01:00" in seconds since 1970 (may be negative); -EINVAL. Fractions are cut. */
int timestamp_parse(const char *s, int64_t *ret);

#endif
