/* SPDX-License-Identifier: Apache-2.0 */
/* Control groups of execs: see cgroup.h. */
#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NAME_SIZE 48

static void group_name(char name[NAME_SIZE], uint64_t id, const char *file)
{
    snprintf(name, NAME_SIZE, "%" PRIu64 "%s%s", id, *file ? "/" : "", file);
}

int ga_cgroup_make(int parent, uint64_t id)
{
    char name[NAME_SIZE];

    if (parent < 0)
        return -ENOENT;
    group_name(name, id, "");
    if (mkdirat(parent, name, 0755) < 0)
        return -errno;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        int r = -errno;

        ga_cgroup_remove(parent, id);
        return r;
    }
    return fd;
}

/* The slow way, of kernels that lack the other. A child that cannot enter must not run. */
static void enter(int dir)
{
    int fd = openat(dir, "cgroup.procs", O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, "0", 1) != 1)
        _exit(124);
    close(fd);
}

pid_t ga_cgroup_fork(int dir)
{
    struct clone_args how = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)dir};
    pid_t pid;

    if (dir < 0)
        return fork();
    pid = (pid_t)syscall(SYS_clone3, &how, sizeof(how));
    if (pid >= 0 || errno != ENOSYS)
        return pid;
    pid = fork();
    if (pid == 0)
        enter(dir);
    return pid;
}

bool ga_cgroup_kill(int parent, uint64_t id)
{
    char name[NAME_SIZE];

    if (parent < 0)
        return false;
    group_name(name, id, "cgroup.kill");
    int fd = openat(parent, name, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool ok = write(fd, "1", 1) == 1;
    close(fd);
    return ok;
}

bool ga_cgroup_signal(int parent, uint64_t id, int signo)
{
    char name[NAME_SIZE];

    if (parent < 0)
        return false;
    group_name(name, id, "cgroup.procs");
    int fd = openat(parent, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    FILE *f = fdopen(fd, "r");
    if (!f) {
        close(fd);
        return false;
    }
    long pid;
    /* 0 would be a process of another pid namespace, and would mean our own group to kill(). */
    while (fscanf(f, "%ld", &pid) == 1)
        if (pid > 1)
            kill((pid_t)pid, signo);
    fclose(f);
    return true;
}

bool ga_cgroup_remove(int parent, uint64_t id)
{
    char name[NAME_SIZE];

    if (parent < 0)
        return true;
    group_name(name, id, "");
    return unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno != EBUSY;
}
