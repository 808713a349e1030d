/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hypervisor seam: one const table of functions per backend.
 *
 * Theory of operation
 *
 * A backend moves registers, maps memory and runs; it decides nothing and knows no device. It hands every exit over in
 * one small struct, which the machine dispatches by kind. Nothing of the hypervisor's own types leaves a backend.
 *
 * Order of calls is part of performance (measured on KVM: create-to-first-exit 0.6 ms in this order against 8 ms with
 * the interrupt controller first, since each memory slot or vCPU after it synchronises with RCU readers):
 *     vm_new, vm_map..., vm_irqchip, vcpu_new..., vcpu_setup..., vm_irqfd..., vm_ioeventfd..., vcpu_run
 * A restore has vm_state, then vcpu_state of each, in the place of vcpu_setup.
 *
 * Threads: vm_* and vcpu_new run on the owner's thread before anything runs. vcpu_setup and vcpu_run belong to the
 * vCPU's own thread once it has one. vcpu_kick may come from any thread.
 */
#ifndef SM_HV_HV_H
#define SM_HV_HV_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <supermachine/supermachine.h>

#include "snap/stream.h"

#define HV_MAX_VCPUS 16

/* The signal that forces a vCPU out of the guest; the process must have an (empty) handler for it. */
#define HV_KICK_SIGNAL SIGUSR1

struct hv_vm;
struct hv_vcpu;

enum hv_exit_kind {
    HV_EXIT_KICKED, /* a kick or signal, nothing happened in the guest */
    HV_EXIT_MMIO_READ,
    HV_EXIT_MMIO_WRITE,
    HV_EXIT_PIO_READ,
    HV_EXIT_PIO_WRITE,
    HV_EXIT_HALT,     /* stopped for good: no interrupt controller of the hypervisor's could wake it */
    HV_EXIT_SHUTDOWN, /* x86 triple fault */
    HV_EXIT_POWER_OFF,
    HV_EXIT_RESET,
    HV_EXIT_OTHER, /* the hypervisor can't go on: the error says why */
    HV_EXIT_KINDS,
};

struct hv_exit {
    enum hv_exit_kind kind;
    uint64_t addr;  /* guest-physical address or port */
    unsigned len;   /* bytes of one access: 1, 2, 4, 8 */
    unsigned count; /* accesses to `addr`, one behind the other in `data`; > 1 for string I/O only */
    uint8_t *data;  /* count * len bytes: written by the guest, or to be filled before the next run */
};

/* Something that the hypervisor counts by itself. */
struct hv_counter {
    const char *name; /* the hypervisor's own */
    uint64_t value;
};

#define HV_MAX_COUNTERS 16

struct hv_boot {
    unsigned index; /* vCPU 0 starts at `entry`; the others wait to be started by it */
    unsigned vcpus;
    uint64_t entry;
    uint64_t info; /* address of the boot information */
};

struct hv {
    const char *name;
    unsigned long run_request; /* the one ioctl(2) that a vCPU's thread makes: for a system call filter */

    /*
     * Make an empty machine on the hypervisor's open device `fd` (stays the caller's; is not needed afterwards but by
     * vcpu_new). A missing capability is -ENOTSUP and a sentence that names it.
     */
    int (*vm_new)(struct hv_vm **ret, int fd, struct sm_error *err);
    void (*vm_free)(struct hv_vm *vm); /* after all its vCPUs */
    int (*vm_map)(struct hv_vm *vm, unsigned slot, uint64_t gpa, uint64_t size, void *host, struct sm_error *err);
    int (*vm_irqchip)(struct hv_vm *vm, struct sm_error *err);
    /* Writing to the eventfd `fd` raises an edge on interrupt line `irq`. */
    int (*vm_irqfd)(struct hv_vm *vm, unsigned irq, int fd, struct sm_error *err);
    /* Raise an edge on `irq` now: when this returns, the interrupt controller has it. */
    int (*vm_irq)(struct hv_vm *vm, unsigned irq, struct sm_error *err);
    /* A guest write of `len` bytes equal to `match` at `gpa` signals the eventfd `fd` and causes no exit. */
    int (*vm_ioeventfd)(struct hv_vm *vm, uint64_t gpa, unsigned len, uint64_t match, int fd, struct sm_error *err);
    /* Largest guest-physical address + 1 that vCPUs can reach. */
    uint64_t (*vm_address_limit)(const struct hv_vm *vm);

    int (*vcpu_new)(struct hv_vcpu **ret, struct hv_vm *vm, unsigned index, struct sm_error *err);
    void (*vcpu_free)(struct hv_vcpu *vcpu);
    /* Features and boot registers. */
    int (*vcpu_setup)(struct hv_vcpu *vcpu, const struct hv_boot *boot, struct sm_error *err);
    /* Enter the guest once. 0 and *ret, which is valid until the next call; or -errno. */
    int (*vcpu_run)(struct hv_vcpu *vcpu, struct hv_exit *ret, struct sm_error *err);
    /* The vCPU's current or next vcpu_run on `thread` returns HV_EXIT_KICKED soon; stays so until vcpu_unkick. */
    void (*vcpu_kick)(struct hv_vcpu *vcpu, pthread_t thread);
    /* Kicks that came before are over: runs enter the guest again. The vCPU's thread, not running. */
    void (*vcpu_unkick)(struct hv_vcpu *vcpu);
    /*
     * Save or load, by the stream's direction: what belongs to the VM (interrupt controllers, clock), and a vCPU. Every
     * vCPU is stopped; before saving, its last run has returned HV_EXIT_KICKED, since an access that made it return
     * before is complete only then. Saving: the vCPUs first, so that none has seen a later time than the VM's clock;
     * loading: the VM first. A vCPU's on its own thread, once it runs. What the host cannot give is an error of the
     * stream.
     */
    void (*vm_state)(struct hv_vm *vm, struct snap_stream *s);
    void (*vcpu_state)(struct hv_vcpu *vcpu, struct snap_stream *s);
    /*
     * Stop the guest's own timer, or let it go on; once each, at rest as for saving, on the vCPU's thread. While it is
     * stopped the guest may set it anew, which then counts. What would have fired meanwhile fires when it goes on.
     */
    int (*vcpu_mask_timer)(struct hv_vcpu *vcpu, bool masked, struct sm_error *err);
    /* At rest: 1 when it waits for an interrupt, or to be started. */
    int (*vcpu_idle)(struct hv_vcpu *vcpu, struct sm_error *err);
    /* The ioctls that vm_irq and all from vm_state to here make, 0 at the end: for a system call filter. */
    const unsigned long *state_requests;
    /*
     * vcpu_counters() is going to be asked, by any thread, for what the hypervisor counts of this vCPU; it returns how
     * many it tells, 0 where the host has none. vcpu_count(): before its first run.
     */
    void (*vcpu_count)(struct hv_vcpu *vcpu);
    unsigned (*vcpu_counters)(struct hv_vcpu *vcpu, struct hv_counter ret[HV_MAX_COUNTERS]);
    /* Instruction pointer, for error messages; 0 when unknown. The vCPU's thread, not running. */
    uint64_t (*vcpu_pc)(struct hv_vcpu *vcpu);
};

extern const struct hv hv_kvm;

#endif
