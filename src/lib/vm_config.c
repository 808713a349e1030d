/* SPDX-License-Identifier: Apache-2.0 */
/* A machine's configuration, checked, with the usual values where it leaves something out. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/error.h"
#include "lib/options.h"
#include "lib/vm.h"

#define MAX_SIGNAL 64 /* _NSIG of Linux */

static int check_name(const char *what, const char *s, const char *extra, struct sm_error *err)
{
    size_t n = strlen(s);

    if (n == 0 || n > VM_NAME_MAX)
        return sm_error_set(err, EINVAL, "the %s '%.80s' must have 1 to %d characters", what, s, VM_NAME_MAX);
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]) && (i == 0 || !strchr(extra, s[i])))
            return sm_error_set(err, EINVAL,
                                "the %s '%s' may hold letters, digits and '%s', and begins with one of "
                                "the first two",
                                what, s, extra);
    return 0;
}

static int set_hostname(struct sm_vm *vm, const char *given, struct sm_error *err)
{
    unsigned char id[6];

    if (given) {
        snprintf(vm->hostname, sizeof(vm->hostname), "%s", given);
        return 0;
    }
    if (getrandom(id, sizeof(id), 0) != (ssize_t)sizeof(id))
        return sm_error_sys(err, errno, "cannot get random bytes");
    for (size_t i = 0; i < sizeof(id); i++)
        snprintf(vm->hostname + 2 * i, 3, "%02x", id[i]);
    return 0;
}

static int check_numbers(struct sm_vm_config *c, struct sm_error *err)
{
    if (c->memory_mib == 0)
        c->memory_mib = SM_VM_MEMORY_MIB_DEFAULT;
    if (c->vcpus == 0)
        c->vcpus = 1;
    if (c->start_timeout_ms == 0)
        c->start_timeout_ms = SM_VM_START_TIMEOUT_MS_DEFAULT;
    if (c->memory_mib < SM_VM_MEMORY_MIB_MIN || c->memory_mib > SM_VM_MEMORY_MIB_MAX)
        return sm_error_set(err, EINVAL, "%u MiB of memory is out of range: a machine can have %d to %d MiB",
                            c->memory_mib, SM_VM_MEMORY_MIB_MIN, SM_VM_MEMORY_MIB_MAX);
    if (c->vcpus > SM_VM_VCPUS_MAX)
        return sm_error_set(err, EINVAL, "%u processors are out of range: a machine can have 1 to %d", c->vcpus,
                            SM_VM_VCPUS_MAX);
    if (c->kernel_args && strlen(c->kernel_args) > CONTROL_MAX_CMDLINE)
        return sm_error_set(err, EINVAL, "the kernel arguments are longer than %d bytes", CONTROL_MAX_CMDLINE);
    if (c->renew_signal < 0 || c->renew_signal > MAX_SIGNAL)
        return sm_error_set(err, EINVAL, "%d is not a signal: they go from 1 to %d", c->renew_signal, MAX_SIGNAL);
    return 0;
}

int vm_config_check(struct sm_vm_config *ret, const struct sm_vm_config *given, struct sm_error *err)
{
    struct sm_vm_config c = {0};
    int r = OPTIONS_COPY(&c, given, err);

    if (r == 0)
        r = check_numbers(&c, err);
    if (r == 0 && c.name)
        r = check_name("name", c.name, "_.-", err);
    if (r == 0 && c.hostname)
        r = check_name("hostname", c.hostname, "-.", err);
    if (r == 0 && c.share && !c.name)
        r = sm_error_set(err, EINVAL, "a machine that others shall reach needs a name");
    if (r == 0)
        *ret = c;
    return r;
}

int vm_configure(struct sm_vm *vm, const struct sm_vm_config *c, struct sm_error *err)
{
    snprintf(vm->name, sizeof(vm->name), "%s", c->name ? c->name : "");
    vm->console = c->console;
    vm->console_ctx = c->console_ctx;
    vm->event = c->event;
    vm->event_ctx = c->event_ctx;
    vm->memory_mib = c->memory_mib;
    vm->vcpus = c->vcpus;
    vm->start_timeout_ms = c->start_timeout_ms;
    vm->renew_signal = c->renew_signal;
    return set_hostname(vm, c->hostname, err);
}
