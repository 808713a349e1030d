/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PSCI 1.0 (Arm DEN 0022) as a hypercall (HVC) ABI: what a call means, decided from the caller's registers and the
 * power state of the vCPUs. Pure: the caller carries the decision out. MPIDR of vCPU n is n.
 */
#ifndef SM_ARCH_ARM64_PSCI_H
#define SM_ARCH_ARM64_PSCI_H

#include <stdint.h>

#define PSCI_VERSION_1_0 0x10000u

/* Return values, DEN 0022 5.2.2. */
#define PSCI_SUCCESS            0
#define PSCI_NOT_SUPPORTED      (-1)
#define PSCI_INVALID_PARAMETERS (-2)
#define PSCI_ALREADY_ON         (-4)

/* Affinity states, DEN 0022 5.7.1. */
#define PSCI_AFFINITY_ON  0
#define PSCI_AFFINITY_OFF 1

/* Function ids; the 64-bit twins have bit 30 set. */
#define PSCI_FN_VERSION       0x84000000u
#define PSCI_FN_CPU_OFF       0x84000002u
#define PSCI_FN_CPU_ON        0x84000003u
#define PSCI_FN_AFFINITY_INFO 0x84000004u
#define PSCI_FN_SYSTEM_OFF    0x84000008u
#define PSCI_FN_SYSTEM_RESET  0x84000009u
#define PSCI_FN_FEATURES      0x8400000au
#define PSCI_FN_64            0x40000000u

/* A secondary enters at EL1h with all of D, A, I, F masked. */
#define ARM64_SECONDARY_CPSR 0x3c5u

enum psci_action {
    PSCI_RETURN,  /* x0 = result, go on */
    PSCI_CPU_ON,  /* start `target` at `entry`, x0 = `context`, x1..x3 = 0, CPSR as above; caller: x0 = result */
    PSCI_CPU_OFF, /* the caller stops; there is no result */
    PSCI_OFF,
    PSCI_RESET,
};

struct psci_call {
    uint64_t x[4]; /* the caller's x0..x3 */
    uint32_t on;   /* bit n: vCPU n runs */
    unsigned vcpus;
};

struct psci_decision {
    enum psci_action action;
    int64_t result;
    unsigned target;
    uint64_t entry, context;
};

struct psci_decision psci_decide(const struct psci_call *call);

#endif
