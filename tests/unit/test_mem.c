/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory: the map, and the door from an address to a pointer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>

#include "base/checked.h"
#include "dev/iov.h"
#include "dev/mem.h"

static uint8_t *pages(unsigned n)
{
    uint8_t *p = aligned_alloc(4096, 4096ul * n);

    assert_non_null(p);
    return p;
}

static void regions_are_kept_in_order_and_apart(void **state)
{
    struct guest_mem mem = {.n_regions = 0};
    struct sm_error err = SM_ERROR_INIT;
    uint8_t *a = pages(4);

    assert_int_equal(mem_add(&mem, 0x8000, 0x2000, a, NULL), 0);
    assert_int_equal(mem_add(&mem, 0x1000, 0x1000, a + 0x2000, NULL), 0);
    assert_int_equal(mem.region[0].gpa, 0x1000);
    assert_int_equal(mem_total(&mem), 0x3000);
    assert_int_equal(mem_add(&mem, 0x7000, 0x2000, a, &err), -EEXIST);
    assert_int_equal(mem_add(&mem, 0x9000, 0x1000, a, &err), -EEXIST);
    assert_int_equal(mem_add(&mem, 0x8000, 0x1000, a, &err), -EEXIST);
    assert_int_equal(mem_add(&mem, 0, 0x100000, a, &err), -EEXIST);
    assert_int_equal(mem_add(&mem, 0x20800, 0x1000, a, &err), -EINVAL);
    assert_int_equal(mem_add(&mem, 0x20000, 0x1001, a, &err), -EINVAL);
    assert_int_equal(mem_add(&mem, 0x20000, 0, a, &err), -EINVAL);
    assert_int_equal(mem_add(&mem, 0x20000, 0x1000, a + 8, &err), -EINVAL);
    assert_int_equal(mem_add(&mem, UINT64_MAX - 0xfff, 0x2000, a, &err), -EINVAL);
    assert_int_equal(mem_add(&mem, 0x2000, 0x1000, a, NULL), 0); /* between, touching */
    assert_int_equal(mem_add(&mem, 1ull << 40, 0x1000, a, NULL), 0);
    assert_int_equal(mem_add(&mem, 1ull << 41, 0x1000, a, &err), -ENOSPC);
    assert_int_equal(mem.region[1].gpa, 0x2000);
    free(a);
}

static void pointers_stay_in_one_region(void **state)
{
    struct guest_mem mem = {.n_regions = 0};
    uint8_t *a = pages(2), *b = pages(1);

    assert_null(mem_ptr(&mem, 0, 1));
    assert_int_equal(mem_add(&mem, 0x1000, 0x2000, a, NULL), 0);
    assert_int_equal(mem_add(&mem, 0x3000, 0x1000, b, NULL), 0);
    assert_ptr_equal(mem_ptr(&mem, 0x1000, 1), a);
    assert_ptr_equal(mem_ptr(&mem, 0x1000, 0x2000), a);
    assert_ptr_equal(mem_ptr(&mem, 0x2fff, 1), a + 0x1fff);
    assert_ptr_equal(mem_ptr(&mem, 0x3000, 0x1000), b);
    assert_null(mem_ptr(&mem, 0x2fff, 2)); /* straddles two regions */
    assert_null(mem_ptr(&mem, 0xfff, 1));
    assert_null(mem_ptr(&mem, 0xfff, 2));
    assert_null(mem_ptr(&mem, 0x4000, 1));
    assert_null(mem_ptr(&mem, 0x3fff, 2));
    assert_null(mem_ptr(&mem, 0x1000, 0));
    assert_null(mem_ptr(&mem, UINT64_MAX, 1));
    assert_null(mem_ptr(&mem, UINT64_MAX, 0x1002));
    assert_null(mem_ptr(&mem, 0x1000, UINT64_MAX));
    free(a);
    free(b);
}

static void runs_of_buffers_are_taken_by_bytes(void **state)
{
    uint8_t a[3] = {1, 2, 3}, b[1] = {4}, c[6] = {5, 6, 7, 8, 9, 10}, out[10];
    struct iovec iov[3] = {{a, 3}, {b, 1}, {c, 6}}, part[3];
    struct iov_run run = {.iov = iov, .n = 3, .len = 10};

    assert_int_equal(*iov_at(&run, 0), 1);
    assert_int_equal(*iov_at(&run, 3), 4);
    assert_int_equal(*iov_at(&run, 9), 10);
    assert_int_equal(iov_first(&run, 5, part), 3);
    assert_int_equal(part[2].iov_len, 1);
    assert_int_equal(iov_first(&run, 3, part), 1);
    assert_int_equal(iov_first(&run, 0, part), 0);
    iov_take(&run, out, 5);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(out[i], i + 1);
    assert_int_equal(run.len, 5);
    assert_int_equal(run.n, 1);
    iov_trim(&run, 3);
    iov_skip(&run, 1);
    iov_put(&run, "\x63\x64", 2);
    assert_int_equal(run.len, 0);
    assert_int_equal(run.n, 0);
    assert_int_equal(c[1], 6);
    assert_int_equal(c[2], 0x63);
    assert_int_equal(c[3], 0x64);
    assert_int_equal(c[4], 9);
    iov[0] = (struct iovec){a, 3};
    iov[1] = (struct iovec){b, 1};
    run = (struct iov_run){.iov = iov, .n = 2, .len = 4};
    iov_trim(&run, 3); /* exactly at a border: the second buffer goes */
    assert_int_equal(run.n, 1);
    iov_trim(&run, 0);
    assert_int_equal(run.n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(regions_are_kept_in_order_and_apart),
        cmocka_unit_test(pointers_stay_in_one_region),
        cmocka_unit_test(runs_of_buffers_are_taken_by_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
