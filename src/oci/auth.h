/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who we are to a registry: credentials from the files and helper programs that Docker and Podman use, what a registry
 * asks for (its challenges), and the tokens it answers with. No HTTP in here.
 *
 * What is secret is wiped by the _done functions and never part of a sentence.
 */
#ifndef SM_OCI_AUTH_H
#define SM_OCI_AUTH_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Either `identity_token` (an OAuth2 refresh token), or both of the others; all NULL: anonymous. */
struct credentials {
    char *username, *password, *identity_token;
};

/*
 * What the user has for `repository` ("library/nginx") on `host` ("docker.io", "localhost:5000"). The first file that
 * has something to say about it decides, in this order:
 *   `auth_file` when given, else $REGISTRY_AUTH_FILE when set: then that one alone;
 *   $DOCKER_CONFIG/config.json when set;
 *   $XDG_RUNTIME_DIR/containers/auth.json;
 *   $XDG_CONFIG_HOME/containers/auth.json, or ~/.config/containers/auth.json;
 *   ~/.docker/config.json, unless $DOCKER_CONFIG is set.
 * A missing file is like an empty one, but `auth_file` must be there. May run a helper program, for at most
 * AUTH_HELPER_TIMEOUT_MS (limits.h).
 */
int auth_find(struct credentials *ret, const char *auth_file, const char *host, const char *repository,
              struct sm_error *err);
void credentials_done(struct credentials *c); /* takes a zeroed one */

enum challenge_scheme { CHALLENGE_NONE, CHALLENGE_BASIC, CHALLENGE_BEARER };

/* Strings are NULL where the registry gave none. A bearer challenge has a realm. */
struct challenge {
    enum challenge_scheme scheme;
    char *realm, *service, *scope, *error;
};

/*
 * The values of all WWW-Authenticate headers of one answer (RFC 9110, 11.6.1). The strongest scheme that is understood
 * is picked, bearer before basic; CHALLENGE_NONE when there is none.
 */
int challenge_parse(struct challenge *ret, const char *const *headers, size_t n, struct sm_error *err);
void challenge_done(struct challenge *c); /* takes a zeroed one */

struct token {
    char *value;
    uint64_t expires_ns; /* on the clock of `now_ns`, with a margin: from then on ask for a new one */
};

/* A token server's answer. */
int token_parse(struct token *ret, const void *json, size_t len, uint64_t now_ns, struct sm_error *err);
void token_done(struct token *t); /* takes a zeroed one */

#endif
