/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory and its file: see memory.h.
 *
 * Theory of operation
 *
 * Saving walks the pages once. A page that is all zero is left out, neighbours that are not go out in one pwrite of at
 * most WRITE_MAX bytes, straight from guest memory: there is no second copy, and no buffer. The file is set to its
 * full length first, so what is not written is a hole and reads as zeros.
 *
 * Which pages to look at at all is a bitmap, made from the kernel's own page tables. /proc/self/pagemap says of each
 * page whether it is there or swapped out, and whether it belongs to a file. Of a machine that was booted, pages that
 * are neither were never touched and are zero; looking at them would only make the kernel map them. Of a restored
 * machine (a private mapping of a file) the pages that belong to no file are those that were written since, by
 * whomever: exactly a diff. Nothing is asked of the hypervisor, no page is write-protected, and device writes count.
 * (mincore(2) would not do: it takes a swapped page for one that never was.)
 *
 * Memory that is written while it is copied: the kernel's soft-dirty bits say which pages were written since they were
 * all cleared (Documentation/admin-guide/mm/soft-dirty.rst). Clearing takes the right to write from every page, from
 * the guest's mappings of them too, so the first write to each faults and is seen, by whomever. Scanning and clearing
 * are two steps: what is to be complete is scanned while nobody writes.
 *
 * Restoring maps the file over the addresses that the guest's memory has, and a diff's runs over that. Cost: one system
 * call a region, and one for each run.
 *
 * Reading ahead costs 1 to 3 us for each run even where nothing is to be read, which is most of the time: so a few
 * pages are looked at first.
 *
 * A file that gets shorter under a mapping raises SIGBUS in who touches it: a worker's end, never another's.
 *
 * Limits: snap/limits.h. Not done: huge pages of hugetlbfs; pages of another size than SNAP_PAGE are refused.
 */
#include "snap/memory.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "snap/crc32c.h"

#define WRITE_MAX (8 * MIB)
#define COPY_MAX  (1 * MIB)

#define PREFETCH_SAMPLES 16u /* pages */

/* Linux Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_SWAPPED (1ull << 62)
#define PAGEMAP_FILE    (1ull << 61)
#define PAGEMAP_WRITTEN (1ull << 55) /* soft-dirty */
#define PAGEMAP_BATCH   4096u        /* entries */

uint32_t snap_memory_pages(const struct snap_memory *m)
{
    uint64_t sum = 0;

    assert(m->n <= SNAP_MEMORY_MAX_REGIONS);
    for (unsigned i = 0; i < m->n; i++) {
        assert(is_aligned(m->region[i].size, SNAP_PAGE) && is_aligned((uintptr_t)m->region[i].host, SNAP_PAGE));
        sum += m->region[i].size;
    }
    assert(sum <= SNAP_MEMORY_MAX_BYTES);
    return (uint32_t)(sum / SNAP_PAGE);
}

static uint8_t *host_of(const struct snap_memory *m, uint32_t page)
{
    uint64_t at = (uint64_t)page * SNAP_PAGE;
    unsigned i = 0;

    while (at >= m->region[i].size)
        at -= m->region[i++].size;
    return m->region[i].host + at;
}

static bool is_zero(const uint8_t *page)
{
    uint64_t head;

    /* If the first word is zero and each following one equals the one before it, all are; memcmp is wide. */
    memcpy(&head, page, sizeof(head));
    return head == 0 && memcmp(page, page + sizeof(head), SNAP_PAGE - sizeof(head)) == 0;
}

/* --- which pages --- */

static bool is_wanted(uint64_t entry, enum snap_scan what)
{
    if (!(entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)))
        return false;
    switch (what) {
    case SNAP_SCAN_TOUCHED:
        return true;
    case SNAP_SCAN_PRIVATE:
        return !(entry & PAGEMAP_FILE);
    case SNAP_SCAN_WRITTEN:
        return entry & PAGEMAP_WRITTEN;
    }
    return true;
}

