/* SPDX-License-Identifier: Apache-2.0 */
/* Platforms as images name them: operating system, architecture, variant, in Go's words (image-spec image-index.md). */
#ifndef SM_OCI_PLATFORM_H
#define SM_OCI_PLATFORM_H

#include <stddef.h>

#include "base/error.h"

#define PLATFORM_PART_SIZE 48
#define PLATFORM_STR_SIZE  (3 * PLATFORM_PART_SIZE)

struct platform {
    char os[PLATFORM_PART_SIZE], arch[PLATFORM_PART_SIZE], variant[PLATFORM_PART_SIZE]; /* variant: may be "" */
};

/* "os/arch[/variant]"; NULL: linux on the architecture this was built for. Usual other spellings are understood. */
int platform_parse(struct platform *ret, const char *s, struct sm_error *err);
/* From an image's own words; -EINVAL and a sentence when one is too long or odd. NULL is "". */
int platform_set(struct platform *ret, const char *os, const char *arch, const char *variant, struct sm_error *err);
const char *platform_str(char buf[PLATFORM_STR_SIZE], const struct platform *p);

/* How well does `have` serve who asks for `want`: 0 not at all; larger is better. */
int platform_score(const struct platform *want, const struct platform *have);

#endif
