/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots of the store, printed. */
#ifndef SM_CLI_SNAPSHOTS_H
#define SM_CLI_SNAPSHOTS_H

#include <stdio.h>

#include <supermachine/supermachine.h>

#include "cli/format.h"

/* "base", "bake", "vm". */
const char *snapshot_kind(const struct sm_snapshot_record *r);

/* One JSON object; objects of a list, in an array. */
void snapshot_json(FILE *f, const struct sm_snapshot_record *r);
void snapshots_json(FILE *f, const struct sm_snapshot_record *list);

/* A key's first twelve digits. */
const char *snapshot_short(char buf[FORMAT_SIZE], const char *key);

#endif
