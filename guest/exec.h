/* SPDX-License-Identifier: Apache-2.0 */
/* One exec: a process of the image, its streams and its end, on one connection. */
#ifndef GUEST_EXEC_H
#define GUEST_EXEC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "conn.h"
#include "request.h"

/* A killed process that is not gone by then is reported anyway. */
#define GA_KILL_GRACE_NS (2ull * 1000 * 1000 * 1000)

#define GA_MAX_SIGNAL 64u /* _NSIG of Linux */

struct ga_exec;

/*
 * Start `req` for `conn`, which outlives the exec or its place there. `cgroup_parent` is -1 or where group `id` is
 * made. NULL: START_ERROR has been sent.
 */
struct ga_exec *ga_exec_start(struct ga_conn *conn, const struct ga_exec_req *req, int cgroup_parent, uint64_t id);

/* A frame of the host. 0, or -EPROTO with a sentence. */
int ga_exec_frame(struct ga_exec *x, uint32_t type, const uint8_t *data, size_t len, struct ga_error *err);

/* The connection has room for output again. */
void ga_exec_room(struct ga_exec *x);

/* To its main process, if that runs. */
void ga_exec_signal(struct ga_exec *x, int signo);

/* The process that it started; 0 once it has been reaped. */
pid_t ga_exec_pid(const struct ga_exec *x);
uint64_t ga_exec_id(const struct ga_exec *x);
bool ga_exec_is_workload(const struct ga_exec *x);
bool ga_exec_is_detached(const struct ga_exec *x);

/* Its process has not ended. */
bool ga_exec_running(const struct ga_exec *x);

/* wait4() has returned its process. False: that was no program of the image, since it did not start. */
bool ga_exec_reaped(struct ga_exec *x, int status, const struct rusage *ru);

/* When ga_exec_tick() is due; 0: never. */
uint64_t ga_exec_deadline(const struct ga_exec *x);
void ga_exec_tick(struct ga_exec *x, uint64_t now);

/* EXITED or START_ERROR has been sent, or waits for a connection: nothing happens any more. */
bool ga_exec_ended(const struct ga_exec *x);

/* Its connection is gone, and it goes on. Then another one, which gets what has not been read yet, or its end. */
void ga_exec_detach(struct ga_exec *x);
void ga_exec_attach(struct ga_exec *x, struct ga_conn *conn);

/* Kills all of it that still runs, unless it ended by itself. Takes NULL. */
void ga_exec_free(struct ga_exec *x);

#endif
