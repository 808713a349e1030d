/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * What a program reads from and writes to /dev/supermachine. Kinds of events, status bits and the size of the text
 * window are the device's own (lifecycle_regs.h); docs/lifecycle-device.md tells the rules.
 */
#ifndef SM_LIFECYCLE_ABI_H
#define SM_LIFECYCLE_ABI_H

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include <stdint.h>
#endif

#define SM_LC_DEV_NAME "supermachine"

/*
 * One write(2) is one event: this record in host byte order and, for SM_LC_EV_PANIC alone, `arg` bytes of text right
 * behind it. Several events take several writes.
 */
struct sm_lc_record {
    uint32_t kind;     /* SM_LC_EV_* */
    uint32_t reserved; /* 0 */
    uint64_t arg;      /* as the kind says */
};

/*
 * One read(2) of at least this size returns one notice: what has happened since this open file last read, and which
 * restore of its snapshot this machine is.
 */
struct sm_lc_notice {
    uint32_t bits;          /* SM_LC_INT_* */
    uint32_t reserved;      /* 0 */
    uint8_t generation[16]; /* of the last restore; zeros when there was none */
};

#endif
