/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Credentials: see auth.h.
 *
 * Theory of operation
 *
 * What: the files in their order (containers-auth.json(5), and Docker's own), each read whole, parsed by auth_config.c,
 * and asked further by auth_helper.c when it names a helper. The first that has credentials ends the search; trouble
 * with one ends it too, since going on could mean to be somebody else than the user thinks.
 *
 * Invariants: what was read is wiped before it is freed. Sentences begin with the file's name and never hold what is in
 * it. Nothing is written anywhere.
 *
 * Limits: AUTH_FILE_MAX. Not done: ~/.dockercfg of Docker before 1.7.
 */
#include "oci/auth.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "oci/auth_config.h"
#include "oci/auth_helper.h"
#include "oci/text.h"

static void free_secret(char *s)
{
    if (s)
        explicit_bzero(s, strlen(s));
    free(s);
}

void credentials_done(struct credentials *c)
{
    free_secret(c->username);
    free_secret(c->password);
    free_secret(c->identity_token);
    *c = (struct credentials){NULL, NULL, NULL};
}

static bool is_anonymous(const struct credentials *c)
{
    return !c->username && !c->identity_token;
}

/* The whole file, to be freed by free_whole; 0 when there is none. */
static int read_whole(const char *path, char **ret, size_t *ret_len, struct sm_error *err)
{
    /* Not blocking: whatever stands there in place of a file shall not hold us up. */
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    ssize_t n;
    char *data;

    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return 0;
    if (fd < 0 || fstat(fd, &st) < 0)
        return sm_error_sys(err, errno, "it cannot be read: make it readable, or name another file");
    if (!S_ISREG(st.st_mode))
        return sm_error_set(err, EINVAL, "it is not a regular file");
    if (st.st_size > AUTH_FILE_MAX)
        return sm_error_set(err, EFBIG, "it is larger than %u KiB, which is the limit", AUTH_FILE_MAX / 1024);
    data = calloc(1, (size_t)st.st_size + 1);
    if (!data)
        return sm_error_set(err, ENOMEM, "out of memory for credentials");
    n = io_read_full(fd, data, (size_t)st.st_size);
    if (n < 0) {
        free(data);
        return sm_error_sys(err, (int)-n, "it cannot be read");
    }
    *ret = data;
    *ret_len = (size_t)n;
    return 1;
}

static int ask(struct credentials *ret, struct auth_found *f, struct sm_error *err)
{
    int r = f->helper ? auth_helper_get(ret, f->helper, f->server, AUTH_HELPER_TIMEOUT_MS, err) : 0;

    if (r != 0)
        return r;
    *ret = f->stored;
    f->stored = (struct credentials){NULL, NULL, NULL};
    return is_anonymous(ret) ? 0 : 1;
}

static int look_into(struct credentials *ret, const char *path, bool required, const char *host, const char *repository,
                     struct sm_error *err)
{
    struct auth_found found = {.helper = NULL};
    char *data = NULL;
    size_t len = 0;
    int r = read_whole(path, &data, &len, err);

    if (r == 0 && required)
        return sm_error_set(err, ENOENT, "it does not exist");
    if (r <= 0 || len == 0) { /* empty: Docker takes it for nothing, too */
        free(data);
        return r < 0 ? r : 0;
    }
    r = auth_config_parse(&found, data, len, host, repository, err);
    explicit_bzero(data, len);
    free(data);
    if (r >= 0)
        r = ask(ret, &found, err);
    auth_found_done(&found);
    return r;
}

/* DIR/TAIL. 1: found; 0: nothing there. */
static int look_below(struct credentials *ret, const char *dir, const char *tail, bool required, const char *host,
                      const char *repository, struct sm_error *err)
{
    char shown[TEXT_SHOWN_SIZE];
    char *path;
    int r;

    if (asprintf(&path, "%s%s", dir, tail) < 0)
        return sm_error_set(err, ENOMEM, "out of memory for credentials");
    r = look_into(ret, path, required, host, repository, err);
    if (r < 0)
        r = sm_error_wrap(err, "credentials file \"%s\"", text_shown(shown, path));
    free(path);
    return r;
}

static const char *env(const char *name)
{
    const char *v = getenv(name);

    return v && v[0] ? v : NULL;
}

int auth_find(struct credentials *ret, const char *auth_file, const char *host, const char *repository,
              struct sm_error *err)
{
    const char *runtime = env("XDG_RUNTIME_DIR"), *config = env("XDG_CONFIG_HOME"), *home = env("HOME");
    const char *named = env("REGISTRY_AUTH_FILE"), *docker = env("DOCKER_CONFIG");
    struct credentials found = {NULL, NULL, NULL};
    char run_dir[64];
    int r = 0;

    if (auth_file) {
        r = look_below(&found, auth_file, "", true, host, repository, err);
    } else if (named) {
        r = look_below(&found, named, "", false, host, repository, err);
    } else if (docker) {
        r = look_below(&found, docker, "/config.json", false, host, repository, err);
    } else {
        snprintf(run_dir, sizeof(run_dir), "/run/containers/%u", (unsigned)geteuid());
        r = runtime ? look_below(&found, runtime, "/containers/auth.json", false, host, repository, err)
                    : look_below(&found, run_dir, "/auth.json", false, host, repository, err);
        if (r == 0 && config)
            r = look_below(&found, config, "/containers/auth.json", false, host, repository, err);
        else if (r == 0 && home)
            r = look_below(&found, home, "/.config/containers/auth.json", false, host, repository, err);
        if (r == 0 && home)
            r = look_below(&found, home, "/.docker/config.json", false, host, repository, err);
    }
    if (r < 0)
        return r;
    *ret = found;
    return 0;
}
