/* SPDX-License-Identifier: Apache-2.0 */
/* Split virtqueues: what a driver may put into a ring, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "dev/virtq.h"

#define RAM   (1u << 20)
#define RAM2  (64u << 10) /* next to it in the guest, elsewhere on the host */
#define SIZE  8
#define DESC  0x1000
#define AVAIL 0x2000
#define USED  0x3000
#define DATA  0x10000

struct ring {
    uint8_t *ram, *ram2;
    struct guest_mem mem;
    struct virtq vq;
    struct virtq_chain chain;
};

static void put16(struct ring *r, uint64_t at, unsigned v)
{
    r->ram[at] = (uint8_t)v;
    r->ram[at + 1] = (uint8_t)(v >> 8);
}

static unsigned get16(struct ring *r, uint64_t at)
{
    return r->ram[at] | (unsigned)r->ram[at + 1] << 8;
}

static void desc_at(struct ring *r, uint64_t table, unsigned i, uint64_t addr, uint32_t len, unsigned flags,
                    unsigned next)
{
    uint64_t at = table + 16 * i;

    for (unsigned k = 0; k < 8; k++)
        r->ram[at + k] = (uint8_t)(addr >> (8 * k));
    put16(r, at + 8, len & 0xffff);
    put16(r, at + 10, len >> 16);
    put16(r, at + 12, flags);
    put16(r, at + 14, next);
}

static void desc(struct ring *r, unsigned i, uint64_t addr, uint32_t len, unsigned flags, unsigned next)
{
    desc_at(r, DESC, i, addr, len, flags, next);
}

enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };

static void publish(struct ring *r, unsigned head)
{
    unsigned idx = get16(r, AVAIL + 2);

    put16(r, AVAIL + 4 + 2 * (idx % SIZE), head);
    put16(r, AVAIL + 2, idx + 1);
}

static int setup(void **state)
{
    struct ring *r = calloc(1, sizeof(*r));

    r->ram = aligned_alloc(4096, RAM);
    r->ram2 = aligned_alloc(4096, RAM2);
    memset(r->ram, 0, RAM);
    mem_add(&r->mem, 0, RAM, r->ram, NULL);
    mem_add(&r->mem, RAM, RAM2, r->ram2, NULL);
    r->vq = (struct virtq){.mem = &r->mem,
                           .size = SIZE,
                           .indirect = true,
                           .event_idx = true,
                           .desc_gpa = DESC,
                           .avail_gpa = AVAIL,
                           .used_gpa = USED};
    *state = r;
    return virtq_enable(&r->vq);
}

static int teardown(void **state)
{
    struct ring *r = *state;

    free(r->ram);
    free(r->ram2);
    free(r);
    return 0;
}

static void expect_refused(struct ring *r)
{
    assert_int_equal(virtq_pop(&r->vq, &r->chain), -EINVAL);
}

static void rings_are_checked_when_enabled(void **state)
{
    struct ring *r = *state;
    static const struct {
        uint16_t size;
        uint64_t desc, avail, used;
    } bad[] = {
        {0, DESC, AVAIL, USED},
        {7, DESC, AVAIL, USED},
        {512, DESC, AVAIL, USED},
        {SIZE, DESC + 8, AVAIL, USED},
        {SIZE, DESC, AVAIL + 1, USED},
        {SIZE, DESC, AVAIL, USED + 2},
        {SIZE, RAM - 16, AVAIL, USED}, /* straddles the regions */
        {SIZE, DESC, RAM - 20, USED},
        {SIZE, DESC, AVAIL, RAM - 4},
        {SIZE, RAM + RAM2, AVAIL, USED},
        {SIZE, DESC, UINT64_MAX - 1, USED},
        {SIZE, UINT64_MAX - 15, AVAIL, USED},
        {SIZE, DESC, AVAIL, UINT64_MAX - 3},
        {SIZE, DESC, AVAIL, RAM + RAM2 - 4 - 8 * SIZE}, /* no room for avail_event */
        {SIZE, DESC, RAM + RAM2 - 4 - 2 * SIZE, USED},  /* no room for used_event */
    };

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        r->vq.size = bad[i].size;
        r->vq.desc_gpa = bad[i].desc;
        r->vq.avail_gpa = bad[i].avail;
        r->vq.used_gpa = bad[i].used;
        assert_int_equal(virtq_enable(&r->vq), -EINVAL);
        assert_false(r->vq.ready);
        assert_int_equal(virtq_pop(&r->vq, &r->chain), 0);
        assert_false(virtq_enable_notify(&r->vq));
        virtq_disable_notify(&r->vq);
        virtq_push(&r->vq, 0, 0);
        assert_false(virtq_needs_signal(&r->vq));
    }
    r->vq.size = SIZE;
    r->vq.desc_gpa = DESC;
    r->vq.avail_gpa = AVAIL;
    r->vq.used_gpa = RAM + RAM2 - 6 - 8 * SIZE - 2; /* fits, at the very end but for alignment */
    assert_int_equal(virtq_enable(&r->vq), 0);
}

