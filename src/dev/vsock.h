/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-vsock (virtio 1.2 §5.10): stream sockets between the guest and unix sockets of the host. */
#ifndef SM_DEV_VSOCK_H
#define SM_DEV_VSOCK_H

#include <stdint.h>

#include "dev/virtio.h"

#define VSOCK_HOST_CID  2
#define VSOCK_MAX_CONNS 1024
#define VSOCK_BUF_ALLOC (256 * 1024) /* what we let the guest have in flight per connection */

struct vsock_config {
    struct loop *loop;
    uint64_t guest_cid; /* >= 3 */
    /*
     * The guest connects to `port` on the host: a connected unix stream socket (taken over), or -errno to refuse.
     * NULL: every such connection is refused. Runs on the loop's thread with the device's lock held.
     */
    int (*guest_connect)(void *ctx, uint32_t port);
    void *ctx;
};

int vsock_new(struct virtio_dev **ret, const struct vsock_config *config, struct sm_error *err);

/*
 * Connect the unix stream socket `fd` (taken over, also on failure) to `port` in the guest. Bytes may be written to the
 * peer of `fd` at once; they travel when the guest has accepted. Refused by the guest: `fd` is closed.
 * Loop's thread, no lock held. -ENOTCONN: the driver is not up; -EMFILE: VSOCK_MAX_CONNS reached.
 */
int vsock_connect(struct virtio_dev *dev, uint32_t port, int fd, struct sm_error *err);

#endif
