/* SPDX-License-Identifier: Apache-2.0 */
/* vCPU threads and their run loop (spec of a worker's vCPU: stop is looked at before each entry; every exit counts). */
#ifndef SM_MACHINE_VCPU_H
#define SM_MACHINE_VCPU_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "dev/mem.h"
#include "hv/hv.h"
#include "machine/bus.h"
#include "machine/events.h"
#include "machine/profile.h"

#define VCPU_STACK_SIZE (256 * 1024) /* address space; what is not touched costs nothing */

struct vcpu;

/* Work on a vCPU's state, to be done on its thread (machine/coord.h). */
struct vcpu_task {
    struct vcpu *vcpu;
    int (*fn)(struct vcpu *v, void *ctx, struct sm_error *err);
    void *ctx;
    struct sm_error *err;
    int result;
};

/* What the vCPUs of a machine share. Set up before the first thread; then only the atomics and what `lock` guards
 * change. */
struct vcpu_group {
    const struct hv *hv;
    struct bus mmio, pio;
    const struct guest_mem *mem; /* NULL: not looked at */
    struct events *events;
    int wake_fd; /* eventfd, the loop's: an event was posted or the run is over */
    int (*thread_init)(void *ctx, struct sm_error *err);
    void (*trace)(void *ctx, const char *line);
    void *ctx;
    unsigned trace_max;

    atomic_bool stop, pause;
    atomic_bool hold; /* all but the first wait, for vcpus_release_others() */
    atomic_uint traced;
    atomic_uint_fast64_t first_entry_ns, first_exit_ns; /* of vCPU 0 */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned ready; /* threads that have been through thread_init */
    bool go;        /* they may enter the guest, or leave when `stop` is set */
    int init_error; /* of the first thread that failed */
    struct sm_error *init_err;
    unsigned resting, gone; /* threads at a rendezvous; threads that have left their run loop */
    struct vcpu_task *task; /* the one to be done; NULL: none */
    unsigned pauses;        /* rendezvous that have been asked for and not given back; the loop's */
};

struct vcpu {
    struct vcpu_group *group;
    struct hv_vcpu *hv;
    unsigned index;
    pthread_t thread;
    bool has_thread;
    atomic_bool asking;      /* it waits, out of the guest, for vcpus_answer() */
    struct profile *profile; /* NULL: off */
    atomic_uint_fast64_t exits[HV_EXIT_KINDS];
};

void vcpu_group_init(struct vcpu_group *g);
void vcpu_group_done(struct vcpu_group *g);

/* The run is over: tell the vCPUs and the loop. Any thread; the first one counts. */
void vcpu_group_end(struct vcpu_group *g, enum machine_end end, const char *prefix, const char *text, size_t len);

/* Wake the loop up. Any thread. */
void vcpu_group_wake(struct vcpu_group *g);

/* Start a thread for each and wait until all have been through thread_init. */
int vcpus_spawn(struct vcpu *vcpus, unsigned n, struct sm_error *err);

/* Let them run. */
void vcpus_go(struct vcpu_group *g);

/* Where group->hold was set before vcpus_go(): the others, too. Any thread; twice is once. */
void vcpus_release_others(struct vcpu_group *g);

/*
 * On a vCPU's thread, while it carries out an exit: it is not to run on before the loop has looked at what it said.
 * Then vcpus_asking() has its bit, and vcpus_answer() lets all in `mask` go on.
 */
void vcpu_ask(struct vcpu *v);
unsigned vcpus_asking(const struct vcpu *vcpus, unsigned n);
void vcpus_answer(struct vcpu *vcpus, unsigned n, unsigned mask);

/* After vcpu_group_end: force all out of the guest and wait for their threads. */
void vcpus_join(struct vcpu *vcpus, unsigned n);

/* Enter once and carry out the exit, whose kind it tells: 0 to go on, 1 to leave the loop. On the vCPU's thread. */
int vcpu_run_once(struct vcpu *v, enum hv_exit_kind *ret_kind);

/* Carry out one exit: 0 to go on, 1 to leave the loop. For tests; the run loop calls it. */
int vcpu_handle_exit(struct vcpu *v, const struct hv_exit *e);

#endif
