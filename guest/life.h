/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's life: what it is told of its restores, and what it tells the host while it lives (heartbeats, listening
 * ports, and whatever ga_life_tell() is given).
 */
#ifndef GUEST_LIFE_H
#define GUEST_LIFE_H

#include "identity.h"
#include "loop.h"

struct ga_listeners;

/* What only PID 1 can do, so that everything else runs in unit tests. `ctx` is the owner's. */
struct ga_server_ops {
    /*
     * Make the image's root this process's. `ret_cgroup` is an open directory for the execs' control groups, or -1;
     * `ret_root` the image's root, where the agent may write whatever programs may, or -1. The caller closes both.
     * 0, or -errno with a sentence. Called at most once with success.
     */
    int (*setup)(void *ctx, const struct ga_setup *setup, int *ret_cgroup, int *ret_root, struct ga_error *err);

    /* AGENT_POWER_*. Returns only when it did not work: -errno with a sentence. */
    int (*power)(void *ctx, uint32_t how, struct ga_error *err);

    /* SM_LC_EV_* to the host. NULL: nothing is told. */
    void (*event)(void *ctx, uint32_t kind, uint64_t arg);

    /* The kernel's host name. NULL: it stays. 0 or -errno. */
    int (*set_hostname)(void *ctx, const char *name);
};

struct ga_life {
    struct ga_loop *loop;
    const struct ga_server_ops *ops;
    void *ctx;
    struct ga_identity id;
    struct ga_source notices, heartbeat;
    struct ga_listeners *listeners;
    uint64_t beats;
    bool signalled; /* the execs have had the signal of this generation's RENEW */
};

void ga_life_init(struct ga_life *l, struct ga_loop *loop, const struct ga_server_ops *ops, void *ctx);
void ga_life_done(struct ga_life *l);

/* Takes a descriptor that gives struct sm_lc_notice and does not block. 0 or -errno. */
int ga_life_watch(struct ga_life *l, int fd);

/* The notices that are there already count before a SETUP. */
void ga_life_catch_up(struct ga_life *l);

/* SETUP is done. `root` and `cgroup` as above; they stay the caller's, open until ga_life_done(). */
void ga_life_setup(struct ga_life *l, const struct ga_setup *setup, int root, int cgroup);

/* A RENEW's payload. `ret_signal` is what the execs shall get, 0 for nothing. 0, or -errno with a sentence. */
int ga_life_renew(struct ga_life *l, const uint8_t *data, size_t len, int *ret_signal, struct ga_error *err);

/* An event to the host. */
void ga_life_tell(struct ga_life *l, uint32_t kind, uint64_t arg);

#endif