static int scan_region(const struct snap_region *r, uint32_t first, int fd, enum snap_scan what, uint64_t *bitmap,
                       struct sm_error *err)
{
    uint64_t entry[PAGEMAP_BATCH];
    uint32_t pages = (uint32_t)(r->size / SNAP_PAGE);

    for (uint32_t at = 0; at < pages;) {
        uint32_t n = pages - at < PAGEMAP_BATCH ? pages - at : PAGEMAP_BATCH;
        uint64_t off = ((uintptr_t)r->host / SNAP_PAGE + at) * sizeof(entry[0]);
        ssize_t got = io_pread_full(fd, entry, n * sizeof(entry[0]), off);

        if (got != (ssize_t)(n * sizeof(entry[0])))
            return sm_error_sys(err, got < 0 ? (int)-got : EIO, "cannot read which pages of guest memory are in use");
        for (uint32_t i = 0; i < n; i++)
            if (is_wanted(entry[i], what))
                snap_bit_set(bitmap, first + at + i);
        at += n;
    }
    return 0;
}

int snap_memory_scan(const struct snap_memory *m, int pagemap_fd, enum snap_scan what, uint64_t *bitmap,
                     struct sm_error *err)
{
    uint32_t first = 0;
    int r = 0;

    if (sysconf(_SC_PAGESIZE) != SNAP_PAGE)
        return sm_error_set(err, ENOTSUP, "snapshots need a host with pages of %u bytes; this one has %ld", SNAP_PAGE,
                            sysconf(_SC_PAGESIZE));
    for (unsigned i = 0; r == 0 && i < m->n; i++) {
        r = scan_region(&m->region[i], first, pagemap_fd, what, bitmap, err);
        first += (uint32_t)(m->region[i].size / SNAP_PAGE);
    }
    return r;
}

int snap_memory_track(int clear_refs_fd, struct sm_error *err)
{
    static const char soft_dirty[] = "4\n";
    ssize_t n = write(clear_refs_fd, soft_dirty, sizeof(soft_dirty) - 1);

    return n < 0 ? sm_error_sys(err, errno, "cannot track writes to guest memory") : 0;
}

