/* SPDX-License-Identifier: Apache-2.0 */
/* What a machine consists of: for the files of this directory that build, save and restore it. */
#ifndef SM_MACHINE_MACHINE_PRIVATE_H
#define SM_MACHINE_MACHINE_PRIVATE_H

#include "arch/layout_x86_64.h"
#include "base/loop.h"
#include "dev/lifecycle.h"
#include "dev/serial.h"
#include "dev/virtio_mmio.h"
#include "machine/bake.h"
#include "machine/machine.h"
#include "machine/park.h"
#include "machine/ram.h"
#include "machine/snapshot_memory.h"
#include "machine/vcpu.h"
#include "snap/stream.h"

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
    bool bound; /* machine_bind_lines() was called */
    bool ended; /* config.ops->ended was called */
    /* /proc/self/pagemap and clear_refs, which cannot be opened once the process is shut in; -1: not to be had */
    int pagemap_fd, clear_refs_fd;
    struct origin origin;          /* the snapshot it was restored from */
    uint64_t mapped_ns, loaded_ns; /* CLOCK_MONOTONIC: when its memory was there, and its state */
    struct live *live;             /* the live save that is under way; NULL: none */
    atomic_uint listeners;         /* ports on which the guest has said to listen */
    struct park park;
    struct bake bake;
    struct loop_timer patience; /* with a restored guest that does not say that it is renewed */
};

/* Interrupts, then doorbells: the last step of building. Twice is once. */
int machine_bind_lines(struct machine *m, struct sm_error *err);

/* --- snapshot.c: the machine stands still --- */

void machine_pause_devices(struct machine *m);
void machine_resume_devices(struct machine *m);

/* All state but memory, into a fresh stream; or from the state file. */
int machine_save_state(struct machine *m, struct snap_stream *s, struct sm_error *err);
int machine_load_state(struct machine *m, int state_fd, struct sm_error *err);

/* What a save writes beside memory; `runs` for a diff (MACHINE_SAVE_DIFF) only. */
int machine_write_lists(const struct snap_stream *s, const struct snap_runs *runs, const struct machine_files *files,
                        unsigned flags, struct sm_error *err);

/* Before its first vCPU runs: it is a clone. */
int machine_tell_clone(struct machine *m, const uint8_t generation[MACHINE_GENERATION_SIZE], struct sm_error *err);

/* --- live.c --- */

/* The machine has ended: so has a live save, which says so. */
void live_ended(struct machine *m);

#endif
