/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio devices that are paused, saved and loaded; loading what a hostile file says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "dev/blk.h"
#include "dev/le.h"
#include "dev/rng.h"
#include "fake_driver.h"

#define SLOT    3
#define SECTORS 64

/* Offsets in the transport's section; a disk has 60 bytes of config space and one queue. */
enum {
    AT_ID = 0,
    AT_STATUS = 4,
    AT_FEATURES = 8,
    AT_GENERATION = 28,
    AT_INTERRUPT = 32,
    AT_CONFIG_LEN = 36,
    AT_CONFIG = 40,
    AT_QUEUES = 100,
    AT_SIZE = 104,
    AT_READY = 106,
    AT_DESC = 107,
    AT_AVAIL = 115,
    AT_USED = 123,
    AT_NEXT_AVAIL = 131,
    AT_NEXT_USED = 133,
    AT_SIGNALLED = 137,
    END = 138,
};

struct env {
    struct fake f;
    int disk; /* memfd */
};

static struct virtio_dev *new_disk(int file, unsigned sectors)
{
    struct blk_extent e = {dup(file), 0, (uint64_t)sectors * BLK_SECTOR};
    struct blk_config config = {.extents = &e, .n_extents = 1, .writable = true, .serial = "test"};
    struct virtio_dev *dev;

    assert_int_equal(blk_new(&dev, &config, NULL), 0);
    return dev;
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    e->disk = memfd_create("disk", MFD_CLOEXEC);
    assert_int_equal(ftruncate(e->disk, 2 * SECTORS * BLK_SECTOR), 0);
    fake_open(&e->f);
    fake_attach(&e->f, new_disk(e->disk, SECTORS));
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    fake_close(&e->f);
    close(e->disk);
    free(e);
    return 0;
}

/* A second machine with the memory of the first one, and a disk of its own that has not been set up. */
static void clone_of(struct fake *to, struct env *e, unsigned sectors)
{
    fake_open(to);
    fake_attach(to, new_disk(e->disk, sectors));
    fake_clone(to, &e->f);
}

static void save(struct fake *f, struct snap_stream *s)
{
    snap_stream_init(s);
    virtio_mmio_pause(f->t);
    virtio_mmio_state(f->t, SLOT, s);
    assert_int_equal(snap_done(s, NULL), 0);
    s->loading = true;
}

static int load(struct fake *f, struct snap_stream *s, struct sm_error *err)
{
    memset(&s->error, 0, sizeof(s->error));
    virtio_mmio_state(f->t, SLOT, s);
    return snap_done(s, err);
}

struct io {
    uint64_t header, data, status;
    uint16_t head;
};

/* One sector, written (filled with `byte`) or read; published, and the device told. */
static struct io submit(struct fake *f, bool write, unsigned sector, uint8_t byte)
{
    struct io io = {fake_alloc(f, 16, 8), fake_alloc(f, BLK_SECTOR, 8), fake_alloc(f, 1, 1), 0};
    struct fake_buf b[] = {{io.header, 16, false}, {io.data, BLK_SECTOR, !write}, {io.status, 1, true}};

    store_le32(fake_ptr(f, io.header), write);
    store_le64((uint8_t *)fake_ptr(f, io.header) + 8, sector);
    memset(fake_ptr(f, io.data), byte, BLK_SECTOR);
    *(uint8_t *)fake_ptr(f, io.status) = 0xff;
    io.head = fake_add(f, 0, b, 3, false);
    fake_kick(f, 0);
    return io;
}

static void finish(struct fake *f, const struct io *io)
{
    fake_wait(f, 0, io->head);
    assert_int_equal(*(uint8_t *)fake_ptr(f, io->status), 0);
}

static void write_sector(struct fake *f, unsigned sector, uint8_t byte)
{
    struct io io = submit(f, true, sector, byte);

    finish(f, &io);
}

static uint8_t read_sector(struct fake *f, unsigned sector)
{
    struct io io = submit(f, false, sector, 0);

    finish(f, &io);
    return *(uint8_t *)fake_ptr(f, io.data);
}