bool snap_memory_can_track(int pagemap_fd, int clear_refs_fd)
{
    uint64_t before = 0, after = 0;
    void *p = mmap(NULL, SNAP_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const struct snap_memory probe = {.region = {{p, SNAP_PAGE}}, .n = 1};
    volatile uint8_t *byte = p;
    bool can = p != MAP_FAILED;

    if (!can)
        return false;
    *byte = 1;
    can = snap_memory_track(clear_refs_fd, NULL) == 0 &&
          snap_memory_scan(&probe, pagemap_fd, SNAP_SCAN_WRITTEN, &before, NULL) == 0;
    *byte = 2;
    can = can && snap_memory_scan(&probe, pagemap_fd, SNAP_SCAN_WRITTEN, &after, NULL) == 0;
    munmap(p, SNAP_PAGE);
    return can && before == 0 && after == 1;
}

/*
 * The next pages from `from` to `to` for which the file has data: 1 and both, 0 when there are none, -errno. A file
 * system that knows no holes says that all is data.
 */
static int next_data(int fd, uint32_t from, uint32_t to, uint32_t *ret_first, uint32_t *ret_end)
{
    off_t data = lseek(fd, (off_t)from * SNAP_PAGE, SEEK_DATA), hole;

    if (data < 0 && errno == ENXIO)
        return 0;
    if (data < 0 && errno != EINVAL)
        return -errno;
    if (data < 0)
        data = (off_t)from * SNAP_PAGE;
    if (data >= (off_t)to * SNAP_PAGE)
        return 0;
    hole = lseek(fd, data, SEEK_HOLE);
    if (hole < 0 || hole > (off_t)to * SNAP_PAGE)
        hole = (off_t)to * SNAP_PAGE;
    *ret_first = (uint32_t)(data / SNAP_PAGE);
    *ret_end = (uint32_t)((hole + SNAP_PAGE - 1) / SNAP_PAGE);
    return 1;
}

static int check_size(int fd, uint32_t pages, const char *which, struct sm_error *err)
{
    struct stat st;
    uint64_t want = (uint64_t)pages * SNAP_PAGE;

    if (fstat(fd, &st) < 0)
        return sm_error_sys(err, errno, "cannot read the snapshot's %s", which);
    if (!S_ISREG(st.st_mode))
        return sm_error_set(err, EBADMSG, "the snapshot's %s is not a file", which);
    if ((uint64_t)st.st_size != want)
        return sm_error_set(err, EBADMSG, "the snapshot's %s is %s: it has %lld bytes and should have %llu", which,
                            (uint64_t)st.st_size < want ? "truncated" : "too long", (long long)st.st_size,
                            (unsigned long long)want);
    return 0;
}

int snap_memory_mark_data(int fd, uint32_t pages, uint64_t *bitmap, struct sm_error *err)
{
    uint32_t first, end, at = 0;
    int r = check_size(fd, pages, "memory", err);

    if (r < 0)
        return r;
    while (at < pages && (r = next_data(fd, at, pages, &first, &end)) > 0) {
        for (at = first; at < end; at++)
            snap_bit_set(bitmap, at);
    }
    return r < 0 ? sm_error_sys(err, -r, "cannot tell what the snapshot's memory holds") : 0;
}

/* `n` pages from `first`, whose bits are set, against the file's in `data`. */
static void drop_same(const struct snap_memory *m, uint32_t first, uint32_t n, const uint8_t *data, uint64_t *bitmap)
{
    for (uint32_t page = first; page < first + n; page++, data += SNAP_PAGE)
        if (memcmp(host_of(m, page), data, SNAP_PAGE) == 0)
            snap_bit_clear(bitmap, page);
}

int snap_memory_drop_same(const struct snap_memory *m, int fd, uint64_t *bitmap, struct sm_error *err)
{
    CLEANUP_FREE uint8_t *buf = malloc(COPY_MAX);
    uint32_t pages = snap_memory_pages(m), n;
    int r = check_size(fd, pages, "base memory", err);

    if (r == 0 && !buf)
        r = sm_error_set(err, ENOMEM, "no memory to compare a snapshot");
    for (uint32_t page = 0; r == 0 && page < pages; page += n) {
        for (n = 0; page + n < pages && n < COPY_MAX / SNAP_PAGE && snap_bit(bitmap, page + n); n++)
            ;
        if (n == 0) {
            n = page % 64 == 0 && !bitmap[page / 64] ? 64 : 1;
            continue;
        }
        ssize_t got = io_pread_full(fd, buf, (size_t)n * SNAP_PAGE, (uint64_t)page * SNAP_PAGE);

        if (got != (ssize_t)n * SNAP_PAGE)
            return sm_error_sys(err, got < 0 ? (int)-got : EIO, "cannot read the snapshot's base memory");
        drop_same(m, page, n, buf, bitmap);
    }
    return r;
}

/* --- saving --- */

static const uint8_t zero_page[SNAP_PAGE];

/* Pages on their way to the file: `n` from `from`, which belong at page `first`. */
struct pending {
    int fd;
    const uint8_t *from;
    uint32_t first, n;
    uint64_t *has; /* of an update: pages that hold data; else NULL */
};

static int flush(struct pending *p, struct sm_error *err)
{
    int r = p->n ? io_pwrite_full(p->fd, p->from, (size_t)p->n * SNAP_PAGE, (uint64_t)p->first * SNAP_PAGE) : 0;

    if (r < 0)
        return sm_error_sys(err, -r, "cannot write the snapshot's memory (%u pages at page %u)", p->n, p->first);
    p->n = 0;
    return 0;
}

static int append(struct pending *p, uint32_t page, const uint8_t *from, struct sm_error *err)
{
    if (p->n && p->first + p->n == page && p->from + (size_t)p->n * SNAP_PAGE == from &&
        (size_t)p->n * SNAP_PAGE < WRITE_MAX) {
        p->n++;
        return 0;
    }
    int r = flush(p, err);
    p->from = from;
    p->first = page;
    p->n = 1;
    return r;
}

/* `page` of the file is to hold what is at `from`: written with its neighbours, or left out when it is zero. */
static int put_page(struct pending *p, uint32_t page, const uint8_t *from, struct snap_memory_stats *stats,
                    struct sm_error *err)
{
    if (!is_zero(from)) {
        stats->data_pages++;
        if (p->has)
            snap_bit_set(p->has, page);
        return append(p, page, from, err);
    }
    stats->zero_pages++;
    if (!p->has || !snap_bit(p->has, page))
        return 0;
    snap_bit_clear(p->has, page);
    return append(p, page, zero_page, err);
}

static int prepare_file(int fd, uint32_t pages, struct sm_error *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return sm_error_sys(err, errno, "cannot write the snapshot's memory");
    if (!S_ISREG(st.st_mode) || st.st_size != 0)
        return sm_error_set(err, EINVAL, "the file for the snapshot's memory is not an empty file");
    if (ftruncate(fd, (off_t)pages * SNAP_PAGE) < 0)
        return sm_error_sys(err, errno, "cannot make the snapshot's memory file %llu MiB long",
                            (unsigned long long)pages * SNAP_PAGE / MIB);
    return 0;
}

/* Pages `first` to `end` - 1 of the region that begins at page `start`. */
static int save_part(const struct snap_region *reg, uint32_t start, uint32_t first, uint32_t end,
                     const uint64_t *bitmap, struct pending *p, struct snap_memory_stats *stats, struct sm_error *err)
{
    int r = 0;

    for (uint32_t page = first; r == 0 && page < end; page++) {
        if (bitmap && page % 64 == 0 && !bitmap[page / 64]) {
            page += 63;
            continue;
        }
        if (!bitmap || snap_bit(bitmap, page))
            r = put_page(p, page, reg->host + (size_t)(page - start) * SNAP_PAGE, stats, err);
    }
    return r == 0 ? flush(p, err) : r;
}

static int save_pages(const struct snap_memory *m, const uint64_t *bitmap, uint32_t first, uint32_t end,
                      struct pending *p, struct snap_memory_stats *stats, struct sm_error *err)
{
    uint32_t start = 0;
    int r = 0;

    for (unsigned i = 0; r == 0 && i < m->n; i++) {
        uint32_t stop = start + (uint32_t)(m->region[i].size / SNAP_PAGE);

        if (first < stop && end > start)
            r = save_part(&m->region[i], start, first > start ? first : start, end < stop ? end : stop, bitmap, p,
                          stats, err);
        start = stop;
    }
    return r;
}

int snap_memory_save(const struct snap_memory *m, const uint64_t *bitmap, int fd, struct snap_memory_stats *ret,
                     struct sm_error *err)
{
    struct snap_memory_stats stats = {0};
    struct pending p = {.fd = fd};
    int r = snap_memory_begin(m, fd, err);

    if (r == 0)
        r = save_pages(m, bitmap, 0, snap_memory_pages(m), &p, &stats, err);
    if (r < 0)
        return r;
    *ret = stats;
    return 0;
}

int snap_memory_begin(const struct snap_memory *m, int fd, struct sm_error *err)
{
    return prepare_file(fd, snap_memory_pages(m), err);
}

int snap_memory_update(const struct snap_memory *m, const uint64_t *bitmap, uint32_t first, uint32_t end, uint64_t *has,
                       int fd, struct sm_error *err)
{
    struct snap_memory_stats stats = {0}; /* `has` tells */
    struct pending p = {.fd = fd, .has = has};

    return save_pages(m, bitmap, first, end, &p, &stats, err);
}

/* --- files to files --- */

/* Called for stretches of `n` pages of a file, in order; holes are left out. */
typedef int stretch_fn(void *ctx, uint32_t first, const uint8_t *data, uint32_t n, struct sm_error *err);

static int read_stretches(int fd, uint32_t from, uint32_t to, uint8_t *buf, stretch_fn *fn, void *ctx,
                          struct sm_error *err)
{
    uint32_t at = from, end = from;
    int r = 0;

    while (r == 0 && at < to) {
        if (at == end && (r = next_data(fd, at, to, &at, &end)) <= 0)
            return r < 0 ? sm_error_sys(err, -r, "cannot read the snapshot's memory") : 0;
        uint32_t n = end - at < COPY_MAX / SNAP_PAGE ? end - at : (uint32_t)(COPY_MAX / SNAP_PAGE);
        ssize_t got = io_pread_full(fd, buf, (size_t)n * SNAP_PAGE, (uint64_t)at * SNAP_PAGE);

        if (got != (ssize_t)n * SNAP_PAGE)
            return sm_error_sys(err, got < 0 ? (int)-got : EIO, "cannot read the snapshot's memory");
        r = fn(ctx, at, buf, n, err);
        at += n;
    }
    return r;
}

static int copy_stretch(void *ctx, uint32_t first, const uint8_t *data, uint32_t n, struct sm_error *err)
{
    struct snap_memory_stats stats = {0}; /* nobody asks */
    struct pending *p = ctx;
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < n; i++)
        r = put_page(p, first + i, data + (size_t)i * SNAP_PAGE, &stats, err);
    return r == 0 ? flush(p, err) : r; /* the buffer is used again */
}

