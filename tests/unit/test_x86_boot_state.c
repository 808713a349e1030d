/* SPDX-License-Identifier: Apache-2.0 */
/* PVH entry state, and that the memory map has no overlaps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdint.h>

#include "arch/layout_arm64.h"
#include "arch/layout_x86_64.h"
#include "arch/x86_boot_state.h"

static void pvh_entry_state(void **state)
{
    struct x86_boot_state s = x86_boot_state_pvh(0x1000500, 0x6000);

    assert_int_equal(s.rip, 0x1000500);
    assert_int_equal(s.rbx, 0x6000);
    assert_int_equal(s.rflags, 2);
    assert_int_equal(s.cr0 & 1, 1);           /* protected */
    assert_int_equal(s.cr0 & 0x80000000u, 0); /* not paged */
    assert_int_equal(s.cr4, 0);
    assert_int_equal(s.efer, 0);
    assert_int_equal(s.code.base, 0);
    assert_int_equal(s.code.limit, 0xffffffff);
    assert_int_equal(s.code.db, 1);
    assert_int_equal(s.code.type & 8, 8);
    assert_int_equal(s.data.type & 8, 0);
    assert_int_equal(s.data.type & 2, 2);
    assert_int_equal(s.tss.s, 0);
    assert_int_equal(s.tss.type, 0xb);
}

static void msrs_say_write_back(void **state)
{
    uint64_t mtrr = 0;

    for (unsigned i = 0; i < X86_BOOT_MSRS; i++)
        if (x86_boot_msrs[i].index == 0x2ff)
            mtrr = x86_boot_msrs[i].value;
    assert_int_equal(mtrr, 0x806);
}

static void x86_map_has_no_overlaps(void **state)
{
    assert_true(LAYOUT_START_INFO + 0x1000 <= LAYOUT_CMDLINE);
    assert_true(LAYOUT_CMDLINE + LAYOUT_CMDLINE_SIZE <= LAYOUT_MPTABLE);
    assert_int_equal(LAYOUT_MPTABLE + LAYOUT_MPTABLE_SIZE, LAYOUT_BASE_END);
    assert_true(LAYOUT_LIFECYCLE >= LAYOUT_HOLE_START);
    assert_true(LAYOUT_LIFECYCLE + 0x1000 <= LAYOUT_VIRTIO);
    assert_true(LAYOUT_VIRTIO + LAYOUT_VIRTIO_SLOTS * LAYOUT_VIRTIO_STRIDE <= LAYOUT_IOAPIC);
    assert_true(LAYOUT_KVM_IDENTITY + 0x1000 <= LAYOUT_KVM_TSS);
    assert_true(LAYOUT_KVM_TSS + 0x3000 <= LAYOUT_HOLE_END);
    assert_true(LAYOUT_KVM_IDENTITY > LAYOUT_LAPIC);
    /* The ISA bus has 16 lines. */
    assert_true(LAYOUT_VIRTIO_IRQ + LAYOUT_VIRTIO_SLOTS <= 16);
    assert_true(LAYOUT_LIFECYCLE_IRQ < LAYOUT_VIRTIO_IRQ && LAYOUT_SERIAL_IRQ < LAYOUT_LIFECYCLE_IRQ);
}

static void arm64_map_has_no_overlaps(void **state)
{
    assert_true(LAYOUT_ARM64_GIC_DIST + 0x10000 <= LAYOUT_ARM64_GIC_REDIST);
    assert_true(LAYOUT_ARM64_GIC_REDIST + 16 * LAYOUT_ARM64_GIC_REDIST_SIZE <= LAYOUT_ARM64_SERIAL);
    assert_true(LAYOUT_ARM64_SERIAL + 0x1000 <= LAYOUT_ARM64_LIFECYCLE);
    assert_true(LAYOUT_ARM64_LIFECYCLE + 0x1000 <= LAYOUT_ARM64_VIRTIO);
    assert_true(LAYOUT_ARM64_VIRTIO + 10 * LAYOUT_ARM64_VIRTIO_STRIDE <= LAYOUT_ARM64_RAM);
    assert_true(LAYOUT_ARM64_LIFECYCLE_SPI < LAYOUT_ARM64_VIRTIO_SPI);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pvh_entry_state),
        cmocka_unit_test(msrs_say_write_back),
        cmocka_unit_test(x86_map_has_no_overlaps),
        cmocka_unit_test(arm64_map_has_no_overlaps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