static void a_clone_goes_on_where_the_first_was(void **state)
{
    struct env *e = *state;
    struct snap_stream s;
    struct fake clone;

    fake_start(&e->f, FAKE_F_EVENT_IDX | FAKE_F_INDIRECT | ~0ull);
    for (unsigned i = 0; i < 5; i++)
        write_sector(&e->f, i, (uint8_t)(10 + i));
    fake_irqs(&e->f);
    struct io under_way = submit(&e->f, true, 7, 77); /* told, and not looked at */
    save(&e->f, &s);
    fake_settle(&e->f);
    uint16_t head;
    uint32_t len;
    assert_false(fake_used(&e->f, 0, &head, &len)); /* paused: memory does not change any more */

    clone_of(&clone, e, SECTORS);
    assert_int_equal(load(&clone, &s, NULL), 0);
    fake_settle(&clone);
    assert_false(fake_used(&clone, 0, &head, &len));
    virtio_mmio_resume(clone.t);
    fake_settle(&clone);
    finish(&clone, &under_way);
    assert_int_equal(read_sector(&clone, 7), 77);
    assert_true(fake_irqs(&clone) > 0);
    for (unsigned i = 0; i < 600; i++) /* twice round the ring */
        write_sector(&clone, i % SECTORS, (uint8_t)i);
    assert_int_equal(fake_read(&clone, FAKE_STATUS), 15);
    assert_null(virtio_mmio_broken(clone.t));

    virtio_mmio_resume(e->f.t); /* and so does the first */
    finish(&e->f, &under_way);
    write_sector(&e->f, 1, 1);
    fake_close(&clone);
    snap_stream_clear(&s);
}

static void a_pending_interrupt_is_raised_again(void **state)
{
    struct env *e = *state;
    struct snap_stream s;
    struct fake clone;

    fake_start(&e->f, 0);
    save(&e->f, &s);
    snap_stream_clear(&s);
    virtio_mmio_resume(e->f.t);
    assert_int_equal(fake_irqs(&e->f), 0); /* none is pending */
    write_sector(&e->f, 0, 1);
    assert_int_equal(fake_read(&e->f, FAKE_INTERRUPT_STATUS), 1);
    fake_irqs(&e->f);
    save(&e->f, &s);
    clone_of(&clone, e, SECTORS);
    assert_int_equal(load(&clone, &s, NULL), 0);
    assert_int_equal(fake_irqs(&clone), 0);
    virtio_mmio_resume(clone.t);
    assert_int_equal(fake_irqs(&clone), 1);
    assert_int_equal(fake_read(&clone, FAKE_INTERRUPT_STATUS), 1);
    fake_close(&clone);
    snap_stream_clear(&s);
}

static void another_size_is_a_config_change(void **state)
{
    struct env *e = *state;
    struct snap_stream s;
    struct fake clone;

    fake_start(&e->f, 0);
    save(&e->f, &s);
    clone_of(&clone, e, 2 * SECTORS);
    uint32_t generation = fake_read(&clone, FAKE_CONFIG_GENERATION);
    assert_int_equal(load(&clone, &s, NULL), 0);
    virtio_mmio_resume(clone.t);
    assert_true(fake_irqs(&clone) > 0);
    assert_int_equal(fake_read(&clone, FAKE_INTERRUPT_STATUS), 2);
    assert_int_not_equal(fake_read(&clone, FAKE_CONFIG_GENERATION), generation);
    assert_int_equal(virtio_mmio_read(clone.t, FAKE_CONFIG, 8), 2 * SECTORS);
    write_sector(&clone, SECTORS + 1, 3); /* which was outside before */
    fake_close(&clone);
    snap_stream_clear(&s);
}

