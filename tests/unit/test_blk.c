/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk: requests over files, through the transport and a real loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/io.h"
#include "dev/blk.h"
#include "fake_driver.h"

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2, S_UNSET = 0xee };

#define F_RO           (1ull << 5)
#define F_FLUSH        (1ull << 9)
#define F_DISCARD      (1ull << 13)
#define F_WRITE_ZEROES (1ull << 14)

static int file_of(size_t size)
{
    int fd = memfd_create("disk", MFD_CLOEXEC);

    assert_true(fd >= 0);
    for (size_t i = 0; i < size; i += 512) {
        uint8_t sector[512];

        for (unsigned k = 0; k < 512; k++)
            sector[k] = (uint8_t)((i / 512) * 7 + k);
        assert_int_equal(pwrite(fd, sector, size - i < 512 ? size - i : 512, (off_t)i),
                         size - i < 512 ? size - i : 512);
    }
    return fd;
}

/* What file_of() put at byte `at`. */
static uint8_t byte_at(uint64_t at)
{
    return (uint8_t)((at / 512) * 7 + at % 512);
}

static void open_disk(struct fake *f, const struct blk_extent *extents, unsigned n, bool writable, const char *serial)
{
    struct blk_config config = {.extents = extents, .n_extents = n, .writable = writable};
    struct virtio_dev *dev;

    snprintf(config.serial, sizeof(config.serial), "%s", serial);
    fake_open(f);
    assert_int_equal(blk_new(&dev, &config, NULL), 0);
    fake_attach(f, dev);
    fake_start(f, ~0ull);
}

struct req {
    uint32_t type;
    uint64_t sector;
    uint64_t data; /* guest address */
    uint32_t len;
    bool write; /* the device writes the data */
    uint32_t used;
};

static uint64_t put_header(struct fake *f, uint32_t type, uint64_t sector)
{
    uint64_t gpa = fake_alloc(f, 16, 1);
    uint8_t *p = fake_ptr(f, gpa);

    for (unsigned i = 0; i < 4; i++)
        p[i] = (uint8_t)(type >> (8 * i));
    for (unsigned i = 0; i < 8; i++)
        p[8 + i] = (uint8_t)(sector >> (8 * i));
    return gpa;
}

/* Carry out a request of the usual three buffers; returns the status. */
static unsigned submit(struct fake *f, struct req *r, bool indirect)
{
    struct fake_buf b[3] = {{put_header(f, r->type, r->sector), 16, false}};
    uint64_t status = fake_alloc(f, 1, 1);
    unsigned n = 1;

    *(uint8_t *)fake_ptr(f, status) = S_UNSET;
    if (r->len)
        b[n++] = (struct fake_buf){r->data, r->len, r->write};
    b[n++] = (struct fake_buf){status, 1, true};
    uint16_t head = fake_add(f, 0, b, n, indirect);
    fake_kick(f, 0);
    r->used = fake_wait(f, 0, head);
    return *(uint8_t *)fake_ptr(f, status);
}

static unsigned read_at(struct fake *f, uint64_t sector, uint64_t gpa, uint32_t len, uint32_t *ret_used)
{
    struct req r = {.type = T_IN, .sector = sector, .data = gpa, .len = len, .write = true};
    unsigned s = submit(f, &r, sector & 1);

    if (ret_used)
        *ret_used = r.used;
    return s;
}

static void segment(struct fake *f, uint64_t gpa, uint64_t sector, uint32_t n, uint32_t flags)
{
    uint8_t *p = fake_ptr(f, gpa);

    for (unsigned i = 0; i < 8; i++)
        p[i] = (uint8_t)(sector >> (8 * i));
    for (unsigned i = 0; i < 4; i++) {
        p[8 + i] = (uint8_t)(n >> (8 * i));
        p[12 + i] = (uint8_t)(flags >> (8 * i));
    }
}

static uint64_t config64(struct fake *f, unsigned off)
{
    return virtio_mmio_read(f->t, FAKE_CONFIG + off, 8);
}

