/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One version 2 control group per exec, so that everything an exec started can be found and killed at once, however it
 * forked. Named by a number under a directory that stays open: whatever is later mounted over /sys does not matter.
 *
 * Where there is no such directory (unit tests on a host), `parent` is -1 and every function does nothing.
 */
#ifndef GUEST_CGROUP_H
#define GUEST_CGROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Make `id` below `parent`. Returns its directory, open, or -errno. */
int ga_cgroup_make(int parent, uint64_t id);

/*
 * As fork(2), with the child in the group from its first instruction, and without what fork() does for threads: the
 * child soon execs. Entering by cgroup.procs is slow: it makes all processors wait for an RCU grace period, some
 * milliseconds. `dir` -1: an ordinary fork().
 */
pid_t ga_cgroup_fork(int dir);

/* SIGKILL for all that is in it. False when that was not possible. */
bool ga_cgroup_kill(int parent, uint64_t id);

/* Send `signo` to each process in it. False when the group could not be read. */
bool ga_cgroup_signal(int parent, uint64_t id, int signo);

/* Remove it. False while processes are still in it. */
bool ga_cgroup_remove(int parent, uint64_t id);

#endif