static void a_used_device_is_put_back(void **state)
{
    struct env *e = *state;
    struct snap_stream s;

    fake_start(&e->f, FAKE_F_EVENT_IDX);
    write_sector(&e->f, 1, 11);
    save(&e->f, &s);
    virtio_mmio_resume(e->f.t);
    struct fake was = e->f;
    uint8_t *ram = malloc(FAKE_RAM_SIZE);
    memcpy(ram, e->f.ram, FAKE_RAM_SIZE);
    for (unsigned i = 0; i < 20; i++)
        write_sector(&e->f, i, 1);
    fake_reset(&e->f);
    memcpy(e->f.ram, ram, FAKE_RAM_SIZE);
    e->f = was;
    assert_int_equal(load(&e->f, &s, NULL), 0);
    virtio_mmio_resume(e->f.t);
    for (unsigned i = 0; i < 300; i++)
        write_sector(&e->f, 2, 2);
    free(ram);
    snap_stream_clear(&s);
}

static void half_a_handshake_goes_on(void **state)
{
    struct env *e = *state;
    struct snap_stream s;
    struct fake clone;

    save(&e->f, &s); /* a device that nobody has touched */
    snap_stream_clear(&s);
    virtio_mmio_resume(e->f.t);
    fake_negotiate(&e->f, FAKE_F_EVENT_IDX);
    fake_queues(&e->f, 16);
    save(&e->f, &s);
    clone_of(&clone, e, SECTORS);
    assert_int_equal(load(&clone, &s, NULL), 0);
    virtio_mmio_resume(clone.t);
    assert_int_equal(fake_read(&clone, FAKE_STATUS), 11);
    fake_driver_ok(&clone);
    write_sector(&clone, 1, 1);
    fake_close(&clone);
    snap_stream_clear(&s);
}

static void a_broken_device_stays_broken(void **state)
{
    struct env *e = *state;
    struct snap_stream s;
    struct fake clone;

    fake_start(&e->f, 0);
    fake_publish(&e->f, 0, 4242);
    fake_kick(&e->f, 0);
    fake_settle(&e->f);
    save(&e->f, &s);
    clone_of(&clone, e, SECTORS);
    assert_int_equal(load(&clone, &s, NULL), 0);
    virtio_mmio_resume(clone.t);
    assert_true(fake_read(&clone, FAKE_STATUS) & FAKE_S_NEEDS_RESET);
    assert_non_null(virtio_mmio_broken(clone.t));
    fake_reset(&clone);
    clone.next = 0;
    fake_start(&clone, 0);
    write_sector(&clone, 1, 1);
    fake_close(&clone);
    snap_stream_clear(&s);
}

static void the_entropy_device_has_queues_only(void **state)
{
    struct fake f, clone;
    struct virtio_dev *dev;
    struct snap_stream s;

    fake_open(&f);
    assert_int_equal(rng_new(&dev, NULL), 0);
    fake_attach(&f, dev);
    fake_start(&f, FAKE_F_EVENT_IDX);
    save(&f, &s);
    assert_int_equal(s.n_sections, 1);
    fake_open(&clone);
    assert_int_equal(rng_new(&dev, NULL), 0);
    fake_attach(&clone, dev);
    fake_clone(&clone, &f);
    assert_int_equal(load(&clone, &s, NULL), 0);
    virtio_mmio_resume(clone.t);
    struct fake_buf b = {fake_alloc(&clone, 64, 1), 64, true};
    uint16_t head = fake_add(&clone, 0, &b, 1, false);
    fake_kick(&clone, 0);
    assert_int_equal(fake_wait(&clone, 0, head), 64);
    fake_close(&clone);
    fake_close(&f);
    snap_stream_clear(&s);
}

