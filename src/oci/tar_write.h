/* SPDX-License-Identifier: Apache-2.0 */
/* Writing a tar: files and directories of nobody, at the beginning of time, so that the same contents give the same
 * bytes. */
#ifndef SM_OCI_TAR_WRITE_H
#define SM_OCI_TAR_WRITE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct oci_events;

struct tar_writer {
    int fd; /* may be a pipe */
    const struct oci_events *events;
    uint64_t written, total; /* of the contents; total is only told on */
    uint64_t left, size;     /* of the file that is being written */
    uint64_t told_ns;
};

/* `name`: at most 100 bytes. After tar_file exactly `size` bytes of tar_data. */
int tar_dir(struct tar_writer *w, const char *name, struct sm_error *err);
int tar_file(struct tar_writer *w, const char *name, uint64_t size, struct sm_error *err);
int tar_data(struct tar_writer *w, const void *data, size_t len, struct sm_error *err);
int tar_finish(struct tar_writer *w, struct sm_error *err);

#endif
