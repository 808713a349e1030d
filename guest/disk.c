/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk that grows: see disk.h.
 *
 * The kernel tells of a live disk's new size by an event of the device's kobject (RESIZE=1), over netlink. Any event is
 * reason enough to look again, so none is read. The socket is there before the size is looked at for the last time:
 * nothing is missed, and a machine whose disk is there pays for one look.
 */
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define NS_PER_MS      1000000ull
#define KERNEL_UEVENTS 1u /* the netlink group of events that come from the kernel itself */

static bool is_empty(const char *device)
{
    uint64_t size = 0;
    int fd = open(device, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return false;
    bool empty = ioctl(fd, BLKGETSIZE64, &size) == 0 && size == AGENT_EMPTY_DISK;
    close(fd);
    return empty;
}

static int open_events(void)
{
    struct sockaddr_nl addr = {.nl_family = AF_NETLINK, .nl_groups = KERNEL_UEVENTS};
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);

    if (fd < 0)
        return -errno;
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        int r = -errno;

        close(fd);
        return r;
    }
    return fd;
}

int ga_disk_wait(const char *device, struct ga_error *err)
{
    const uint64_t deadline = ga_now_ns() + AGENT_DISK_WAIT_MS * NS_PER_MS;
    char event[4096];

    if (!is_empty(device))
        return 0;
    int fd = open_events(), r = 0;
    if (fd < 0)
        return ga_error_sys(err, -fd, "listening for the growth of %s", device);
    while (r == 0 && is_empty(device)) {
        const uint64_t now = ga_now_ns();
        struct pollfd p = {.fd = fd, .events = POLLIN};

        if (now >= deadline) {
            r = ga_error_set(err, ETIMEDOUT,
                             "the guest's root disk %s is still empty after %u ms; give it the image's extents", device,
                             AGENT_DISK_WAIT_MS);
        } else if (poll(&p, 1, (int)((deadline - now + NS_PER_MS - 1) / NS_PER_MS)) < 0 && errno != EINTR) {
            r = ga_error_sys(err, errno, "waiting for the growth of %s", device);
        } else {
            while (recv(fd, event, sizeof(event), 0) > 0)
                ;
        }
    }
    close(fd);
    return r;
}
