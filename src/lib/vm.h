/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside a machine: what the files that start, run, bake and save it share, and their tests.
 *
 *     vm.c           what a machine is: its worker's word, connections, running, figures, the end
 *     vm_config.c    its configuration, checked
 *     vm_launch.c    its worker: configured, and told to boot or to restore
 *     vm_start.c     the public ways to start one, but:
 *     vm_restore.c   from a snapshot that was named
 *     vm_snapshot.c  what is done with one that runs: saved, put back, its touched pages written down
 *     vm_prepared.c  workers that wait
 *     bake.c, bake_plan.c, base.c   images' snapshots: bake.h
 *     exec.c         commands
 */
#ifndef SM_LIB_VM_H
#define SM_LIB_VM_H

#include <stdbool.h>

#include "base/list.h"
#include "base/loop.h"
#include "lib/agent.h"
#include "lib/image.h"
#include "lib/runspec.h"
#include "lib/snapshots.h"
#include "lib/worker.h"

#define VM_NAME_MAX     63
#define VM_HOSTNAME_MAX 63

#define VM_PLATFORM_SIZE 96

/*
 * A connection to the guest's agent. The first one carries the guest's set-up, or its renewal, and then the first
 * command, so that neither waits for the other's answer. Freed by its owner: the machine (first, spare) or the command.
 */
struct link {
    struct sm_vm *vm;
    struct agent *agent;
    struct sm_exec *exec; /* NULL: none yet */
};

/* How the worker says that a bake ended. */
struct vm_baked {
    bool come;
    struct control_baked report; /* .text is `text` */
    char text[SM_ERROR_TEXT_MAX];
};

struct sm_vm {
    struct sm_image *image;  /* NULL: of a base that is being made */
    struct oci_store *store; /* the image's, or that of whoever wants a base */
    struct loop *loop;
    struct worker *worker;
    uint32_t prepared_id; /* CONFIG of a prepared worker, without its answer so far; 0: not a prepared one */
    struct link *first;
    struct link *spare; /* of a command that has ended, for the next; or NULL */
    struct list execs;
    char name[VM_NAME_MAX + 1], hostname[VM_HOSTNAME_MAX + 1];
    void (*console)(void *ctx, const char *data, size_t len);
    void *console_ctx;
    int (*event)(void *ctx, const struct sm_vm_event *event);
    void *event_ctx;
    uint64_t started_ns, ready_ns;
    uint32_t memory_mib, vcpus, start_timeout_ms;
    int renew_signal;
    bool agent_ready;
    unsigned owed; /* requests on the first connection that are not answered yet: no other may overtake them */
    struct loop_timer answer; /* when they are not for too long */
    bool stopping;            /* by sm_vm_stop(): the end is no surprise */
    bool stays;               /* it was saved and stands still */
    struct vm_baked baked;
    enum sm_vm_origin origin;
    struct snapshot *from; /* what its worker has restored; NULL: it has booted */
    char kernel[SNAPSHOT_KEY_SIZE], initramfs[SNAPSHOT_KEY_SIZE]; /* sums of what it has booted, "": not known */
    char *kernel_args;
    char platform[VM_PLATFORM_SIZE]; /* of its image */
    bool settled;                    /* sm_vm_settle() has done its work */
    bool workload_waits;             /* it runs, for the command that wants the same */
    struct runspec workload;         /* what it is; .argv empty: there is none */
    struct sm_exec *workload_exec;   /* the command that has it, while that runs */
    bool workload_started;           /* the guest has said so, or that it will not be */
    unsigned execs_ended;
    struct remote *remote; /* NULL: other processes don't reach it */
    struct sm_error ended; /* .code set once the machine has ended: said by every later call */
};

/* ---- vm.c ---- */

/* An empty one, with its loop. sm_vm_free() takes it in any state. */
int vm_new(struct sm_vm **ret, struct sm_error *err);

/* Back to an empty one: its worker is killed. */
void vm_clear(struct sm_vm *vm);

extern const struct worker_ops vm_worker_ops;

/* Wait until nothing is owed on the first connection. 0 or -errno. */
int vm_await_first(struct sm_vm *vm, struct sm_error *err);

/* One more request is on its way there; when it is not answered by then, the machine is given up. */
void vm_owes(struct sm_vm *vm);

/* A new connection to the agent's port. Does not wait. */
int vm_dial(struct sm_vm *vm, const struct agent_ops *ops, void *ctx, struct agent **ret, struct sm_error *err);

