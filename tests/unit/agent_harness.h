/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Both ends of the agent protocol for unit tests: the agent's server in a process of its own, the library's client in
 * the test, socket pairs between them. The server's parts that need PID 1 are replaced: SETUP only makes a directory
 * for control groups where the host has them.
 */
#ifndef AGENT_HARNESS_H
#define AGENT_HARNESS_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/buf.h"
#include "lib/agent.h"

#define H_CONNS       12
#define H_DEADLINE_NS (30ull * 1000 * 1000 * 1000)

/* In the harness's root: what the kernel's host name was set to. */
#define H_HOSTNAME "kernel-hostname"

struct harness;

/* What the agent rang the lifecycle device with. */
struct h_event {
    uint32_t kind;
    uint64_t arg;
};

/* One connection and what has come over it. */
struct h_conn {
    struct harness *h;
    int fd; /* until an agent takes it */
    struct agent *agent;
    struct buf out[2]; /* stdout, stderr */
    bool hold;         /* take output without being done with it */
    size_t held[2];
    unsigned done;
    bool started, exited, start_failed, failed;
    uint32_t pid;
    struct agent_exit end;
    int exit_code;
    struct sm_error err;
    unsigned rooms; /* calls of on_stdin_room */
};

struct harness {
    struct loop *loop;
    pid_t server;
    struct h_conn conn[H_CONNS];
    bool late;
    char root[32]; /* a directory which is the image's root for PUT and for renewals; execs see the host's */
    int events, notices;
    bool has_cgroup;     /* the server found version 2 control groups */
    bool adopts_orphans; /* the server can be told to be like PID 1 */
};

/* A server with H_CONNS connections; with `setup`, the first has done SETUP already. */
void h_start(struct harness *h, bool setup);

/* SETUP over connection 0; root_device and root_fstype are replaced. */
void h_setup(struct harness *h, const struct agent_setup *setup);

/* Close all; the server must end by itself, without an error. */
void h_stop(struct harness *h);

/* Run the loop until *flag is set or `count` is reached; fails the test after the deadline. */
void h_wait(struct harness *h, const bool *flag);
void h_wait_count(struct harness *h, const unsigned *count, unsigned at_least);
void h_wait_bytes(struct harness *h, const struct buf *b, size_t at_least);

/* Wait for the agent's next event; is there one already? */
struct h_event h_event(struct harness *h);
bool h_has_event(struct harness *h);

/* The driver tells the agent SM_LC_INT_* bits. */
void h_notice(struct harness *h, uint32_t bits, const uint8_t generation[AGENT_GENERATION_SIZE]);

/* The host loses connection `c`. */
void h_drop(struct h_conn *c);

/* The client for connection `i`. */
struct h_conn *h_agent(struct harness *h, unsigned i);

/* Start `argv` on connection `i`; `spec` may be NULL, its argv is replaced. */
struct h_conn *h_exec(struct harness *h, unsigned i, const struct agent_exec *spec, const char *const *argv);

/* h_exec of `sh -c script`. */
struct h_conn *h_sh(struct harness *h, unsigned i, const struct agent_exec *spec, const char *script);

/* Wait for the end; it must have been an exit with `status` and (unless NULL) `out` on stdout. */
void h_expect(struct h_conn *c, int status, const char *out);

/* Forget what has come over it: the next exec on it begins. */
void h_again(struct h_conn *c);

/* What has come on stdout (0) or stderr (1) as a string. */
const char *h_text(struct h_conn *c, int stream);

#endif
