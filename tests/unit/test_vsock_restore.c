/* SPDX-License-Identifier: Apache-2.0 */
/* vsock over save and restore: connections end on both sides at once, listeners answer, nothing overtakes the reset. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "vsock_guest.h"

#define SLOT     2
#define N_EVENTS 8

/* The event queue as Linux's driver keeps it: a few buffers, each given back when the event was handled. */
static void post_events(struct env *e, unsigned n)
{
    while (n-- > 0) {
        struct fake_buf b = {fake_alloc(&e->f, 4, 4), 4, true};

        memset(fake_ptr(&e->f, b.gpa), 0xff, 4);
        fake_add(&e->f, EVENT, &b, 1, false);
    }
}

/* The event that came, or -1. */
static int64_t take_event(struct env *e)
{
    uint16_t head;
    uint32_t len, id;

    fake_settle(&e->f);
    uint64_t desc = e->f.q[EVENT].desc;
    if (!fake_used(&e->f, EVENT, &head, &len))
        return -1;
    assert_int_equal(len, 4);
    uint64_t gpa;
    memcpy(&gpa, fake_ptr(&e->f, desc + 16ull * head), sizeof(gpa));
    memcpy(&id, fake_ptr(&e->f, gpa), sizeof(id));
    return id;
}

/* The driver has handled it: the buffer goes back, with a notification if the device asked for one. */
static void give_event_back(struct env *e)
{
    uint16_t before = e->f.q[EVENT].avail_idx;
    bool wants = fake_wants_kick(&e->f, EVENT, before);

    post_events(e, 1);
    assert_true(wants);
    fake_kick(&e->f, EVENT);
}

static void save(struct env *e, struct snap_stream *s)
{
    snap_stream_init(s);
    virtio_mmio_pause(e->f.t);
    virtio_mmio_state(e->f.t, SLOT, s);
    assert_int_equal(snap_done(s, NULL), 0);
    assert_int_equal(s->n_sections, 2);
    s->loading = true;
}

/* A second machine restored from the first one's state. */
static struct env *restored(const struct env *from, struct snap_stream *s)
{
    struct env *e;
    struct sm_error err = SM_ERROR_INIT;

    assert_int_equal(vsock_setup((void **)&e), 0);
    fake_clone(&e->f, &from->f);
    memcpy(e->rx_gpa, from->rx_gpa, sizeof(e->rx_gpa));
    e->tx_gpa = from->tx_gpa;
    virtio_mmio_state(e->f.t, SLOT, s);
    assert_int_equal(snap_done(s, &err), 0);
    virtio_mmio_resume(e->f.t);
    return e;
}

static void a_clone_hears_of_the_reset_before_anything_else(void **state)
{
    struct env *e = *state, *clone;
    struct snap_stream s;
    struct guest_end g, fresh;
    struct packet p;
    int ours, end;

    post_events(e, N_EVENTS);
    int fd = connected(e, &g);
    save(e, &s);
    clone = restored(e, &s);
    assert_int_equal(take_event(clone), 0); /* VIRTIO_VSOCK_EVENT_TRANSPORT_RESET */

    /* A listener is there; the host may ask at once, but is heard after the guest has acted. */
    ours = peer_pair(&end);
    assert_int_equal(vsock_connect(clone->dev, 1024, end, NULL), 0);
    expect_nothing(clone);
    send_data(clone, &g, "stale", 5); /* a program that has not noticed yet */
    expect_nothing(clone);
    give_event_back(clone);
    expect(clone, &p, VSOCK_OP_RST);
    assert_int_equal(p.h.dst_port, g.guest_port);
    expect(clone, &p, VSOCK_OP_REQUEST);
    assert_int_equal(p.h.dst_port, 1024);
    assert_int_not_equal(p.h.src_port, g.host_port); /* not the name of a connection that was */
    fresh = (struct guest_end){.guest_port = 1024, .host_port = p.h.src_port, .buf_alloc = GUEST_BUF};
    send_op(clone, &fresh, VSOCK_OP_RESPONSE, 0);
    send_data(clone, &fresh, "hello", 5);
    char buf[8];
    assert_int_equal(read(ours, buf, sizeof(buf)), 5);
    assert_int_equal(take_event(clone), -1); /* told once */

    virtio_mmio_resume(e->f.t); /* the first machine never noticed */
    assert_int_equal(take_event(e), -1);
    assert_int_equal(write(fd, "x", 1), 1);
    expect(e, &p, VSOCK_OP_RW);
    close(ours);
    close(fd);
    vsock_teardown((void **)&clone);
    snap_stream_clear(&s);
}

static void in_place_both_ends_are_reset(void **state)
{
    struct env *e = *state;
    struct snap_stream s;
    struct guest_end g;

    post_events(e, N_EVENTS);
    save(e, &s);
    virtio_mmio_resume(e->f.t);
    struct fake was = e->f;
    uint8_t *ram = malloc(FAKE_RAM_SIZE);
    memcpy(ram, e->f.ram, FAKE_RAM_SIZE);
    int fd = connected(e, &g);
    assert_true(would_block(fd));
    virtio_mmio_pause(e->f.t);
    memcpy(e->f.ram, ram, FAKE_RAM_SIZE);
    e->f = was;
    virtio_mmio_state(e->f.t, SLOT, &s);
    assert_int_equal(snap_done(&s, NULL), 0);
    virtio_mmio_resume(e->f.t);
    fake_settle(&e->f);
    assert_true(at_eof(fd));
    assert_int_equal(take_event(e), 0);
    give_event_back(e);
    close(fd);
    fd = connected(e, &g);
    close(fd);
    free(ram);
    snap_stream_clear(&s);
}