int snap_memory_merge(int base_fd, int diff_fd, const struct snap_runs *diff, int out_fd, struct sm_error *err)
{
    CLEANUP_FREE uint8_t *buf = malloc(COPY_MAX);
    struct pending p = {.fd = out_fd};
    uint32_t at = 0;
    int r = check_size(base_fd, diff->pages, "base memory", err);

    if (r == 0)
        r = check_size(diff_fd, diff->pages, "memory", err);
    if (r == 0 && !buf)
        r = sm_error_set(err, ENOMEM, "no memory to merge a snapshot");
    if (r == 0)
        r = prepare_file(out_fd, diff->pages, err);
    for (uint32_t i = 0; r == 0 && i < diff->n; i++) {
        uint32_t first = diff->run[i].first, end = first + diff->run[i].count;

        r = read_stretches(base_fd, at, first, buf, copy_stretch, &p, err);
        if (r == 0)
            r = read_stretches(diff_fd, first, end, buf, copy_stretch, &p, err);
        at = end;
    }
    return r == 0 ? read_stretches(base_fd, at, diff->pages, buf, copy_stretch, &p, err) : r;
}

static int sum_stretch(void *ctx, uint32_t first, const uint8_t *data, uint32_t n, struct sm_error *err)
{
    uint32_t *crc = ctx;

    for (uint32_t i = 0; i < n; i++, data += SNAP_PAGE) {
        uint32_t page = first + i;
        const uint8_t number[] = {(uint8_t)page, (uint8_t)(page >> 8), (uint8_t)(page >> 16), (uint8_t)(page >> 24)};

        if (!is_zero(data))
            *crc = crc32c(crc32c(*crc, number, sizeof(number)), data, SNAP_PAGE);
    }
    return 0;
}

