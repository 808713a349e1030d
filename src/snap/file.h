/* SPDX-License-Identifier: Apache-2.0 */
/* The `state` file: a stream's sections with everything that tells a right file from a wrong one. */
#ifndef SM_SNAP_FILE_H
#define SM_SNAP_FILE_H

#include "snap/stream.h"

#define SNAP_FILE_VERSION 1u

/* Write all of a saved stream to the empty file `fd` (stays the caller's). Not durable before fsync. */
int snap_file_write(const struct snap_stream *s, int fd, struct sm_error *err);

/*
 * Read `fd` (by position; stays the caller's) and check it; *ret is then a stream for loading. What does not fit (no
 * such file, damaged, other architecture, version, page size) is -EBADMSG or -ENOTSUP and a sentence that says so.
 */
int snap_file_read(struct snap_stream *ret, int fd, struct sm_error *err);

#endif
