/* SPDX-License-Identifier: Apache-2.0 */
/* The public snapshot object: an opened snapshot, and a store that its image can be opened from. */
#ifndef SM_LIB_SNAPSHOT_OBJECT_H
#define SM_LIB_SNAPSHOT_OBJECT_H

#include "lib/snapshots.h"

struct sm_snapshot {
    struct oci_store *store; /* its own */
    struct snapshot *s;      /* snapshot_ref() it to keep it longer */
};

#endif
