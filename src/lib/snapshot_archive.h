/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots as archives: docs/snapshot-format.md, "Archives". Reading one is one of the doors. */
#ifndef SM_LIB_SNAPSHOT_ARCHIVE_H
#define SM_LIB_SNAPSHOT_ARCHIVE_H

#include "base/checked.h"
#include "lib/snapshots.h"

struct oci_events;

/* Members, in this order; of parts there are as many as it takes. */
#define ARCHIVE_STATE      "state"
#define ARCHIVE_PAGES      "pages"
#define ARCHIVE_PART       "memory.%02u"
#define ARCHIVE_METADATA   "metadata.json"
#define ARCHIVE_PART_BYTES GIB /* of each part but the last */

/* Bytes of `pages` for so much memory: a bit for each page. */
#define ARCHIVE_PAGES_BYTES(mib) ((size_t)(mib) * (MIB / 4096 / 8))

/* Write it to `fd`, which may be a pipe. A diff is merged. The caller has verified it. */
int snapshot_archive_write(const struct snapshot *s, int fd, const struct oci_events *events, struct sm_error *err);

/*
 * Read one from `fd`, from where it is: state and memory into these empty files, and what it says of itself. Nothing is
 * read behind its end. -EBADMSG, -ENOTSUP and a sentence: it is none, or a wrong one. Whether memory and state are what
 * the metadata says is not looked at.
 */
int snapshot_archive_read(int fd, int state_fd, int memory_fd, struct snapshot_meta *ret,
                          const struct oci_events *events, struct sm_error *err);

#endif