static void chains_come_out_as_iovecs(void **state)
{
    struct ring *r = *state;

    assert_int_equal(virtq_pop(&r->vq, &r->chain), 0);
    desc(r, 5, DATA, 16, NEXT, 2);
    desc(r, 2, DATA + 100, 3, NEXT, 7);
    desc(r, 7, RAM + RAM2 - 512, 512, NEXT | WRITE, 0);
    desc(r, 0, DATA + 200, 1, WRITE, 0);
    publish(r, 5);
    assert_int_equal(virtq_pop(&r->vq, &r->chain), 1);
    assert_int_equal(r->chain.head, 5);
    assert_int_equal(r->chain.n_out, 2);
    assert_int_equal(r->chain.n_in, 2);
    assert_int_equal(r->chain.out_len, 19);
    assert_int_equal(r->chain.in_len, 513);
    assert_ptr_equal(r->chain.iov[0].iov_base, r->ram + DATA);
    assert_ptr_equal(r->chain.iov[1].iov_base, r->ram + DATA + 100);
    assert_ptr_equal(r->chain.iov[2].iov_base, r->ram2 + RAM2 - 512);
    assert_int_equal(r->chain.iov[3].iov_len, 1);
    assert_int_equal(virtq_pop(&r->vq, &r->chain), 0);
    virtq_unpop(&r->vq);
    assert_int_equal(virtq_pop(&r->vq, &r->chain), 1);
    assert_int_equal(r->chain.head, 5);
    virtq_push(&r->vq, 5, 513);
    assert_int_equal(get16(r, USED + 2), 1);
    assert_int_equal(get16(r, USED + 4), 5);
    assert_int_equal(get16(r, USED + 8), 513);
}

static void indirect_tables_are_followed(void **state)
{
    struct ring *r = *state;
    const uint64_t table = 0x5008; /* needs no alignment */

    /* A plain buffer first, then a table (WRITE on the table means nothing), in its own order. */
    desc(r, 0, DATA, 4, NEXT, 1);
    desc(r, 1, table, 3 * 16, INDIRECT | WRITE, 0);
    desc_at(r, table, 0, DATA + 16, 5, NEXT, 2);
    desc_at(r, table, 2, DATA + 32, 6, NEXT | WRITE, 1);
    desc_at(r, table, 1, DATA + 48, 7, WRITE, 0);
    publish(r, 0);
    assert_int_equal(virtq_pop(&r->vq, &r->chain), 1);
    assert_int_equal(r->chain.n_out, 2);
    assert_int_equal(r->chain.n_in, 2);
    assert_int_equal(r->chain.out_len, 9);
    assert_int_equal(r->chain.in_len, 13);

    /* As many buffers as a chain may have, far more than the ring. */
    for (unsigned i = 0; i < VIRTQ_MAX_IOV; i++)
        desc_at(r, 0x6000, i, DATA + i, 1, i + 1 < VIRTQ_MAX_IOV ? NEXT : 0, i + 1);
    desc(r, 0, 0x6000, VIRTQ_MAX_IOV * 16, INDIRECT, 0);
    publish(r, 0);
    assert_int_equal(virtq_pop(&r->vq, &r->chain), 1);
    assert_int_equal(r->chain.n_out, VIRTQ_MAX_IOV);
    assert_ptr_equal(r->chain.iov[255].iov_base, r->ram + DATA + 255);
}

static void one_buffer_too_many_is_refused(void **state)
{
    struct ring *r = *state;

    for (unsigned i = 0; i < VIRTQ_MAX_IOV; i++)
        desc_at(r, 0x6000, i, DATA + i, 1, i + 1 < VIRTQ_MAX_IOV ? NEXT : 0, i + 1);
    desc(r, 0, DATA, 1, NEXT, 1);
    desc(r, 1, 0x6000, VIRTQ_MAX_IOV * 16, INDIRECT, 0);
    publish(r, 0);
    expect_refused(r);
}

static void table_too_long_is_refused(void **state)
{
    struct ring *r = *state;

    desc_at(r, 0x6000, 0, DATA, 1, 0, 0);
    desc(r, 0, 0x6000, (VIRTQ_MAX_IOV + 1) * 16, INDIRECT, 0);
    publish(r, 0);
    expect_refused(r);
}

