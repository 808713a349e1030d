/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References: see ref.h.
 *
 * Theory of operation
 *
 * What: a transport's prefix decides first; what has none is a name on a registry. Such a name is cut from its end: the
 * digest behind '@', the tag behind a ':' that has no '/' after it, then the host before the first '/'. Each part is
 * then checked by itself. The grammar is that of github.com/distribution/reference (the comment on top of
 * reference.go); the host rule and the defaults are those of its normalize.go:
 *
 *   the first component is a host when it has a '.' or a ':', is "localhost", or has an upper-case letter;
 *   no host: docker.io, whose repositories of one component live below library/.
 *
 * Stricter than the grammar, which leaves these to whoever opens a connection: a port is 1 to 65535, an IPv6 address is
 * one. A name that is only a digest, or could be an image's id, is refused: nobody could tell what was meant.
 *
 * Limits: OCI_REF_MAX for the whole, REF_PATH_MAX for a repository, REF_TAG_MAX, REF_HOST_MAX.
 */
#include "oci/ref.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "oci/limits.h"
#include "oci/text.h"

#define REF_PATH_MAX 255 /* distribution/reference: RepositoryNameTotalLengthMax */
#define REF_TAG_MAX  128
#define REF_HOST_MAX 261 /* a DNS name (RFC 1035, 2.3.4) and a port */

#define DEFAULT_HOST "docker.io"
#define DEFAULT_TAG  "latest"
#define LIBRARY      "library/"

static const struct {
    const char *prefix, *what;
    enum ref_kind kind;
} transports[] = {
    {"oci:", "DIRECTORY", REF_OCI_DIR},
    {"oci-archive:", "FILE", REF_OCI_ARCHIVE},
    {"docker-archive:", "FILE", REF_DOCKER_ARCHIVE},
};

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory for an image reference");
}

static bool is_lower(char c)
{
    return c >= 'a' && c <= 'z';
}

static bool is_upper(char c)
{
    return c >= 'A' && c <= 'Z';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_hex(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (!is_digit(s[i]) && !(s[i] >= 'a' && s[i] <= 'f'))
            return false;
    }
    return true;
}

static bool has_upper(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (is_upper(s[i]))
            return true;
    }
    return false;
}

/* Index in transports[], or -1. */
static int transport_of(const char *s)
{
    for (size_t i = 0; i < ARRAY_SIZE(transports); i++) {
        if (!strncmp(s, transports[i].prefix, strlen(transports[i].prefix)))
            return (int)i;
    }
    return -1;
}

/* PREFIX PATH [":" TAG]. The first ':' ends PATH, so a tag may hold any character and PATH no colon. */
static int parse_transport(struct oci_ref *ref, const char *s, int transport, struct sm_error *err)
{
    const char *prefix = transports[transport].prefix, *what = transports[transport].what;
    const char *path = s + strlen(prefix), *colon = strchr(path, ':');
    char shown[TEXT_SHOWN_SIZE];

    if (!path[0] || colon == path)
        return sm_error_set(err, EINVAL, "\"%s\" names no %s: write %s%s or %s%s:TAG", text_shown(shown, s),
                            what[0] == 'D' ? "directory" : "file", prefix, what, prefix, what);
    if (colon && !colon[1])
        return sm_error_set(err, EINVAL, "\"%s\" has an empty tag: leave the last colon out", text_shown(shown, s));
    ref->kind = transports[transport].kind;
    ref->path = strndup(path, colon ? (size_t)(colon - path) : strlen(path));
    ref->tag = colon ? strdup(colon + 1) : NULL;
    return ref->path && (!colon || ref->tag) ? 0 : no_memory(err);
}

/* Separated by dots: letters, digits, and '-' inside. */
static bool is_domain(const char *s, size_t len)
{
    char before = '.';

    for (size_t i = 0; i < len; i++) {
        bool edge = before == '.' || i + 1 == len || s[i + 1] == '.';

        if (s[i] == '.' ? before == '.' : s[i] == '-' ? edge : !is_lower(s[i]) && !is_upper(s[i]) && !is_digit(s[i]))
            return false;
        before = s[i];
    }
    return before != '.';
}

