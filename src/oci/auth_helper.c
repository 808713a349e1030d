/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Credential helpers: see auth_helper.h.
 *
 * Theory of operation
 *
 * What: the program docker-credential-NAME is run with the one argument "get"; the server's address is its standard
 * input; it answers with a JSON object {"ServerURL", "Username", "Secret"} on its standard output and exit status 0, or
 * fails, and then one sentence on its standard output means that there is nothing (the protocol of
 * github.com/docker/docker-credential-helpers). A user name of "<token>" means that the secret is an identity token.
 *
 * Its standard output may hold a secret in every case, so it is never shown, and wiped. What it writes to standard
 * error is for people, and is part of the sentence when it fails.
 *
 * The program is looked for in $PATH, in absolute directories only (what lies in the working directory is no helper),
 * and started without a shell. It stays in our session and process group: it may ask its user at the terminal, and
 * Ctrl-C reaches it. Its input is written before it starts, into a pipe that has room for it, so it cannot hold us up.
 *
 * It ends when its process has ended, whatever has inherited its pipes then (helpers start agents that stay); or it is
 * killed, when it takes too long or writes too much.
 */
#include "oci/auth_helper.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "oci/json.h"
#include "oci/text.h"

#define NAME_MAX_LEN   64
#define SERVER_MAX_LEN 4096 /* a pipe has room for it (pipe(7)) */
#define STDERR_KEPT    1024 /* the begin of it */

struct run {
    pid_t pid;
    int in, out, err, pidfd; /* our ends; `in` the child's */
    int child_out, child_err;
    char *output; /* AUTH_HELPER_OUTPUT_MAX + 1 bytes */
    size_t output_len;
    char said[STDERR_KEPT + 1];
    size_t said_len;
};

static bool is_helper_name(const char *s)
{
    size_t len = strlen(s);

    return len > 0 && len <= NAME_MAX_LEN && s[0] != '.' &&
           strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == len;
}

static int find_program(char ret[PATH_MAX], const char *name, struct sm_error *err)
{
    const char *path = getenv("PATH"), *end;

    for (const char *p = path ? path : "/usr/local/bin:/usr/bin:/bin"; *p; p = *end ? end + 1 : end) {
        struct stat st;
        int n;

        end = strchrnul(p, ':');
        if (*p != '/' || end - p >= PATH_MAX)
            continue;
        n = snprintf(ret, PATH_MAX, "%.*s/docker-credential-%s", (int)(end - p), p, name);
        if (n < PATH_MAX && stat(ret, &st) == 0 && S_ISREG(st.st_mode) && access(ret, X_OK) == 0)
            return 0;
    }
    return sm_error_set(err, ENOENT,
                        "the credential helper docker-credential-%s is not in $PATH: install it, or take it out of the "
                        "file",
                        name);
}

/* A pipe with both ends above the standard descriptors, so that no dup2 of the child hits one that is still needed. */
static int make_pipe(int *ret_read, int *ret_write)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    *ret_read = fcntl(fds[0], F_DUPFD_CLOEXEC, 3);
    *ret_write = fcntl(fds[1], F_DUPFD_CLOEXEC, 3);
    close(fds[0]);
    close(fds[1]);
    return *ret_read < 0 || *ret_write < 0 ? -EMFILE : 0;
}

static int add_actions(posix_spawn_file_actions_t *actions, const struct run *run)
{
    int r = posix_spawn_file_actions_adddup2(actions, run->in, 0);

    if (r == 0)
        r = posix_spawn_file_actions_adddup2(actions, run->child_out, 1);
    if (r == 0)
        r = posix_spawn_file_actions_adddup2(actions, run->child_err, 2);
    /* We may be in any program: not all of its descriptors need be close-on-exec. */
    if (r == 0)
        r = posix_spawn_file_actions_addclosefrom_np(actions, 3);
    return -r;
}

static int set_attributes(posix_spawnattr_t *attr)
{
    sigset_t none, all;
    int r;

    sigemptyset(&none);
    sigfillset(&all);
    r = posix_spawnattr_setsigmask(attr, &none);
    if (r == 0)
        r = posix_spawnattr_setsigdefault(attr, &all);
    if (r == 0)
        r = posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    return -r;
}

