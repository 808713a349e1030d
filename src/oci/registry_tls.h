/* SPDX-License-Identifier: Apache-2.0 */
/* Which CAs a host is checked against, and who we are to it: files given, and the directories that Docker has for it.
 */
#ifndef SM_OCI_REGISTRY_TLS_H
#define SM_OCI_REGISTRY_TLS_H

#include "base/error.h"
#include "oci/http.h"

/* What was given; the first that is not NULL counts, and all CAs count. Files below the directories come last. */
struct tls_files {
    const char *ca_file[2];
    const char *cert_file[2], *key_file[2];
};

/*
 * `host` ("reg.example:5000") chooses certs.d/HOST below /etc/docker, /etc/containers, ~/.config/containers and
 * ~/.config/docker: *.crt are CAs, NAME.cert with NAME.key a client certificate. NULL: none of them.
 */
int registry_tls_load(struct http_tls *ret, struct http *http, const char *host, const struct tls_files *files,
                      struct sm_error *err);
void registry_tls_done(struct http_tls *tls); /* takes a zeroed one */

#endif
