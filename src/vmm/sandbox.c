/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker's sandbox, all but its system call filters (seccomp.c).
 *
 * Theory of operation
 *
 * The worker never opens anything: what it needs arrives as descriptors. So once its machine is built it can
 * give everything else away, in this order, before the first vCPU thread exists:
 *
 *   1. descriptors  at start: everything above the control socket is closed; 0 to 2 are the null device if not open
 *   2. rlimits      no core file (it would hold the guest's memory), a bounded number of descriptors
 *   3. namespaces   user, mount, network, IPC, UTS. Without a user namespace (forbidden by some hosts) those that the
 *                   process's own privileges allow
 *   4. root         an empty read-only tmpfs becomes the root directory; the host's tree is detached
 *   5. Landlock     no access to any file by any path, should one turn up
 *   6. capabilities none in any set, bounding set included
 *   7. no_new_privs and not dumpable: nobody of the same user may attach to it or read its memory through /proc
 *   8. seccomp      each vCPU thread, then the main thread
 *
 * There is no PID namespace: a process enters one only by having a child there, so it would cost a second process for
 * each machine; the filters have no call that names another process. Nor PR_SET_PDEATHSIG: it fires when the
 * *thread* that started the worker ends, which a library can't know of its caller. The worker watches a pidfd of its
 * owner instead (server.c), beside the control socket.
 *
 * Steps 3 to 5 depend on the host; what took effect is reported in STATS.
 */
#include "vmm/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/error.h"
#include "proto/control.h"

int sandbox_descriptors(int last_fd, struct sm_error *err)
{
    for (int fd = 0; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            return sm_error_sys(err, errno, "cannot open /dev/null");
    if (close_range((unsigned)last_fd + 1, ~0u, 0) < 0)
        return sm_error_sys(err, errno, "cannot close stray descriptors");
    return 0;
}

static int limit_resources(uint32_t *steps, struct sm_error *err)
{
    const struct rlimit none = {0, 0};
    struct rlimit files;

    if (setrlimit(RLIMIT_CORE, &none) < 0 || getrlimit(RLIMIT_NOFILE, &files) < 0)
        return sm_error_sys(err, errno, "cannot set resource limits");
    if (files.rlim_max > SANDBOX_MAX_FDS)
        files.rlim_max = SANDBOX_MAX_FDS;
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files) < 0)
        return sm_error_sys(err, errno, "cannot limit descriptors");
    *steps |= CONTROL_SANDBOX_RLIMITS;
    return 0;
}

struct ns {
    int flag;
    uint32_t step;
};

static const struct ns namespaces[] = {
    {CLONE_NEWNET, CONTROL_SANDBOX_NETNS},
    {CLONE_NEWIPC, CONTROL_SANDBOX_IPCNS},
    {CLONE_NEWUTS, CONTROL_SANDBOX_UTSNS},
};

/* True when there is a mount namespace of our own. */
static bool leave_namespaces(uint32_t *steps)
{
    /* The user namespace comes first: inside it the others need no privilege of the host. */
    if (unshare(CLONE_NEWUSER) == 0)
        *steps |= CONTROL_SANDBOX_USERNS;
    for (size_t i = 0; i < ARRAY_SIZE(namespaces); i++)
        if (unshare(namespaces[i].flag) == 0)
            *steps |= namespaces[i].step;
    return unshare(CLONE_NEWNS) == 0;
}

/* An empty, read-only root. Any directory serves to mount it on, for nothing of it is seen by others. */
static void leave_files(uint32_t *steps)
{
    static const char *const places[] = {"/tmp", "/run", "/proc", "/dev"};
    size_t i = 0;

    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return;
    while (i < ARRAY_SIZE(places) && mount("none", places[i], "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY,
                                           "size=4k,nr_inodes=1,mode=0555") < 0)
        i++;
    if (i == ARRAY_SIZE(places) || chdir(places[i]) < 0)
        return;
    /* New root over the old one, then the old one goes: pivot_root(2), "pivot_root(\".\", \".\")". */
    if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
        return;
    *steps |= CONTROL_SANDBOX_MOUNTNS;
}

/* Landlock with no rule at all: every right it knows is denied everywhere. Rights grew with its versions. */
static void deny_paths(uint32_t *steps)
{
    static const uint64_t rights[] = {
        0, (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1, /* version 1 */
        (1ull << 14) - 1,                          /* 2: REFER */
        (1ull << 15) - 1,                          /* 3: TRUNCATE */
    };
    struct landlock_ruleset_attr attr = {0};
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

    if (version < 1)
        return;
    if (version >= (long)ARRAY_SIZE(rights))
        version = (long)ARRAY_SIZE(rights) - 1;
    attr.handled_access_fs = rights[version];
    /* Only the first field: newer kernels take the shorter struct. */
    int fd = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr.handled_access_fs), 0);
    if (fd < 0)
        return;
    if (syscall(SYS_landlock_restrict_self, fd, 0) == 0)
        *steps |= CONTROL_SANDBOX_LANDLOCK;
    close(fd);
}

static int drop_capabilities(uint32_t *steps, struct sm_error *err)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {0};

    /* Without CAP_SETPCAP these fail, and then the bounding set has no meaning: no_new_privs keeps it unused. */
    for (unsigned long cap = 0; cap < 64; cap++)
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
            break;
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (syscall(SYS_capset, &head, none) < 0)
        return sm_error_sys(err, errno, "cannot drop capabilities");
    *steps |= CONTROL_SANDBOX_CAPS;
    return 0;
}

int sandbox_enter(uint32_t *steps, struct sm_error *err)
{
    int r = limit_resources(steps, err);

    if (r < 0)
        return r;
    *steps |= CONTROL_SANDBOX_FDS; /* done at the start */
    umask(077);
    if (leave_namespaces(steps))
        leave_files(steps);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return sm_error_sys(err, errno, "cannot set no_new_privs");
    *steps |= CONTROL_SANDBOX_NONEWPRIV;
    deny_paths(steps); /* needs no_new_privs, and mounts nothing afterwards */
    r = drop_capabilities(steps, err);
    if (r < 0)
        return r;
    /* After the changes of credentials, which set it back. */
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return sm_error_sys(err, errno, "cannot forbid dumps");
    *steps |= CONTROL_SANDBOX_NODUMP;
    return 0;
}
