/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rendezvous of vCPUs.
 *
 * Theory of operation
 *
 * Who: the loop's thread asks, since devices and memory are its own to save. Each vCPU works on its own state on its
 * own thread, which some hypervisors insist on.
 *
 * Asking: `pause` is set, then every vCPU is kicked. A vCPU that sees `pause` enters the guest until it comes back
 * kicked: a hypervisor finishes the access of the last exit (the value that was read, the next piece of a long access)
 * on the next entry, and only then honours the kick. So a vCPU at rest owes the guest nothing. It kicks itself before,
 * since it may have seen `pause` before the kick came: nothing of the guest runs in between. A forced exit that finds
 * neither `pause` nor `stop` is nobody's: the vCPU runs on.
 *
 * Rendezvous nest, so that one thing can be done at rest by way of another that asks for rest itself.
 *
 * Going on: a kick stays up until the vCPU's own thread takes it down, which it does before it counts itself out of the
 * rendezvous. coord_resume() waits for that count, so the kick of a next pause cannot be taken down by mistake.
 *
 * The end: a vCPU that leaves its run loop counts itself out for good; the rendezvous is then off. Threads at rest wake
 * up when `stop` is set and the group's condition is signalled (vcpus_join does).
 */
#include "machine/coord.h"

#include <assert.h>
#include <errno.h>

#include "base/error.h"

int coord_pause(struct vcpu *vcpus, unsigned n)
{
    struct vcpu_group *g = vcpus->group;
    int r;

    if (g->pauses++ == 0) {
        atomic_store(&g->pause, true);
        for (unsigned i = 0; i < n; i++)
            g->hv->vcpu_kick(vcpus[i].hv, vcpus[i].thread);
    }
    pthread_mutex_lock(&g->lock);
    pthread_cond_broadcast(&g->changed); /* for those that are held (vcpus_release_others) */
    while (g->resting + g->gone < n)
        pthread_cond_wait(&g->changed, &g->lock);
    r = g->gone ? -ESHUTDOWN : 0;
    pthread_mutex_unlock(&g->lock);
    return r;
}

int coord_each(struct vcpu *vcpus, unsigned n, coord_fn *fn, void *ctx, struct sm_error *err)
{
    struct vcpu_group *g = vcpus->group;
    int r = 0;

    pthread_mutex_lock(&g->lock);
    for (unsigned i = 0; r >= 0 && i < n; i++) {
        struct vcpu_task task = {.vcpu = &vcpus[i], .fn = fn, .ctx = ctx, .err = err};

        g->task = &task;
        pthread_cond_broadcast(&g->changed);
        while (g->task)
            pthread_cond_wait(&g->changed, &g->lock);
        r = task.result;
    }
    pthread_mutex_unlock(&g->lock);
    return r;
}

void coord_resume(struct vcpu *vcpus, unsigned n)
{
    struct vcpu_group *g = vcpus->group;

    assert(g->pauses > 0);
    if (--g->pauses > 0)
        return;
    pthread_mutex_lock(&g->lock);
    atomic_store(&g->pause, false);
    pthread_cond_broadcast(&g->changed);
    while (g->resting)
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void do_task(struct vcpu_group *g, struct vcpu *v)
{
    struct vcpu_task *t = g->task;

    if (!t || t->vcpu != v)
        return;
    t->result = t->fn(v, t->ctx, t->err);
    g->task = NULL;
    pthread_cond_broadcast(&g->changed);
}

int coord_rest(struct vcpu *v)
{
    struct vcpu_group *g = v->group;
    enum hv_exit_kind kind;

    g->hv->vcpu_kick(v->hv, v->thread);
    do {
        if (vcpu_run_once(v, &kind))
            return 1;
    } while (kind != HV_EXIT_KICKED);
    pthread_mutex_lock(&g->lock);
    g->resting++;
    pthread_cond_broadcast(&g->changed);
    while (atomic_load(&g->pause) && !atomic_load(&g->stop)) {
        do_task(g, v);
        pthread_cond_wait(&g->changed, &g->lock);
    }
    g->hv->vcpu_unkick(v->hv);
    g->resting--;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
    return 0;
}
