/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting for locks: see lock.h.
 *
 * flock(2) has no time-out, and nothing tells that a lock was given up: an alarm would need a signal handler, which a
 * library may not have; a helper thread or process that blocks in flock() would be named as the holder and could not be
 * called back without a signal either; inotify tells of a close before its lock is gone. So whoever waits with an end
 * asks again after pauses, short at first. Whoever has no end to keep blocks in the kernel.
 */
#include "oci/lock.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "oci/text.h"

#define PAUSE_MIN_NS  1000000ll
#define PAUSE_MAX_NS  50000000ll
#define TELL_EVERY_NS 200000000ull
#define NS_PER_MS     1000000ull
#define COMM_SIZE     64 /* the kernel's TASK_COMM_LEN is 16; kernel threads show more */

static void pause_ns(long long ns)
{
    clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = ns}, NULL);
}

static int wait_with_end(int fd, int how, const struct lock_wait *wait)
{
    uint64_t start = io_now_ns(), told = 0;
    long long pause = PAUSE_MIN_NS;
    char who[LOCK_WHO_SIZE];

    while (flock(fd, how | LOCK_NB) < 0) {
        uint64_t now = io_now_ns();

        if (errno != EWOULDBLOCK && errno != EINTR)
            return -errno;
        if (wait->timeout_ms >= 0 && now - start >= (uint64_t)wait->timeout_ms * NS_PER_MS)
            return -ETIMEDOUT;
        if (wait->waiting && (!told || now - told >= TELL_EVERY_NS)) {
            told = now;
            if (wait->waiting(wait->ctx, lock_who(who, fd)))
                return -ECANCELED;
        }
        pause_ns(pause);
        pause = pause * 2 > PAUSE_MAX_NS ? PAUSE_MAX_NS : pause * 2;
    }
    return 0;
}

int lock_take(int fd, int how, const struct lock_wait *wait)
{
    int r;

    if (wait && (wait->timeout_ms >= 0 || wait->waiting))
        return wait_with_end(fd, how, wait);
    do {
        r = flock(fd, how);
    } while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

static const char *program_of(char name[COMM_SIZE], int pid)
{
    char path[32];
    FILE *f;
    bool ok;

    snprintf(path, sizeof(path), "/proc/%d/comm", pid);
    f = fopen(path, "re");
    ok = f && fgets(name, COMM_SIZE, f);
    if (f)
        fclose(f);
    if (!ok)
        return "gone meanwhile";
    name[strcspn(name, "\n")] = '\0';
    return name;
}

/*
 * proc_locks(5): "ID: FLOCK ADVISORY WRITE PID MAJ:MIN:INODE START END"; those who wait have "->" behind the ID. The
 * device is the file system's own number, which stat() does not show on some (btrfs): then nobody is found. Holders in
 * other PID namespaces are not listed.
 */
static bool is_holder(const char *line, const struct stat *st, int *ret_pid)
{
    unsigned long long inode;
    unsigned major_no, minor_no;
    char kind[16];
    int pid;

    if (sscanf(line, "%*d: %15s %*s %*s %d %x:%x:%llu", kind, &pid, &major_no, &minor_no, &inode) != 5)
        return false;
    *ret_pid = pid;
    return !strcmp(kind, "FLOCK") && inode == st->st_ino && major_no == major(st->st_dev) &&
           minor_no == minor(st->st_dev) && pid > 0;
}

const char *lock_who(char buf[LOCK_WHO_SIZE], int fd)
{
    FILE *f = fopen("/proc/locks", "re");
    char name[COMM_SIZE], shown[TEXT_SHOWN_SIZE];
    CLEANUP_FREE char *line = NULL;
    size_t size = 0, len;
    int pid, first = 0, others = 0;
    struct stat st;

    if (f && !fstat(fd, &st)) {
        while (getline(&line, &size, f) >= 0) {
            if (!is_holder(line, &st, &pid))
                continue;
            if (first)
                others++;
            else
                first = pid;
        }
    }
    if (f)
        fclose(f);
    if (!first) {
        snprintf(buf, LOCK_WHO_SIZE, "another process (this system does not tell which)");
        return buf;
    }
    snprintf(buf, LOCK_WHO_SIZE, "process %d (%.32s)", first, text_shown(shown, program_of(name, first)));
    len = strlen(buf);
    if (others)
        snprintf(buf + len, LOCK_WHO_SIZE - len, " and %d other%s", others, others > 1 ? "s" : "");
    return buf;
}
