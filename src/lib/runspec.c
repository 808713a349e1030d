/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What to run: see runspec.h.
 *
 * The rules are Docker's, since that is what people and images expect:
 * - a given ENTRYPOINT drops the image's CMD; a given CMD keeps the image's ENTRYPOINT;
 * - the environment is, each overriding what is before it: PATH, HOSTNAME and (with a terminal) TERM; the image's; the
 *   caller's. HOME is added in the guest, where the user's is known;
 * - a relative WorkingDir of an image is taken from "/", one of the caller's is refused.
 */
#include "lib/runspec.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"

#define DEFAULT_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static const char *const *as_const(char **list)
{
    return (const char *const *)list;
}

static int build_argv(struct strv *argv, const struct oci_config *image, const struct runspec_request *req)
{
    const char *const *entrypoint = req->entrypoint ? req->entrypoint : as_const(image->entrypoint);
    const char *const *cmd = req->cmd;
    int r;

    if (req->args)
        return strv_add_all(argv, req->args);
    if (!cmd && !req->entrypoint)
        cmd = as_const(image->cmd);
    r = strv_add_all(argv, entrypoint);
    return r < 0 ? r : strv_add_all(argv, cmd);
}

static int add_env_list(struct strv *env, const char *const *list)
{
    int r = 0;

    for (; r == 0 && list && *list; list++)
        r = strv_env(env, *list);
    return r;
}

static int build_env(struct strv *env, const struct oci_config *image, const struct runspec_request *req)
{
    char hostname[128];
    int r = strv_add(env, DEFAULT_PATH);

    if (r == 0 && req->hostname) {
        snprintf(hostname, sizeof(hostname), "HOSTNAME=%s", req->hostname);
        r = strv_add(env, hostname);
    }
    if (r == 0 && req->tty)
        r = strv_add(env, "TERM=xterm");
    if (r == 0)
        r = add_env_list(env, as_const(image->env));
    return r < 0 ? r : add_env_list(env, req->env);
}

static char *build_cwd(const struct oci_config *image, const struct runspec_request *req)
{
    const char *dir = req->cwd ? req->cwd : image->working_dir;
    char *s;

    if (!dir[0])
        return strdup("/");
    if (dir[0] == '/')
        return strdup(dir);
    return asprintf(&s, "/%s", dir) < 0 ? NULL : s;
}

int runspec_build(struct runspec *ret, const struct oci_config *image, const struct runspec_request *req,
                  struct sm_error *err)
{
    struct runspec spec = {0};
    int r;

    if (req->cwd && req->cwd[0] != '/')
        return sm_error_set(err, EINVAL, "the working directory '%s' is not absolute: begin it with '/'", req->cwd);
    r = build_argv(&spec.argv, image, req);
    if (r == 0 && spec.argv.n == 0) {
        r = sm_error_set(err, EINVAL, "nothing to run: the image names no command, and none was given");
        goto fail;
    }
    if (r == 0 && !spec.argv.list[0][0]) {
        r = sm_error_set(err, EINVAL, "nothing to run: the command's name is empty");
        goto fail;
    }
    if (r == 0)
        r = build_env(&spec.env, image, req);
    if (r == 0 && spec.argv.bytes + spec.env.bytes > SM_EXEC_STRINGS_MAX)
        r = -E2BIG;
    if (r == -E2BIG) {
        sm_error_set(err, E2BIG, "the command's arguments and environment are too large: at most %d strings and %d KiB",
                     SM_EXEC_COUNT_MAX, SM_EXEC_STRINGS_MAX / 1024);
        goto fail;
    }
    if (r == 0) {
        spec.cwd = build_cwd(image, req);
        spec.user = strdup(req->user ? req->user : image->user);
        if (!spec.cwd || !spec.user)
            r = -ENOMEM;
    }
    if (r < 0) {
        sm_error_sys(err, -r, "cannot put the command together");
        goto fail;
    }
    *ret = spec;
    return 0;

fail:
    runspec_done(&spec);
    return r;
}

