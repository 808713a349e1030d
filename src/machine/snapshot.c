/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saving and restoring a machine.
 *
 * Theory of operation
 *
 * Saving, in this order: vCPUs come to rest (park.c), so nothing of the guest runs; devices are paused, so nothing of
 * ours writes its memory; each vCPU saves itself on its own thread, then the hypervisor's VM (whose clock none of them
 * has then seen later than it is saved), then the devices; memory is read in place and written. Going on is the same
 * list from the end. State waits in its stream until then: writing it, durably, needs no machine that stands still.
 *
 * Which pages are written: snapshot_memory.c. Saving while the machine runs on: live.c.
 *
 * Restoring: memory is mapped over the machine's (private, copy on write: nothing is read), then the VM, the vCPUs, the
 * devices, in machine_new()'s machine; then lines and doorbells are bound, the guest is told that it is a clone, and
 * devices look at what was left undone. One function says the order of devices, for both directions. Pages that the
 * last clone needed are read by the kernel meanwhile.
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

void machine_pause_devices(struct machine *m)
{
    for (unsigned i = 0; i < m->n_slots; i++)
        virtio_mmio_pause(m->slot[i].transport);
}

void machine_resume_devices(struct machine *m)
{
    for (unsigned i = 0; i < m->n_slots; i++)
        virtio_mmio_resume(m->slot[i].transport);
    lifecycle_resume(m->lifecycle);
    serial_resume(m->serial);
}

/* --- saving --- */

/* Or load it: the stream says. */
static int save_vcpu(struct vcpu *v, void *ctx, struct sm_error *err)
{
    struct snap_stream *s = ctx;

    v->group->hv->vcpu_state(v->hv, s);
    return snap_done(s, err);
}

int machine_save_state(struct machine *m, struct snap_stream *s, struct sm_error *err)
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

static int save_memory(struct machine *m, const struct machine_files *files, bool diff, struct snap_runs *ret_runs,
                       struct machine_saved *ret, struct sm_error *err)
{
    const struct snap_memory memory = machine_memory(m);
    CLEANUP_FREE uint64_t *wanted = machine_pages_new(m, err);
    struct snap_memory_stats stats;
    int r = wanted ? machine_pages_wanted(m, diff, wanted, err) : -ENOMEM;

    if (r == 0 && diff)
        r = snap_runs_make(ret_runs, wanted, snap_memory_pages(&memory), SNAP_RUNS_TARGET, err);
    if (r == 0 && diff)
        snap_runs_mark(ret_runs, wanted);
    if (r == 0)
        r = snap_memory_save(&memory, wanted, files->memory, &stats, err);
    if (r == 0)
        r = machine_check_memory(m, err);
    if (r < 0)
        return r;
    ret->data_pages = stats.data_pages;
    ret->zero_pages = stats.zero_pages;
    return 0;
}

int machine_write_lists(const struct snap_stream *s, const struct snap_runs *runs, const struct machine_files *files,
                        unsigned flags, struct sm_error *err)
{
    int r = snap_file_write(s, files->state, err);

    return r == 0 && flags & MACHINE_SAVE_DIFF ? snap_runs_write(runs, SNAP_RUNS_DIFF, files->diff, err) : r;
}

int machine_save(struct machine *m, const struct machine_files *files, unsigned flags, struct machine_saved *ret,
                 struct sm_error *err)
{
    bool stay = flags & MACHINE_SAVE_STAY, diff = flags & MACHINE_SAVE_DIFF;
    struct machine_saved saved = {.devices = m->n_slots, .listeners = atomic_load(&m->listeners)};
    uint64_t start = io_now_ns();
    struct snap_runs runs = {0};
    struct snap_stream s;
    int r = m->live ? -EBUSY : machine_rest(m, NULL);

    if (r == -EBUSY)
        return sm_error_set(err, EBUSY, "the machine is being saved already");
    if (r < 0)
        return sm_error_set(err, -r, "the machine has ended and can't be saved");
    snap_stream_init(&s);
    machine_pause_devices(m);
    r = machine_save_state(m, &s, err);
    if (r >= 0)
        r = save_memory(m, files, diff, &runs, &saved, err);
    if (r >= 0 && stay)
        r = machine_write_lists(&s, &runs, files, flags, err);
    saved.pause_ns = io_now_ns() - start;
    if (r < 0 || !stay) {
        machine_resume_devices(m);
        machine_go_on(m);
    }
    if (r >= 0 && !stay)
        r = machine_write_lists(&s, &runs, files, flags, err);
    snap_runs_done(&runs);
    snap_stream_clear(&s);
    if (r < 0)
        return sm_error_wrap(err, "saving the machine");
    saved.total_ns = io_now_ns() - start;
    *ret = saved;
    return 0;
}

/* --- restoring --- */

int machine_load_state(struct machine *m, int state_fd, struct sm_error *err)
{
    struct snap_stream s;
    int r = snap_file_read(&s, state_fd, err);

    if (r < 0)
        return r;
    shape_state(m, &s);
    if (snap_ok(&s))
        m->config.hv->vm_state(m->vm, &s);
    if (m->group.pauses)
        coord_each(m->vcpu, m->n_vcpus, save_vcpu, &s, NULL);
    for (unsigned i = 0; !m->group.pauses && i < m->n_vcpus && snap_ok(&s); i++)
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

int machine_tell_clone(struct machine *m, const uint8_t generation[MACHINE_GENERATION_SIZE], struct sm_error *err)
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

/* Have the pages read that it is going to need, while the rest of it is put together. Advice: a bad list is left. */
static void start_prefetch(struct machine *m, int fd)
{
    const struct snap_memory memory = machine_memory(m);
    struct snap_runs runs;

    if (snap_runs_read(&runs, SNAP_RUNS_PREFETCH, snap_memory_pages(&memory), fd, NULL) < 0)
        return;
    snap_memory_prefetch(&memory, &runs);
    snap_runs_done(&runs);
}

int machine_restore(struct machine *m, const struct machine_files *files,
                    const uint8_t generation[MACHINE_GENERATION_SIZE], struct sm_error *err)
{
    int r = origin_map(m, files, err);

    if (r >= 0 && files->prefetch >= 0)
        start_prefetch(m, files->prefetch);
    if (r >= 0) {
        m->mapped_ns = io_now_ns();
        machine_pause_devices(m);
        r = machine_load_state(m, files->state, err);
    }
    if (r >= 0)
        r = machine_bind_lines(m, err);
    m->loaded_ns = io_now_ns();
    if (r >= 0)
        r = machine_tell_clone(m, generation, err);
    if (r < 0)
        return sm_error_wrap(err, "restoring the machine");
    machine_resume_devices(m);
    return 0;
}
