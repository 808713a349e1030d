/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sums of files that seldom change.
 *
 * Theory of operation
 *
 * What: sums/<2 hex> in the store is one line: what the file was (device, inode, size, times of modification and of
 * change, to the nanosecond) and its SHA-256. It counts only for a file of which all of that is still so. The time of
 * change can't be set by anybody, so a file that was written and dated back is another one. The two digits come from
 * the identity; of two files with the same the later one stays. So there are at most 256 of them.
 *
 * Times move in ticks: a file that is written twice in one tick looks the same. So what was changed within
 * SETTLED_NS, by this host's clock, is not remembered (nor is what seems to come from the future), and neither is a
 * file that changed while it was read.
 *
 * A line appears by rename, without sync: one that is short or damaged after a crash counts for nothing. Nothing fails
 * because a line cannot be written.
 */
#include "lib/filesum.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "oci/store.h"

#define CHUNK      (1024 * 1024u)
#define LINE_SIZE  384
#define SETTLED_NS 2000000000ll
#define FILE_NAME  "sum" /* below tmp */

int file_digest(int fd, const char *what, char ret[DIGEST_HEX_SIZE], struct sm_error *err)
{
    CLEANUP_FREE uint8_t *buf = malloc(CHUNK);
    struct hasher *h = NULL;
    struct digest d;
    uint64_t off = 0;
    ssize_t n = 0;
    int r = buf ? hasher_new(&h, err) : sm_error_set(err, ENOMEM, "out of memory while reading %s", what);

    while (r >= 0 && (n = io_pread_full(fd, buf, CHUNK, off)) > 0) {
        hasher_add(h, buf, (size_t)n);
        off += (uint64_t)n;
    }
    if (r >= 0 && n < 0)
        r = sm_error_sys(err, (int)-n, "cannot read %s", what);
    if (r >= 0) {
        hasher_end(h, &d);
        digest_hex(&d, ret);
    }
    hasher_free(h);
    return r;
}

static void identity(const struct stat *st, char text[LINE_SIZE])
{
    snprintf(text, LINE_SIZE, "1 %llx %llx %llx %lld.%09ld %lld.%09ld ", (unsigned long long)st->st_dev,
             (unsigned long long)st->st_ino, (unsigned long long)st->st_size, (long long)st->st_mtim.tv_sec,
             st->st_mtim.tv_nsec, (long long)st->st_ctim.tv_sec, st->st_ctim.tv_nsec);
}

/* The line's file, and the directory's descriptor; or -errno. */
static int open_dir(struct oci_store *store, const char *text, char ret_name[3])
{
    char path[PATH_MAX], hex[DIGEST_HEX_SIZE];
    struct digest d;

    if (snprintf(path, sizeof(path), "%s/sums", oci_store_path(store)) >= (int)sizeof(path) ||
        digest_of(&d, text, strlen(text), NULL) < 0)
        return -ENAMETOOLONG;
    digest_hex(&d, hex);
    memcpy(ret_name, hex, 2);
    ret_name[2] = '\0';
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return -errno;
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

static bool look_up(struct oci_store *store, const char *text, char ret[DIGEST_HEX_SIZE])
{
    char name[3], line[LINE_SIZE + DIGEST_HEX_SIZE + 1];
    CLEANUP_FD int dir_fd = open_dir(store, text, name), fd = -1;
    size_t len = strlen(text);
    ssize_t n;

    if (dir_fd < 0)
        return false;
    fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    n = fd < 0 ? -1 : io_read_full(fd, line, sizeof(line));
    if (n != (ssize_t)(len + DIGEST_HEX_SIZE) || memcmp(line, text, len) != 0 || line[n - 1] != '\n')
        return false;
    line[n - 1] = '\0';
    if (strspn(line + len, "0123456789abcdef") != DIGEST_HEX_SIZE - 1)
        return false;
    memcpy(ret, line + len, DIGEST_HEX_SIZE);
    return true;
}

static void remember(struct oci_store *store, const char *text, const char *hex)
{
    char name[3], line[LINE_SIZE + DIGEST_HEX_SIZE + 1];
    CLEANUP_FD int dir_fd = open_dir(store, text, name), fd = -1;
    int n = snprintf(line, sizeof(line), "%s%s\n", text, hex);
    struct store_temp temp = STORE_TEMP_INIT;

    if (dir_fd < 0 || store_temp_new(&temp, store, NULL) < 0)
        return;
    fd = store_temp_file(&temp, FILE_NAME, NULL);
    if (fd >= 0 && io_write_full(fd, line, (size_t)n) == 0)
        (void)!renameat(temp.dir_fd, FILE_NAME, dir_fd, name);
    store_temp_discard(&temp);
}

static bool is_settled(const struct stat *st)
{
    struct timespec now;
    int64_t age;

    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec - st->st_ctim.tv_sec > 1000) /* and no overflow below */
        return true;
    age = (int64_t)(now.tv_sec - st->st_ctim.tv_sec) * 1000000000ll + (now.tv_nsec - st->st_ctim.tv_nsec);
    return now.tv_sec >= st->st_ctim.tv_sec && age >= SETTLED_NS;
}

int file_digest_cached(struct oci_store *store, int fd, const char *what, char ret[DIGEST_HEX_SIZE],
                       struct sm_error *err)
{
    char before[LINE_SIZE], after[LINE_SIZE], hex[DIGEST_HEX_SIZE];
    struct stat st;
    int r;

    if (fstat(fd, &st) < 0)
        return sm_error_sys(err, errno, "cannot read %s", what);
    if (!S_ISREG(st.st_mode))
        return sm_error_set(err, EINVAL, "%s is not a file", what);
    identity(&st, before);
    if (look_up(store, before, ret))
        return 0;
    r = file_digest(fd, what, hex, err);
    if (r < 0)
        return r;
    if (fstat(fd, &st) < 0)
        return sm_error_sys(err, errno, "cannot read %s", what);
    identity(&st, after);
    if (!strcmp(before, after) && is_settled(&st))
        remember(store, before, hex);
    memcpy(ret, hex, sizeof(hex));
    return 0;
}
