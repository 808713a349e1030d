/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vCPU threads.
 *
 * Theory of operation
 *
 * Each vCPU has one thread, which owns the hypervisor's vCPU from the moment it is made. Threads first run thread_init
 * (the sandbox's filter for their kind), report, and wait for `go`, so that nothing of the guest runs before all of the
 * process is shut in. Then: look at `stop` and `pause` (machine/coord.c), enter, dispatch the exit by the table at the
 * end of this file.
 *
 * A vCPU may be kept out of the guest without a rendezvous: all but the first of a clone that is not renewed yet
 * (`hold`), and one that has told something on which the loop must decide before it goes on (`asking`). It waits in the
 * run loop, not in the exit, so that it can come to a rendezvous meanwhile, and waits on after that.
 *
 * The end of a run is said once, by whoever sees it first (events_end): a device on a vCPU thread, an exit, the owner.
 * The saying sets `stop` and wakes the loop, which kicks every vCPU and joins. A kick can't be lost: the hypervisor's
 * own flag stays up once it is kicked, and the threads never enter the guest again after `stop`.
 *
 * x86: INIT and SIPI are handled by the in-kernel APIC, so secondaries simply run from the start and sleep in KVM.
 */
#include "machine/vcpu.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/io.h"
#include "machine/coord.h"

void vcpu_group_init(struct vcpu_group *g)
{
    pthread_condattr_t attr;

    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* of those who wait with a deadline */
    pthread_cond_init(&g->changed, &attr);
    pthread_condattr_destroy(&attr);
}

void vcpu_group_done(struct vcpu_group *g)
{
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
}

void vcpu_group_wake(struct vcpu_group *g)
{
    uint64_t one = 1;

    /* Only a counter at its end could fail, and then the loop is awake. */
    if (write(g->wake_fd, &one, sizeof(one)) < 0)
        return;
}

void vcpu_group_end(struct vcpu_group *g, enum machine_end end, const char *prefix, const char *text, size_t len)
{
    if (!events_end(g->events, end, prefix, text, len))
        return;
    atomic_store(&g->stop, true);
    vcpu_group_wake(g);
}

/* --- exits --- */

static void trace(struct vcpu *v, const char *what, const struct hv_exit *e)
{
    struct vcpu_group *g = v->group;
    char line[96];

    if (!g->trace || atomic_fetch_add(&g->traced, 1) >= g->trace_max)
        return;
    snprintf(line, sizeof(line), "vcpu %u: unhandled %s of %u bytes at 0x%llx", v->index, what, e->len,
             (unsigned long long)e->addr);
    g->trace(g->ctx, line);
}

static int leave(struct vcpu *v, enum machine_end end, const char *text)
{
    vcpu_group_end(v->group, end, "", text, strlen(text));
    return 1;
}

/*
 * Nobody is there: reads all ones, writes go nowhere. But for what should have been memory, which some hypervisors say
 * when they cannot get at it (its file has been cut short): the guest must not go on with that.
 */
static int unanswered(struct vcpu *v, const struct bus *bus, bool is_read, const struct hv_exit *e)
{
    static const char *const names[2][2] = {{"port write", "port read"}, {"MMIO write", "MMIO read"}};
    bool is_mmio = bus == &v->group->mmio;

    if (is_mmio && v->group->mem && mem_ptr(v->group->mem, e->addr, 1))
        return leave(v, MACHINE_VCPU_ERROR, "the guest's memory can't be reached");
    trace(v, names[is_mmio][is_read], e);
    return 0;
}

static int exit_read(struct vcpu *v, const struct bus *bus, const struct hv_exit *e)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < e->count; i++) {
        uint64_t value;

        if (!bus_read(bus, e->addr, e->len, &value))
            r = unanswered(v, bus, true, e);
        memcpy(e->data + (size_t)i * e->len, &value, e->len);
    }
    return r;
}

static int exit_write(struct vcpu *v, const struct bus *bus, const struct hv_exit *e)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < e->count; i++) {
        uint64_t value = 0;

        memcpy(&value, e->data + (size_t)i * e->len, e->len);
        if (!bus_write(bus, e->addr, e->len, value))
            r = unanswered(v, bus, false, e);
    }
    return r;
}

