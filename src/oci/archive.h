/* SPDX-License-Identifier: Apache-2.0 */
/* The tar around an image's files, read by a confined process: nothing in it is a path on this host. */
#ifndef SM_OCI_ARCHIVE_H
#define SM_OCI_ARCHIVE_H

#include "base/error.h"
#include "oci/archive_frames.h"
#include "oci/image.h"

/*
 * Read `fd` (plain tar, gzip or zstd; a pipe will do) from where it is to its end and hand everything to `sink`, in
 * this process. `events` may be NULL.
 */
int archive_read(int fd, const struct archive_sink *sink, const struct oci_events *events, struct sm_error *err);

#endif
