/* SPDX-License-Identifier: Apache-2.0 */
/* An HTTP server on loopback for tests: a function answers each request as the test wants it, badly too. */
#ifndef TEST_HTTP_SERVER_H
#define TEST_HTTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SERVER_LOG_MAX 512

struct server_request {
    char method[8], target[1024];
    char authorization[512], range[64], accept[512]; /* "" when not sent */
    char body[1024];
    unsigned number; /* of this server's requests, from 0 */
    int fd;
};

/* Called for one request at a time. Answers by the functions below; false: close the connection. */
typedef bool server_fn(void *ctx, const struct server_request *q);

struct http_server;
struct http_server *server_start(server_fn *fn, void *ctx);
void server_stop(struct http_server *s);
unsigned server_port(const struct http_server *s);

/* What has come so far, `n` of them at most SERVER_LOG_MAX; the pointer lives as long as the server. */
unsigned server_requests(struct http_server *s, const struct server_request **ret);
unsigned server_connections(struct http_server *s); /* accepted so far */

/* A whole answer: "200 OK", "Name: value\r\n..." (may be NULL); Content-Length is added. No body to a HEAD. */
bool server_reply(const struct server_request *q, const char *status, const char *headers, const void *body,
                  size_t len);
/* The same, but the connection ends after `cut` bytes of the body. */
bool server_reply_cut(const struct server_request *q, const char *status, const char *headers, const void *body,
                      size_t len, size_t cut);
bool server_send(const struct server_request *q, const void *data, size_t len);
/* `data` as a server does that knows ranges; cut after `cut` bytes (SIZE_MAX: not). */
bool server_reply_range(const struct server_request *q, const void *data, size_t len, size_t cut);

#endif