/* The same for `exec` (may be NULL). */
int vm_connect(struct sm_vm *vm, struct sm_exec *exec, struct link **ret, struct sm_error *err);
void link_free(struct link *link);

/* The command on it has ended, or gives it up. May be NULL. */
void vm_give_back(struct sm_vm *vm, struct link *link);

/* The machine has ended, or can't be used any more: tells all commands. The first reason is kept; of one that is being
 * stopped that is the stop, and `why` may be NULL. */
void vm_fail(struct sm_vm *vm, const struct sm_error *why);

/* Why it has ended, as -errno and a sentence; 0: it has not. */
int vm_ended(const struct sm_vm *vm, struct sm_error *err);

/* One round of the loop. 0 or -errno of the loop itself. SIGPIPE is held off meanwhile. */
int vm_round(struct sm_vm *vm, int timeout_ms, struct sm_error *err);

/* Rounds until `*flag`, the machine's end or `deadline_ns`. 0 also at the last; or -errno. */
int vm_await(struct sm_vm *vm, const bool *flag, uint64_t deadline_ns, struct sm_error *err);

/* The worker knows files, not where they are: says what to do when their disk is full. */
void vm_advise_room(struct sm_error *err);

/* Ask the worker and wait for its answer; commands' streams move meanwhile. */
int vm_ask(struct sm_vm *vm, struct control_request *req, const int *fds, unsigned n_fds, enum control_report_type want,
           struct control_report *ret, struct sm_error *err);

/* Tell the owner what the start is at. -ECANCELED and a sentence when it wants no more. */
int vm_tell(struct sm_vm *vm, enum sm_vm_event_kind kind, const char *text, struct sm_error *err);

/* ---- vm_config.c ---- */

/* Copies (`given` may be NULL) and checks; what is left out gets its usual value. */
int vm_config_check(struct sm_vm_config *ret, const struct sm_vm_config *given, struct sm_error *err);

/* `vm` takes over what it needs all its life of a checked configuration. */
int vm_configure(struct sm_vm *vm, const struct sm_vm_config *config, struct sm_error *err);

/* ---- vm_launch.c ---- */

#define VM_GUEST_CID 3

/* Start the machine's worker, which needs nothing but `config->worker`. There must be a KVM for it. */
int launch_spawn(struct sm_vm *vm, const struct sm_vm_config *config, struct sm_error *err);

/* CONFIG that prepares a restore, its answer not awaited (vm->prepared_id). */
int launch_prepare(struct sm_vm *vm, const struct sm_vm_config *config, struct sm_error *err);

/* Boot it and wait for its agent. Its disk is the image, or, without one, what a base has. */
int launch_boot(struct sm_vm *vm, const struct sm_vm_config *config, struct sm_error *err);

/*
 * Restore it, open the first connection, and wait for the worker's word; the guest's is not awaited. *ret_bad: it is
 * the snapshot that is no good, and nothing else was found wrong. May be NULL.
 */
int launch_restore(struct sm_vm *vm, const struct sm_vm_config *config, struct snapshot *snapshot, bool *ret_bad,
                   struct sm_error *err);

/* An identity that no other clone has. Returns 0 or -errno. */
int launch_generation(uint8_t ret[CONTROL_GENERATION_SIZE], struct sm_error *err);

/* Set the guest up, on the first connection. */
int launch_setup(struct sm_vm *vm, const char *hostname, bool heartbeat, bool listeners, struct sm_error *err);

/* Tell the guest who it is now, on the first connection. */
int launch_renew(struct sm_vm *vm, const uint8_t generation[CONTROL_GENERATION_SIZE], struct sm_error *err);

/* ---- vm_start.c ---- */

/* An empty machine for this image, its worker on its way; a prepared one where that will do. */
int vm_begin(struct sm_vm **ret, struct sm_image *image, const struct sm_vm_config *config, struct sm_error *err);

/* The start has ended with `r`: *ret is the machine, or it is freed. Returns what the start returns. */
int vm_begun(struct sm_vm *vm, int r, struct sm_vm **ret, struct sm_error *err);

/* ---- vm_prepared.c ---- */

/* A machine with a worker that waits, for this configuration; NULL: none. */
struct sm_vm *prepared_take(struct sm_prepared *p, const struct sm_vm_config *config);

/* ---- exec.c ---- */

/* Called by the machine and by its connections. */
extern const struct agent_ops exec_agent_ops;
void exec_vm_ended(struct sm_exec *exec, const struct sm_error *why);
void exec_vm_rewound(struct sm_exec *exec); /* it ends as if killed */
struct sm_exec *exec_of_node(struct list *node);

#endif