int snap_memory_sum(int fd, uint32_t pages, uint32_t *ret_crc, struct sm_error *err)
{
    CLEANUP_FREE uint8_t *buf = malloc(COPY_MAX);
    uint32_t crc = 0;
    int r = check_size(fd, pages, "memory", err);

    if (r == 0 && !buf)
        r = sm_error_set(err, ENOMEM, "no memory to check a snapshot");
    if (r == 0)
        r = read_stretches(fd, 0, pages, buf, sum_stretch, &crc, err);
    if (r < 0)
        return r;
    *ret_crc = crc;
    return 0;
}

/* --- mappings --- */

static int map_private(uint8_t *host, uint64_t size, int fd, uint64_t off, struct sm_error *err)
{
    void *p = mmap(host, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, (off_t)off);

    return p == MAP_FAILED ? sm_error_sys(err, errno, "cannot map the snapshot's memory") : 0;
}

int snap_memory_map(const struct snap_memory *m, int fd, struct sm_error *err)
{
    uint64_t off = 0;
    int r = check_size(fd, snap_memory_pages(m), "memory", err);

    for (unsigned i = 0; r == 0 && i < m->n; i++) {
        r = map_private(m->region[i].host, m->region[i].size, fd, off, err);
        off += m->region[i].size;
    }
    return r;
}