static int exit_mmio_read(struct vcpu *v, const struct hv_exit *e)
{
    return exit_read(v, &v->group->mmio, e);
}

static int exit_mmio_write(struct vcpu *v, const struct hv_exit *e)
{
    return exit_write(v, &v->group->mmio, e);
}

static int exit_pio_read(struct vcpu *v, const struct hv_exit *e)
{
    return exit_read(v, &v->group->pio, e);
}

static int exit_pio_write(struct vcpu *v, const struct hv_exit *e)
{
    return exit_write(v, &v->group->pio, e);
}

static int exit_kicked(struct vcpu *v, const struct hv_exit *e)
{
    return 0;
}

static int exit_halt(struct vcpu *v, const struct hv_exit *e)
{
    return leave(v, MACHINE_VCPU_ERROR, "a vCPU halted for good");
}

static int exit_shutdown(struct vcpu *v, const struct hv_exit *e)
{
    return leave(v, MACHINE_TRIPLE_FAULT, "the guest's processor shut down after a triple fault");
}

static int exit_power_off(struct vcpu *v, const struct hv_exit *e)
{
    return leave(v, MACHINE_POWER_OFF, "the guest powered itself off");
}

static int exit_reset(struct vcpu *v, const struct hv_exit *e)
{
    return leave(v, MACHINE_RESET, "the guest asked for a reset");
}

typedef int exit_fn(struct vcpu *v, const struct hv_exit *e);

/* HV_EXIT_OTHER has no entry: only the run loop holds the hypervisor's sentence. */
static exit_fn *const exit_table[HV_EXIT_KINDS] = {
    [HV_EXIT_KICKED] = exit_kicked,     [HV_EXIT_MMIO_READ] = exit_mmio_read, [HV_EXIT_MMIO_WRITE] = exit_mmio_write,
    [HV_EXIT_PIO_READ] = exit_pio_read, [HV_EXIT_PIO_WRITE] = exit_pio_write, [HV_EXIT_HALT] = exit_halt,
    [HV_EXIT_SHUTDOWN] = exit_shutdown, [HV_EXIT_POWER_OFF] = exit_power_off, [HV_EXIT_RESET] = exit_reset,
};

int vcpu_handle_exit(struct vcpu *v, const struct hv_exit *e)
{
    atomic_fetch_add_explicit(&v->exits[e->kind], 1, memory_order_relaxed);
    return exit_table[e->kind](v, e);
}

/* --- the loop --- */

int vcpu_run_once(struct vcpu *v, enum hv_exit_kind *ret_kind)
{
    struct vcpu_group *g = v->group;
    struct sm_error err = SM_ERROR_INIT;
    struct hv_exit e = {0};
    uint64_t entered = v->profile ? io_now_ns() : 0;
    int r = g->hv->vcpu_run(v->hv, &e, &err);

    if (v->index == 0 && atomic_load_explicit(&g->first_exit_ns, memory_order_relaxed) == 0)
        atomic_store(&g->first_exit_ns, io_now_ns());
    if (r < 0 || e.kind == HV_EXIT_OTHER) {
        atomic_fetch_add_explicit(&v->exits[HV_EXIT_OTHER], 1, memory_order_relaxed);
        vcpu_group_end(g, MACHINE_VCPU_ERROR, "", err.text, strlen(err.text));
        return 1;
    }
    *ret_kind = e.kind;
    if (!v->profile)
        return vcpu_handle_exit(v, &e);
    uint64_t left = io_now_ns();
    r = vcpu_handle_exit(v, &e);
    v->profile->run_ns += left - entered;
    profile_add(v->profile, e.kind, e.addr, io_now_ns() - left);
    return r;
}

