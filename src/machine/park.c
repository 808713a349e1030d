/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine at rest: see park.h.
 *
 * Theory of operation
 *
 * A clone's secondary vCPUs may run no user code before its kernel has its new identity. Those that were parked when it
 * was saved spin in the kernel with interrupts off until then, so a capture first asks for that
 * (docs/lifecycle-device.md) and waits, for PARK_PATIENCE_NS at most, until the guest says that all but the first are
 * parked. The loop's thread waits, not a vCPU: the one that would answer must run. Devices stand still meanwhile;
 * parking needs none.
 *
 * A guest that does not answer in time is captured anyway: the rendezvous alone is correct, and a restore holds the
 * others back itself. But its wish to park may not be in the snapshot, where no one would take it back: it is replaced
 * by the opposite wish before anything is saved. The driver acts on the newest.
 *
 * After a capture, successful or not, the guest is told to unpark before its vCPUs run. A clone unparks itself when it
 * is renewed.
 *
 * Not asked: a guest with one vCPU, and a clone whose other vCPUs are still held back.
 */
#include "machine/park.h"

#include <errno.h>
#include <time.h>

#include "base/error.h"
#include "machine/coord.h"
#include "machine/machine_private.h"

#define PARK_PATIENCE_NS 50000000

void park_said(struct machine *m, uint32_t n)
{
    struct vcpu_group *g = &m->group;

    pthread_mutex_lock(&g->lock);
    if (n > m->park.most)
        m->park.most = n;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

static struct timespec patience(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    ts.tv_nsec += PARK_PATIENCE_NS;
    if (ts.tv_nsec >= 1000000000) {
        ts.tv_nsec -= 1000000000;
        ts.tv_sec++;
    }
    return ts;
}

/* True when all others are parked. */
static bool park(struct machine *m)
{
    const struct timespec until = patience();
    struct vcpu_group *g = &m->group;
    int r = 0;

    pthread_mutex_lock(&g->lock);
    m->park.most = 0;
    pthread_mutex_unlock(&g->lock);
    m->park.asked = true;
    lifecycle_park(m->lifecycle, true);
    pthread_mutex_lock(&g->lock);
    while (r == 0 && m->park.most < m->n_vcpus - 1 && !g->gone)
        r = pthread_cond_timedwait(&g->changed, &g->lock, &until);
    bool all = m->park.most >= m->n_vcpus - 1;
    pthread_mutex_unlock(&g->lock);
    return all;
}

static void unpark(struct machine *m)
{
    if (!m->park.asked)
        return;
    m->park.asked = false;
    lifecycle_park(m->lifecycle, false);
}

int machine_rest(struct machine *m, struct sm_error *err)
{
    bool first = m->group.pauses == 0;
    bool parked = first && m->n_vcpus > 1 && !atomic_load(&m->group.hold) && park(m);
    int r = coord_pause(m->vcpu, m->n_vcpus);

    if (r < 0)
        return sm_error_set(err, -r, "the machine has ended");
    if (first && !parked)
        unpark(m);
    if (first)
        bake_at_rest(m);
    return 0;
}

void machine_go_on(struct machine *m)
{
    if (m->group.pauses == 1)
        unpark(m);
    coord_resume(m->vcpu, m->n_vcpus);
}