static int spawn(struct run *run, const char *program)
{
    char *const argv[] = {(char *)(uintptr_t)program, (char[]){"get"}, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    pid_t pid;
    int r = posix_spawn_file_actions_init(&actions);

    if (r)
        return -r;
    r = posix_spawnattr_init(&attr);
    if (r) {
        posix_spawn_file_actions_destroy(&actions);
        return -r;
    }
    r = add_actions(&actions, run);
    if (r == 0)
        r = set_attributes(&attr);
    if (r == 0)
        r = -posix_spawn(&pid, program, &actions, &attr, argv, environ);
    if (r == 0)
        run->pid = pid;
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    return r;
}

static int start(struct run *run, const char *program, const char *server)
{
    CLEANUP_FD int to_child = -1;
    int r = make_pipe(&run->in, &to_child);

    if (r == 0)
        r = make_pipe(&run->out, &run->child_out);
    if (r == 0)
        r = make_pipe(&run->err, &run->child_err);
    if (r == 0)
        r = io_set_nonblock(run->out);
    if (r == 0)
        r = io_set_nonblock(run->err);
    if (r == 0)
        r = io_write_full(to_child, server, strlen(server));
    if (r < 0)
        return r;
    close_fd(&to_child);
    r = spawn(run, program);
    close_fd(&run->in);
    close_fd(&run->child_out);
    close_fd(&run->child_err);
    if (r < 0)
        return r;
    run->pidfd = (int)syscall(SYS_pidfd_open, run->pid, 0);
    return run->pidfd < 0 ? -errno : 0;
}

/* All that is there. -EFBIG when it does not fit and must. */
static int drain(int *fd, char *to, size_t *len, size_t max, bool must_fit)
{
    char rest[1024];

    while (*fd >= 0) {
        size_t room = max - *len;
        ssize_t n = read(*fd, room ? to + *len : rest, room ? room : sizeof(rest));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        if (n == 0) {
            close_fd(fd);
        } else if (room) {
            *len += (size_t)n;
        } else {
            explicit_bzero(rest, sizeof(rest));
            if (must_fit)
                return -EFBIG;
            return 0; /* let the poll see to the time */
        }
    }
    return 0;
}

/* Until it has ended, or -errno: -ETIMEDOUT, -EFBIG. */
static int follow(struct run *run, int timeout_ms)
{
    uint64_t now = io_now_ns(), end = now + (uint64_t)timeout_ms * 1000000u;
    bool ended = false;

    while (!ended) {
        struct pollfd fds[] = {{run->out, POLLIN, 0}, {run->err, POLLIN, 0}, {run->pidfd, POLLIN, 0}};
        int r;

        now = io_now_ns();
        if (now >= end)
            return -ETIMEDOUT;
        r = poll(fds, 3, (int)((end - now + 999999) / 1000000));
        if (r < 0 && errno != EINTR)
            return -errno;
        ended = r > 0 && fds[2].revents; /* looked at before the rest is read, so nothing is missed */
        r = drain(&run->out, run->output, &run->output_len, AUTH_HELPER_OUTPUT_MAX, true);
        if (r == 0)
            r = drain(&run->err, run->said, &run->said_len, STDERR_KEPT, false);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Its wait status; -1 when another part of the program has taken it. */
static int reap(struct run *run)
{
    int status;
    pid_t r;

    do
        r = waitpid(run->pid, &status, 0);
    while (r < 0 && errno == EINTR);
    run->pid = 0;
    return r < 0 ? -1 : status;
}

static void run_done(struct run *run)
{
    if (run->pid > 0) {
        kill(run->pid, SIGKILL);
        reap(run);
    }
    close_fd(&run->in);
    close_fd(&run->out);
    close_fd(&run->err);
    close_fd(&run->child_out);
    close_fd(&run->child_err);
    close_fd(&run->pidfd);
    if (run->output)
        explicit_bzero(run->output, AUTH_HELPER_OUTPUT_MAX);
    free(run->output);
}

/* What it has written to standard error, on one line. */
static const char *said(struct run *run, char shown[TEXT_SHOWN_SIZE])
{
    char *s = run->said;

    run->said[run->said_len] = '\0';
    while (run->said_len && strchr(" \t\r\n", s[run->said_len - 1]))
        s[--run->said_len] = '\0';
    for (char *p = s; *p; p++) {
        if (*p == '\n')
            *p = ' ';
    }
    return text_shown(shown, s[0] ? s : "it says nothing on standard error, run it by hand to see why");
}

/* Docker's helpers tell the lack of credentials by a sentence of theirs. */
static bool says_none(const struct run *run)
{
    static const char none[] = "credentials not found in native keychain";
    size_t len = run->output_len;

    while (len && strchr(" \t\r\n", run->output[len - 1]))
        len--;
    return len == strlen(none) && !memcmp(run->output, none, len);
}

static int judge(struct credentials *ret, struct run *run, int r, const char *name, struct sm_error *err)
{
    char shown[TEXT_SHOWN_SIZE];
    int status;

    if (r == -ETIMEDOUT)
        return sm_error_set(err, ETIMEDOUT, "the credential helper docker-credential-%s did not answer in time: %s",
                            name, said(run, shown));
    if (r == -EFBIG)
        return sm_error_set(err, EFBIG, "the credential helper docker-credential-%s writes more than %u KiB", name,
                            AUTH_HELPER_OUTPUT_MAX / 1024);
    if (r < 0)
        return sm_error_sys(err, -r, "cannot hear the credential helper docker-credential-%s", name);
    status = reap(run);
    if (status != 0 && says_none(run))
        return 0;
    if (status != 0)
        return sm_error_set(err, EACCES, "the credential helper docker-credential-%s failed: %s", name,
                            said(run, shown));
    r = auth_helper_parse(ret, run->output, run->output_len, err);
    return r < 0 ? sm_error_wrap(err, "the answer of the credential helper docker-credential-%s", name) : r;
}

int auth_helper_get(struct credentials *ret, const char *name, const char *server, int timeout_ms, struct sm_error *err)
{
    struct run run = {.in = -1, .out = -1, .err = -1, .pidfd = -1, .child_out = -1, .child_err = -1};
    char program[PATH_MAX], shown[TEXT_SHOWN_SIZE];
    int r;

    if (!is_helper_name(name))
        return sm_error_set(err, EINVAL, "\"%s\" cannot be the name of a credential helper", text_shown(shown, name));
    if (strlen(server) > SERVER_MAX_LEN)
        return sm_error_set(err, EINVAL, "\"%s\" is too long for a credential helper", text_shown(shown, server));
    r = find_program(program, name, err);
    if (r < 0)
        return r;
    run.output = malloc(AUTH_HELPER_OUTPUT_MAX);
    if (!run.output)
        return sm_error_set(err, ENOMEM, "out of memory for credentials");
    r = start(&run, program, server);
    if (r < 0)
        r = sm_error_sys(err, -r, "cannot run the credential helper %s", text_shown(shown, program));
    else
        r = judge(ret, &run, follow(&run, timeout_ms), name, err);
    run_done(&run);
    return r;
}

static int take(struct credentials *ret, struct json *doc, struct sm_error *err)
{
    const char *user, *secret;
    int r = json_get_string(doc, "Username", false, &user, err);

    if (r >= 0)
        r = json_get_string(doc, "Secret", false, &secret, err);
    if (r < 0)
        return r;
    if ((!user || !user[0]) && (!secret || !secret[0]))
        return 0;
    if (!user || !user[0] || !secret)
        return sm_error_set(err, EBADMSG, "it has no \"Username\" or no \"Secret\"");
    for (const char *p = user; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return sm_error_set(err, EBADMSG, "its user name has a control character");
    }
    for (const char *p = secret; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return sm_error_set(err, EBADMSG, "its secret has a control character");
    }
    if (!strcmp(user, "<token>")) {
        ret->identity_token = strdup(secret);
        return ret->identity_token ? 1 : sm_error_set(err, ENOMEM, "out of memory for credentials");
    }
    ret->username = strdup(user);
    ret->password = strdup(secret);
    return ret->username && ret->password ? 1 : sm_error_set(err, ENOMEM, "out of memory for credentials");
}

int auth_helper_parse(struct credentials *ret, const void *output, size_t len, struct sm_error *err)
{
    struct credentials c = {NULL, NULL, NULL};
    struct json *doc;
    int r = json_parse(&doc, output, len, err);

    if (r < 0)
        return r;
    r = take(&c, doc, err);
    json_free_secret(doc);
    if (r < 0)
        credentials_done(&c);
    else
        *ret = c;
    return r;
}