static void table_of_odd_length_is_refused(void **state)
{
    struct ring *r = *state;

    desc_at(r, 0x6000, 0, DATA, 1, 0, 0);
    desc(r, 0, 0x6000, 24, INDIRECT, 0);
    publish(r, 0);
    expect_refused(r);
}

static void table_of_no_length_is_refused(void **state)
{
    struct ring *r = *state;

    desc(r, 0, 0x6000, 0, INDIRECT, 0);
    publish(r, 0);
    expect_refused(r);
}

static void table_outside_memory_is_refused(void **state)
{
    struct ring *r = *state;

    desc(r, 0, RAM - 16, 32, INDIRECT, 0);
    publish(r, 0);
    expect_refused(r);
}

static void table_in_a_table_is_refused(void **state)
{
    struct ring *r = *state;

    desc(r, 0, 0x6000, 32, INDIRECT, 0);
    desc_at(r, 0x6000, 0, DATA, 1, NEXT, 1);
    desc_at(r, 0x6000, 1, 0x7000, 16, INDIRECT, 0);
    desc_at(r, 0x7000, 0, DATA, 1, 0, 0);
    publish(r, 0);
    expect_refused(r);
}

static void table_with_a_next_is_refused(void **state)
{
    struct ring *r = *state;

    desc(r, 0, 0x6000, 16, INDIRECT | NEXT, 1);
    desc_at(r, 0x6000, 0, DATA, 1, 0, 0);
    desc(r, 1, DATA, 1, 0, 0);
    publish(r, 0);
    expect_refused(r);
}

static void table_without_the_feature_is_refused(void **state)
{
    struct ring *r = *state;

    r->vq.indirect = false;
    desc(r, 0, 0x6000, 16, INDIRECT, 0);
    desc_at(r, 0x6000, 0, DATA, 1, 0, 0);
    publish(r, 0);
    expect_refused(r);
}

static void table_whose_next_leaves_it_is_refused(void **state)
{
    struct ring *r = *state;

    desc(r, 0, 0x6000, 32, INDIRECT, 0);
    desc_at(r, 0x6000, 0, DATA, 1, NEXT, 2);
    desc_at(r, 0x6000, 2, DATA, 1, 0, 0);
    publish(r, 0);
    expect_refused(r);
}

static void loops_are_refused(void **state)
{
    struct ring *r = *state;

    desc(r, 0, DATA, 1, NEXT, 1);
    desc(r, 1, DATA, 1, NEXT, 0);
    publish(r, 0);
    expect_refused(r);
}

static void loop_in_a_table_is_refused(void **state)
{
    struct ring *r = *state;

    desc(r, 0, 0x6000, 32, INDIRECT, 0);
    desc_at(r, 0x6000, 0, DATA, 1, NEXT, 1);
    desc_at(r, 0x6000, 1, DATA, 1, NEXT, 1);
    publish(r, 0);
    expect_refused(r);
}

static void empty_buffer_is_refused(void **state)
{
    struct ring *r = *state;

    desc(r, 0, DATA, 1, NEXT, 1);
    desc(r, 1, DATA, 0, WRITE, 0);
    publish(r, 0);
    expect_refused(r);
}

static void buffer_across_regions_is_refused(void **state)
{
    struct ring *r = *state;

    desc(r, 0, RAM - 1, 2, 0, 0);
    publish(r, 0);
    expect_refused(r);
}

static void buffer_that_wraps_is_refused(void **state)
{
    struct ring *r = *state;

    desc(r, 0, UINT64_MAX - 1, 16, 0, 0);
    publish(r, 0);
    expect_refused(r);
}

static void readable_after_writable_is_refused(void **state)
{
    struct ring *r = *state;

    desc(r, 0, DATA, 1, NEXT | WRITE, 1);
    desc(r, 1, DATA, 1, 0, 0);
    publish(r, 0);
    expect_refused(r);
}

static void head_outside_the_ring_is_refused(void **state)
{
    struct ring *r = *state;

    publish(r, SIZE);
    expect_refused(r);
}

static void next_outside_the_ring_is_refused(void **state)
{
    struct ring *r = *state;

    desc(r, 0, DATA, 1, NEXT, SIZE);
    publish(r, 0);
    expect_refused(r);
}

static void index_that_jumps_is_refused(void **state)
{
    struct ring *r = *state;

    desc(r, 0, DATA, 1, 0, 0);
    put16(r, AVAIL + 2, SIZE);
    assert_int_equal(virtq_pop(&r->vq, &r->chain), 1); /* a full ring is fine */
    put16(r, AVAIL + 2, SIZE + 2);
    expect_refused(r);
    put16(r, AVAIL + 2, 0); /* and so is one that goes back */
    expect_refused(r);
}

