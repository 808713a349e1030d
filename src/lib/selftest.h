/* SPDX-License-Identifier: Apache-2.0 */
/* What the KVM self-test found, remembered for as long as this host stays up. */
#ifndef SM_LIB_SELFTEST_H
#define SM_LIB_SELFTEST_H

#include <limits.h>
#include <stdbool.h>

struct selftest {
    char path[PATH_MAX];
    char key[256]; /* this boot, this KVM; "" when it can't be told */
};

/* Has it passed on this boot of this host? `dir`: the image store's directory. */
bool selftest_passed(struct selftest *s, const char *dir);

/* It has passed now. Where that can't be written it is run again next time. */
void selftest_remember(const struct selftest *s);

#endif
