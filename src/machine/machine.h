/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine: memory, vCPUs, buses and devices, and the order in which they come and go.
 *
 * Calls, all from the loop's thread, in this order:
 *     machine_new, machine_add_virtio..., machine_boot or machine_restore, machine_spawn, machine_run,
 *     [machine_save...], [machine_stop], machine_free
 * or, to build it before its snapshot is known:
 *     machine_new, machine_add_virtio..., machine_prepare, machine_spawn, machine_restore, machine_run, ...
 * Between machine_boot and machine_spawn the process is still single-threaded and everything that needs opening or
 * mapping is open and mapped: the place to shut a sandbox.
 */
#ifndef SM_MACHINE_MACHINE_H
#define SM_MACHINE_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/loop.h"
#include "dev/virtio.h"
#include "hv/hv.h"
#include "machine/boot_pvh.h"
#include "machine/events.h"

#define MACHINE_MIN_MEMORY_MIB 32
#define MACHINE_MAX_MEMORY_MIB (64 * 1024)
#define MACHINE_MAX_TRACE      1000 /* lines; a guest must not fill a log */

struct machine;

struct machine_ops {
    /* On the loop's thread. False: can't be taken now; machine_deliver() offers it (or a newer one) again. */
    bool (*event)(void *ctx, uint32_t kind, uint64_t arg);
    /* On the loop's thread, once. All vCPU threads are gone. */
    void (*ended)(void *ctx, enum machine_end end, const char *text);
    /* On each new vCPU thread, before anything else; < 0: the machine does not run. */
    int (*vcpu_thread)(void *ctx, struct sm_error *err);
    /* On a vCPU thread: an access that nobody answers; one line without newline. NULL: nobody wants to know. */
    void (*trace)(void *ctx, const char *line);
    /* On a vCPU thread: a byte of console output. NULL likewise. */
    void (*console)(void *ctx, uint8_t byte);
};

struct machine_config {
    const struct hv *hv;
    int hv_fd; /* the caller's, open until machine_boot() has returned */
    struct loop *loop;
    uint32_t memory_mib, vcpus;
    bool profile; /* count and time exits by place */
    const struct machine_ops *ops;
    void *ctx;
};

struct machine_stats {
    uint64_t memory_bytes, events_lost;
    uint64_t first_entry_ns; /* CLOCK_MONOTONIC; 0: not yet */
    uint64_t first_exit_ns;
    uint64_t mapped_ns, loaded_ns; /* a snapshot's memory, its state */
    uint64_t exits[HV_EXIT_KINDS];
};

int machine_new(struct machine **ret, const struct machine_config *config, struct sm_error *err);

/* The next virtio slot gets `dev`, which is taken over, also on failure. */
int machine_add_virtio(struct machine *m, struct virtio_dev *dev, struct sm_error *err);

/* Load the kernel and bring the vCPUs to its entry. `extra` goes onto the command line. */
int machine_boot(struct machine *m, int kernel_fd, int initramfs_fd, const char *extra, bool verbose,
                 struct sm_error *err);

/* A snapshot's files. They stay the caller's, open and unmoved during the call; -1: none. */
struct machine_files {
    int state, memory;
    int diff;     /* list of the pages that `memory` holds; the others are in `base` */
    int base;     /* to restore from a diff: its base's memory */
    int prefetch; /* to restore: list of pages that are needed soon; may be missing */
};

/*
 * In the place of machine_boot: take the machine from a snapshot's files, which are only read. It must have been built
 * as the saved one was. The guest learns `generation`, its new identity, before its user code runs.
 */
#define MACHINE_GENERATION_SIZE 16
int machine_restore(struct machine *m, const struct machine_files *files,
                    const uint8_t generation[MACHINE_GENERATION_SIZE], struct sm_error *err);

#define MACHINE_SAVE_STAY (1u << 0) /* do not run on */
#define MACHINE_SAVE_DIFF (1u << 1) /* only what is not as in the snapshot it was restored from, or in its base */

struct machine_saved {
    uint64_t total_ns;
    uint64_t pause_ns;               /* in which no vCPU ran */
    uint64_t data_pages, zero_pages; /* written; looked at and left out */
    uint64_t live_pages;             /* written before the pause */
    uint32_t devices, listeners;     /* virtio devices; ports on which the guest has said to listen */
};

/*
 * Write a running machine to empty files, readable and writable: `state`, `memory`, of a diff `diff`. It stands still
 * meanwhile, and then runs on, or not. On failure it runs on. -ESHUTDOWN: its run has ended. -EBUSY: a live save is
 * under way. Nothing is made durable.
 */
int machine_save(struct machine *m, const struct machine_files *files, unsigned flags, struct machine_saved *ret,
                 struct sm_error *err);

/*
 * The same while it runs on: it stands still only for what was written meanwhile. `done` is called once, from the loop
 * or, where this host can't track writes and a plain save has to do, before this returns; the files are the machine's
 * to use until then. A machine that ends or is freed before that says -ESHUTDOWN. r < 0 at once: `done` is not called.
 */
typedef void machine_saved_fn(void *ctx, int r, const struct machine_saved *saved, struct sm_error *err);
int machine_save_live(struct machine *m, const struct machine_files *files, unsigned flags, machine_saved_fn *done,
                      void *ctx, struct sm_error *err);

/* Is a live save under way? Then it can neither be saved nor put back. */
bool machine_is_saving(const struct machine *m);

/* List the pages of a restored machine that were touched since, into the empty file `fd`: a prefetch list. */
int machine_touched(struct machine *m, int fd, struct sm_error *err);

/* Is this an address in guest memory? Of a machine that is built: looks at constant data only. */
bool machine_has_address(const struct machine *m, const void *host);

/* Has a file behind a restored machine's memory become too short for it? Then this is what its end is told with. */
bool machine_memory_cut(const struct machine *m);
#define MACHINE_CUT_SENTENCE                                                                                           \
    "the snapshot's memory file has been cut short under the running machine; make the snapshot anew"

/* All of building that needs no snapshot, where machine_restore() comes after machine_spawn(). */
int machine_prepare(struct machine *m, struct sm_error *err);

/* Make the vCPU threads; they wait. */
int machine_spawn(struct machine *m, struct sm_error *err);
void machine_run(struct machine *m);

/* Ask for the end; `ended` is called from the loop (at once by a machine that does not run). Twice is once. */
void machine_stop(struct machine *m);

/* Offer events again that `event` did not take. */
void machine_deliver(struct machine *m);

/* Waits for the threads. NULL and half-built machines are fine. */
void machine_free(struct machine *m);

size_t machine_console_tail(struct machine *m, char *buf, size_t max);
void machine_stats(struct machine *m, struct machine_stats *ret);
void machine_profile(struct machine *m, struct buf *out); /* text; nothing without config.profile */

#endif
