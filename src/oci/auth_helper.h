/* SPDX-License-Identifier: Apache-2.0 */
/* Credential helpers: programs docker-credential-NAME that keep secrets elsewhere, as Docker runs them. */
#ifndef SM_OCI_AUTH_HELPER_H
#define SM_OCI_AUTH_HELPER_H

#include <stddef.h>

#include "base/error.h"
#include "oci/auth.h"

/* Ask it about `server`. 1: *ret is set; 0: it knows nothing about it. */
int auth_helper_get(struct credentials *ret, const char *name, const char *server, int timeout_ms,
                    struct sm_error *err);

/* What it has written to standard output when it went well. 1 or 0 as above. */
int auth_helper_parse(struct credentials *ret, const void *output, size_t len, struct sm_error *err);

#endif
