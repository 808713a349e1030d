/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workers that wait for a snapshot: machines without an image, whose worker has been told to build what does not depend
 * on one. Who takes one makes a machine of it. One that has died, or could not be prepared, is found out when it is
 * taken, and thrown away.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "lib/find.h"
#include "lib/vm.h"

struct sm_prepared {
    struct sm_vm_config config; /* numbers only, and `worker` */
    char worker[PATH_MAX];
    unsigned wanted, n;
    struct sm_vm *vm[SM_PREPARED_MAX]; /* [0, n) wait */
};

int sm_prepared_new(struct sm_prepared **ret, const struct sm_vm_config *given, unsigned n, struct sm_error *err)
{
    struct sm_vm_config config;
    struct sm_prepared *p;
    int r = vm_config_check(&config, given, err);

    if (r < 0)
        return r;
    if (n == 0 || n > SM_PREPARED_MAX)
        return sm_error_set(err, EINVAL, "%u prepared workers are out of range: 1 to %d", n, SM_PREPARED_MAX);
    p = calloc(1, sizeof(*p));
    if (!p)
        return sm_error_sys(err, ENOMEM, "cannot prepare workers");
    p->wanted = n;
    r = find_file(FIND_WORKER, config.worker, p->worker, err);
    p->config = (struct sm_vm_config){.size = sizeof(p->config),
                                      .memory_mib = config.memory_mib,
                                      .vcpus = config.vcpus,
                                      .start_timeout_ms = config.start_timeout_ms,
                                      .worker = p->worker};
    if (r == 0)
        r = sm_prepared_fill(p, err);
    if (r < 0) {
        sm_prepared_free(p);
        return r;
    }
    *ret = p;
    return 0;
}

static int add(struct sm_prepared *p, struct sm_error *err)
{
    struct sm_vm *vm;
    int r = vm_new(&vm, err);

    if (r < 0)
        return r;
    r = launch_spawn(vm, &p->config, err);
    if (r == 0)
        r = launch_prepare(vm, &p->config, err);
    if (r < 0) {
        sm_vm_free(vm);
        return r;
    }
    p->vm[p->n++] = vm;
    return 0;
}

int sm_prepared_fill(struct sm_prepared *p, struct sm_error *err)
{
    int r = 0;

    while (r == 0 && p->n < p->wanted)
        r = add(p, err);
    return r;
}

unsigned sm_prepared_ready(const struct sm_prepared *p)
{
    return p->n;
}

/* False: it is of no use. Nothing is waited for. */
static bool still_good(struct sm_vm *vm)
{
    while (!vm->ended.code && loop_once(vm->loop, 0) > 0)
        ;
    return !vm->ended.code;
}

struct sm_vm *prepared_take(struct sm_prepared *p, const struct sm_vm_config *config)
{
    char worker[PATH_MAX];

    if (p->config.memory_mib != config->memory_mib || p->config.vcpus != config->vcpus ||
        !p->config.profile != !config->profile || find_file(FIND_WORKER, config->worker, worker, NULL) < 0 ||
        strcmp(worker, p->worker) != 0)
        return NULL;
    while (p->n) {
        struct sm_vm *vm = p->vm[--p->n];

        if (still_good(vm)) {
            vm->started_ns = io_now_ns();
            return vm;
        }
        sm_vm_free(vm);
    }
    return NULL;
}

void sm_prepared_free(struct sm_prepared *p)
{
    if (!p)
        return;
    while (p->n)
        sm_vm_free(p->vm[--p->n]);
    free(p);
}
