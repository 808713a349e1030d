/* SPDX-License-Identifier: Apache-2.0 */
/* One layer's tar becomes `data` (contents of files, each at a multiple of 4096) and `index` (oci/index.h). */
#ifndef SM_OCI_LAYER_H
#define SM_OCI_LAYER_H

#include "base/error.h"
#include "oci/unpack.h"

/*
 * Reads the tar to its end and fills both files, which are empty, seekable and stay the caller's. For a confined
 * process. Refuses what entry_check refuses, and what is over the limits of a layer.
 */
int layer_convert(const struct unpack_source *in, int data_fd, int index_fd, struct sm_error *err);

#endif
