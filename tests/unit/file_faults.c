/* SPDX-License-Identifier: Apache-2.0 */
/* File operations that fail on demand: see file_faults.h. The names are those of 64-bit offsets. */
#include "file_faults.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/types.h>

struct file_faults file_faults = {.fail_at = -1};

ssize_t __real_pwrite64(int fd, const void *buf, size_t len, off_t off);
int __real_ftruncate64(int fd, off_t len);
int __real_fsync(int fd);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t len, off_t off);
int __wrap_ftruncate64(int fd, off_t len);
int __wrap_fsync(int fd);

static bool fails(void)
{
    if (file_faults.count++ != file_faults.fail_at)
        return false;
    errno = file_faults.error;
    return true;
}

ssize_t __wrap_pwrite64(int fd, const void *buf, size_t len, off_t off)
{
    if (fails())
        return -1;
    if (file_faults.short_max && len > file_faults.short_max)
        len = file_faults.short_max;
    return __real_pwrite64(fd, buf, len, off);
}

int __wrap_ftruncate64(int fd, off_t len)
{
    return fails() ? -1 : __real_ftruncate64(fd, len);
}

int __wrap_fsync(int fd)
{
    return fails() ? -1 : __real_fsync(fd);
}
