/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 of files that seldom change, remembered in the store: hashing a kernel at every start would be slow. */
#ifndef SM_LIB_FILESUM_H
#define SM_LIB_FILESUM_H

#include "base/error.h"
#include "oci/digest.h"
#include "oci/image.h"

/* Of the regular file `fd`; `what` is for sentences ("the kernel 'x'"). The file's position stays. */
int file_digest_cached(struct oci_store *store, int fd, const char *what, char ret[DIGEST_HEX_SIZE],
                       struct sm_error *err);

/* The same, always read. */
int file_digest(int fd, const char *what, char ret[DIGEST_HEX_SIZE], struct sm_error *err);

#endif
