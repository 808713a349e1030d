/* SPDX-License-Identifier: Apache-2.0 */
/* What is said when the store's disk takes no more. */
#ifndef SM_OCI_DISK_H
#define SM_OCI_DISK_H

#include "base/error.h"

/* Writing failed with the positive errno `code`: `what`, the system's words, and, on a full disk, what to do. -code. */
int disk_error(struct sm_error *err, int code, const char *what, ...) __attribute__((format(printf, 3, 4)));

#endif
