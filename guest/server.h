/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's server: accepts the host's connections, answers control requests, starts execs, reaps every child of this
 * process. What only PID 1 can do (mounts, power) is behind two functions, so that everything else runs in unit tests.
 */
#ifndef GUEST_SERVER_H
#define GUEST_SERVER_H

#include <stdbool.h>

#include "life.h"
#include "request.h"

struct ga_server;

/*
 * From here on SIGCHLD is blocked and SIGPIPE ignored in this process, and all its children are reaped by the server.
 * `ready`: execs are served without a SETUP before. 0 or -errno.
 */
int ga_server_new(const struct ga_server_ops *ops, void *ctx, bool ready, struct ga_server **ret);
void ga_server_free(struct ga_server *s);

/* Takes a listening vsock descriptor. Only the host may connect. 0 or -errno. */
int ga_server_listen(struct ga_server *s, int fd);

/* Takes a connected stream descriptor. 0 or -errno (-EMFILE: AGENT_MAX_CONNECTIONS). */
int ga_server_adopt(struct ga_server *s, int fd);

/* Takes a descriptor of the lifecycle device, which does not block: notices of restores come from it. 0 or -errno. */
int ga_server_watch(struct ga_server *s, int fd);

/* Serve, until there is no connection any more when `until_idle`. Otherwise returns only -errno. */
int ga_server_run(struct ga_server *s, bool until_idle);

#endif
