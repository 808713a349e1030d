/* SPDX-License-Identifier: Apache-2.0 */
/* Every limit that a snapshot meets on its way in. What is over one is refused with a sentence, never cut. */
#ifndef SM_SNAP_LIMITS_H
#define SM_SNAP_LIMITS_H

#include "base/checked.h"

#define SNAP_PAGE 4096u /* bytes: the unit in which memory is stored */

/* The state file. One vCPU of x86-64 takes about 15 KiB, most of it XSAVE and CPUID. */
#define SNAP_STATE_MAX_BYTES    (4 * MIB)
#define SNAP_STATE_MAX_SECTIONS 256u
#define SNAP_SECTION_MAX_BYTES  (256 * 1024u)

/* The memory file. */
#define SNAP_MEMORY_MAX_BYTES   (64 * GIB)
#define SNAP_MEMORY_MAX_REGIONS 4u
#define SNAP_MEMORY_MAX_PAGES   ((uint32_t)(SNAP_MEMORY_MAX_BYTES / SNAP_PAGE))

/*
 * Run lists. Every run of a diff costs a restore one mapping, so a writer joins runs over short gaps until no more
 * than the target are left; a reader takes somewhat more, far below the kernel's 65530 mappings of one process.
 */
#define SNAP_RUNS_TARGET 1024u
#define SNAP_RUNS_MAX    8192u

#endif
