/* SPDX-License-Identifier: Apache-2.0 */
/* Events to the host: see lifecycle.h. */
#include "lifecycle.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "kernel/lifecycle_abi.h"

int ga_lifecycle_open(void)
{
    int fd = open("/dev/" SM_LC_DEV_NAME, O_RDWR | O_CLOEXEC | O_NONBLOCK);

    return fd < 0 ? -errno : fd;
}

/* One write is one event, with its text behind it. */
static int send_record(int fd, uint32_t kind, uint64_t arg, const char *text, size_t len)
{
    struct {
        struct sm_lc_record rec;
        char text[SM_LC_TEXT_SIZE];
    } b = {.rec = {.kind = kind, .arg = arg}};

    if (fd < 0)
        return 0;
    if (len)
        memcpy(b.text, text, len);
    return write(fd, &b, sizeof(b.rec) + len) < 0 ? -errno : 0;
}

int ga_lifecycle_event(int fd, uint32_t kind, uint64_t arg)
{
    return send_record(fd, kind, arg, NULL, 0);
}

int ga_lifecycle_panic(int fd, const char *text)
{
    size_t len = strnlen(text, SM_LC_TEXT_SIZE);

    return send_record(fd, SM_LC_EV_PANIC, len, text, len);
}
