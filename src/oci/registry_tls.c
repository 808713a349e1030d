/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Certificates for a host: see registry_tls.h.
 *
 * Theory of operation
 *
 * What: libcurl takes CAs from one file, or one piece of memory that stands for it. "Besides the system's" therefore
 * means to read the system's file and put the others behind it. Without others nothing is read, and libcurl does what
 * it does. Client certificates are passed on by name: keys are read by the TLS library only.
 *
 * Limits: PEM_MAX_BYTES for one file, CA_FILES_MAX of them.
 */
#include "oci/registry_tls.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/io.h"

#define PEM_MAX_BYTES (4 * MIB)
#define CA_FILES_MAX  64

struct gathered {
    char *ca[CA_FILES_MAX];
    unsigned n_ca;
    char *cert, *key;
};

void registry_tls_done(struct http_tls *tls)
{
    free(tls->ca_pem);
    free(tls->cert_file);
    free(tls->key_file);
    *tls = (struct http_tls){0};
}

static void gathered_done(struct gathered *g)
{
    for (unsigned i = 0; i < g->n_ca; i++)
        free(g->ca[i]);
    free(g->cert);
    free(g->key);
}

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory for certificates");
}

static int add_ca(struct gathered *g, const char *path, struct sm_error *err)
{
    if (g->n_ca == CA_FILES_MAX)
        return sm_error_set(err, E2BIG, "\"%s\" is one CA file too many, the limit is %d", path, CA_FILES_MAX);
    g->ca[g->n_ca] = strdup(path);
    if (!g->ca[g->n_ca])
        return no_memory(err);
    g->n_ca++;
    return 0;
}

static int set_cert(struct gathered *g, const char *cert, const char *key, struct sm_error *err)
{
    g->cert = strdup(cert);
    g->key = strdup(key ? key : cert);
    return g->cert && g->key ? 0 : no_memory(err);
}

static bool has_end(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);

    return n > m && !strcmp(name + n - m, end);
}

static int look_at(struct gathered *g, const char *dir, const char *name, struct sm_error *err)
{
    CLEANUP_FREE char *path = NULL, *key = NULL;
    size_t stem;

    if (!has_end(name, ".crt") && (!has_end(name, ".cert") || g->cert))
        return 0;
    if (asprintf(&path, "%s/%s", dir, name) < 0) {
        path = NULL;
        return no_memory(err);
    }
    if (has_end(name, ".crt"))
        return add_ca(g, path, err);
    stem = strlen(path) - strlen(".cert");
    if (asprintf(&key, "%.*s.key", (int)stem, path) < 0) {
        key = NULL;
        return no_memory(err);
    }
    if (access(key, F_OK) < 0)
        return sm_error_set(err, EINVAL, "\"%s\" is a client certificate without its key \"%s\"", path, key);
    return set_cert(g, path, key, err);
}

static int look_in(struct gathered *g, const char *dir, struct sm_error *err)
{
    struct dirent **list;
    int n = scandir(dir, &list, NULL, alphasort), r = 0;

    if (n < 0) /* not there, or not for us to see */
        return errno == ENOMEM ? no_memory(err) : 0;
    for (int i = 0; i < n; i++) {
        if (r >= 0)
            r = look_at(g, dir, list[i]->d_name, err);
        free(list[i]);
    }
    free(list);
    return r;
}

static int look_in_all(struct gathered *g, const char *host, struct sm_error *err)
{
    const char *home = getenv("HOME");
    int r = 0;

    if (strchr(host, '/') || host[0] == '.')
        return 0;
    for (unsigned i = home && home[0] ? 0 : 2; i < 4 && r >= 0; i++) {
        const char *who = i % 2 ? "docker" : "containers";
        CLEANUP_FREE char *dir = NULL;
        int n = i < 2 ? asprintf(&dir, "%s/.config/%s/certs.d/%s", home, who, host)
                      : asprintf(&dir, "/etc/%s/certs.d/%s", who, host);

        if (n < 0) {
            dir = NULL;
            return no_memory(err);
        }
        r = look_in(g, dir, err);
    }
    return r;
}

static int append_pem(struct buf *to, const char *path, struct sm_error *err)
{
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    CLEANUP_FREE char *data = NULL;
    ssize_t n;

    if (fd < 0)
        return sm_error_sys(err, errno, "cannot open the CA certificates \"%s\"", path);
    data = malloc(PEM_MAX_BYTES + 1);
    if (!data)
        return no_memory(err);
    n = io_read_full(fd, data, PEM_MAX_BYTES + 1);
    if (n < 0)
        return sm_error_sys(err, (int)-n, "cannot read the CA certificates \"%s\"", path);
    if ((uint64_t)n > PEM_MAX_BYTES)
        return sm_error_set(err, EFBIG, "the CA certificates \"%s\" are larger than 4 MiB", path);
    if (!memmem(data, (size_t)n, "-----BEGIN ", 11))
        return sm_error_set(err, EINVAL, "\"%s\" holds no certificate in PEM form", path);
    buf_bytes(to, data, (size_t)n);
    buf_u8(to, '\n');
    return to->bad ? no_memory(err) : 0;
}

static int join_pem(struct http_tls *tls, struct http *http, const struct gathered *g, struct sm_error *err)
{
    struct buf all = buf_init((CA_FILES_MAX + 1) * (PEM_MAX_BYTES + 1));
    const char *system = http_system_ca(http);
    int r = 0;

    if (system && access(system, R_OK) == 0)
        r = append_pem(&all, system, err);
    for (unsigned i = 0; i < g->n_ca && r >= 0; i++)
        r = append_pem(&all, g->ca[i], err);
    if (r < 0) {
        buf_done(&all);
        return r;
    }
    tls->ca_pem = all.data;
    tls->ca_len = all.len;
    return 0;
}

int registry_tls_load(struct http_tls *ret, struct http *http, const char *host, const struct tls_files *files,
                      struct sm_error *err)
{
    struct gathered g = {0};
    struct http_tls tls = {0};
    int r = 0;

    for (unsigned i = 0; i < 2 && r >= 0; i++) {
        if (files->ca_file[i])
            r = add_ca(&g, files->ca_file[i], err);
        if (r >= 0 && files->key_file[i] && !files->cert_file[i])
            r = sm_error_set(err, EINVAL, "the key \"%s\" needs its client certificate beside it", files->key_file[i]);
        if (r >= 0 && files->cert_file[i] && !g.cert) {
            r = set_cert(&g, files->cert_file[i], files->key_file[i], err);
            if (r >= 0 && (access(g.cert, R_OK) < 0 || access(g.key, R_OK) < 0))
                r = sm_error_sys(err, errno, "cannot read the client certificate \"%s\" or its key \"%s\"", g.cert,
                                 g.key);
        }
    }
    if (r >= 0 && host)
        r = look_in_all(&g, host, err);
    if (r >= 0 && g.n_ca)
        r = join_pem(&tls, http, &g, err);
    if (r >= 0) {
        tls.cert_file = STEAL_PTR(g.cert);
        tls.key_file = STEAL_PTR(g.key);
        *ret = tls;
    }
    gathered_done(&g);
    return r;
}
