/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker's system call filters, made when the worker is built: what is allowed, and the program that has libseccomp
 * compile it and writes it down as C, for seccomp.c. The only file of the worker's that sees libseccomp. Compiling took
 * a tenth of a restore.
 *
 * Theory of operation
 *
 * The lists stand in two tables, each line with its reason; what is not on a thread's list kills the process. No list
 * has a call that opens, connects, executes, forks, maps executable memory or names another process.
 *
 * Arguments are compared where a call does more than the worker needs: ioctl only what enters the guest (and on the
 * vCPU threads only) and what saves state, mmap and mprotect not executable, tgkill only within this process. Which
 * process that is, is not known here: a number that is no process's stands in the program, and where it stands is told.
 */
#include <errno.h>
#include <linux/filter.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/io.h"
#include "hv/hv.h"

#define NO_PID 0x7e57c0deu /* more than any process id (PID_MAX_LIMIT: 2^22) */

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
        return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, a->call, 1, SCMP_A0(SCMP_CMP_EQ, NO_PID, 0));
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

/* The filter's program out of libseccomp, which only writes it to a file. Returns the number of instructions. */
static size_t export_program(scmp_filter_ctx ctx, struct sock_filter code[BPF_MAXINSNS])
{
    FILE *f = tmpfile();

    if (!f || seccomp_export_bpf(ctx, fileno(f)) < 0)
        return 0;
    ssize_t n = io_pread_full(fileno(f), code, BPF_MAXINSNS * sizeof(code[0]), 0);
    fclose(f);
    return n < 0 ? 0 : (size_t)n / sizeof(code[0]);
}

static int write_program(const char *name, const struct sock_filter *code, size_t n)
{
    size_t pids = 0, pid_at = 0;

    printf("static const struct sock_filter %s_program[] = {\n", name);
    for (size_t i = 0; i < n; i++) {
        printf("    {0x%02x, %u, %u, 0x%08x},\n", code[i].code, code[i].jt, code[i].jf, code[i].k);
        if (code[i].k == NO_PID) {
            pid_at = i;
            pids++;
        }
    }
    printf("};\n");
    printf("static const size_t %s_pid_at = %zu; /* compares with the process's own id */\n\n", name, pid_at);
    return n > 0 && pids == 1 ? 0 : -EINVAL;
}

static int make(const char *name, const struct allowed *list, size_t n, const struct requests *requests)
{
    static struct sock_filter code[BPF_MAXINSNS];
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int r = ctx ? 0 : -ENOMEM;

    if (r == 0)
        r = add_rules(ctx, list, n, requests);
    if (r == 0)
        r = add_rules(ctx, common, ARRAY_SIZE(common), requests);
    if (r == 0)
        r = write_program(name, code, export_program(ctx, code));
    if (ctx)
        seccomp_release(ctx);
    return r;
}

int main(void)
{
    const struct requests requests = {hv_kvm.run_request, hv_kvm.state_requests};
    int r;

    printf("/* Made by filters_gen.c. */\n\n");
    r = make("vcpu", vcpu_calls, ARRAY_SIZE(vcpu_calls), &requests);
    if (r == 0)
        r = make("main", main_calls, ARRAY_SIZE(main_calls), &requests);
    if (r < 0 || fflush(stdout) != 0) {
        fprintf(stderr, "filters_gen: %s\n", r < 0 ? strerror(-r) : "cannot write");
        return 1;
    }
    return 0;
}