static void read_only_disk_of_extents(void **state)
{
    struct fake f;
    int a = file_of(64 * 512), b = file_of(100 * 512);
    /* The same file twice, in pieces, with odd offsets. */
    struct blk_extent e[4] = {{a, 512, 3 * 512}, {b, 100, 5 * 512}, {a, 20 * 512, 512}, {b, 50 * 512, 8 * 512}};
    uint8_t want[17 * 512];
    uint32_t used;
    uint64_t pos = 0;

    for (unsigned i = 0; i < 4; i++)
        for (uint64_t k = 0; k < e[i].length; k++)
            want[pos++] = byte_at(e[i].offset + k);
    open_disk(&f, e, 4, false, "disk-one");
    assert_int_equal(fake_read(&f, FAKE_DEVICE_ID), 2);
    assert_int_equal(config64(&f, 0), 17);
    assert_true(f.features & F_RO);
    assert_false(f.features & (F_FLUSH | F_DISCARD | F_WRITE_ZEROES));
    uint64_t data = fake_alloc(&f, sizeof(want) + 1, 1);
    for (unsigned sector = 0; sector < 17; sector++) {
        for (unsigned n = 1; n <= 17 - sector; n++) {
            uint8_t *p = fake_ptr(&f, data);

            memset(p, 0x5a, sizeof(want) + 1);
            f.next = data + sizeof(want) + 1; /* reuse the rest of memory */
            assert_int_equal(read_at(&f, sector, data, n * 512, &used), S_OK);
            assert_int_equal(used, n * 512 + 1);
            assert_memory_equal(p, want + 512 * sector, 512 * n);
            assert_int_equal(p[512 * n], 0x5a);
        }
    }
    assert_int_equal(read_at(&f, 17, data, 512, &used), S_IOERR);
    assert_int_equal(used, 0);
    assert_int_equal(read_at(&f, 16, data, 1024, NULL), S_IOERR);
    assert_int_equal(read_at(&f, 0, data, 511, NULL), S_IOERR);
    assert_int_equal(read_at(&f, 1ull << 55, data, 512, NULL), S_IOERR); /* the position wraps to 0 */
    assert_int_equal(read_at(&f, UINT64_MAX, data, 512, NULL), S_IOERR);
    struct req w = {.type = T_OUT, .data = data, .len = 512};
    assert_int_equal(submit(&f, &w, false), S_IOERR);
    assert_int_equal(w.used, 1);
    struct req flush = {.type = T_FLUSH};
    assert_int_equal(submit(&f, &flush, false), S_UNSUPP);
    segment(&f, data, 0, 1, 0);
    struct req d = {.type = T_DISCARD, .data = data, .len = 16};
    assert_int_equal(submit(&f, &d, false), S_UNSUPP);
    struct req odd = {.type = 99, .data = data, .len = 16};
    assert_int_equal(submit(&f, &odd, true), S_UNSUPP);
    fake_close(&f);
}

static void identity(void **state)
{
    struct fake f;
    struct blk_extent e = {file_of(512), 0, 512};
    struct req r = {.type = T_GET_ID, .len = 20, .write = true};

    open_disk(&f, &e, 1, false, "twenty-characters-id");
    r.data = fake_alloc(&f, 64, 1);
    assert_int_equal(submit(&f, &r, false), S_OK);
    assert_memory_equal(fake_ptr(&f, r.data), "twenty-characters-id", 20);
    assert_int_equal(r.used, 21);
    r.len = 5;
    memset(fake_ptr(&f, r.data), 0, 64);
    assert_int_equal(submit(&f, &r, false), S_OK);
    assert_memory_equal(fake_ptr(&f, r.data), "twent\0", 6);
    assert_int_equal(r.used, 6);
    r.len = 64;
    assert_int_equal(submit(&f, &r, false), S_OK);
    assert_int_equal(r.used, 20); /* the status lies behind bytes that were not written */
    fake_close(&f);
}