/* Called for each part of a run that lies in one region. */
typedef int part_fn(uint8_t *host, uint64_t size, int fd, uint64_t off, struct sm_error *err);

static int each_part(const struct snap_memory *m, const struct snap_runs *runs, part_fn *fn, int fd,
                     struct sm_error *err)
{
    uint64_t start = 0; /* of the region, in the file */
    unsigned region = 0;
    int r = 0;

    assert(runs->pages == snap_memory_pages(m));
    for (uint32_t i = 0; r == 0 && i < runs->n; i++) {
        uint64_t at = (uint64_t)runs->run[i].first * SNAP_PAGE, end = at + (uint64_t)runs->run[i].count * SNAP_PAGE;

        while (r == 0 && at < end) {
            const struct snap_region *reg = &m->region[region];

            if (at >= start + reg->size) {
                start += reg->size;
                region++;
                continue;
            }
            uint64_t n = (end < start + reg->size ? end : start + reg->size) - at;
            r = fn(reg->host + (at - start), n, fd, at, err);
            at += n;
        }
    }
    return r;
}

int snap_memory_map_diff(const struct snap_memory *m, const struct snap_runs *diff, int fd, struct sm_error *err)
{
    int r = check_size(fd, snap_memory_pages(m), "memory", err);

    return r < 0 ? r : each_part(m, diff, map_private, fd, err);
}

static int drop_part(uint8_t *host, uint64_t size, int fd, uint64_t off, struct sm_error *err)
{
    if (madvise(host, size, MADV_DONTNEED) < 0)
        return sm_error_sys(err, errno, "cannot put guest memory back to the snapshot");
    return 0;
}

int snap_memory_rewind(const struct snap_memory *m, const struct snap_runs *runs, struct sm_error *err)
{
    return each_part(m, runs, drop_part, -1, err);
}

static int own_part(uint8_t *host, uint64_t size, int fd, uint64_t off, struct sm_error *err)
{
    madvise(host, size, MADV_POPULATE_WRITE);
    return 0;
}

static int prefetch_part(uint8_t *host, uint64_t size, int fd, uint64_t off, struct sm_error *err)
{
    madvise(host, size, MADV_WILLNEED);
    return 0;
}

/*
 * A page that the guest reads first and then writes costs it two faults and KVM a mapping that it must take back; one
 * that is there already costs one, and is copied together with its neighbours.
 */
static void own_written(const struct snap_memory *m, const struct snap_runs *runs)
{
    struct snap_runs one = {.n = 1, .pages = runs->pages};

    if (snap_runs_written(runs) > SNAP_OWN_MAX_PAGES)
        return;
    for (uint32_t i = 0; i < runs->n; i++) {
        one.run = &runs->run[i];
        if (one.run->written)
            each_part(m, &one, own_part, -1, NULL);
    }
}

/* Does a sample of these pages say that all is in the page cache? */
static bool seems_cached(const struct snap_memory *m, const struct snap_runs *runs)
{
    uint32_t step = runs->n / PREFETCH_SAMPLES + 1;
    unsigned char there = 1;

    for (uint32_t i = 0; (there & 1) && i < runs->n; i += step)
        if (mincore(host_of(m, runs->run[i].first), SNAP_PAGE, &there) < 0)
            return false;
    return there & 1;
}

void snap_memory_prefetch(const struct snap_memory *m, const struct snap_runs *runs)
{
    if (!seems_cached(m, runs))
        each_part(m, runs, prefetch_part, -1, NULL);
    own_written(m, runs);
}