/* Without its brackets; no zones, no IPv4 at the end (as the grammar has it). */
static bool is_ipv6(const char *s, size_t len)
{
    char copy[INET6_ADDRSTRLEN];
    struct in6_addr addr;

    if (len >= sizeof(copy) || memchr(s, '.', len))
        return false;
    memcpy(copy, s, len);
    copy[len] = '\0';
    return inet_pton(AF_INET6, copy, &addr) == 1;
}

static bool is_port(const char *s, size_t len)
{
    unsigned n = 0;

    for (size_t i = 0; i < len && n <= 65535; i++) {
        if (!is_digit(s[i]))
            return false;
        n = n * 10 + (unsigned)(s[i] - '0');
    }
    return n > 0 && n <= 65535;
}

static int check_host(const char *host, size_t len, const char *shown, struct sm_error *err)
{
    const char *port = NULL;
    size_t name_len = len;
    bool ok;

    if (len > REF_HOST_MAX)
        return sm_error_set(err, ENAMETOOLONG, "the host of \"%s\" is longer than %d bytes", shown, REF_HOST_MAX);
    if (host[0] == '[') {
        const char *end = memchr(host, ']', len);

        ok = end && is_ipv6(host + 1, (size_t)(end - host - 1)) && (end + 1 == host + len || end[1] == ':');
        if (ok && end + 1 != host + len)
            port = end + 1;
    } else {
        port = memchr(host, ':', len);
        if (port && memchr(port + 1, ':', len - (size_t)(port + 1 - host)))
            return sm_error_set(err, EINVAL,
                                "the host of \"%s\" has more than one colon: an IPv6 address goes in "
                                "brackets, [ADDRESS]:PORT",
                                shown);
        if (port)
            name_len = (size_t)(port - host);
        ok = is_domain(host, name_len);
    }
    if (!ok)
        return sm_error_set(err, EINVAL,
                            "\"%.*s\", the host of \"%s\", is not a host name, IPv4 address or [IPv6 "
                            "address]",
                            (int)len, host, shown);
    if (port && !is_port(port + 1, len - (size_t)(port + 1 - host)))
        return sm_error_set(err, EINVAL, "the port of \"%s\" is not a number from 1 to 65535", shown);
    return 0;
}

/* Lower-case letters and digits, with one of ".", "_", "__" or any number of "-" between them. */
static bool is_component(const char *s, size_t len)
{
    for (size_t i = 0; i < len;) {
        size_t n = 0;

        if (i > 0) {
            char c = s[i];

            while (i < len && s[i] == c) {
                i++;
                n++;
            }
            if (c != '-' && !(c == '.' && n == 1) && !(c == '_' && n <= 2))
                return false;
        }
        for (n = 0; i < len && (is_lower(s[i]) || is_digit(s[i])); i++)
            n++;
        if (!n)
            return false;
    }
    return len > 0;
}

static int check_path(const char *path, size_t len, const char *shown, struct sm_error *err)
{
    size_t at = 0;

    if (!len)
        return sm_error_set(err, EINVAL, "\"%s\" names no repository: write [HOST/]REPOSITORY[:TAG][@DIGEST]", shown);
    if (has_upper(path, len))
        return sm_error_set(err, EINVAL, "the repository of \"%s\" has an upper-case letter: write it in lower case",
                            shown);
    while (at <= len) {
        const char *slash = memchr(path + at, '/', len - at);
        size_t n = slash ? (size_t)(slash - path) - at : len - at;

        if (!n)
            return sm_error_set(err, EINVAL, "the repository of \"%s\" has an empty component: look at its slashes",
                                shown);
        if (!is_component(path + at, n))
            return sm_error_set(err, EINVAL,
                                "\"%.*s\" in \"%s\" cannot be part of a repository's name: it is made of a-z and 0-9, "
                                "with \".\", \"_\", \"__\" or dashes between them",
                                (int)(n > REF_PATH_MAX ? REF_PATH_MAX : n), path + at, shown);
        at += n + 1;
    }
    return 0;
}

