/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Door: archives of snapshots. The input is read as it is, and once more with the checksums of its tar headers made
 * right. What was taken has the length that its metadata says, and what is written from it is taken again.
 */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/snapshot_archive.h"

#define BLOCK     512
#define LARGE_MIB 64 /* of more memory than this what was taken is not written again */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int new_file(void)
{
    int fd = memfd_create("file", MFD_CLOEXEC);

    assert(fd >= 0);
    return fd;
}

static void again(const struct snapshot_meta *m, int state_fd, int memory_fd)
{
    struct snapshot s = {.meta = *m,
                         .dir_fd = -1,
                         .state_fd = state_fd,
                         .memory_fd = memory_fd,
                         .diff_fd = -1,
                         .base_memory_fd = -1,
                         .prefetch_fd = -1};
    int out = new_file(), state = new_file(), memory = new_file();
    struct snapshot_meta back;
    struct stat st;

    if (fstat(state_fd, &st) == 0 && m->memory_mib <= LARGE_MIB) {
        s.meta.state_bytes = (uint64_t)st.st_size;              /* whether it is right is not this door's to say */
        if (snapshot_archive_write(&s, out, NULL, NULL) == 0) { /* its text may be longer as we write it */
            int r = lseek(out, 0, SEEK_SET) == 0 ? snapshot_archive_read(out, state, memory, &back, NULL, NULL) : -1;

            assert(r == 0 && !strcmp(back.key, m->key) && back.memory_mib == m->memory_mib);
            snapshot_meta_done(&back);
        }
    }
    close(out);
    close(state);
    close(memory);
}

static void try(const uint8_t *data, size_t len)
{
    int fd = new_file(), state = new_file(), memory = new_file(), r;
    struct sm_error err = SM_ERROR_INIT;
    struct snapshot_meta m;
    struct stat st;

    if (write(fd, data, len) != (ssize_t)len || lseek(fd, 0, SEEK_SET) != 0)
        abort();
    r = snapshot_archive_read(fd, state, memory, &m, NULL, &err);
    assert((r < 0) == (err.code != 0));
    if (r >= 0) {
        assert(!m.base[0] && fstat(memory, &st) == 0 && (uint64_t)st.st_size == m.memory_mib * MIB);
        again(&m, state, memory);
        snapshot_meta_done(&m);
    }
    close(fd);
    close(state);
    close(memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    uint8_t *copy = malloc(len + 1);

    assert(copy);
    try(data, len);
    memcpy(copy, data, len);
    for (size_t at = 0; at + BLOCK <= len; at += BLOCK) {
        uint8_t *h = copy + at;
        unsigned sum = 0;

        if (memcmp(h + 257, "ustar", 5) != 0)
            continue;
        memset(h + 148, ' ', 8);
        for (size_t i = 0; i < BLOCK; i++)
            sum += h[i];
        snprintf((char *)h + 148, 7, "%06o", sum);
    }
    try(copy, len);
    free(copy);
    return 0;
}
