/* SPDX-License-Identifier: Apache-2.0 */
/* Control groups of execs: see cgroup.h. */
#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
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
    group_name(name, id, "cgroup.procs");
    int fd = openat(parent, name, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        int r = -errno;

        ga_cgroup_remove(parent, id);
        return r;
    }
    return fd;
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
