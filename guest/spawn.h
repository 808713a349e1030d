/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting a process of the image: fork, become the asked user in the asked directory with the asked limits, execve.
 *
 * Everything that touches the image's files happens in the child, so that a hostile image (a FIFO for /etc/passwd, a
 * dead FUSE mount) hangs the exec and not the agent. What fails there comes back as one record over a close-on-exec
 * pipe; end of file without a record means that execve has happened.
 */
#ifndef GUEST_SPAWN_H
#define GUEST_SPAWN_H

#include <sys/types.h>

#include "request.h"

struct ga_start_record {
    uint32_t reason; /* AGENT_START_* */
    uint32_t code;   /* errno */
    char text[AGENT_MAX_TEXT];
};

struct ga_spawn {
    const struct ga_exec_req *req;
    int stdio[3]; /* the child's; the caller's to close. With a terminal all three are the same */
    int cgroup;   /* directory of the control group to be born in, or -1 */
    int report;   /* write end of the pipe */
};

/* The child's pid, or -errno. */
pid_t ga_spawn(const struct ga_spawn *sp);

/*
 * Where would execve find `name`: in `path` (as $PATH), unless it has a slash. 0 and the name in `ret` (`size` bytes),
 * or -ENOENT, or -EACCES when only files that may not be executed were found.
 */
int ga_find_program(const char *name, const char *path, char *ret, size_t size);

#endif
