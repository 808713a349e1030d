/* SPDX-License-Identifier: Apache-2.0 */
/* Door: a disk's requests. Input: which disk, then requests: header, buffers as lengths and places, data. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buf.h"
#include "dev/blk.h"
#include "fake_driver.h"

#define DISK     (64u << 10)
#define DATA     (1u << 20) /* guest memory that buffers lie in, from here to the end */
#define REQUESTS 64
#define BUFFERS  6

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int disk_file(void)
{
    int fd = memfd_create("disk", MFD_CLOEXEC);

    assert(fd >= 0);
    int r = ftruncate(fd, DISK);
    assert(r == 0);
    (void)r;
    return fd;
}

static void request(struct fake *f, struct reader *in)
{
    struct fake_buf b[BUFFERS];
    uint8_t shape = reader_u8(in);
    unsigned n = 1 + shape % BUFFERS, n_out = (shape >> 3) % (n + 1);

    for (unsigned i = 0; i < n; i++) {
        uint64_t gpa = DATA + (uint64_t)reader_u16(in) * 64;
        uint32_t len = 1 + reader_u16(in);

        b[i] = (struct fake_buf){gpa % (FAKE_RAM_SIZE - 65536), len, i >= n_out};
    }
    size_t header = in->left < 16 ? in->left : 16;
    if (header)
        memcpy(fake_ptr(f, b[0].gpa), reader_bytes(in, header), header);
    size_t segments = n_out > 1 && in->left >= 16 ? 16 : 0;
    if (segments)
        memcpy(fake_ptr(f, b[1].gpa), reader_bytes(in, segments), segments);
    if (f->q[0].n_free < BUFFERS || f->next + 4096 > DATA)
        return;
    fake_add(f, 0, b, n, shape & 0x80);
    fake_kick(f, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader in = reader_init(data, size);
    struct sm_error err = SM_ERROR_INIT;
    uint8_t kind = reader_u8(&in);
    struct virtio_dev *dev;
    struct fake f;
    int fd = disk_file();
    struct blk_extent e[4] = {{fd, 512, 4096}, {fd, 100, 512}, {fd, DISK - 1024, 4096}, {fd, 0, DISK}};
    struct blk_config config = {
        .extents = kind & 1 ? e + 3 : e, .n_extents = kind & 1 ? 1 : 4, .writable = kind & 1, .serial = "fuzz"};

    fake_open(&f);
    int r = blk_new(&dev, &config, &err);
    assert(r == 0);
    (void)r;
    fake_attach(&f, dev);
    fake_start(&f, kind & 2 ? ~0ull : 0);
    for (unsigned i = 0; i < REQUESTS && in.left > 0; i++) {
        uint16_t head;
        uint32_t len;

        request(&f, &in);
        if (i % 3 == 0)
            fake_settle(&f);
        while (fake_used(&f, 0, &head, &len))
            ;
    }
    fake_settle(&f);
    fake_close(&f);
    return 0;
}
