/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cycle restore: see rewind.h.
 *
 * Theory of operation
 *
 * The inverse of a capture, on the machine that is there: vCPUs come to rest (no parking: what the guest was doing is
 * of no interest), devices are paused, memory goes back, state is loaded as by a restore, each vCPU's on its own
 * thread, the guest is told that it is a clone, and all leave together; all but the first wait outside of the guest
 * until it is renewed.
 *
 * Memory: a restored machine's is a private mapping of files, so pages that it has written are its own copies. The
 * kernel's page tables say which, by whomever they were written, and dropping those lets the files show through; a
 * diff's pages are mappings of the diff. What was only read stays mapped. Where the page tables can't be read all of it
 * is dropped: slower, and as right.
 *
 * State is read anew from the snapshot's state file, which the machine holds open. Loading a device resets it first:
 * that closes the host's end of the guest's connections.
 *
 * Events which the guest had rung and nobody took, and what a bake knew of it, are of another life. A bake stays armed:
 * a vCPU that was forced out for this was not cancelled.
 *
 * A failure after memory was touched leaves no machine: its run is ended, with the reason.
 *
 * Threads: the loop's.
 */
#include "machine/rewind.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "machine/coord.h"
#include "machine/machine_private.h"

static int drop_pages(struct machine *m, struct sm_error *err)
{
    const struct snap_memory memory = machine_memory(m);
    uint32_t pages = snap_memory_pages(&memory);
    struct snap_run all = {.first = 0, .count = pages};
    const struct snap_runs everything = {.run = &all, .n = 1, .pages = pages};

    if (m->pagemap_fd < 0)
        return snap_memory_rewind(&memory, &everything, err);
    CLEANUP_FREE uint64_t *written = machine_pages_new(m, err);
    struct snap_runs runs = {0};
    int r = written ? snap_memory_scan(&memory, m->pagemap_fd, SNAP_SCAN_PRIVATE, written, err) : -ENOMEM;

    if (r == 0)
        r = snap_runs_make(&runs, written, pages, SNAP_RUNS_TARGET, err);
    if (r == 0)
        r = snap_memory_rewind(&memory, &runs, err);
    snap_runs_done(&runs);
    return r;
}

static int go_back(struct machine *m, const uint8_t generation[MACHINE_GENERATION_SIZE], struct sm_error *err)
{
    int r = drop_pages(m, err);

    if (r == 0)
        r = machine_load_state(m, m->origin.state_fd, err);
    return r < 0 ? r : machine_tell_clone(m, generation, err);
}

int machine_rewind(struct machine *m, const uint8_t generation[MACHINE_GENERATION_SIZE], struct sm_error *err)
{
    struct sm_error why = SM_ERROR_INIT;

    if (!m->origin.known)
        return sm_error_set(err, EINVAL, "a machine that was booted has no snapshot to go back to");
    if (machine_is_saving(m))
        return sm_error_set(err, EBUSY, "the machine is being saved; put it back when that is done");
    int r = coord_pause(m->vcpu, m->n_vcpus);
    if (r < 0)
        return sm_error_set(err, -r, "the machine has ended and can't be put back");
    bake_at_rest(m);
    machine_pause_devices(m);
    r = go_back(m, generation, &why);
    if (r < 0) {
        sm_error_wrap(&why, "putting the machine back");
        vcpu_group_end(&m->group, MACHINE_VCPU_ERROR, "", why.text, strlen(why.text));
        return sm_error_set(err, why.code, "%s", why.text);
    }
    events_forget(&m->events);
    bake_forget(m);
    m->park.asked = false;
    machine_resume_devices(m);
    vcpus_answer(m->vcpu, m->n_vcpus, ~0u);
    coord_resume(m->vcpu, m->n_vcpus);
    return 0;
}
