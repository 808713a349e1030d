/* SPDX-License-Identifier: Apache-2.0 */
/* What a machine consists of: for the files of this directory that build, save and restore it. */
#ifndef SM_MACHINE_MACHINE_PRIVATE_H
#define SM_MACHINE_MACHINE_PRIVATE_H

#include "arch/layout_x86_64.h"
#include "base/loop.h"
#include "dev/lifecycle.h"
#include "dev/serial.h"
#include "dev/virtio_mmio.h"
#include "machine/machine.h"
#include "machine/ram.h"
#include "machine/vcpu.h"

struct slot {
    struct virtio_mmio *transport;
    int irq_fd;
};

struct machine {
    struct machine_config config;
    struct ram ram;
    struct guest_mem mem;
    struct hv_vm *vm;
    struct vcpu vcpu[HV_MAX_VCPUS];
    unsigned n_vcpus; /* made so far */
    struct vcpu_group group;
    struct events events;
    struct loop_source wake; /* group.wake_fd */
    struct serial *serial;
    int serial_irq;
    struct lifecycle *lifecycle;
    int lifecycle_irq;
    struct slot slot[LAYOUT_VIRTIO_SLOTS];
    unsigned n_slots;
    bool ended;     /* config.ops->ended was called */
    int pagemap_fd; /* /proc/self/pagemap, which cannot be opened once the process is shut in; -1: not to be had */
    bool restored;
    struct loop_timer patience; /* with a restored guest that does not say that it is renewed */
};

/* Interrupts, then doorbells: the last step of building. */
int machine_bind_lines(struct machine *m, struct sm_error *err);

#endif
