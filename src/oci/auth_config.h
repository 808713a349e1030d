/* SPDX-License-Identifier: Apache-2.0 */
/* A credentials file: Docker's config.json, or containers-auth.json(5), which has the same form. */
#ifndef SM_OCI_AUTH_CONFIG_H
#define SM_OCI_AUTH_CONFIG_H

#include <stddef.h>

#include "base/error.h"
#include "oci/auth.h"

/* What a file has to say about a repository. All NULL: nothing. */
struct auth_found {
    char *helper;              /* ask this helper first ... */
    char *server;              /* ... about this */
    struct credentials stored; /* then take these */
};

int auth_config_parse(struct auth_found *ret, const void *data, size_t len, const char *host, const char *repository,
                      struct sm_error *err);
void auth_found_done(struct auth_found *f); /* takes a zeroed one; wipes */

#endif