void runspec_done(struct runspec *spec)
{
    strv_done(&spec->argv);
    strv_done(&spec->env);
    free(spec->cwd);
    free(spec->user);
    *spec = (struct runspec){0};
}

struct runspec_request runspec_request_of(const struct sm_exec_config *c)
{
    return (struct runspec_request){
        .args = c->args, .entrypoint = c->entrypoint, .cmd = c->cmd, .env = c->env, .cwd = c->cwd, .user = c->user};
}

static bool same_list(const struct strv *a, const struct strv *b)
{
    bool same = a->n == b->n;

    for (size_t i = 0; same && i < a->n; i++)
        same = strcmp(a->list[i], b->list[i]) == 0;
    return same;
}

bool runspec_equal(const struct runspec *a, const struct runspec *b)
{
    return a->cwd && b->cwd && same_list(&a->argv, &b->argv) && same_list(&a->env, &b->env) &&
           strcmp(a->cwd, b->cwd) == 0 && strcmp(a->user, b->user) == 0;
}

/* Names by signal(7). The numbers are those of x86 and arm64, which the host has too. */
static const struct {
    const char *name;
    int number;
} signal_names[] = {
    {"HUP", SIGHUP},   {"INT", SIGINT},       {"QUIT", SIGQUIT},     {"ILL", SIGILL},   {"TRAP", SIGTRAP},
    {"ABRT", SIGABRT}, {"IOT", SIGABRT},      {"BUS", SIGBUS},       {"FPE", SIGFPE},   {"KILL", SIGKILL},
    {"USR1", SIGUSR1}, {"SEGV", SIGSEGV},     {"USR2", SIGUSR2},     {"PIPE", SIGPIPE}, {"ALRM", SIGALRM},
    {"TERM", SIGTERM}, {"STKFLT", SIGSTKFLT}, {"CHLD", SIGCHLD},     {"CLD", SIGCHLD},  {"CONT", SIGCONT},
    {"STOP", SIGSTOP}, {"TSTP", SIGTSTP},     {"TTIN", SIGTTIN},     {"TTOU", SIGTTOU}, {"URG", SIGURG},
    {"XCPU", SIGXCPU}, {"XFSZ", SIGXFSZ},     {"VTALRM", SIGVTALRM}, {"PROF", SIGPROF}, {"WINCH", SIGWINCH},
    {"IO", SIGIO},     {"POLL", SIGIO},       {"PWR", SIGPWR},       {"SYS", SIGSYS},
};

/* As user space of every libc counts them: the kernel's 32 and 33 are the libc's own. */
#define GUEST_RTMIN 34
#define GUEST_RTMAX 64

static int parse_number(const char *s, int min, int max)
{
    char *end;

    if (!isdigit((unsigned char)s[0]))
        return -EINVAL;
    errno = 0;
    long v = strtol(s, &end, 10);
    return *end || errno || v < min || v > max ? -EINVAL : (int)v;
}

static int realtime_signal(const char *name)
{
    int n;

    if (strncasecmp(name, "RTMIN", 5) == 0) {
        if (!name[5])
            return GUEST_RTMIN;
        n = name[5] == '+' ? parse_number(name + 6, 0, GUEST_RTMAX - GUEST_RTMIN) : -EINVAL;
        return n < 0 ? n : GUEST_RTMIN + n;
    }
    if (strncasecmp(name, "RTMAX", 5) == 0) {
        if (!name[5])
            return GUEST_RTMAX;
        n = name[5] == '-' ? parse_number(name + 6, 0, GUEST_RTMAX - GUEST_RTMIN) : -EINVAL;
        return n < 0 ? n : GUEST_RTMAX - n;
    }
    return -EINVAL;
}

int runspec_signal(const char *name)
{
    if (!name[0])
        return SIGTERM;
    if (isdigit((unsigned char)name[0]))
        return parse_number(name, 1, GUEST_RTMAX);
    if (strncasecmp(name, "SIG", 3) == 0)
        name += 3;
    for (size_t i = 0; i < ARRAY_SIZE(signal_names); i++)
        if (strcasecmp(name, signal_names[i].name) == 0)
            return signal_names[i].number;
    return realtime_signal(name);
}