/* A request cut into buffers at every odd place: header over three, data over many, the status in the last one. */
static void requests_may_be_cut_anywhere(void **state)
{
    struct fake f;
    struct blk_extent e = {file_of(16 * 512), 0, 16 * 512};

    open_disk(&f, &e, 1, true, "");
    uint64_t header = put_header(&f, T_IN, 2), in = fake_alloc(&f, 1025, 1);
    struct fake_buf r[] = {{header, 1, false},   {header + 1, 10, false}, {header + 11, 5, false}, {in, 7, true},
                           {in + 7, 1000, true}, {in + 1007, 17, true},   {in + 1024, 1, true}};
    uint16_t head = fake_add(&f, 0, r, ARRAY_SIZE(r), false);
    fake_kick(&f, 0);
    assert_int_equal(fake_wait(&f, 0, head), 1025);
    const uint8_t *p = fake_ptr(&f, in);
    for (unsigned i = 0; i < 1024; i++)
        assert_int_equal(p[i], byte_at(1024 + i));
    assert_int_equal(p[1024], S_OK);

    /* The same with everything in two buffers. */
    uint64_t out = fake_alloc(&f, 16 + 512, 1);
    memcpy(fake_ptr(&f, out), fake_ptr(&f, put_header(&f, T_OUT, 4)), 16);
    memset((uint8_t *)fake_ptr(&f, out) + 16, 0x77, 512);
    struct fake_buf w[] = {{out, 528, false}, {in, 1, true}};
    head = fake_add(&f, 0, w, 2, true);
    fake_kick(&f, 0);
    assert_int_equal(fake_wait(&f, 0, head), 1);
    assert_int_equal(*(uint8_t *)fake_ptr(&f, in), S_OK);
    assert_int_equal(read_at(&f, 4, in, 512, NULL), S_OK);
    for (unsigned i = 0; i < 512; i++)
        assert_int_equal(p[i], 0x77);
    fake_close(&f);
}

static void writable_disk(void **state)
{
    struct fake f;
    int fd = file_of(64 * 512), file = dup(fd);
    struct blk_extent e = {fd, 1024, 32 * 512};
    uint8_t buf[512];

    open_disk(&f, &e, 1, true, "");
    assert_int_equal(config64(&f, 0), 32);
    assert_int_equal(f.features & (F_RO | F_FLUSH | F_DISCARD | F_WRITE_ZEROES), F_FLUSH | F_DISCARD | F_WRITE_ZEROES);
    uint64_t data = fake_alloc(&f, 2048, 1);
    memset(fake_ptr(&f, data), 0xab, 2048);
    struct req w = {.type = T_OUT, .sector = 30, .data = data, .len = 1024};
    assert_int_equal(submit(&f, &w, false), S_OK);
    assert_int_equal(w.used, 1);
    assert_int_equal(pread(file, buf, 512, 1024 + 31 * 512), 512);
    assert_int_equal(buf[0], 0xab);
    assert_int_equal(pread(file, buf, 512, 1024 + 32 * 512), 512); /* behind the disk */
    assert_int_equal(buf[3], byte_at(1024 + 32 * 512 + 3));
    w.sector = 31;
    assert_int_equal(submit(&f, &w, false), S_IOERR);
    assert_int_equal(pread(file, buf, 512, 1024 + 32 * 512), 512);
    assert_int_equal(buf[3], byte_at(1024 + 32 * 512 + 3));
    struct req flush = {.type = T_FLUSH};
    assert_int_equal(submit(&f, &flush, false), S_OK);
    assert_int_equal(flush.used, 1);
    fake_close(&f);
    close(file);
}

static bool all_zero(int fd, off_t off, size_t len)
{
    uint8_t b;

    for (size_t i = 0; i < len; i++)
        if (pread(fd, &b, 1, off + (off_t)i) != 1 || b)
            return false;
    return true;
}

