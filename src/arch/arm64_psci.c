/* SPDX-License-Identifier: Apache-2.0 */
/* PSCI decisions: see arm64_psci.h. */
#include "arch/arm64_psci.h"

#include <stdbool.h>

static struct psci_decision result(int64_t value)
{
    return (struct psci_decision){.action = PSCI_RETURN, .result = value};
}

/* The vCPU that an affinity names, or -1: MPIDR n is vCPU n, so nothing above the lowest field may be set. */
static int vcpu_of(const struct psci_call *call, uint64_t affinity)
{
    return affinity < call->vcpus ? (int)affinity : -1;
}

static bool is_on(const struct psci_call *call, int vcpu)
{
    return call->on >> vcpu & 1;
}

static struct psci_decision cpu_on(const struct psci_call *call, uint64_t target, uint64_t entry, uint64_t context)
{
    int vcpu = vcpu_of(call, target);

    if (vcpu < 0)
        return result(PSCI_INVALID_PARAMETERS);
    if (is_on(call, vcpu))
        return result(PSCI_ALREADY_ON);
    return (struct psci_decision){
        .action = PSCI_CPU_ON, .result = PSCI_SUCCESS, .target = (unsigned)vcpu, .entry = entry, .context = context};
}

static struct psci_decision affinity_info(const struct psci_call *call, uint64_t target, uint64_t level)
{
    int vcpu = vcpu_of(call, target);

    /* Levels above 0 need not be supported since PSCI 1.0 (5.7.2). */
    if (vcpu < 0 || level != 0)
        return result(PSCI_INVALID_PARAMETERS);
    return result(is_on(call, vcpu) ? PSCI_AFFINITY_ON : PSCI_AFFINITY_OFF);
}

static struct psci_decision features(uint32_t fn)
{
    switch (fn) {
    case PSCI_FN_VERSION:
    case PSCI_FN_CPU_OFF:
    case PSCI_FN_CPU_ON:
    case PSCI_FN_CPU_ON | PSCI_FN_64:
    case PSCI_FN_AFFINITY_INFO:
    case PSCI_FN_AFFINITY_INFO | PSCI_FN_64:
    case PSCI_FN_SYSTEM_OFF:
    case PSCI_FN_SYSTEM_RESET:
    case PSCI_FN_FEATURES:
        return result(PSCI_SUCCESS);
    default:
        return result(PSCI_NOT_SUPPORTED);
    }
}

struct psci_decision psci_decide(const struct psci_call *call)
{
    const uint64_t *x = call->x;

    switch ((uint32_t)x[0]) {
    case PSCI_FN_VERSION:
        return result(PSCI_VERSION_1_0);
    case PSCI_FN_FEATURES:
        return features((uint32_t)x[1]);
    /* The 32-bit call's arguments are the low halves (SMC calling convention, DEN 0028 3.1). */
    case PSCI_FN_CPU_ON:
        return cpu_on(call, (uint32_t)x[1], (uint32_t)x[2], (uint32_t)x[3]);
    case PSCI_FN_CPU_ON | PSCI_FN_64:
        return cpu_on(call, x[1], x[2], x[3]);
    case PSCI_FN_AFFINITY_INFO:
        return affinity_info(call, (uint32_t)x[1], (uint32_t)x[2]);
    case PSCI_FN_AFFINITY_INFO | PSCI_FN_64:
        return affinity_info(call, x[1], x[2]);
    case PSCI_FN_CPU_OFF:
        return (struct psci_decision){.action = PSCI_CPU_OFF};
    case PSCI_FN_SYSTEM_OFF:
        return (struct psci_decision){.action = PSCI_OFF};
    case PSCI_FN_SYSTEM_RESET:
        return (struct psci_decision){.action = PSCI_RESET};
    default:
        return result(PSCI_NOT_SUPPORTED);
    }
}
