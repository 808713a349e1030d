/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System call filters, one for each kind of thread. The only file that sees libseccomp.
 *
 * Theory of operation
 *
 * The lists stand in two tables, each line with its reason; what is not on a thread's list kills the process. No list
 * has a call that opens, connects, executes, forks, maps executable memory or names another process. Filters are
 * compiled once to BPF and then installed by each thread on itself, so starting a vCPU costs no compiler. no_new_privs
 * is set before.
 *
 * Arguments are compared where a call does more than the worker needs: ioctl only what enters the guest (and on the
 * vCPU threads only) and what saves state, mmap and mprotect not executable, tgkill only within this process.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "vmm/sandbox.h"

#define MAX_FILTER 4096 /* BPF instructions: the kernel's own limit (BPF_MAXINSNS) */

enum argument_rule { ANY, IOCTL_RUN, IOCTL_STATE, NOT_EXECUTABLE, OWN_PROCESS };

struct allowed {
    int call;
    enum argument_rule rule;
};

/* Both kinds: the C library's memory and locks, time, the end of threads, eventfds. */
static const struct allowed common[] = {
    {SCMP_SYS(futex), ANY},               /* mutexes, condition variables, pthread_join */
    {SCMP_SYS(mmap), NOT_EXECUTABLE},     /* malloc of large blocks */
    {SCMP_SYS(munmap), ANY},              /* free; a joined thread's stack */
    {SCMP_SYS(mremap), ANY},              /* realloc */
    {SCMP_SYS(mprotect), NOT_EXECUTABLE}, /* malloc in an arena of its own */
    {SCMP_SYS(madvise), ANY},             /* free; the stack of a thread that ends */
    {SCMP_SYS(brk), ANY},                 /* malloc */
    {SCMP_SYS(clock_gettime), ANY},       /* where the vDSO can't tell */
    {SCMP_SYS(gettimeofday), ANY},        /* likewise */
    {SCMP_SYS(rt_sigreturn), ANY},        /* the kick signal's handler */
    {SCMP_SYS(rt_sigprocmask), ANY},      /* around the end of a thread, abort() */
    {SCMP_SYS(restart_syscall), ANY},     /* an interrupted wait goes on */
    {SCMP_SYS(sched_yield), ANY},         /* contended locks */
    {SCMP_SYS(exit), ANY},                /* a thread's end */
    {SCMP_SYS(exit_group), ANY},          /* the process's end */
    {SCMP_SYS(getpid), ANY},              /* pthread_kill, abort() */
    {SCMP_SYS(gettid), ANY},              /* likewise */
    {SCMP_SYS(tgkill), OWN_PROCESS},      /* pthread_kill: kicks; abort() of a failed assert */
    {SCMP_SYS(rt_sigaction), ANY},        /* abort() */
    {SCMP_SYS(read), ANY},                /* eventfds */
    {SCMP_SYS(write), ANY},               /* eventfds, the console's copy, messages on stderr */
    {SCMP_SYS(writev), ANY},              /* an assert's message */
    {SCMP_SYS(getrandom), ANY},           /* the rng device; malloc's secret */
};

/* vCPU threads: run the guest; device registers. */
static const struct allowed vcpu_calls[] = {
    {SCMP_SYS(ioctl), IOCTL_RUN},
    {SCMP_SYS(ioctl), IOCTL_STATE}, /* a vCPU saves itself; nothing else of KVM's is needed any more */
};

/* The main thread: the loop, devices, the control socket. */
static const struct allowed main_calls[] = {
    {SCMP_SYS(epoll_wait), ANY},    /* the loop */
    {SCMP_SYS(epoll_pwait), ANY},   /* likewise, as some C libraries do it */
    {SCMP_SYS(epoll_ctl), ANY},     /* vsock connections come and go */
    {SCMP_SYS(poll), ANY},          /* room in the control socket */
    {SCMP_SYS(ppoll), ANY},         /* likewise */
    {SCMP_SYS(recvmsg), ANY},       /* control frames with descriptors; vsock */
    {SCMP_SYS(sendmsg), ANY},       /* likewise */
    {SCMP_SYS(recvfrom), ANY},      /* recv() */
    {SCMP_SYS(sendto), ANY},        /* send() */
    {SCMP_SYS(readv), ANY},         /* vsock */
    {SCMP_SYS(shutdown), ANY},      /* a vsock connection's half */
    {SCMP_SYS(close), ANY},         /* vsock connections; descriptors that came with a bad frame */
    {SCMP_SYS(fcntl), ANY},         /* O_NONBLOCK on a connection's socket */
    {SCMP_SYS(getsockopt), ANY},    /* kind of a socket that came for vsock */
    {SCMP_SYS(fstat), ANY},         /* likewise */
    {SCMP_SYS(newfstatat), ANY},    /* likewise: fstat() of newer C libraries */
    {SCMP_SYS(preadv), ANY},        /* blk */
    {SCMP_SYS(pread64), ANY},       /* likewise */
    {SCMP_SYS(pwritev), ANY},       /* blk, writable disks only */
    {SCMP_SYS(pwrite64), ANY},      /* likewise */
    {SCMP_SYS(fdatasync), ANY},     /* likewise: flush */
    {SCMP_SYS(fallocate), ANY},     /* likewise: discard, write zeroes */
    {SCMP_SYS(ioctl), IOCTL_STATE}, /* the VM's own state is saved */
    {SCMP_SYS(ftruncate), ANY},     /* a snapshot's files */
    {SCMP_SYS(lseek), ANY},         /* likewise: holes */
    {SCMP_SYS(mincore), ANY},       /* a prepared machine's: what need not be read ahead */
};

