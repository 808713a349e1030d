/* SPDX-License-Identifier: Apache-2.0 */
/* Can this host's hypervisor run an ordinary kernel? Found out by running one: a guest of some dozens of instructions.
 */
#ifndef SM_HV_SELFTEST_H
#define SM_HV_SELFTEST_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/hv.h"

#define SELFTEST_SENTENCE 256

struct selftest_result {
    bool usable;
    char sentence[SELFTEST_SENTENCE]; /* for people, in both cases */
    char failed[32];                  /* the step that failed: "speed", "cmpxchg16b", ...; "" when usable */
    uint64_t instructions_per_second; /* of the best round of the ring 0 loop; 0 when it never ran */
    uint64_t elapsed_us;
};

/*
 * Run the test on the hypervisor's open device `fd`: 1 to 3 ms on a good one, up to half a second on a bad one. 0 and
 * *ret, which holds the verdict; -errno when the test itself could not be made (no memory, no VM, a capability is
 * missing). Signals that hit the thread are harmless.
 */
int selftest_run(struct selftest_result *ret, const struct hv *hv, int fd, struct sm_error *err);

#endif
