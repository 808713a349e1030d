/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hypervisor for tests: each vCPU plays a script of exits, then waits to be kicked, as an idle guest does. State is
 * one struct for the process; fake_hv_reset() starts afresh.
 */
#ifndef SM_TESTS_FAKE_HV_H
#define SM_TESTS_FAKE_HV_H

#include <stdbool.h>

#include "hv/hv.h"

#define FAKE_MAX_EXITS 64

struct fake_exit {
    enum hv_exit_kind kind;
    uint64_t addr;
    unsigned len, count;
    uint8_t data[16]; /* writes: what; reads: what the machine answered, once it runs again */
    bool later;       /* the guest has not come so far when it is kicked */
};

struct fake_call {
    const char *name; /* "vm_map", ... */
    uint64_t a, b;
};

struct fake_hv {
    struct fake_exit script[HV_MAX_VCPUS][FAKE_MAX_EXITS];
    unsigned n[HV_MAX_VCPUS];
    unsigned at[HV_MAX_VCPUS]; /* exits played so far */
    const char *fail;          /* name of a call that fails */
    int run_error;             /* what vcpu_run returns behind the script, instead of waiting */
    struct fake_call call[128];
    unsigned n_calls;
    unsigned alive;                              /* VMs and vCPUs not yet freed */
    uint32_t vm_value, vcpu_value[HV_MAX_VCPUS]; /* their whole state */
    bool masked[HV_MAX_VCPUS], idle[HV_MAX_VCPUS];
    pthread_t worked_on[HV_MAX_VCPUS]; /* by which thread a vCPU's state or timer was, last */
    uint64_t limit;
};

extern struct fake_hv fake;
extern const struct hv hv_fake;

void fake_hv_reset(void);
struct fake_exit *fake_hv_exit(unsigned vcpu, enum hv_exit_kind kind, uint64_t addr, unsigned len, uint64_t value);

/* Wait until the machine has carried out so many exits of a vCPU's script, which has come back for more; at most 10 s.
 */
void fake_hv_wait(unsigned vcpu, unsigned exits);

/* How many calls of that name were made; the place of the first one in fake.call, or -1. */
unsigned fake_hv_calls(const char *name);
int fake_hv_first(const char *name);

#endif
