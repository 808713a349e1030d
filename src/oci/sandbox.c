/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The forked process: the one file of this area that sees libseccomp.
 *
 * Theory of operation
 *
 * What: sandbox_start forks. The child, in this order: 1. dies with its parent; 2. takes default signal actions;
 * 3. closes every descriptor it was not given; 4. limits memory, time, file size, and turns core dumps off; 5. installs
 * a system call filter (which sets no-new-privileges); 6. runs the function; 7. writes the result to a pipe and leaves
 * with _exit. A call that is not on the list kills it; opening files fails, because the C library looks for
 * conversion tables and does without.
 *
 * The result is a bounded message, checked when it is read: a child that was taken over can lie about its work, so
 * whatever it made is read back as hostile input, and digests are computed on this side.
 *
 * Threads: the caller may be one of several. After fork the child uses malloc, which glibc keeps usable.
 */
#include "oci/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/io.h"

struct status {
    int32_t code; /* 0 or a positive errno value */
    char text[SM_ERROR_TEXT_MAX];
};

/* What decompressing, reading a tar and hashing need. */
static const int allowed[] = {
    /* the descriptors it was given */
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(writev),
    SCMP_SYS(lseek),
    SCMP_SYS(ftruncate),
    SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(close),
    /* malloc and the hash library's locks */
    SCMP_SYS(brk),
    SCMP_SYS(mmap),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(mprotect),
    SCMP_SYS(futex),
    SCMP_SYS(getrandom),
    /* time stamps, signals and the end */
    SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(exit_group),
    SCMP_SYS(exit),
    SCMP_SYS(restart_syscall),
#ifdef SANDBOX_SANITIZED
    SCMP_SYS(sigaltstack),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(sched_yield),
    SCMP_SYS(readlink),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(tgkill),
#endif
};

static int install_filter(void)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int r = ctx ? 0 : -ENOMEM;

    for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(allowed); i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i], 0);
    if (r >= 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOENT), SCMP_SYS(openat), 0);
    if (r >= 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOENT), SCMP_SYS(open), 0);
    if (r >= 0)
        r = seccomp_load(ctx);
    seccomp_release(ctx);
    return r;
}

/* At the soft limit of time comes a signal that tells why, at the hard one SIGKILL: hence one more. */
static int set_limit(__rlimit_resource_t what, uint64_t value)
{
    struct rlimit old, lim;

    if (getrlimit(what, &old) < 0)
        return -errno;
    if (old.rlim_max != RLIM_INFINITY && value >= old.rlim_max)
        value = old.rlim_max ? old.rlim_max - 1 : 0;
    lim = (struct rlimit){.rlim_cur = value, .rlim_max = value + 1};
    return setrlimit(what, &lim) < 0 ? -errno : 0;
}

/* Bytes of address space in use, which fork hands on. */
static uint64_t mapped_bytes(void)
{
    unsigned long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    if (f) {
        if (fscanf(f, "%llu", &pages) != 1)
            pages = 0;
        fclose(f);
    }
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static int compare_ints(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static void close_others(const int *keep, unsigned n)
{
    unsigned from = 0;

    for (unsigned i = 0; i < n; i++) {
        if ((unsigned)keep[i] > from)
            close_range(from, (unsigned)keep[i] - 1, 0);
        from = (unsigned)keep[i] + 1;
    }
    close_range(from, ~0u, 0);
}

static int confine(const struct sandbox_limits *limits, uint64_t mapped, pid_t parent)
{
    int r;

    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return -errno;
    if (getppid() != parent)
        _exit(1);
    for (int sig = 1; sig < NSIG; sig++)
        signal(sig, sig == SIGPIPE || sig == SIGXFSZ ? SIG_IGN : SIG_DFL);
    r = set_limit(RLIMIT_CORE, 0);
#ifndef SANDBOX_SANITIZED
    if (r >= 0 && mapped)
        r = set_limit(RLIMIT_AS, mapped + limits->memory);
#else
    (void)mapped;
#endif
    if (r >= 0)
        r = set_limit(RLIMIT_CPU, limits->seconds);
    if (r >= 0)
        r = set_limit(RLIMIT_FSIZE, limits->file_size);
    return r < 0 ? r : install_filter();
}

int sandbox_start(struct sandbox *ret, const struct sandbox_limits *limits, const int *fds, unsigned n_fds,
                  int (*fn)(void *ctx, struct sm_error *err), void *ctx, struct sm_error *err)
{
    struct status status = {.code = 0};
    struct sm_error child_err = SM_ERROR_INIT;
    uint64_t mapped = mapped_bytes();
    pid_t parent = getpid(), pid;
    int keep[SANDBOX_MAX_FDS + 2], fd[2], r;

    if (pipe2(fd, O_CLOEXEC) < 0)
        return sm_error_sys(err, errno, "cannot make a pipe");
    pid = fork();
    if (pid < 0) {
        r = errno;
        close(fd[0]);
        close(fd[1]);
        return sm_error_sys(err, r, "cannot start a confined process");
    }
    if (pid) {
        close(fd[1]);
        *ret = (struct sandbox){.pid = pid, .status_fd = fd[0]};
        return 0;
    }

    memcpy(keep, fds, n_fds * sizeof(*fds));
    keep[n_fds++] = fd[1];
#ifdef SANDBOX_SANITIZED
    keep[n_fds++] = STDERR_FILENO;
#endif
    qsort(keep, n_fds, sizeof(*keep), compare_ints);
    close_others(keep, n_fds);
    r = confine(limits, mapped, parent);
    if (r < 0)
        r = sm_error_sys(&child_err, -r, "cannot confine a process");
    else
        r = fn(ctx, &child_err);
    if (r < 0) {
        status.code = child_err.code ? child_err.code : -r;
        memcpy(status.text, child_err.text, sizeof(status.text));
    }
    _exit(io_write_full(fd[1], &status, sizeof(status)) < 0);
}

int sandbox_end(struct sandbox *s, const char *what, struct sm_error *err)
{
    struct status status;
    int st = 0, r = 0;
    ssize_t n = io_read_full(s->status_fd, &status, sizeof(status));
    pid_t pid;

    do {
        pid = waitpid(s->pid, &st, 0);
    } while (pid < 0 && errno == EINTR);
    close_fd(&s->status_fd);
    s->pid = 0;
    if (n == (ssize_t)sizeof(status)) {
        status.text[sizeof(status.text) - 1] = '\0';
        for (char *c = status.text; *c; c++) {
            if ((unsigned char)*c < 0x20)
                *c = '?';
        }
        if (status.code > 0 && status.code < 4096)
            r = sm_error_set(err, status.code, "%s", status.text);
        else if (status.code)
            r = sm_error_set(err, EPROTO, "%s: the confined process reported nonsense", what);
        return r;
    }
    if (pid > 0 && WIFSIGNALED(st) && WTERMSIG(st) == SIGXCPU)
        return sm_error_set(err, ETIME, "%s: it took more processor time than the limit", what);
    if (pid > 0 && WIFSIGNALED(st))
        return sm_error_set(err, EPROTO, "%s: the confined process was killed by signal %d", what, WTERMSIG(st));
    return sm_error_set(err, EPROTO, "%s: the confined process ended without a result", what);
}

void sandbox_kill(struct sandbox *s)
{
    pid_t pid;

    if (s->pid > 0) {
        kill(s->pid, SIGKILL);
        do {
            pid = waitpid(s->pid, NULL, 0);
        } while (pid < 0 && errno == EINTR);
    }
    s->pid = 0;
    if (s->status_fd >= 0)
        close_fd(&s->status_fd);
}
