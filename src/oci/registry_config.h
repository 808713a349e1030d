/* SPDX-License-Identifier: Apache-2.0 */
/* The user's file about registries: mirrors, and how to reach a host. docs/registries.md describes it. */
#ifndef SM_OCI_REGISTRY_CONFIG_H
#define SM_OCI_REGISTRY_CONFIG_H

#include <stdbool.h>

#include "base/error.h"

#define REGISTRY_MIRRORS_MAX 8

struct registry_config;

/*
 * `path`, else $SUPERMACHINE_CONFIG: must be there. Else supermachine/registries.json in $XDG_CONFIG_HOME or ~/.config,
 * where a missing file is an empty one.
 */
int registry_config_load(struct registry_config **ret, const char *path, struct sm_error *err);
void registry_config_free(struct registry_config *c);

/* What it says about one host; all zero when nothing. Strings are the config's, but for `mirrors`. */
struct host_config {
    char **mirrors; /* URLs, ends with NULL */
    bool plain_http;
    const char *ca_file, *cert_file, *key_file;
};

int registry_config_host(struct registry_config *c, const char *host, struct host_config *ret, struct sm_error *err);
void host_config_done(struct host_config *h);

#endif
