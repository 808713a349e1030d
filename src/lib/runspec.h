/* SPDX-License-Identifier: Apache-2.0 */
/* What to run: an image's configuration and what the caller wants instead, put together by Docker's rules. */
#ifndef SM_LIB_RUNSPEC_H
#define SM_LIB_RUNSPEC_H

#include <stdbool.h>

#include "lib/strv.h"
#include "oci/image.h"

/* Fields as in struct sm_exec_config. Without `hostname` the environment has no HOSTNAME. */
struct runspec_request {
    const char *const *args, *const *entrypoint, *const *cmd, *const *env;
    const char *cwd, *user;
    const char *hostname;
    bool tty;
};

struct runspec {
    struct strv argv, env; /* argv is never empty */
    char *cwd, *user;      /* never NULL; user may be "" (root) */
};

/* -EINVAL when there is nothing to run or the directory is not absolute, -E2BIG over the limits, -ENOMEM. */
int runspec_build(struct runspec *ret, const struct oci_config *image, const struct runspec_request *req,
                  struct sm_error *err);
void runspec_done(struct runspec *spec); /* also of a zeroed one */

/* What `c` asks for, without hostname and terminal. Points at what `c` points at. */
struct runspec_request runspec_request_of(const struct sm_exec_config *c);

/* The same command, environment, directory and user. */
bool runspec_equal(const struct runspec *a, const struct runspec *b);

/* "SIGTERM", "TERM", "sigrtmin+3", "15" -> its number by Linux; -EINVAL when it is none. "" is SIGTERM. */
int runspec_signal(const char *name);

#endif
