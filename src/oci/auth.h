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

/* The limits of what is read here. */
#define AUTH_FILE_MAX          (1u << 20)   /* a credentials file */
#define AUTH_ENTRIES_MAX       1024         /* entries of one file */
#define AUTH_HELPER_TIMEOUT_MS (60 * 1000)  /* a helper may ask its user for a password */
#define AUTH_HELPER_OUTPUT_MAX (64u << 10)  /* what it may write to standard output */
#define AUTH_HEADERS_MAX       16           /* WWW-Authenticate headers of one answer */
#define AUTH_HEADER_MAX        (8u << 10)   /* one of them */
#define AUTH_PARAMS_MAX        32           /* parameters of one challenge */
#define AUTH_TOKEN_ANSWER_MAX  (256u << 10) /* a token server's answer */
#define AUTH_TOKEN_MAX         (64u << 10)  /* the token in it */

/*
 * What the user has for `repository` ("library/nginx") on `host` ("docker.io", "localhost:5000"). One file alone is
 * looked at when the user has said which: `auth_file`, else $REGISTRY_AUTH_FILE, else $DOCKER_CONFIG/config.json.
 * Otherwise the first that has something to say about the repository decides:
 *   $XDG_RUNTIME_DIR/containers/auth.json (without that variable /run/containers/UID/auth.json),
 *   $XDG_CONFIG_HOME/containers/auth.json (without that variable ~/.config/containers/auth.json),
 *   ~/.docker/config.json.
 * A file that is missing is like an empty one, except `auth_file`. May run a helper program, for at most
 * AUTH_HELPER_TIMEOUT_MS.
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
