/* SPDX-License-Identifier: Apache-2.0 */
/* Public records of snapshots. */
#ifndef SM_LIB_SNAPSHOT_LIST_H
#define SM_LIB_SNAPSHOT_LIST_H

#include "lib/snapshot_private.h"

/* A list of one; takes over what `about` owns, also when it fails. */
int snapshot_record_new(struct sm_snapshot_record **ret, struct snapshot_about *about, struct sm_error *err);

#endif
