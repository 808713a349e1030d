/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting a process: see spawn.h.
 *
 * Theory of operation
 *
 * The agent has one thread, so its child may use all of libc between fork and execve. Order in the child matters:
 * signals first (a pending signal must not run the agent's handlers), then session and terminal, limits, user look-up,
 * owner of stdio (so that a user may open /dev/stdout anew), directory (created and entered as root, as Docker does),
 * groups, ids, environment, execve.
 *
 * Capabilities: root in the guest keeps all of them. The machine is the boundary, not the kernel inside it. A user
 * other than root loses them by the change of ids.
 *
 * Invariant: the child never returns; it execs, or writes one record and exits.
 */
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cgroup.h"
#include "users.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define DEFAULT_TERM "xterm"

/* Open files: what programs are used to as the soft limit, and room for those that raise it. */
#define DEFAULT_NOFILE_SOFT 1024
#define DEFAULT_NOFILE_HARD 524288

#define PATH_SIZE (AGENT_MAX_PATH + 1)

struct child {
    const struct ga_spawn *sp;
    struct ga_user user;
    char program[PATH_SIZE];
    char env_home[PATH_SIZE + 8], env_host[AGENT_MAX_HOSTNAME + 16];
};

static _Noreturn void fail(struct child *c, uint32_t reason, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static _Noreturn void fail(struct child *c, uint32_t reason, int code, const char *fmt, ...)
{
    struct ga_start_record rec = {.reason = reason, .code = (uint32_t)code};
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(rec.text, sizeof(rec.text), fmt, ap);
    va_end(ap);
    /* Fits PIPE_BUF, so it arrives whole. When nobody reads it any more, nobody wants it. */
    ssize_t n = write(c->sp->report, &rec, sizeof(rec));
    _exit(n == (ssize_t)sizeof(rec) ? 125 : 124);
}

int ga_find_program(const char *name, const char *path, char *ret, size_t size)
{
    int found = -ENOENT;

    if (strchr(name, '/')) {
        if (strlen(name) >= size)
            return -ENAMETOOLONG;
        strcpy(ret, name);
        return 0;
    }
    if (!*name)
        return -ENOENT;
    for (const char *p = path, *end; p; p = *end ? end + 1 : NULL) {
        struct stat st;

        end = strchrnul(p, ':');
        /* An empty part is the working directory, as in shells. */
        int n = snprintf(ret, size, "%.*s%s%s", (int)(end - p), p, end == p ? "./" : "/", name);
        if (n < 0 || (size_t)n >= size || stat(ret, &st) < 0 || S_ISDIR(st.st_mode))
            continue;
        if (access(ret, X_OK) == 0)
            return 0;
        found = -EACCES;
    }
    return found;
}

/* PID 1 has got the defaults from the kernel; the agent ignores one signal and handles none (server.c). */
static void reset_signals(void)
{
    sigset_t none;

    signal(SIGPIPE, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* The agent is exempt from the OOM killer; what it starts is not. */
static void reset_oom_score(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    ssize_t n = write(fd, "0", 1);
    (void)n; /* as good as without /proc */
    close(fd);
}

static void enter_stdio(struct child *c)
{
    const struct ga_spawn *sp = c->sp;

    if (setsid() < 0)
        fail(c, AGENT_START_FAILED, errno, "starting a session: %s", strerror(errno));
    if ((sp->req->flags & AGENT_EXEC_TTY) && ioctl(sp->stdio[0], TIOCSCTTY, 0) < 0)
        fail(c, AGENT_START_FAILED, errno, "taking the terminal: %s", strerror(errno));
    for (int i = 0; i < 3; i++)
        if (dup2(sp->stdio[i], i) < 0)
            fail(c, AGENT_START_FAILED, errno, "passing stdin, stdout and stderr: %s", strerror(errno));
}

static void set_limits(struct child *c)
{
    const struct ga_exec_req *q = c->sp->req;
    struct rlimit nofile = {.rlim_cur = DEFAULT_NOFILE_SOFT, .rlim_max = DEFAULT_NOFILE_HARD};

    /* Not allowed where the tests run without root: then the limits stay as they are. */
    setrlimit(RLIMIT_NOFILE, &nofile);
    for (size_t i = 0; i < q->n_rlimits; i++) {
        struct rlimit rl = {.rlim_cur = q->rlimits[i].soft, .rlim_max = q->rlimits[i].hard};

        if (q->rlimits[i].resource >= RLIM_NLIMITS || setrlimit((int)q->rlimits[i].resource, &rl) < 0)
            fail(c, AGENT_START_FAILED, EINVAL, "resource limit %u cannot be set to %llu:%llu", q->rlimits[i].resource,
                 (unsigned long long)q->rlimits[i].soft, (unsigned long long)q->rlimits[i].hard);
    }
}

/* Like mkdir -p. What cannot be made is found out by chdir. */
static void make_dirs(const char *path)
{
    char part[PATH_SIZE];

    for (size_t i = 1; i <= strlen(path); i++)
        if (path[i] == '/' || !path[i]) {
            memcpy(part, path, i);
            part[i] = '\0';
            mkdir(part, 0755);
        }
}

static void enter_dir(struct child *c)
{
    const char *cwd = *c->sp->req->cwd ? c->sp->req->cwd : "/";

    if (*cwd != '/')
        fail(c, AGENT_START_BAD_CWD, EINVAL, "working directory '%s' is not an absolute path", cwd);
    if (c->sp->req->flags & AGENT_EXEC_CREATE_CWD)
        make_dirs(cwd);
    if (chdir(cwd) < 0)
        fail(c, AGENT_START_BAD_CWD, errno, "working directory '%s': %s", cwd, strerror(errno));
}

static void become_user(struct child *c)
{
    /* Stdio belongs to the user, so that opening /dev/stdout works. Fails for /dev/null on a read-only root: no matter.
     */
    for (int i = 0; i < 3; i++) {
        struct stat st;

        if (fstat(i, &st) == 0 && st.st_uid != c->user.uid && !(S_ISCHR(st.st_mode) && !isatty(i)))
            (void)!fchown(i, c->user.uid, (gid_t)-1);
    }
    /* As an ordinary user (tests), being oneself already is enough. */
    bool root = geteuid() == 0;
    if (root && setgroups(c->user.n_groups, c->user.groups) < 0)
        fail(c, AGENT_START_BAD_USER, errno, "setting the groups of user '%s': %s", c->sp->req->user, strerror(errno));
    if ((root || c->user.gid != getegid()) && setresgid(c->user.gid, c->user.gid, c->user.gid) < 0)
        fail(c, AGENT_START_BAD_USER, errno, "becoming group %u: %s", c->user.gid, strerror(errno));
    if ((root || c->user.uid != geteuid()) && setresuid(c->user.uid, c->user.uid, c->user.uid) < 0)
        fail(c, AGENT_START_BAD_USER, errno, "becoming user %u: %s", c->user.uid, strerror(errno));
    if ((c->sp->req->flags & AGENT_EXEC_NO_NEW_PRIVS) && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        fail(c, AGENT_START_FAILED, errno, "setting no_new_privs: %s", strerror(errno));
}

/* The value of the last `name` in the environment, which is what most programs see; or NULL. */
static const char *env_get(const struct ga_exec_req *q, const char *name)
{
    size_t len = strlen(name);

    for (size_t i = q->n_env; i-- > 0;)
        if (strncmp(q->env[i], name, len) == 0 && q->env[i][len] == '=')
            return q->env[i] + len + 1;
    return NULL;
}

/* The vector has GA_ENV_ROOM free places, and the child's copy of it is the child's own. */
static void fill_env(struct child *c)
{
    const struct ga_exec_req *q = c->sp->req;
    static char path[] = "PATH=" DEFAULT_PATH, term[] = "TERM=" DEFAULT_TERM;
    char host[AGENT_MAX_HOSTNAME + 1] = "";
    char **end = q->env + q->n_env;

    if (!env_get(q, "PATH"))
        *end++ = path;
    if (!env_get(q, "HOME")) {
        snprintf(c->env_home, sizeof(c->env_home), "HOME=%s", c->user.home);
        *end++ = c->env_home;
    }
    if (!env_get(q, "HOSTNAME") && gethostname(host, sizeof(host) - 1) == 0) {
        snprintf(c->env_host, sizeof(c->env_host), "HOSTNAME=%s", host);
        *end++ = c->env_host;
    }
    if ((q->flags & AGENT_EXEC_TTY) && !env_get(q, "TERM"))
        *end++ = term;
}

static uint32_t reason_of(int code)
{
    switch (code) {
    case ENOENT:
    case ENOTDIR:
    case ELOOP:
    case ENAMETOOLONG:
        return AGENT_START_NOT_FOUND;
    case EACCES:
    case EPERM:
    case EISDIR:
    case ENOEXEC:
    case ETXTBSY:
    case ELIBBAD:
    case EINVAL:
        return AGENT_START_NOT_EXECUTABLE;
    default:
        return AGENT_START_FAILED;
    }
}

static _Noreturn void exec_program(struct child *c)
{
    const struct ga_exec_req *q = c->sp->req;
    const char *name = q->argv[0], *path = env_get(q, "PATH");
    int r = ga_find_program(name, path ? path : DEFAULT_PATH, c->program, sizeof(c->program));

    if (r == -ENOENT)
        fail(c, AGENT_START_NOT_FOUND, ENOENT, "'%.256s': executable file not found in $PATH", name);
    if (r < 0)
        fail(c, reason_of(-r), -r, "'%.256s': %s", name, strerror(-r));
    execve(c->program, q->argv, q->env);

    int code = errno;
    struct stat st;
    if (code == ENOENT && stat(c->program, &st) == 0)
        fail(c, AGENT_START_NOT_FOUND, code, "'%.256s' is there, but the interpreter or loader that it names is not",
             c->program);
    if (code == ENOEXEC)
        fail(c, AGENT_START_NOT_EXECUTABLE, code,
             "'%.256s': exec format error: neither a program for this processor nor a script with a #! line",
             c->program);
    fail(c, reason_of(code), code, "'%.256s': %s", c->program, strerror(code));
}

static _Noreturn void child_main(struct child *c)
{
    struct ga_error err = {0};

    reset_signals();
    umask(022);
    reset_oom_score();
    enter_stdio(c);
    set_limits(c);
    if (ga_user_from_files(c->sp->req->user, "/etc/passwd", "/etc/group", &c->user, &err) < 0)
        fail(c, AGENT_START_BAD_USER, err.code, "%s", err.text);
    enter_dir(c);
    become_user(c);
    fill_env(c);
    exec_program(c);
}

pid_t ga_spawn(const struct ga_spawn *sp)
{
    struct child *c = calloc(1, sizeof(*c)); /* before the fork: a failure is the caller's to report */

    if (!c)
        return -ENOMEM;
    c->sp = sp;
    pid_t pid = ga_cgroup_fork(sp->cgroup);
    if (pid == 0)
        child_main(c);
    int r = -errno;
    free(c);
    return pid < 0 ? r : pid;
}
