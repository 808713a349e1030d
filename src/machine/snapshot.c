/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saving and restoring a machine.
 *
 * Theory of operation
 *
 * Saving, in this order: vCPUs come to rest (coord.c), so nothing of the guest runs; devices are paused, so nothing of
 * ours writes its memory; each vCPU saves itself on its own thread, then the hypervisor's VM (whose clock none of them
 * has then seen later than it is saved), then the devices; memory is read in place and written. Going on is the same
 * list from the end. State waits in its stream until then: writing it, durably, needs no machine that stands still.
 *
 * Pages that were never touched are not looked at, where the kernel's page tables can be read; a restored machine's are
 * in its file even if it never touched them, so all of its memory is read.
 *
 * Restoring: memory is mapped over the machine's (private, copy on write: nothing is read), then the VM, the vCPUs, the
 * devices, in machine_new()'s machine; then lines and doorbells are bound, the guest is told that it is a clone, and
 * devices look at what was left undone. One function says the order of devices, for both directions.
 *
 * A clone's first vCPU starts alone: its kernel takes identity, entropy and time in an interrupt, before any user code.
 * The others start when it says so, or after RENEW_PATIENCE_NS with a guest that doesn't: its own loss.
 *
 * The state file is hostile. Whatever it holds is checked by whoever loads it; a machine that failed to load is good
 * for machine_free() only.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "machine/coord.h"
#include "machine/machine_private.h"
#include "snap/file.h"
#include "snap/memory.h"

#define RENEW_PATIENCE_NS 100000000u

/* --- state --- */

static void shape_state(struct machine *m, struct snap_stream *s)
{
    uint32_t memory_mib = m->config.memory_mib, vcpus = m->n_vcpus, slots = m->n_slots;

    snap_begin(s, SNAP_TAG('M', 'A', 'C', 'H'), 0, 1, "machine");
    snap_u32(s, "memory", &memory_mib);
    snap_check(s, memory_mib == m->config.memory_mib, "memory", "it has %u MiB, this machine %u", memory_mib,
               m->config.memory_mib);
    snap_u32(s, "vCPUs", &vcpus);
    snap_check(s, vcpus == m->n_vcpus, "vCPUs", "it has %u, this machine %u", vcpus, m->n_vcpus);
    snap_u32(s, "devices", &slots);
    snap_check(s, slots == m->n_slots, "devices", "it has %u, this machine %u", slots, m->n_slots);
    snap_end(s);
}

static void device_state(struct machine *m, struct snap_stream *s)
{
    serial_state(m->serial, s);
    lifecycle_state(m->lifecycle, s);
    for (unsigned i = 0; i < m->n_slots; i++)
        virtio_mmio_state(m->slot[i].transport, i, s);
}

static void pause_devices(struct machine *m)
{
    for (unsigned i = 0; i < m->n_slots; i++)
        virtio_mmio_pause(m->slot[i].transport);
}

static void resume_devices(struct machine *m)
{
    for (unsigned i = 0; i < m->n_slots; i++)
        virtio_mmio_resume(m->slot[i].transport);
    lifecycle_resume(m->lifecycle);
    serial_resume(m->serial);
}

static struct snap_memory memory_of(const struct machine *m)
{
    struct snap_memory ret = {.n = m->mem.n_regions};

    for (unsigned i = 0; i < ret.n; i++)
        ret.region[i] = (struct snap_region){.host = m->mem.region[i].host, .size = m->mem.region[i].size};
    return ret;
}

/* --- saving --- */

static int save_vcpu(struct vcpu *v, void *ctx, struct sm_error *err)
{
    struct snap_stream *s = ctx;

    v->group->hv->vcpu_state(v->hv, s);
    return snap_done(s, err);
}

static int save_state(struct machine *m, struct snap_stream *s, struct sm_error *err)
{
    int r;

    shape_state(m, s);
    r = coord_each(m->vcpu, m->n_vcpus, save_vcpu, s, err);
    if (r < 0)
        return r;
    m->config.hv->vm_state(m->vm, s);
    device_state(m, s);
    return snap_done(s, err);
}