static int check_tag(const char *tag, size_t len, const char *shown, struct sm_error *err)
{
    if (!len)
        return sm_error_set(err, EINVAL, "\"%s\" has an empty tag: leave the last colon out", shown);
    if (len > REF_TAG_MAX)
        return sm_error_set(err, ENAMETOOLONG, "the tag of \"%s\" is longer than %d bytes", shown, REF_TAG_MAX);
    for (size_t i = 0; i < len; i++) {
        char c = tag[i];

        if (!is_lower(c) && !is_upper(c) && !is_digit(c) && c != '_' && (i == 0 || (c != '.' && c != '-')))
            return sm_error_set(err, EINVAL,
                                "the tag of \"%s\" is made of letters, digits, \"_\", \".\" and \"-\", the last two "
                                "not at its begin",
                                shown);
    }
    return 0;
}

/* What nobody could tell: an image's id, a digest alone, an address of the web. */
static int refuse_ambiguous(const char *s, const char *shown, struct sm_error *err)
{
    size_t len = strlen(s);

    if (len == 2 * DIGEST_BYTES && is_hex(s, len))
        return sm_error_set(err, EINVAL,
                            "\"%s\" may be an image's id: a repository of that name is written " DEFAULT_HOST
                            "/" LIBRARY "%s",
                            shown, shown);
    if (!strncmp(s, "sha256:", 7) && len == 7 + 2 * DIGEST_BYTES && is_hex(s + 7, len - 7))
        return sm_error_set(err, EINVAL, "\"%s\" is a digest without a name: write REPOSITORY@%s", shown, shown);
    if (s[0] == '[' && !strchr(s, '/'))
        return sm_error_set(err, EINVAL, "\"%s\" is only a host: write HOST/REPOSITORY[:TAG][@DIGEST]", shown);
    if (s[0] == '/' || !strncmp(s, "./", 2) || !strncmp(s, "../", 3))
        return sm_error_set(err, EINVAL,
                            "\"%s\" looks like a path: write oci:DIRECTORY, oci-archive:FILE or docker-archive:FILE",
                            shown);
    if (strstr(s, "://"))
        return sm_error_set(err, EINVAL, "\"%s\" is not an image reference: write it without what ends in \"://\"",
                            shown);
    return 0;
}

/* Where the first component of a name means a host, its length. */
static size_t host_len(const char *name, size_t len)
{
    const char *slash = memchr(name, '/', len);
    size_t n = slash ? (size_t)(slash - name) : 0;

    if (memchr(name, '.', n) || memchr(name, ':', n) || has_upper(name, n) ||
        (n == strlen("localhost") && !memcmp(name, "localhost", n)))
        return n;
    return 0;
}

/* The host under the name by which it is known; its other names are Docker's own. */
static char *normal_host(const char *host, size_t len)
{
    static const char *const docker[] = {"index.docker.io", "registry-1.docker.io"};

    for (size_t i = 0; i < ARRAY_SIZE(docker); i++) {
        if (len == strlen(docker[i]) && !memcmp(host, docker[i], len))
            return strdup(DEFAULT_HOST);
    }
    return strndup(host, len);
}

static int set_name(struct oci_ref *ref, const char *name, size_t len, const char *shown, struct sm_error *err)
{
    size_t host = host_len(name, len);
    bool official;
    int r;

    r = host ? check_host(name, host, shown, err) : 0;
    if (r < 0)
        return r;
    ref->host = host ? normal_host(name, host) : strdup(DEFAULT_HOST);
    if (!ref->host)
        return no_memory(err);
    if (host) {
        name += host + 1;
        len -= host + 1;
    }
    r = check_path(name, len, shown, err);
    if (r < 0)
        return r;
    official = !strcmp(ref->host, DEFAULT_HOST) && !memchr(name, '/', len);
    if (len + (official ? strlen(LIBRARY) : 0) > REF_PATH_MAX)
        return sm_error_set(err, ENAMETOOLONG, "the repository of \"%s\" is longer than %d bytes", shown, REF_PATH_MAX);
    if (asprintf(&ref->path, "%s%.*s", official ? LIBRARY : "", (int)len, name) < 0) {
        ref->path = NULL;
        return no_memory(err);
    }
    return 0;
}

