/* SPDX-License-Identifier: Apache-2.0 */
/* Inside a machine: what vm.c, exec.c and their tests share. */
#ifndef SM_LIB_VM_H
#define SM_LIB_VM_H

#include <stdbool.h>

#include "base/list.h"
#include "base/loop.h"
#include "lib/agent.h"
#include "lib/image.h"
#include "lib/worker.h"

#define VM_NAME_MAX     63
#define VM_HOSTNAME_MAX 63

/*
 * A connection to the guest's agent. The first one carries the guest's set-up and then the first command, so that
 * neither waits for the other's answer. Freed by its owner: the machine (vm->first) or the command.
 */
struct link {
    struct sm_vm *vm;
    struct agent *agent;
    struct sm_exec *exec; /* NULL: none yet */
};

struct sm_vm {
    struct sm_image *image;
    struct loop *loop;
    struct worker *worker;
    struct link *first;
    struct list execs;
    char name[VM_NAME_MAX + 1], hostname[VM_HOSTNAME_MAX + 1];
    void (*console)(void *ctx, const char *data, size_t len);
    void *console_ctx;
    uint64_t started_ns, ready_ns;
    uint32_t vcpus;
    bool agent_ready;
    bool set_up;           /* the agent has said so; asked for by the first connection */
    bool stopping;         /* by sm_vm_stop(): the end is no surprise */
    struct sm_error ended; /* .code set once the machine has ended: said by every later call */
};

/*
 * Wait until the guest is set up. Only the first connection may go on without: its requests are done in order, on all
 * others a command would be refused; and it must not be closed before. 0 or -errno.
 */
int vm_await_set_up(struct sm_vm *vm, struct sm_error *err);

/* A new connection to the agent, for `exec` (may be NULL). Does not wait. */
int vm_connect(struct sm_vm *vm, struct sm_exec *exec, struct link **ret, struct sm_error *err);
void link_free(struct link *link);

/* The machine has ended, or can't be used any more: tells all commands. The first reason is kept. */
void vm_fail(struct sm_vm *vm, const struct sm_error *why);

/* Why it has ended, as -errno and a sentence; 0: it has not. */
int vm_ended(const struct sm_vm *vm, struct sm_error *err);

/* One round of the loop. 0 or -errno of the loop itself. SIGPIPE is held off meanwhile. */
int vm_round(struct sm_vm *vm, int timeout_ms, struct sm_error *err);

/* exec.c, called by the machine and by its connections. */
extern const struct agent_ops exec_agent_ops;
void exec_vm_ended(struct sm_exec *exec, const struct sm_error *why);
struct sm_exec *exec_of_node(struct list *node);

#endif