static void discard_and_write_zeroes(void **state)
{
    struct fake f;
    int fd = file_of(64 * 4096), file = dup(fd);
    struct blk_extent e = {fd, 4096, 62 * 4096};
    struct stat before, after;

    open_disk(&f, &e, 1, true, "");
    uint64_t data = fake_alloc(&f, 17 * 16, 1);
    struct req d = {.type = T_DISCARD, .data = data, .len = 32};
    segment(&f, data, 0, 64, 0);       /* 8 pages */
    segment(&f, data + 16, 128, 8, 0); /* one */
    fstat(file, &before);
    assert_int_equal(submit(&f, &d, false), S_OK);
    assert_int_equal(d.used, 1);
    fstat(file, &after);
    assert_int_equal(before.st_blocks - after.st_blocks, 9 * 8);
    assert_int_equal(before.st_size, after.st_size);
    assert_true(all_zero(file, 4096, 8 * 4096));
    assert_false(all_zero(file, 0, 4096));
    assert_false(all_zero(file, 9 * 4096, 4096));
    assert_true(all_zero(file, 4096 + 128 * 512, 4096));

    /* Not at a page's border, kept allocated (no file system call for it on a memfd: zeros are written). */
    struct req z = {.type = T_WRITE_ZEROES, .data = data, .len = 16};
    segment(&f, data, 201, 6, 0);
    assert_int_equal(submit(&f, &z, false), S_OK);
    assert_true(all_zero(file, 4096 + 201 * 512, 6 * 512));
    assert_false(all_zero(file, 4096 + 200 * 512, 512));
    assert_false(all_zero(file, 4096 + 207 * 512, 512));
    segment(&f, data, 240, 240, 0); /* more than one block of zeros */
    assert_int_equal(submit(&f, &z, false), S_OK);
    assert_true(all_zero(file, 4096 + 240 * 512, 240 * 512));
    fstat(file, &before);
    segment(&f, data, 240, 8, 1); /* unmap */
    assert_int_equal(submit(&f, &z, true), S_OK);
    fstat(file, &after);
    assert_int_equal(before.st_blocks - after.st_blocks, 8);

    /* Refused, and nothing of it done. */
    static const struct {
        uint32_t type;
        uint64_t sector;
        uint32_t n, flags;
        unsigned status;
    } bad[] = {
        {T_DISCARD, 0, 8, 1, S_UNSUPP},
        {T_DISCARD, 0, 8, 2, S_UNSUPP},
        {T_WRITE_ZEROES, 0, 8, 2, S_UNSUPP},
        {T_WRITE_ZEROES, 0, 8, 0x80000000, S_UNSUPP},
        {T_DISCARD, 62 * 8, 1, 0, S_IOERR},
        {T_DISCARD, 62 * 8 - 1, 2, 0, S_IOERR},
        {T_WRITE_ZEROES, UINT64_MAX, 2, 0, S_IOERR},
        {T_WRITE_ZEROES, 1ull << 55, 1, 0, S_IOERR},
        {T_DISCARD, 0, UINT32_MAX, 0, S_IOERR},
        {T_WRITE_ZEROES, 0, 8193, 0, S_IOERR}, /* over the limit in config space */
    };
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct req r = {.type = bad[i].type, .data = data, .len = 32};

        segment(&f, data, 160, 8, 0);
        segment(&f, data + 16, bad[i].sector, bad[i].n, bad[i].flags);
        assert_int_equal(submit(&f, &r, false), bad[i].status);
        assert_false(all_zero(file, 4096 + 160 * 512, 512));
    }
    d.len = 24;
    assert_int_equal(submit(&f, &d, false), S_IOERR);
    d.len = 0;
    assert_int_equal(submit(&f, &d, false), S_IOERR);
    for (unsigned i = 0; i < 17; i++)
        segment(&f, data + 16 * i, 400, 0, 0);
    d.len = 16 * 17;
    assert_int_equal(submit(&f, &d, false), S_IOERR); /* too many */
    d.len = 16 * 16;
    assert_int_equal(submit(&f, &d, false), S_OK); /* of no sectors each */
    fake_close(&f);
    close(file);
}

