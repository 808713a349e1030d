/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 digests as OCI writes them: "sha256:" and 64 hex digits (image-spec descriptor.md). */
#ifndef SM_OCI_DIGEST_H
#define SM_OCI_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define DIGEST_BYTES    32
#define DIGEST_HEX_SIZE (2 * DIGEST_BYTES + 1)
#define DIGEST_STR_SIZE (sizeof("sha256:") - 1 + DIGEST_HEX_SIZE)

struct digest {
    uint8_t bytes[DIGEST_BYTES];
};

/* Lower-case hex only, as the specification wants. -ENOTSUP: a digest, but of another algorithm; -EINVAL: none. `what`
 * names the field for the sentence. */
int digest_parse(struct digest *ret, const char *s, const char *what, struct sm_error *err);
void digest_str(const struct digest *d, char ret[DIGEST_STR_SIZE]);
void digest_hex(const struct digest *d, char ret[DIGEST_HEX_SIZE]);
bool digest_equal(const struct digest *a, const struct digest *b);

/* A hash that runs. */
struct hasher;
int hasher_new(struct hasher **ret, struct sm_error *err);
void hasher_free(struct hasher *h);
void hasher_add(struct hasher *h, const void *data, size_t len);
void hasher_end(struct hasher *h, struct digest *ret); /* once; afterwards only hasher_free */

int digest_of(struct digest *ret, const void *data, size_t len, struct sm_error *err);

#endif
