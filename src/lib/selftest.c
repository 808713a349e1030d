/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of the KVM self-test: see selftest.h. One small file in the image store, which only its owner can write. Its
 * content names the boot and the KVM device; any other content, a torn write for one, means "not yet".
 */
#include "lib/selftest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"

static bool read_text(const char *path, char *buf, size_t size)
{
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : io_read_full(fd, buf, size - 1);

    buf[n > 0 ? n : 0] = '\0';
    return n > 0;
}

bool selftest_passed(struct selftest *s, const char *dir)
{
    char boot[64], found[sizeof(s->key) + 1];
    struct utsname un;
    struct stat st;

    s->key[0] = '\0';
    if (snprintf(s->path, sizeof(s->path), "%s/kvm-self-test", dir) >= (int)sizeof(s->path) ||
        !read_text("/proc/sys/kernel/random/boot_id", boot, sizeof(boot)) || uname(&un) < 0 ||
        stat("/dev/kvm", &st) < 0)
        return false;
    boot[strcspn(boot, "\n")] = '\0';
    if (snprintf(s->key, sizeof(s->key), "passed %s %llx %s\n", boot, (unsigned long long)st.st_rdev, un.release) >=
        (int)sizeof(s->key)) {
        s->key[0] = '\0';
        return false;
    }
    return read_text(s->path, found, sizeof(found)) && strcmp(found, s->key) == 0;
}

void selftest_remember(const struct selftest *s)
{
    CLEANUP_FD int fd = -1;

    if (!s->key[0])
        return;
    fd = open(s->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (fd >= 0)
        (void)!write(fd, s->key, strlen(s->key));
}