static void file_shorter_than_its_extent(void **state)
{
    struct fake f;
    int a = file_of(4096), file = dup(a);
    struct blk_extent e[2] = {{a, 0, 4096}, {file_of(1024 + 100), 0, 4096}};
    uint32_t used;

    open_disk(&f, e, 2, false, "");
    uint64_t data = fake_alloc(&f, 8192, 1);
    assert_int_equal(read_at(&f, 0, data, 8192, &used), S_IOERR);
    assert_int_equal(used, 4096 + 1124); /* what did arrive */
    assert_int_equal(read_at(&f, 8, data, 1024, &used), S_OK);
    assert_int_equal(read_at(&f, 10, data, 512, &used), S_IOERR);
    assert_int_equal(read_at(&f, 14, data, 512, &used), S_IOERR);
    assert_int_equal(used, 0);
    assert_int_equal(ftruncate(file, 0), 0); /* while it is in use */
    assert_int_equal(read_at(&f, 0, data, 512, &used), S_IOERR);
    assert_int_equal(read_at(&f, 8, data, 512, &used), S_OK);
    fake_close(&f);
    close(file);
}

static void failing_file_is_an_io_error(void **state)
{
    struct fake f;
    int fd = open("/dev/full", O_RDWR | O_CLOEXEC), p[2];
    struct blk_extent e = {fd, 0, 4096};

    if (fd < 0) {
        print_message("left out: no /dev/full here\n");
        skip();
    }
    open_disk(&f, &e, 1, true, "");
    uint64_t data = fake_alloc(&f, 512, 1);
    struct req w = {.type = T_OUT, .data = data, .len = 512};
    assert_int_equal(submit(&f, &w, false), S_IOERR);
    struct req flush = {.type = T_FLUSH};
    assert_int_equal(submit(&f, &flush, false), S_IOERR);
    segment(&f, data, 0, 8, 0);
    struct req z = {.type = T_WRITE_ZEROES, .data = data, .len = 16};
    assert_int_equal(submit(&f, &z, false), S_IOERR);
    fake_close(&f);
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    e.fd = p[0];
    open_disk(&f, &e, 1, false, "");
    assert_int_equal(read_at(&f, 0, fake_alloc(&f, 512, 1), 512, NULL), S_IOERR);
    fake_close(&f);
    close(p[1]);
}

static void malformed_requests_break_the_device(void **state)
{
    struct fake f;
    struct blk_extent e = {file_of(4096), 0, 4096};

    open_disk(&f, &e, 1, false, "");
    for (unsigned i = 0; i < 4; i++) {
        uint64_t h = put_header(&f, T_IN, 0), d = fake_alloc(&f, 512, 1);
        struct fake_buf no_status[] = {{h, 16, false}, {d, 512, false}};
        struct fake_buf short_header[] = {{h, 15, false}, {d, 512, true}};
        struct fake_buf no_header[] = {{d, 512, true}};

        if (i == 0)
            fake_add(&f, 0, no_status, 2, false);
        else if (i == 1)
            fake_add(&f, 0, short_header, 2, false);
        else if (i == 2)
            fake_add(&f, 0, no_header, 1, false);
        else
            fake_publish(&f, 0, 256);
        fake_kick(&f, 0);
        fake_settle(&f);
        assert_true(fake_read(&f, FAKE_STATUS) & FAKE_S_NEEDS_RESET);
        assert_true(fake_irqs(&f) > 0);
        fake_reset(&f);
        f.next = 0;
        fake_start(&f, ~0ull);
    }
    assert_int_equal(read_at(&f, 1, fake_alloc(&f, 512, 1), 512, NULL), S_OK);
    fake_close(&f);
}