/* Report to the spawner and wait for its word; false when the thread should leave. */
static bool wait_for_go(struct vcpu *v)
{
    struct vcpu_group *g = v->group;
    struct sm_error err = SM_ERROR_INIT;
    int r = g->thread_init(g->ctx, &err);

    pthread_mutex_lock(&g->lock);
    if (r < 0 && g->init_error == 0) {
        g->init_error = r;
        if (g->init_err)
            *g->init_err = err;
    }
    g->ready++;
    pthread_cond_broadcast(&g->changed);
    while (!g->go)
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
    return r >= 0;
}

static bool kept_out(const struct vcpu *v)
{
    return atomic_load(&v->asking) || (v->index > 0 && atomic_load(&v->group->hold));
}

static void wait_outside(struct vcpu *v)
{
    struct vcpu_group *g = v->group;

    pthread_mutex_lock(&g->lock);
    while (kept_out(v) && !atomic_load(&g->stop) && !atomic_load(&g->pause))
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void run(struct vcpu *v)
{
    struct vcpu_group *g = v->group;
    enum hv_exit_kind kind;
    int leave = 0;

    while (!leave && !atomic_load(&g->stop)) {
        if (atomic_load(&g->pause))
            leave = coord_rest(v);
        else if (kept_out(v))
            wait_outside(v);
        else
            leave = vcpu_run_once(v, &kind);
    }
}

static void *vcpu_thread(void *arg)
{
    struct vcpu *v = arg;
    struct vcpu_group *g = v->group;

    if (!wait_for_go(v))
        return NULL;
    if (v->index == 0)
        atomic_store(&g->first_entry_ns, io_now_ns());
    run(v);
    pthread_mutex_lock(&g->lock);
    g->gone++;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

int vcpus_spawn(struct vcpu *vcpus, unsigned n, struct sm_error *err)
{
    struct vcpu_group *g = vcpus->group;
    pthread_attr_t attr;
    int r = 0;

    g->init_err = err;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, VCPU_STACK_SIZE);
    unsigned made = 0;
    for (; r == 0 && made < n; made++) {
        r = -pthread_create(&vcpus[made].thread, &attr, vcpu_thread, &vcpus[made]);
        if (r < 0) {
            sm_error_sys(err, -r, "cannot start the thread of vCPU %u", made);
            break;
        }
        vcpus[made].has_thread = true;
    }
    pthread_attr_destroy(&attr);
    pthread_mutex_lock(&g->lock);
    while (g->ready < made)
        pthread_cond_wait(&g->changed, &g->lock);
    if (r == 0)
        r = g->init_error;
    g->init_err = NULL;
    pthread_mutex_unlock(&g->lock);
    return r;
}

void vcpus_go(struct vcpu_group *g)
{
    pthread_mutex_lock(&g->lock);
    g->go = true;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

void vcpus_release_others(struct vcpu_group *g)
{
    pthread_mutex_lock(&g->lock);
    atomic_store(&g->hold, false);
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

void vcpu_ask(struct vcpu *v)
{
    atomic_store(&v->asking, true);
    vcpu_group_wake(v->group);
}

unsigned vcpus_asking(const struct vcpu *vcpus, unsigned n)
{
    unsigned mask = 0;

    for (unsigned i = 0; i < n; i++)
        if (atomic_load(&vcpus[i].asking))
            mask |= 1u << i;
    return mask;
}

void vcpus_answer(struct vcpu *vcpus, unsigned n, unsigned mask)
{
    struct vcpu_group *g = vcpus->group;

    if (!mask)
        return;
    pthread_mutex_lock(&g->lock);
    for (unsigned i = 0; i < n; i++)
        if (mask & 1u << i)
            atomic_store(&vcpus[i].asking, false);
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

void vcpus_join(struct vcpu *vcpus, unsigned n)
{
    if (n == 0)
        return;
    atomic_store(&vcpus->group->stop, true);
    vcpus_go(vcpus->group);
    for (unsigned i = 0; i < n; i++)
        if (vcpus[i].has_thread)
            vcpus->group->hv->vcpu_kick(vcpus[i].hv, vcpus[i].thread);
    for (unsigned i = 0; i < n; i++) {
        if (!vcpus[i].has_thread)
            continue;
        pthread_join(vcpus[i].thread, NULL);
        vcpus[i].has_thread = false;
    }
}