static void hostile_values_are_refused(void **state)
{
    struct env *e = *state;
    struct snap_stream s;
    static const struct {
        unsigned at, bytes;
        uint64_t value;
        const char *sentence;
    } bad[] = {
        {AT_ID, 4, 4, "device 4 was there, and here is 2 (blk)"},
        {AT_STATUS, 4, 0x10, "\"status\""},
        {AT_STATUS, 4, 0x100, "\"status\""},
        {AT_STATUS, 4, 4, "\"status\""}, /* DRIVER_OK out of nothing */
        {AT_STATUS, 4, 2, "\"status\""},
        {AT_STATUS, 4, 9, "\"status\""},
        {AT_STATUS, 4, 3, "\"queue ready\""},  /* no features yet, but queues */
        {AT_STATUS, 4, 79, "\"queue ready\""}, /* broken */
        {AT_FEATURES, 8, 0, "\"features\""},   /* no VERSION_1 */
        {AT_FEATURES, 8, 1ull << 32 | 1ull << 50, "\"features\""},
        {AT_INTERRUPT, 4, 4, "\"interrupt status\""},
        {AT_CONFIG_LEN, 4, VIRTIO_MAX_CONFIG + 1, "\"config length\""},
        {AT_QUEUES, 4, 2, "\"queues\""},
        {AT_QUEUES, 4, 0, "\"queues\""},
        {AT_SIZE, 2, 512, "\"queue size\""},
        {AT_SIZE, 2, 0, "\"queue ready\""},
        {AT_SIZE, 2, 3, "\"queue ready\""},
        {AT_READY, 1, 2, "\"queue ready\""},
        {AT_DESC, 8, FAKE_RAM_END, "\"queue ready\""},
        {AT_DESC, 8, 8, "\"queue ready\""},
        {AT_DESC, 8, UINT64_MAX - 15, "\"queue ready\""},
        {AT_AVAIL, 8, FAKE_RAM_SIZE - 4, "\"queue ready\""}, /* over the border of two regions */
        {AT_USED, 8, 1ull << 60, "\"queue ready\""},
        {AT_NEXT_AVAIL, 2, 300, "\"next used\""},
        {AT_NEXT_USED, 2, 1, "\"next used\""},
        {AT_SIGNALLED, 1, 2, "\"signalled before\""},
    };

    fake_start(&e->f, 0);
    save(&e->f, &s);
    assert_int_equal(s.data.len, END);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct sm_error err = SM_ERROR_INIT;
        uint8_t was[END];

        memcpy(was, s.data.data, END);
        for (unsigned k = 0; k < bad[i].bytes; k++)
            s.data.data[bad[i].at + k] = (uint8_t)(bad[i].value >> (8 * k));
        int r = load(&e->f, &s, &err);
        assert_int_equal(r, -EBADMSG);
        assert_non_null(strstr(err.text, "section \"virtio 3\""));
        assert_non_null(strstr(err.text, bad[i].sentence));
        assert_int_equal(fake_read(&e->f, FAKE_STATUS), 0); /* as after a reset */
        memcpy(s.data.data, was, END);
    }
    assert_int_equal(load(&e->f, &s, NULL), 0);
    virtio_mmio_resume(e->f.t);
    write_sector(&e->f, 1, 1);
    snap_stream_clear(&s);
}

static void nothing_in_the_file_can_harm(void **state)
{
    struct env *e = *state;
    struct snap_stream s;
    static const uint8_t values[] = {0, 1, 0x7f, 0x80, 0xff};

    fake_start(&e->f, FAKE_F_EVENT_IDX | FAKE_F_INDIRECT);
    write_sector(&e->f, 1, 1);
    save(&e->f, &s);
    for (unsigned at = 0; at < END; at++) {
        uint8_t was = s.data.data[at];

        for (unsigned v = 0; v < sizeof(values); v++) {
            s.data.data[at] = values[v];
            load(&e->f, &s, NULL);
            virtio_mmio_resume(e->f.t);
            fake_settle(&e->f);
        }
        s.data.data[at] = was;
    }
    for (uint32_t len = 0; len < END; len++) {
        struct sm_error err = SM_ERROR_INIT;

        s.section[0].length = len;
        assert_int_equal(load(&e->f, &s, &err), -EBADMSG);
        assert_non_null(strstr(err.text, "the section ends before it"));
    }
    snap_stream_clear(&s);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_clone_goes_on_where_the_first_was),
        T(a_pending_interrupt_is_raised_again),
        T(another_size_is_a_config_change),
        T(a_used_device_is_put_back),
        T(half_a_handshake_goes_on),
        T(a_broken_device_stays_broken),
        T(the_entropy_device_has_queues_only),
        T(hostile_values_are_refused),
        T(nothing_in_the_file_can_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
