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
 * Run lists. Every run of a diff costs a restore one mapping, 5 to 10 us. So a writer joins runs over short gaps until
 * no more than the target are left, and goes on until there are few, as long as the pages of the gaps are no more than
 * one of SNAP_RUNS_SLACK. (A bake has one to two hundred runs by nature: joining to a hundred adds 1 % to its pages. To
 * copy short runs instead of mapping them costs as much for one page, more for two, and is memory that clones do not
 * share.) A reader takes more, far below the kernel's 65530 mappings of one process.
 */
#define SNAP_RUNS_FEW    128u
#define SNAP_RUNS_SLACK  8u
#define SNAP_RUNS_TARGET 1024u
#define SNAP_RUNS_MAX    8192u

/*
 * Pages that a restore makes its own at once, because the last machine wrote to them. A list that says more was made
 * behind a workload that wrote much; the next one may not.
 */
#define SNAP_OWN_MAX_PAGES 2048u

#endif