struct sandbox_filters {
    struct sock_fprog vcpu, main;
};

/* The ioctls of a hypervisor. */
struct requests {
    unsigned long run;
    const unsigned long *state; /* 0 at the end */
};

static int add_requests(scmp_filter_ctx ctx, int call, const unsigned long *requests)
{
    int r = 0;

    for (; r == 0 && *requests; requests++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, call, 1, SCMP_A1(SCMP_CMP_EQ, *requests, 0));
    return r;
}

static int add_rule(scmp_filter_ctx ctx, const struct allowed *a, const struct requests *requests)
{
    switch (a->rule) {
    case ANY:
        return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, a->call, 0);
    case IOCTL_RUN:
        return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, a->call, 1, SCMP_A1(SCMP_CMP_EQ, requests->run, 0));
    case IOCTL_STATE:
        return add_requests(ctx, a->call, requests->state);
    case NOT_EXECUTABLE: /* the third argument of both is the protection */
        return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, a->call, 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    case OWN_PROCESS:
        return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, a->call, 1, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0));
    }
    return -EINVAL;
}

static int add_rules(scmp_filter_ctx ctx, const struct allowed *list, size_t n, const struct requests *requests)
{
    for (size_t i = 0; i < n; i++) {
        int r = add_rule(ctx, &list[i], requests);

        /* A call this architecture does not have needs no rule. */
        if (r < 0 && r != -EDOM)
            return r;
    }
    return 0;
}

/* The filter's program out of libseccomp, which only writes it to a file. */
static int export_program(scmp_filter_ctx ctx, struct sock_fprog *ret)
{
    CLEANUP_FD int fd = memfd_create("filter", MFD_CLOEXEC);
    struct sock_filter code[MAX_FILTER];

    if (fd < 0)
        return -errno;
    int r = seccomp_export_bpf(ctx, fd);
    if (r < 0)
        return r;
    ssize_t n = io_pread_full(fd, code, sizeof(code), 0);
    if (n <= 0 || n == sizeof(code))
        return n < 0 ? (int)n : -E2BIG;
    ret->filter = malloc((size_t)n);
    if (!ret->filter)
        return -ENOMEM;
    for (size_t i = 0; i < (size_t)n / sizeof(code[0]); i++)
        ret->filter[i] = code[i];
    ret->len = (unsigned short)((size_t)n / sizeof(code[0]));
    return 0;
}

static int compile(struct sock_fprog *ret, const struct allowed *list, size_t n, const struct requests *requests,
                   struct sm_error *err)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int r = ctx ? 0 : -ENOMEM;

    if (r == 0)
        r = add_rules(ctx, list, n, requests);
    if (r == 0)
        r = add_rules(ctx, common, ARRAY_SIZE(common), requests);
    if (r == 0)
        r = export_program(ctx, ret);
    if (ctx)
        seccomp_release(ctx);
    return r < 0 ? sm_error_sys(err, -r, "cannot make a system call filter") : 0;
}

int sandbox_filters_new(struct sandbox_filters **ret, unsigned long run_request, const unsigned long *state_requests,
                        struct sm_error *err)
{
    const struct requests requests = {run_request, state_requests};
    struct sandbox_filters *f = calloc(1, sizeof(*f));
    int r = f ? 0 : sm_error_sys(err, ENOMEM, "cannot make a system call filter");

    if (r == 0)
        r = compile(&f->vcpu, vcpu_calls, ARRAY_SIZE(vcpu_calls), &requests, err);
    if (r == 0)
        r = compile(&f->main, main_calls, ARRAY_SIZE(main_calls), &requests, err);
    if (r < 0) {
        sandbox_filters_free(f);
        return r;
    }
    *ret = f;
    return 0;
}

void sandbox_filters_free(struct sandbox_filters *f)
{
    if (!f)
        return;
    free(f->vcpu.filter);
    free(f->main.filter);
    free(f);
}

static int install(const struct sock_fprog *program, struct sm_error *err)
{
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) < 0)
        return sm_error_sys(err, errno,
                            "this host's kernel takes no system call filter, without which no guest is run");
    return 0;
}

int sandbox_filter_vcpu(const struct sandbox_filters *f, struct sm_error *err)
{
    return install(&f->vcpu, err);
}

int sandbox_filter_main(const struct sandbox_filters *f, struct sm_error *err)
{
    return install(&f->main, err);
}