static void request_over_the_limits_is_refused(void **state)
{
    struct fake f;
    int fd = memfd_create("big", MFD_CLOEXEC);
    struct blk_extent e = {fd, 0, 1ull << 30};
    struct fake_buf b[27];

    assert_int_equal(ftruncate(fd, 1 << 30), 0);
    open_disk(&f, &e, 1, false, "");
    assert_int_equal(virtio_mmio_read(f.t, FAKE_CONFIG + 8, 4), 256 * 1024);
    assert_int_equal(virtio_mmio_read(f.t, FAKE_CONFIG + 12, 4), 254);
    uint64_t header = put_header(&f, T_IN, 0), status = fake_alloc(&f, 1, 1), data = fake_alloc(&f, 3 << 20, 1);
    b[0] = (struct fake_buf){header, 16, false};
    for (unsigned i = 1; i < 26; i++)
        b[i] = (struct fake_buf){data, 3 << 20, true};
    b[26] = (struct fake_buf){status, 1, true};
    uint16_t head = fake_add(&f, 0, b, 27, true);
    fake_kick(&f, 0);
    fake_wait(&f, 0, head);
    assert_int_equal(*(uint8_t *)fake_ptr(&f, status), S_IOERR);
    fake_close(&f);
}

/* A full ring, more than one round of the loop: everything is answered, with few interrupts. */
static void full_ring_is_drained(void **state)
{
    for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
        struct fake f;
        struct blk_extent e = {file_of(256 * 512), 0, 256 * 512};
        uint16_t heads[256], head;
        uint32_t len;
        unsigned done = 0;

        open_disk(&f, &e, 1, false, "");
        fake_reset(&f);
        fake_start(&f, event_idx ? ~0ull : ~FAKE_F_EVENT_IDX);
        uint64_t data = fake_alloc(&f, 256 * 513, 1);
        for (unsigned i = 0; i < 256; i++) {
            struct fake_buf b[2] = {{put_header(&f, T_IN, i), 16, false}, {data + 513 * i, 513, true}};

            heads[i] = fake_add(&f, 0, b, 2, true);
        }
        assert_true(fake_wants_kick(&f, 0, 0));
        fake_kick(&f, 0);
        fake_settle(&f);
        while (fake_used(&f, 0, &head, &len)) {
            assert_int_equal(head, heads[done]);
            assert_int_equal(len, 513);
            assert_int_equal(*((uint8_t *)fake_ptr(&f, data) + 513 * done), byte_at(512 * done));
            done++;
        }
        assert_int_equal(done, 256);
        uint64_t irqs = fake_irqs(&f);
        assert_in_range(irqs, 1, event_idx ? 1 : 4);
        assert_true(fake_wants_kick(&f, 0, 256)); /* asked for again */
        fake_close(&f);
    }
}

static void writes_are_durable_without_flush(void **state)
{
    struct fake f;
    struct blk_extent e = {file_of(4096), 0, 4096};
    uint8_t b[512];

    /* Cannot see a disk's cache from here; that the path works without the feature we can. */
    int file = dup(e.fd);
    open_disk(&f, &e, 1, true, "");
    fake_reset(&f);
    fake_start(&f, 0);
    uint64_t data = fake_alloc(&f, 512, 1);
    memset(fake_ptr(&f, data), 0x42, 512);
    struct req w = {.type = T_OUT, .sector = 3, .data = data, .len = 512};
    assert_int_equal(submit(&f, &w, false), S_OK);
    assert_int_equal(pread(file, b, 512, 3 * 512), 512);
    assert_int_equal(b[511], 0x42);
    fake_close(&f);
    close(file);
}

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

