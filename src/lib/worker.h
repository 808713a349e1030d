/* SPDX-License-Identifier: Apache-2.0 */
/* A worker process: started, asked over the control socket (proto/control.h), reaped. */
#ifndef SM_LIB_WORKER_H
#define SM_LIB_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "proto/control.h"

struct worker;

/* Callbacks come from the loop. They may send requests, but neither await nor free. */
struct worker_ops {
    void (*lifecycle)(void *ctx, uint32_t kind, uint64_t arg);
    void (*console)(void *ctx, const char *data, size_t len);
    void (*ended)(void *ctx);                                    /* once; worker_error() says why */
    void (*baked)(void *ctx, const struct control_baked *baked); /* once, after BAKE; NULL: nobody bakes */
};

/* $SUPERMACHINE_TRACE is 1: workers write to our stderr, and log accesses that nobody answers (CONTROL_CONFIG_TRACE).
 */
bool worker_traced(void);

/* Start `path`. The loop, `ops` and `ctx` must outlive the worker. */
int worker_spawn(struct worker **ret, struct loop *loop, const char *path, const struct worker_ops *ops, void *ctx,
                 struct sm_error *err);

/* The same from a socket that something else answers: for tests. Takes `sock`. */
int worker_attach(struct worker **ret, struct loop *loop, int sock, const struct worker_ops *ops, void *ctx,
                  struct sm_error *err);

/* Kills and reaps. Takes NULL. */
void worker_free(struct worker *w);

/* A pipe whose write end (owned by the worker object, closed with its sending) gives ops.console its bytes. */
int worker_console_pipe(struct worker *w, int *ret_fd, struct sm_error *err);

/*
 * Send a request (its id is set here); descriptors stay the caller's. worker_await() must be called for it, unless
 * `forget`: then a failure is only kept for worker_last_refusal().
 * Returns 0 and the id, or -errno: the worker is gone, or too many requests wait for an answer.
 */
int worker_send(struct worker *w, struct control_request *req, const int *fds, unsigned n_fds, bool forget,
                uint32_t *ret_id, struct sm_error *err);

/*
 * Run the loop until the reply is there. A reply other than `want` (CONTROL_OK, ...) is an error, ERROR replies with
 * their sentence. On success the report is the caller's (control_report_done); `ret` may be NULL.
 */
int worker_await(struct worker *w, uint32_t id, enum control_report_type want, struct control_report *ret,
                 struct sm_error *err);

/* Why a forgotten request was refused, "" when none was. */
const char *worker_last_refusal(const struct worker *w);

bool worker_ended(const struct worker *w);

/* How it ended: fills the sentence in (with the console's tail where that helps) and returns its -errno. */
int worker_error(const struct worker *w, struct sm_error *err);

/* The guest's console as EXITED brought it; NULL and 0 before. */
const char *worker_console(const struct worker *w, size_t *ret_len);

int worker_pid(const struct worker *w); /* 0: attached */

/* Kill and reap it now; harmless when it has gone. `ended` is not called. */
void worker_kill(struct worker *w);

/* Has the process gone? Waits at most `timeout_ms`. */
bool worker_wait_gone(struct worker *w, int timeout_ms);

/*
 * The console's last lines as one line for a sentence, control characters replaced: at most `size` - 1 bytes, "" when
 * there is nothing but space.
 */
void worker_tail_text(const char *console, size_t len, char *buf, size_t size);

#endif
