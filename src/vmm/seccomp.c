/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System call filters, one for each kind of thread: what they allow is in filters_gen.c, which made them when the
 * worker was built. Here only the worker's own process id is put in, and each thread installs its program on itself.
 * no_new_privs is set before.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/error.h"
#include "vmm/filters.h" /* made at build time */
#include "vmm/sandbox.h"

struct sandbox_filters {
    struct sock_filter vcpu[ARRAY_SIZE(vcpu_program)], main[ARRAY_SIZE(main_program)];
};

int sandbox_filters_new(struct sandbox_filters **ret, struct sm_error *err)
{
    struct sandbox_filters *f = malloc(sizeof(*f));

    if (!f)
        return sm_error_sys(err, ENOMEM, "cannot make a system call filter");
    memcpy(f->vcpu, vcpu_program, sizeof(vcpu_program));
    memcpy(f->main, main_program, sizeof(main_program));
    f->vcpu[vcpu_pid_at].k = f->main[main_pid_at].k = (uint32_t)getpid();
    *ret = f;
    return 0;
}

void sandbox_filters_free(struct sandbox_filters *f)
{
    free(f);
}

static int install(const struct sock_filter *code, size_t n, struct sm_error *err)
{
    const struct sock_fprog program = {.len = (unsigned short)n, .filter = (struct sock_filter *)(uintptr_t)code};

    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0)
        return sm_error_sys(err, errno,
                            "this host's kernel takes no system call filter, without which no guest is run");
    return 0;
}

int sandbox_filter_vcpu(const struct sandbox_filters *f, struct sm_error *err)
{
    return install(f->vcpu, ARRAY_SIZE(f->vcpu), err);
}

int sandbox_filter_main(const struct sandbox_filters *f, struct sm_error *err)
{
    return install(f->main, ARRAY_SIZE(f->main), err);
}