static int save_memory(struct machine *m, int fd, struct machine_saved *ret, struct sm_error *err)
{
    const struct snap_memory memory = memory_of(m);
    CLEANUP_FREE uint64_t *touched = NULL;
    struct snap_memory_stats stats;
    int r = 0;

    if (m->pagemap_fd >= 0 && !m->restored) {
        touched = calloc(SNAP_BITMAP_WORDS(snap_memory_pages(&memory)), sizeof(*touched));
        if (!touched)
            return sm_error_sys(err, ENOMEM, "no memory for a list of pages");
        r = snap_memory_scan(&memory, m->pagemap_fd, SNAP_SCAN_TOUCHED, touched, err);
    }
    if (r >= 0)
        r = snap_memory_save(&memory, touched, fd, &stats, err);
    if (r < 0)
        return r;
    ret->data_pages = stats.data_pages;
    ret->zero_pages = stats.zero_pages;
    return 0;
}

int machine_save(struct machine *m, int state_fd, int memory_fd, bool stay, struct machine_saved *ret,
                 struct sm_error *err)
{
    struct machine_saved saved = {0};
    uint64_t start = io_now_ns();
    struct snap_stream s;
    int r = coord_pause(m->vcpu, m->n_vcpus);

    if (r < 0)
        return sm_error_set(err, -r, "the machine has ended and can't be saved");
    snap_stream_init(&s);
    pause_devices(m);
    r = save_state(m, &s, err);
    if (r >= 0)
        r = save_memory(m, memory_fd, &saved, err);
    if (r >= 0 && stay)
        r = snap_file_write(&s, state_fd, err);
    saved.pause_ns = io_now_ns() - start;
    if (r < 0 || !stay) {
        resume_devices(m);
        coord_resume(m->vcpu, m->n_vcpus);
    }
    if (r >= 0 && !stay)
        r = snap_file_write(&s, state_fd, err);
    snap_stream_clear(&s);
    if (r < 0)
        return sm_error_wrap(err, "saving the machine");
    *ret = saved;
    return 0;
}

/* --- restoring --- */

static int load_state(struct machine *m, int state_fd, struct sm_error *err)
{
    struct snap_stream s;
    int r = snap_file_read(&s, state_fd, err);

    if (r < 0)
        return r;
    shape_state(m, &s);
    if (snap_ok(&s))
        m->config.hv->vm_state(m->vm, &s);
    for (unsigned i = 0; i < m->n_vcpus && snap_ok(&s); i++)
        m->config.hv->vcpu_state(m->vcpu[i].hv, &s);
    if (snap_ok(&s))
        device_state(m, &s);
    r = snap_done(&s, err);
    snap_stream_clear(&s);
    return r;
}

static void on_no_patience(struct loop_timer *timer)
{
    struct machine *m = timer->ctx;

    vcpus_release_others(&m->group);
}

static int tell_clone(struct machine *m, const uint8_t generation[MACHINE_GENERATION_SIZE], struct sm_error *err)
{
    uint8_t seed[LIFECYCLE_SEED_BYTES];

    if (getrandom(seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
        return sm_error_sys(err, errno, "cannot get entropy for a clone");
    lifecycle_restored(m->lifecycle, generation, seed);
    explicit_bzero(seed, sizeof(seed));
    /* Its line's eventfd is served when the kernel comes to it; this interrupt must be there before the first entry. */
    int r = m->config.hv->vm_irq(m->vm, LAYOUT_LIFECYCLE_IRQ, err);
    if (r < 0)
        return r;
    m->group.hold = m->n_vcpus > 1;
    if (m->group.hold)
        loop_timer_set(m->config.loop, &m->patience, io_now_ns() + RENEW_PATIENCE_NS, on_no_patience, m);
    return 0;
}

int machine_restore(struct machine *m, int state_fd, int memory_fd, const uint8_t generation[MACHINE_GENERATION_SIZE],
                    struct sm_error *err)
{
    const struct snap_memory memory = memory_of(m);
    int r = snap_memory_map(&memory, memory_fd, err);

    if (r >= 0) {
        pause_devices(m);
        r = load_state(m, state_fd, err);
    }
    if (r >= 0)
        r = machine_bind_lines(m, err);
    if (r >= 0)
        r = tell_clone(m, generation, err);
    if (r < 0)
        return sm_error_wrap(err, "restoring the machine");
    m->restored = true;
    resume_devices(m);
    return 0;
}
