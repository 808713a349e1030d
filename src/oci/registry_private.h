/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of the registry client, to each other.
 *
 *   registry.c           what others call: documents, waiting
 *   registry_fetch.c     layers' blobs, into files
 *   registry_exchange.c  one request carried through: redirects, logins, retries, mirrors
 *   registry_login.c     what a server asks for and is answered: basic, tokens
 *   registry_endpoint.c  the servers that have the repository: mirrors, then the registry
 *   registry_status.c    sentences for answers that are refusals
 */
#ifndef SM_OCI_REGISTRY_PRIVATE_H
#define SM_OCI_REGISTRY_PRIVATE_H

#include "base/buf.h"
#include "base/list.h"
#include "oci/auth.h"
#include "oci/http.h"
#include "oci/registry.h"
#include "oci/registry_config.h"
#include "oci/registry_tls.h"

#define REGISTRY_REDIRECTS_MAX   5
#define REGISTRY_LOGINS_MAX      1            /* 401s in a row that a login may cure */
#define REGISTRY_MIRROR_ATTEMPTS 2            /* at most: there is another server */
#define REGISTRY_TOKEN_BYTES     (64 * 1024u) /* the token server's answer */
#define REGISTRY_REFUSAL_BYTES   (16 * 1024u) /* of an answer that is no success: enough for its reason */
#define REGISTRY_BACKOFF_MAX_MS  30000u       /* one wait */
#define REGISTRY_WAIT_MAX_MS     180000u /* all waits of an exchange that gets nothing; Retry-After beyond it fails */
#define REGISTRY_PROGRESS        (64 * 1024u) /* an attempt that got so much was no failure in a row */
#define REGISTRY_TRIES_MAX       2000u        /* requests for one thing, whatever they got */

struct exchange;

/* One server. */
struct endpoint {
    char *name;          /* "docker.io", "mirror.example:5000": for sentences, credentials, certs.d */
    struct http_url url; /* its root, with the path prefix of a mirror and no slash at the end */
    struct http_tls tls;
    bool mirror;
    bool plain;   /* plain HTTP was asked for by the user */
    bool probing; /* https so far; http if the server turns out not to speak TLS: loopback only */
    bool reached; /* it has answered once: from then on its failures are worth a retry */
    bool dead;    /* a mirror that could not be reached: not asked again */

    /* Logging in. `logins` counts tokens, so that whoever was refused with an older one knows that there is a newer. */
    struct challenge challenge;
    struct credentials credentials;
    bool credentials_known;
    struct token token;
    unsigned logins;
    struct exchange *login; /* a request for a token that is under way */
    struct buf login_body;
    struct sm_error login_err; /* of the last one that failed */
};

struct registry {
    struct http *http;
    struct registry_options o; /* no default left; strings are ours */
    char *host, *repository;
    struct http_tls tls; /* for servers that are no endpoint: the CA given, no client certificate */
    struct endpoint endpoint[REGISTRY_MIRRORS_MAX + 1];
    unsigned n_endpoints; /* the last one is the registry itself */
    struct list exchanges;
};

/* registry_endpoint.c */
int registry_endpoints(struct registry *r, struct sm_error *err);
void endpoint_done(struct endpoint *ep);
int endpoint_without_tls(struct registry *r, struct endpoint *ep, struct sm_error *err); /* end of `probing` */
/* May this endpoint's business go to `url`? `from`: which sends us there, NULL for a token server. */
int endpoint_may_go(const struct registry *r, const struct endpoint *ep, const struct http_url *from,
                    const struct http_url *url, struct sm_error *err);

/* registry_login.c */
int login_challenged(struct registry *r, struct endpoint *ep, const struct http_head *head, struct sm_error *err);
bool login_wants_token(const struct endpoint *ep); /* none yet, or too old */
int login_start(struct registry *r, struct endpoint *ep, struct sm_error *err);
void login_step(struct endpoint *ep);                                          /* of one that is under way */
int login_header(const struct endpoint *ep, char **ret, struct sm_error *err); /* NULL: none; to be wiped and freed */
void wipe_free(char *secret);

/* registry_exchange.c: what callbacks return besides 0 and -errno (which is final). The sentence is set in each case.
 */
enum exchange_code {
    EXCHANGE_AGAIN = 1, /* may go well when asked again */
    EXCHANGE_WRONG,     /* this server's answer will not do: a mirror's place is taken by the next one */
    EXCHANGE_ENOUGH,    /* inside only */
};

struct exchange_ops {
    uint64_t (*from)(void *ctx); /* from which byte on to ask; 0 forgets what came. Called before each request, and
                                    after one that failed */
    int (*head)(void *ctx, const struct http_head *head,
                struct sm_error *err); /* 200, 206; 416 when from() was not 0 */
    int (*data)(void *ctx, const void *data, size_t len, struct sm_error *err);
    int (*finish)(void *ctx, const struct http_head *head, struct sm_error *err);
};

struct exchange_request {
    enum http_method method;
    const char *path;           /* below the endpoint's root, "/v2/..."; NULL: `token_for` */
    const char *url;            /* of a token server ... */
    struct endpoint *token_for; /* ... for this endpoint */
    const char *what;           /* for sentences */
    const char *accept;         /* may be NULL */
    const char *authorization;  /* a whole header for the token server; NULL: none */
    const char *body;           /* of a POST */
    uint32_t total_timeout_ms;
    const struct exchange_ops *ops;
    void *ctx;
};

int exchange_start(struct exchange **ret, struct registry *r, const struct exchange_request *q, struct sm_error *err);
void exchange_free(struct exchange *x);
void exchange_step(struct exchange *x);
bool exchange_ended(const struct exchange *x, int *ret, struct sm_error *err); /* *ret: 0 or -errno */
uint64_t exchange_timer(const struct exchange *x); /* when to step at the latest; UINT64_MAX: none */

/* Of all of r->exchanges: step them, and how many have ended; the earliest timer. */
unsigned exchanges_step(struct registry *r);
uint64_t exchanges_timer(struct registry *r);

/* registry.c: a path below "/v2/REPOSITORY/", and what it is called in sentences. To be freed. */
int registry_path(const struct registry *r, const char *kind, const char *name, char **ret_path, char **ret_what,
                  struct sm_error *err);

/* registry_status.c */
struct refusal {
    const struct registry *registry;
    const struct endpoint *endpoint;
    const struct http_head *head;
    const char *where, *what;
    const void *body;
    size_t body_len;
    const char *sent;             /* the Authorization header, or NULL */
    bool token_server, elsewhere; /* elsewhere: another host that the registry sent us to */
};
int registry_refused(const struct refusal *f, struct sm_error *err);

#endif
