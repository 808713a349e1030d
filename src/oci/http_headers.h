/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The head of an HTTP answer: its status and the few headers that a registry client reads. One door for hostile lines.
 */
#ifndef SM_OCI_HTTP_HEADERS_H
#define SM_OCI_HTTP_HEADERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define HTTP_LINE_MAX       (16 * 1024u) /* one header; signed URLs in Location are the long ones, 2 to 4 KiB */
#define HTTP_HEAD_MAX       (64 * 1024u) /* all of one answer */
#define HTTP_TYPE_SIZE      128          /* a media type without parameters */
#define HTTP_CHALLENGES_MAX 8
#define HTTP_DIGEST_MAX     160            /* "sha512:" and 128 digits is the longest in use */
#define HTTP_RETRY_MAX_S    (365 * 86400u) /* a server's wish beyond it is cut to it */

struct http_head {
    int status; /* 0: no status line yet */
    bool has_length, has_range, has_retry;
    uint64_t length;
    uint64_t range_first, range_last; /* last one included; RFC 9110, 14.4 */
    uint64_t range_total;             /* UINT64_MAX: "*" */
    uint32_t retry_after_s;           /* from now */
    char type[HTTP_TYPE_SIZE];        /* lower case; "" when there was none, or it was too long */
    char *location, *digest;          /* NULL when there was none */
    char *challenges[HTTP_CHALLENGES_MAX];
    unsigned n_challenges;
    size_t bytes; /* seen so far */
};

/*
 * One line, with or without its line end. A status line begins a new answer and forgets what came before. `now` is the
 * time in Unix seconds, for dates in Retry-After. Headers that nobody here reads may look as they like.
 */
int http_head_line(struct http_head *h, const void *line, size_t len, int64_t now, struct sm_error *err);
void http_head_done(struct http_head *h); /* takes a zeroed one; leaves it zeroed */

/* "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110, 5.6.7; the obsolete two forms are not read). */
bool http_date_parse(const char *s, int64_t *ret_unix);

#endif
