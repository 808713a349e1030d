/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The test's HTTP server: a thread that accepts, and one for each connection.
 *
 * Theory of operation
 *
 * What: HTTP/1.1 with kept connections, as little as the tests need. `lock` is held while a request is logged and
 * answered, so a test's function needs no lock of its own for what only it touches; server_stop() shuts all sockets
 * down and joins, so what the function wrote may be read after it.
 *
 * Limits: CONNECTIONS_MAX; one request's head is 8 KiB. What is over them fails the test by an assertion.
 */
#include "http_server.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_MAX 512
#define HEAD_MAX        8192

struct connection {
    struct http_server *server;
    pthread_t thread;
    int fd;
};

struct http_server {
    server_fn *fn;
    void *ctx;
    int fd;
    unsigned port;
    pthread_t thread;
    pthread_mutex_t lock;
    bool stopping;
    struct connection connections[CONNECTIONS_MAX];
    unsigned n_connections;
    struct server_request log[SERVER_LOG_MAX];
    unsigned n_log;
};

bool server_send(const struct server_request *q, const void *data, size_t len)
{
    while (len > 0) {
        ssize_t n = send(q->fd, data, len, MSG_NOSIGNAL);

        if (n <= 0)
            return false;
        data = (const char *)data + n;
        len -= (size_t)n;
    }
    return true;
}

bool server_reply_cut(const struct server_request *q, const char *status, const char *headers, const void *body,
                      size_t len, size_t cut)
{
    char head[HEAD_MAX];
    int n = snprintf(head, sizeof(head), "HTTP/1.1 %s\r\n%sContent-Length: %zu\r\n\r\n", status, headers ? headers : "",
                     len);

    assert(n > 0 && (size_t)n < sizeof(head));
    if (!server_send(q, head, (size_t)n))
        return false;
    if (!strcmp(q->method, "HEAD"))
        return true;
    return server_send(q, body, cut < len ? cut : len) && cut >= len;
}

bool server_reply(const struct server_request *q, const char *status, const char *headers, const void *body, size_t len)
{
    return server_reply_cut(q, status, headers, body, len, SIZE_MAX);
}

bool server_reply_range(const struct server_request *q, const void *data, size_t len, size_t cut)
{
    char headers[128];
    size_t from;

    if (!q->range[0])
        return server_reply_cut(q, "200 OK", NULL, data, len, cut);
    if (sscanf(q->range, "bytes=%zu-", &from) != 1 || from >= len)
        return server_reply(q, "416 Range Not Satisfiable", NULL, NULL, 0);
    snprintf(headers, sizeof(headers), "Content-Range: bytes %zu-%zu/%zu\r\n", from, len - 1, len);
    return server_reply_cut(q, "206 Partial Content", headers, (const char *)data + from, len - from, cut);
}

static void take(char *to, size_t size, const char *head, const char *name)
{
    size_t n = strlen(name);

    to[0] = '\0';
    for (const char *line = head; (line = strstr(line, "\r\n"));) {
        line += 2;
        if (!strncasecmp(line, name, n) && line[n] == ':') {
            size_t len = strcspn(line + n + 1, "\r");

            assert(len < size);
            memcpy(to, line + n + 1, len);
            to[len] = '\0';
            memmove(to, to + strspn(to, " "), strlen(to + strspn(to, " ")) + 1);
        }
    }
}

/* False at the end of the connection, and for what is no HTTP: a TLS greeting. */
static bool read_request(int fd, struct server_request *q)
{
    char head[HEAD_MAX] = "", length[32];
    size_t n = 0, body, have;
    char *end;

    while (!(end = strstr(head, "\r\n\r\n"))) {
        ssize_t got = recv(fd, head + n, sizeof(head) - 1 - n, 0);

        if (got <= 0 || (n == 0 && head[0] == 0x16))
            return false;
        n += (size_t)got;
        head[n] = '\0';
    }
    *q = (struct server_request){.fd = fd};
    if (sscanf(head, "%7s %1023s", q->method, q->target) != 2)
        return false;
    end[2] = '\0';
    take(q->authorization, sizeof(q->authorization), head, "Authorization");
    take(q->range, sizeof(q->range), head, "Range");
    take(q->accept, sizeof(q->accept), head, "Accept");
    take(length, sizeof(length), head, "Content-Length");
    body = strtoul(length, NULL, 10);
    have = n - (size_t)(end + 4 - head);
    assert(body < sizeof(q->body) && have <= body);
    memcpy(q->body, end + 4, have);
    while (have < body) {
        ssize_t got = recv(fd, q->body + have, body - have, 0);

        if (got <= 0)
            return false;
        have += (size_t)got;
    }
    return true;
}

static void *serve(void *arg)
{
    struct connection *c = arg;
    struct http_server *s = c->server;
    struct server_request q;
    bool more = true;

    while (more && read_request(c->fd, &q)) {
        pthread_mutex_lock(&s->lock);
        q.number = s->n_log;
        assert(s->n_log < SERVER_LOG_MAX);
        s->log[s->n_log++] = q;
        more = s->fn(s->ctx, &q);
        pthread_mutex_unlock(&s->lock);
    }
    shutdown(c->fd, SHUT_RDWR); /* closed by server_stop(), which may be about to shut it down itself */
    return NULL;
}

static void *accept_all(void *arg)
{
    struct http_server *s = arg;
    int fd;

    while ((fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        pthread_mutex_lock(&s->lock);
        struct connection *c = &s->connections[s->n_connections];

        assert(s->n_connections < CONNECTIONS_MAX);
        *c = (struct connection){.server = s, .fd = fd};
        if (s->stopping || pthread_create(&c->thread, NULL, serve, c))
            close(fd);
        else
            s->n_connections++;
        pthread_mutex_unlock(&s->lock);
    }
    return NULL;
}

struct http_server *server_start(server_fn *fn, void *ctx)
{
    struct http_server *s = calloc(1, sizeof(*s));
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);

    assert(s);
    s->fn = fn;
    s->ctx = ctx;
    pthread_mutex_init(&s->lock, NULL);
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->fd < 0 || bind(s->fd, (struct sockaddr *)&addr, len) < 0 || listen(s->fd, 64) < 0 ||
        getsockname(s->fd, (struct sockaddr *)&addr, &len) < 0 || pthread_create(&s->thread, NULL, accept_all, s)) {
        perror("http_server");
        abort();
    }
    s->port = ntohs(addr.sin_port);
    return s;
}

void server_stop(struct http_server *s)
{
    unsigned n;

    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    n = s->n_connections;
    for (unsigned i = 0; i < n; i++)
        shutdown(s->connections[i].fd, SHUT_RDWR);
    pthread_mutex_unlock(&s->lock);
    shutdown(s->fd, SHUT_RDWR); /* wakes accept */
    pthread_join(s->thread, NULL);
    for (unsigned i = 0; i < n; i++) {
        pthread_join(s->connections[i].thread, NULL);
        close(s->connections[i].fd);
    }
    close(s->fd);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

unsigned server_port(const struct http_server *s)
{
    return s->port;
}

unsigned server_requests(struct http_server *s, const struct server_request **ret)
{
    unsigned n;

    pthread_mutex_lock(&s->lock);
    n = s->n_log;
    pthread_mutex_unlock(&s->lock);
    *ret = s->log;
    return n;
}

unsigned server_connections(struct http_server *s)
{
    unsigned n;

    pthread_mutex_lock(&s->lock);
    n = s->n_connections;
    pthread_mutex_unlock(&s->lock);
    return n;
}
