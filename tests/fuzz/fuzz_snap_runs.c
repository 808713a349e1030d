/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Door: lists of page runs, `diff` and `prefetch`. Input: a byte for the kind, then the file, which is read as it is
 * and once more with its checksum made right. A list that was taken is held to its promise and put to use: a merge by
 * it must be what copying page by page gives.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "snap/crc32c.h"
#include "snap/memory.h"

#define PAGES  64u
#define BYTES  (PAGES * SNAP_PAGE)
#define HEADER 32

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int new_file(void)
{
    int fd = memfd_create("file", MFD_CLOEXEC);

    assert(fd >= 0);
    return fd;
}

/* A memory file with every third page, beginning at `phase`, filled with `byte`. */
static int memory(uint8_t byte, unsigned phase)
{
    uint8_t page[SNAP_PAGE];
    int fd = new_file();
    ssize_t n = ftruncate(fd, BYTES);

    memset(page, byte, sizeof(page));
    for (unsigned i = phase; i < PAGES; i += 3) {
        n = pwrite(fd, page, sizeof(page), (off_t)i * SNAP_PAGE);
        assert(n == SNAP_PAGE);
    }
    (void)n;
    return fd;
}

static uint8_t first_byte(int fd, unsigned page)
{
    uint8_t v = 0;
    ssize_t n = pread(fd, &v, 1, (off_t)page * SNAP_PAGE);

    assert(n == 1);
    (void)n;
    return v;
}

static void use(const struct snap_runs *runs)
{
    uint64_t bitmap[SNAP_BITMAP_WORDS(PAGES)] = {0};
    uint32_t end = 0, total = 0;

    assert(runs->n <= SNAP_RUNS_MAX && runs->pages == PAGES);
    for (uint32_t i = 0; i < runs->n; i++) {
        assert(runs->run[i].count > 0 && runs->run[i].first >= end);
        end = runs->run[i].first + runs->run[i].count;
        total += runs->run[i].count;
        assert(end <= PAGES);
    }
    assert(total == snap_runs_total(runs));
    snap_runs_mark(runs, bitmap);

    int base = memory(1, 0), diff = memory(2, 1), out = new_file();
    int r = snap_memory_merge(base, diff, runs, out, NULL);
    assert(r == 0);
    for (unsigned i = 0; i < PAGES; i++)
        assert(first_byte(out, i) == first_byte(snap_bit(bitmap, i) ? diff : base, i));
    struct snap_memory m = {.n = 1};
    m.region[0].size = BYTES;
    m.region[0].host = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    r = snap_memory_map(&m, base, NULL);
    assert(r == 0);
    r = snap_memory_map_diff(&m, runs, diff, NULL);
    assert(r == 0);
    (void)r;
    for (unsigned i = 0; i < PAGES; i++)
        assert(m.region[0].host[(size_t)i * SNAP_PAGE] == first_byte(out, i));
    snap_memory_prefetch(&m, runs);
    munmap(m.region[0].host, BYTES);
    close(base);
    close(diff);
    close(out);
}

static void load(const uint8_t *data, size_t size, enum snap_runs_kind kind)
{
    struct sm_error err = SM_ERROR_INIT;
    struct snap_runs runs;
    int fd = new_file();
    ssize_t n = write(fd, data, size);

    assert(n == (ssize_t)size);
    (void)n;
    int r = snap_runs_read(&runs, kind, PAGES, fd, &err);
    close(fd);
    if (r < 0) {
        assert(err.code == -r && err.text[0]);
        return;
    }
    use(&runs);
    snap_runs_done(&runs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    enum snap_runs_kind kind = data[0] % 2 ? SNAP_RUNS_PREFETCH : SNAP_RUNS_DIFF;
    load(data + 1, size - 1, kind);
    if (size - 1 < HEADER)
        return 0;
    uint8_t *copy = malloc(size - 1);
    assert(copy);
    memcpy(copy, data + 1, size - 1);
    uint32_t crc = crc32c(crc32c(0, copy, 28), copy + HEADER, size - 1 - HEADER);
    for (unsigned i = 0; i < 4; i++)
        copy[28 + i] = (uint8_t)(crc >> (8 * i));
    load(copy, size - 1, kind);
    free(copy);
    return 0;
}