static int parse_registry(struct oci_ref *ref, const char *s, struct sm_error *err)
{
    const char *at = strchr(s, '@'), *end = at ? at : s + strlen(s), *colon;
    char shown[TEXT_SHOWN_SIZE];
    int r;

    text_shown(shown, s);
    r = refuse_ambiguous(s, shown, err);
    if (r < 0)
        return r;
    if (at) {
        r = digest_parse(&ref->digest, at + 1, "the digest", err);
        if (r < 0)
            return sm_error_wrap(err, "image reference \"%s\"", shown);
        ref->has_digest = true;
    }
    for (colon = end; colon > s && colon[-1] != ':' && colon[-1] != '/';)
        colon--;
    if (colon > s && colon[-1] == ':') {
        r = check_tag(colon, (size_t)(end - colon), shown, err);
        if (r < 0)
            return r;
        ref->tag = strndup(colon, (size_t)(end - colon));
        end = colon - 1;
    } else {
        ref->tag = at ? NULL : strdup(DEFAULT_TAG);
    }
    if (!ref->tag && (!at || *end == ':'))
        return no_memory(err);
    return set_name(ref, s, (size_t)(end - s), shown, err);
}

int ref_parse(struct oci_ref *ret, const char *s, struct sm_error *err)
{
    struct oci_ref ref = OCI_REF_INIT;
    int transport = transport_of(s), r;

    if (strlen(s) > OCI_REF_MAX)
        return sm_error_set(err, ENAMETOOLONG, "the image reference is longer than %d bytes", OCI_REF_MAX);
    if (!s[0])
        return sm_error_set(err, EINVAL,
                            "the image reference is empty: write [HOST/]REPOSITORY[:TAG][@DIGEST], or "
                            "oci:DIRECTORY");
    r = transport >= 0 ? parse_transport(&ref, s, transport, err) : parse_registry(&ref, s, err);
    if (r < 0) {
        ref_done(&ref);
        return r;
    }
    *ret = ref;
    return 0;
}

void ref_done(struct oci_ref *ref)
{
    free(ref->host);
    free(ref->path);
    free(ref->tag);
    *ref = OCI_REF_INIT;
}

static int put_together(const struct oci_ref *ref, const char *host, const char *path, char **ret, struct sm_error *err)
{
    char digest[1 + DIGEST_STR_SIZE] = "";
    char *s;

    if (ref->has_digest) {
        digest[0] = '@';
        digest_str(&ref->digest, digest + 1);
    }
    if (asprintf(&s, "%s%s%s%s%s%s", host, host[0] ? "/" : "", path, ref->tag ? ":" : "", ref->tag ? ref->tag : "",
                 digest) < 0)
        return no_memory(err);
    *ret = s;
    return 0;
}

int ref_canonical(const struct oci_ref *ref, char **ret, struct sm_error *err)
{
    assert(ref->kind == REF_REGISTRY);
    return put_together(ref, ref->host, ref->path, ret, err);
}

int ref_familiar(const struct oci_ref *ref, char **ret, struct sm_error *err)
{
    const char *host = ref->host, *path = ref->path, *name = path;
    char *s = NULL;
    int r;

    assert(ref->kind == REF_REGISTRY);
    if (!strcmp(host, DEFAULT_HOST) && !host_len(path, strlen(path)))
        host = "";
    if (!host[0] && !strncmp(path, LIBRARY, strlen(LIBRARY)) && !strchr(path + strlen(LIBRARY), '/'))
        name = path + strlen(LIBRARY);
    r = put_together(ref, host, name, &s, err);
    if (r < 0)
        return r;
    if (name != path && transport_of(s) >= 0) { /* "oci:latest" would be read as a directory */
        free(s);
        return put_together(ref, host, path, ret, err);
    }
    *ret = s;
    return 0;
}
