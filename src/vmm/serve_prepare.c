/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control server: machines that are built before their snapshot is known (CONFIG with PREPARE), and machines that go
 * back to it (REWIND).
 *
 * A prepared machine is complete but for its contents: memory, VM, interrupt lines, vCPU threads, devices with one
 * empty disk; and the process is shut in, since all that a restore needs then comes with its frames. DISK gives the
 * disk its extents, RESTORE maps memory, loads state, and lets the vCPUs go.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "dev/blk.h"
#include "machine/rewind.h"
#include "vmm/server_private.h"

#define EMPTY_DISK_BYTES 4096

static int add_empty_disk(struct server *s, struct sm_error *err)
{
    struct blk_extent extent = {.fd = memfd_create("empty disk", MFD_CLOEXEC), .length = EMPTY_DISK_BYTES};
    const struct blk_config config = {.extents = &extent, .n_extents = 1};

    if (extent.fd < 0)
        return sm_error_sys(err, errno, "cannot make an empty disk");
    if (ftruncate(extent.fd, EMPTY_DISK_BYTES) < 0) {
        int code = errno;

        close(extent.fd);
        return sm_error_sys(err, code, "cannot make an empty disk");
    }
    int r = blk_new(&s->disk[0], &config, err);
    if (r == 0) {
        s->prepared_disk = s->disk[0];
        s->n_disks = 1;
    }
    return r;
}

int serve_prepare(struct server *s, struct sm_error *err)
{
    int r = add_empty_disk(s, err);

    if (r == 0)
        r = server_build_machine(s, err);
    if (r == 0)
        r = machine_prepare(s->machine, err);
    return r < 0 ? r : server_shut_in(s, err);
}

int serve_attach(struct server *s, const struct blk_config *config, struct sm_error *err)
{
    int r = blk_attach(s->prepared_disk, config, err);

    if (r == 0)
        s->prepared_disk = NULL;
    return r;
}

int serve_rewind(struct server *s, const struct control_request *req, struct sm_error *err)
{
    if (s->state != SERVER_RUNNING)
        return server_wrong_time(err, "REWIND");
    return machine_rewind(s->machine, req->generation, err);
}