static void paused_means_no_packet(void **state)
{
    struct env *e = *state;
    struct guest_end g;
    struct packet p;
    int end;

    int fd = connected(e, &g);
    virtio_mmio_pause(e->f.t);
    assert_int_equal(write(fd, "abc", 3), 3);
    int ours = peer_pair(&end);
    assert_int_equal(vsock_connect(e->dev, 9, end, NULL), 0);
    expect_nothing(e);
    virtio_mmio_resume(e->f.t);
    expect(e, &p, VSOCK_OP_REQUEST);
    expect(e, &p, VSOCK_OP_RW);
    assert_memory_equal(p.data, "abc", 3);
    close(fd);
    close(ours);
}

static void a_driver_without_buffers_is_told_later(void **state)
{
    struct env *e = *state, *clone;
    struct snap_stream s;
    struct packet p;
    int end;

    save(e, &s); /* no event buffer was ever posted */
    clone = restored(e, &s);
    assert_int_equal(take_event(clone), -1);
    int ours = peer_pair(&end);
    assert_int_equal(vsock_connect(clone->dev, 9, end, NULL), 0);
    expect_nothing(clone);
    give_event_back(clone);
    assert_int_equal(take_event(clone), 0);
    expect_nothing(clone);
    give_event_back(clone);
    expect(clone, &p, VSOCK_OP_REQUEST);
    close(ours);
    vsock_teardown((void **)&clone);
    snap_stream_clear(&s);
}

static void a_snapshot_in_the_middle_of_a_reset(void **state)
{
    struct env *e = *state, *first, *second;
    struct snap_stream s, again;
    struct guest_end g;

    post_events(e, N_EVENTS);
    save(e, &s);
    first = restored(e, &s);
    fake_settle(&first->f); /* the event is in the ring; the guest has not run */
    save(first, &again);
    second = restored(first, &again);
    assert_int_equal(take_event(second), 0);
    assert_int_equal(take_event(second), -1);
    give_event_back(second);
    assert_int_equal(take_event(second), 0); /* this restore's own */
    give_event_back(second);
    close(connected(second, &g));
    vsock_teardown((void **)&first);
    vsock_teardown((void **)&second);
    snap_stream_clear(&s);
    snap_stream_clear(&again);
}

static void a_driver_that_is_not_up_has_nothing_to_reset(void **state)
{
    struct env *e = *state, *clone;
    struct snap_stream s;
    struct guest_end g;

    fake_reset(&e->f);
    save(e, &s);
    clone = restored(e, &s);
    clone->f.next = 0;
    vsock_start(clone, N_RX, ~0ull);
    post_events(clone, N_EVENTS);
    fake_kick(&clone->f, EVENT);
    assert_int_equal(take_event(clone), -1);
    close(connected(clone, &g));
    vsock_teardown((void **)&clone);
    snap_stream_clear(&s);
}

static void hostile_values_are_refused(void **state)
{
    struct env *e = *state;
    struct snap_stream s;
    static const struct {
        unsigned at;
        uint8_t value;
        const char *field;
    } bad[] = {{1, 0, "next port"}, {4, 2, "reset told"}};

    post_events(e, N_EVENTS);
    save(e, &s);
    uint32_t from = s.section[1].offset;
    assert_int_equal(s.section[1].length, 7);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct sm_error err = SM_ERROR_INIT;
        uint8_t was = s.data.data[from + bad[i].at];

        s.data.data[from + bad[i].at] = bad[i].value;
        memset(&s.error, 0, sizeof(s.error));
        virtio_mmio_state(e->f.t, SLOT, &s);
        assert_int_equal(snap_done(&s, &err), -EBADMSG);
        assert_non_null(strstr(err.text, "\"vsock 2\""));
        assert_non_null(strstr(err.text, bad[i].field));
        s.data.data[from + bad[i].at] = was;
    }
    /* A buffer too short for an event is the driver's fault, not ours. */
    memset(&s.error, 0, sizeof(s.error));
    virtio_mmio_state(e->f.t, SLOT, &s);
    assert_int_equal(snap_done(&s, NULL), 0);
    for (unsigned i = 0; i < FAKE_QUEUE_SIZE; i++)
        fake_put_desc(&e->f, e->f.q[EVENT].desc, i, 0x1000, 3, FAKE_DESC_WRITE, 0);
    virtio_mmio_resume(e->f.t);
    fake_settle(&e->f);
    assert_non_null(virtio_mmio_broken(e->f.t));
    snap_stream_clear(&s);
}

#define T(name) cmocka_unit_test_setup_teardown(name, vsock_setup, vsock_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_clone_hears_of_the_reset_before_anything_else),
        T(in_place_both_ends_are_reset),
        T(paused_means_no_packet),
        T(a_driver_without_buffers_is_told_later),
        T(a_snapshot_in_the_middle_of_a_reset),
        T(a_driver_that_is_not_up_has_nothing_to_reset),
        T(hostile_values_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