static void bad_configurations_are_refused(void **state)
{
    static const struct {
        uint64_t offset, length;
        unsigned n;
        bool writable;
    } bad[] = {
        {0, 0, 1, false},
        {0, 511, 1, false},
        {UINT64_MAX - 511, 512, 1, false},
        {1ull << 63, 512, 1, false},
        {0, (1ull << 63) - 512, 2, false}, /* too long together */
        {0, 512, 2, true},
        {0, 512, 0, false},
        {0, 512, BLK_MAX_EXTENTS + 1, false},
    };
    static struct blk_extent e[BLK_MAX_EXTENTS + 1];

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct sm_error err = SM_ERROR_INIT;
        int fd = file_of(512), other = file_of(512);
        struct virtio_dev *dev = NULL;

        for (unsigned k = 0; k < ARRAY_SIZE(e); k++)
            e[k] = (struct blk_extent){k == 1 ? other : fd, bad[i].offset, bad[i].length};
        struct blk_config config = {.extents = e, .n_extents = bad[i].n, .writable = bad[i].writable};
        assert_int_equal(blk_new(&dev, &config, &err), -EINVAL);
        assert_null(dev);
        assert_true(err.text[0]);
        assert_int_equal(is_open(fd), bad[i].n == 0); /* taken over also on failure */
        assert_int_equal(is_open(other), bad[i].n < 2);
        if (bad[i].n == 0)
            close(fd);
        if (bad[i].n < 2)
            close(other);
    }
}

/* A prepared machine's empty disk gets its content before the guest is there. */
static void a_disk_gets_another_content(void **state)
{
    struct blk_extent empty = {memfd_create("empty", MFD_CLOEXEC), 0, 4096};
    int fd = file_of(64 * 512), other = file_of(512);
    struct blk_extent extents[2] = {{fd, 512, 8 * 512}, {fd, 0, 512}};
    struct blk_config config = {.extents = &empty, .n_extents = 1};
    struct sm_error err = SM_ERROR_INIT;
    struct virtio_dev *dev;
    struct fake f;

    assert_int_equal(ftruncate(empty.fd, 4096), 0);
    fake_open(&f);
    assert_int_equal(blk_new(&dev, &config, NULL), 0);
    fake_attach(&f, dev);
    config = (struct blk_config){.extents = extents, .n_extents = 2, .serial = "root"};
    assert_int_equal(blk_attach(dev, &config, NULL), 0);
    assert_false(is_open(empty.fd));
    fake_start(&f, ~0ull);
    assert_int_equal(config64(&f, 0), 9);
    uint64_t gpa = fake_alloc(&f, 9 * 512, 1);
    assert_int_equal(read_at(&f, 0, gpa, 9 * 512, NULL), S_OK);
    assert_int_equal(((uint8_t *)fake_ptr(&f, gpa))[3], byte_at(512 + 3));
    assert_int_equal(((uint8_t *)fake_ptr(&f, gpa))[8 * 512], byte_at(0));
    struct req id = {.type = T_GET_ID, .data = gpa, .len = 20, .write = true};
    assert_int_equal(submit(&f, &id, false), S_OK);
    assert_string_equal(fake_ptr(&f, gpa), "root");
    /* What it cannot become. */
    extents[0] = (struct blk_extent){other, 0, 512};
    config = (struct blk_config){.extents = extents, .n_extents = 1, .writable = true};
    assert_int_equal(blk_attach(dev, &config, &err), -EINVAL);
    assert_string_equal(err.text, "the disk is read-only and stays so");
    assert_false(is_open(other));
    assert_int_equal(config64(&f, 0), 9);
    fake_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(read_only_disk_of_extents),          cmocka_unit_test(identity),
        cmocka_unit_test(requests_may_be_cut_anywhere),       cmocka_unit_test(writable_disk),
        cmocka_unit_test(discard_and_write_zeroes),           cmocka_unit_test(file_shorter_than_its_extent),
        cmocka_unit_test(failing_file_is_an_io_error),        cmocka_unit_test(malformed_requests_break_the_device),
        cmocka_unit_test(request_over_the_limits_is_refused), cmocka_unit_test(full_ring_is_drained),
        cmocka_unit_test(writes_are_durable_without_flush),   cmocka_unit_test(bad_configurations_are_refused),
        cmocka_unit_test(a_disk_gets_another_content),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