static void indices_wrap_at_65536(void **state)
{
    struct ring *r = *state;

    desc(r, 3, DATA, 1, WRITE, 0);
    for (unsigned i = 0; i < 70000; i++) {
        publish(r, 3);
        assert_int_equal(virtq_pop(&r->vq, &r->chain), 1);
        virtq_push(&r->vq, 3, i);
        assert_int_equal(get16(r, USED + 4 + 8 * (i % SIZE)), 3);
    }
    assert_int_equal(get16(r, USED + 2), 70000 & 0xffff);
    assert_int_equal(virtq_pop(&r->vq, &r->chain), 0);
}

static void set_used_event(struct ring *r, unsigned v)
{
    put16(r, AVAIL + 4 + 2 * SIZE, v);
}

static void push(struct ring *r, unsigned n)
{
    while (n--)
        virtq_push(&r->vq, 0, 0);
}

static void interrupts_follow_the_event_index(void **state)
{
    struct ring *r = *state;

    assert_false(virtq_needs_signal(&r->vq)); /* nothing was pushed */
    set_used_event(r, 100);
    push(r, 1);
    assert_true(virtq_needs_signal(&r->vq)); /* the first decision is always yes */
    assert_false(virtq_needs_signal(&r->vq));
    set_used_event(r, 3);
    push(r, 2); /* 1 → 3: entry 3 not there yet */
    assert_false(virtq_needs_signal(&r->vq));
    push(r, 1); /* 4 */
    assert_true(virtq_needs_signal(&r->vq));
    push(r, 4);
    assert_false(virtq_needs_signal(&r->vq)); /* passed before */
    set_used_event(r, 10);
    push(r, 6); /* 8 → 14, over 10 in one step */
    assert_true(virtq_needs_signal(&r->vq));
    r->vq.next_used = r->vq.signalled_used = 0xfffe;
    set_used_event(r, 0);
    push(r, 2); /* 0 */
    assert_false(virtq_needs_signal(&r->vq));
    push(r, 1); /* 1: over the wrap */
    assert_true(virtq_needs_signal(&r->vq));
}

static void interrupts_follow_the_flag_without_event_index(void **state)
{
    struct ring *r = *state;

    r->vq.event_idx = false;
    push(r, 1);
    assert_true(virtq_needs_signal(&r->vq));
    push(r, 1);
    put16(r, AVAIL, 1);
    assert_false(virtq_needs_signal(&r->vq));
    put16(r, AVAIL, 0);
    assert_false(virtq_needs_signal(&r->vq)); /* decided for it already */
    push(r, 1);
    assert_true(virtq_needs_signal(&r->vq));
}

static void notifications_are_asked_for_and_not(void **state)
{
    struct ring *r = *state;

    desc(r, 0, DATA, 1, 0, 0);
    assert_false(virtq_enable_notify(&r->vq));
    publish(r, 0);
    publish(r, 0);
    assert_true(virtq_enable_notify(&r->vq)); /* came meanwhile */
    assert_int_equal(virtq_pop(&r->vq, &r->chain), 1);
    assert_int_equal(virtq_pop(&r->vq, &r->chain), 1);
    virtq_disable_notify(&r->vq);
    assert_int_equal(get16(r, USED), 0);
    assert_false(virtq_enable_notify(&r->vq));
    assert_int_equal(get16(r, USED + 4 + 8 * SIZE), 2); /* avail_event */

    r->vq.event_idx = false;
    virtq_disable_notify(&r->vq);
    assert_int_equal(get16(r, USED), 1);
    publish(r, 0);
    assert_true(virtq_enable_notify(&r->vq));
    assert_int_equal(get16(r, USED), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(rings_are_checked_when_enabled),
        T(chains_come_out_as_iovecs),
        T(indirect_tables_are_followed),
        T(one_buffer_too_many_is_refused),
        T(table_too_long_is_refused),
        T(table_of_odd_length_is_refused),
        T(table_of_no_length_is_refused),
        T(table_outside_memory_is_refused),
        T(table_in_a_table_is_refused),
        T(table_with_a_next_is_refused),
        T(table_without_the_feature_is_refused),
        T(table_whose_next_leaves_it_is_refused),
        T(loops_are_refused),
        T(loop_in_a_table_is_refused),
        T(empty_buffer_is_refused),
        T(buffer_across_regions_is_refused),
        T(buffer_that_wraps_is_refused),
        T(readable_after_writable_is_refused),
        T(head_outside_the_ring_is_refused),
        T(next_outside_the_ring_is_refused),
        T(index_that_jumps_is_refused),
        T(indices_wrap_at_65536),
        T(interrupts_follow_the_event_index),
        T(interrupts_follow_the_flag_without_event_index),
        T(notifications_are_asked_for_and_not),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
