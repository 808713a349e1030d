/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One repository of one registry, read by the distribution specification's pull half.
 *
 * Nothing here makes threads or sleeps out of reach: transfers move inside these calls, and layers' blobs only inside
 * registry_wait() or another call of the same registry. One thread at a time.
 *
 * Codes: ENOENT no such repository or tag, EACCES not logged in or not allowed, EBUSY rate limit (the sentence says
 * until when), ETIMEDOUT, ECONNREFUSED, ECONNRESET cut off, EHOSTUNREACH (also: unknown host), EBADMSG digest, size or
 * form of what was sent is wrong, EFBIG over a limit, EPROTO TLS, proxy, or no registry, ELOOP redirects, EIO the
 * server's own failure, ENOSYS no libcurl here, ECANCELED or what `keep_going` returned, and those of writing a file.
 */
#ifndef SM_OCI_REGISTRY_H
#define SM_OCI_REGISTRY_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/digest.h"

#define REGISTRY_MEDIA_SIZE 128 /* RFC 6838, 4.2: two names of at most 127; real ones are far shorter */
#define REGISTRY_WAIT_FDS   64

struct registry;

/* All may be NULL or 0: defaults. Strings are copied. */
struct registry_options {
    const char *ca_file;              /* PEM: trusted besides the system's */
    const char *cert_file, *key_file; /* PEM: client certificate and its key */
    const char *auth_file;            /* looked in before the usual ones */
    const char *config_file;          /* mirrors (docs/registries.md); NULL: the usual place */
    bool plain_http;                  /* without it only loopback is talked to in plain HTTP */
    uint32_t connect_timeout_ms;      /* default 30 s */
    uint32_t total_timeout_ms;        /* of one request for a document; default 60 s */
    uint32_t low_speed_bytes;         /* a second; a transfer slower than this ... default 1000 */
    uint32_t low_speed_seconds;       /* ... for so long is cut off, and tried again; default 30 */
    uint32_t backoff_ms;              /* wait before the first retry, doubled for each further one; default 500 */
    unsigned attempts;                /* requests without progress until a failure is final; default 5 */

    /* Asked a few times a second while a call waits, registry_wait() too; < 0 (with a sentence) ends that call. */
    int (*keep_going)(void *ctx, struct sm_error *err);
    void *ctx;
};

/* `o` may be NULL. Reads configuration and certificates; nothing is sent yet, and credentials are not looked for. */
int registry_open(struct registry **ret, const struct registry_options *o, const char *host, const char *repository,
                  struct sm_error *err);
void registry_free(struct registry *r); /* its fetches must be freed before */

/* What a tag means now: one HEAD (and a token where asked for). -EOPNOTSUPP: the server names no digest in it. */
int registry_resolve(struct registry *r, const char *tag_or_digest, struct digest *ret, struct sm_error *err);

/*
 * A manifest or index, whole. Verified against `want` when that is given; a digest as `tag_or_digest` is checked too.
 * *ret is to be freed, and has a NUL behind its end. `ret_media`: as the server calls it, without parameters.
 */
int registry_manifest(struct registry *r, const char *tag_or_digest, const struct digest *want, void **ret,
                      size_t *ret_len, struct digest *ret_digest, char ret_media[REGISTRY_MEDIA_SIZE],
                      struct sm_error *err);

/* A small blob (an image's config), whole, verified; `size` bytes, to be freed. */
int registry_document(struct registry *r, const struct digest *digest, uint64_t size, void **ret, struct sm_error *err);

/*
 * A layer's blob, in the background: written to `fd` from byte `have` on (what is before is there already). `fd` stays
 * the caller's, open until registry_fetch_free(). Retries and resumes by itself. Never writes past `size`; the digest
 * is for whoever reads the file to check.
 */
struct registry_fetch;
int registry_fetch_start(struct registry_fetch **ret, struct registry *r, const struct digest *digest, uint64_t size,
                         int fd, uint64_t have, struct sm_error *err);

/*
 * Bytes of the file that may be read; *ret_done when all are there; -errno and a sentence when it failed for good.
 * Bytes that may be read never change: where a server would not resume, what is there is passed over.
 */
int registry_fetch_state(struct registry_fetch *f, uint64_t *ret_available, bool *ret_done, struct sm_error *err);
void registry_fetch_free(struct registry_fetch *f); /* stops it */

/*
 * Let transfers move: one round of waiting for them and for `fds` together, as poll(2), at most `timeout_ms` (-1: no
 * limit). Returns how many of `fds` are ready (`revents` is set), 0 also when only a transfer moved. n <=
 * REGISTRY_WAIT_FDS. A transfer's failure is not this call's: registry_fetch_state() has it.
 */
int registry_wait(struct registry *r, struct pollfd *fds, unsigned n, int timeout_ms, struct sm_error *err);

#endif
