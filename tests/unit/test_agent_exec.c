/* SPDX-License-Identifier: Apache-2.0 */
/* Agent and client: how execs start and end, what they find when they run. */
#include "agent_harness.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int setup(void **state)
{
    struct harness *h = calloc(1, sizeof(*h));

    h_start(h, true);
    *state = h;
    return 0;
}

static int teardown(void **state)
{
    h_stop(*state);
    free(*state);
    return 0;
}

/* Readable when the process has ended. */
static int pidfd(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);

    assert_true(fd >= 0);
    return fd;
}

static void wait_gone(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    assert_int_equal(poll(&p, 1, (int)(H_DEADLINE_NS / 1000000)), 1);
    close(fd);
}

static void exit_codes(void **state)
{
    h_expect(h_sh(*state, 1, NULL, "exit 0"), 0, "");
    h_expect(h_sh(*state, 2, NULL, "exit 3"), 3, "");
    h_expect(h_sh(*state, 3, NULL, "exit 255"), 255, "");
    struct h_conn *c = h_sh(*state, 4, NULL, "echo out; echo err >&2; exit 7");
    h_expect(c, 7, "out\n");
    assert_string_equal(h_text(c, 1), "err\n");
    assert_true(c->started);
    assert_int_equal(c->end.signal, 0);
    assert_false(c->end.timed_out);
    assert_true(c->end.duration_ns > 0 && c->end.duration_ns < H_DEADLINE_NS);
    assert_true(c->end.peak_rss_kib > 0);
}

static void fatal_signals(void **state)
{
    struct h_conn *c = h_sh(*state, 1, NULL, "kill -KILL $$");

    h_expect(c, 137, "");
    assert_int_equal(c->end.signal, SIGKILL);
    c = h_sh(*state, 2, NULL, "kill -TERM $$");
    h_expect(c, 143, "");
    assert_int_equal(c->end.signal, SIGTERM);
    /* The agent ignores SIGPIPE; what it starts does not. */
    h_expect(h_sh(*state, 3, NULL, "kill -PIPE $$"), 128 + SIGPIPE, "");
}

static void expect_start_error(struct harness *h, unsigned i, const struct agent_exec *spec, const char *prog, int code,
                               const char *text)
{
    struct h_conn *c = h_exec(h, i, spec, (const char *const[]){prog, NULL});

    h_wait(h, &c->start_failed);
    assert_int_equal(c->exit_code, code);
    if (!strstr(c->err.text, text))
        fail_msg("'%s' is not in '%s'", text, c->err.text);
    assert_false(c->started);
}

static void start_errors(void **state)
{
    struct agent_exec cwd = {.cwd = "/nonexistent/dir"}, rel = {.cwd = "tmp"}, user = {.user = "no-such-user"};
    char script[] = "/tmp/sm-test-XXXXXX";
    int fd = mkstemp(script);

    expect_start_error(*state, 1, NULL, "no-such-program", 127, "not found in $PATH");
    expect_start_error(*state, 2, NULL, "/no/such/program", 127, "/no/such/program");
    expect_start_error(*state, 3, NULL, "/etc/passwd", 126, "/etc/passwd");
    expect_start_error(*state, 4, NULL, "/etc", 126, "/etc");
    expect_start_error(*state, 5, &cwd, "true", 126, "/nonexistent/dir");
    expect_start_error(*state, 6, &rel, "true", 126, "not an absolute path");
    expect_start_error(*state, 7, &user, "true", 125, "no-such-user");
    expect_start_error(*state, 8, NULL, "", 127, "not found");

    assert_true(fd >= 0);
    assert_int_equal(write(fd, "\x01\x02\x03 no program", 14), 14);
    fchmod(fd, 0755);
    close(fd);
    expect_start_error(*state, 9, NULL, script, 126, "exec format error");
    fd = open(script, O_WRONLY | O_TRUNC);
    assert_int_equal(write(fd, "#!/no/interpreter\n", 18), 18);
    close(fd);
    expect_start_error(*state, 10, NULL, script, 127, "interpreter");
    unlink(script);
}

static void found_in_the_path_of_the_exec(void **state)
{
    const char *const env[] = {"PATH=/nowhere:/etc", NULL};
    struct agent_exec x = {.env = env};

    /* /etc/passwd is there but cannot be executed: 126, as shells say. */
    expect_start_error(*state, 1, &x, "passwd", 126, "passwd");
    expect_start_error(*state, 2, &x, "ls", 127, "$PATH");
}

static void environment_and_directory(void **state)
{
    const char *const env[] = {"A=1", "HOME=/somewhere", "EMPTY=", NULL};
    struct agent_exec x = {.env = env, .cwd = "/usr"};
    char dir[64];
    struct h_conn *c;

    h_expect(h_sh(*state, 1, &x, "echo $A,$HOME,${EMPTY-unset},${TERM-unset},$PATH; pwd; umask"), 0,
             "1,/somewhere,,unset,/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n/usr\n0022\n");
    c = h_exec(*state, 2, NULL, (const char *const[]){"env", NULL});
    h_expect(c, 0, NULL);
    assert_non_null(strstr(h_text(c, 0), "PATH=/usr/local/sbin"));
    assert_non_null(strstr(h_text(c, 0), "HOSTNAME="));
    assert_non_null(strstr(h_text(c, 0), "HOME=/"));

    snprintf(dir, sizeof(dir), "/tmp/sm-test-cwd-%d/a/b", getpid());
    x = (struct agent_exec){.cwd = dir, .create_cwd = true};
    h_expect(h_sh(*state, 3, &x, "test \"$(pwd)\" = \"$PWD\" && ls -A"), 0, "");
    assert_int_equal(access(dir, F_OK), 0);
    h_expect(h_sh(*state, 4, NULL, "cd /tmp && rmdir -p sm-test-cwd-*/a/b"), 0, "");

    h_expect(h_sh(*state, 5, NULL, "ls -l /proc/self/fd | grep -c -- '->'"), 0, "4\n"); /* 0, 1, 2, and ls's own */
}

static void users(void **state)
{
    if (geteuid() != 0) {
        print_message("not root: cannot become another user\n");
        skip();
    }
    struct agent_exec x = {.user = "65533:65532"};
    /* A number without an entry: its own group only, and "/" as home. /dev/stdout can be opened anew. */
    h_expect(h_sh(*state, 1, &x, "id -u; id -g; id -G; echo $HOME; echo again >/dev/stdout"), 0,
             "65533\n65532\n65532\n/\nagain\n");
    x.user = "nobody";
    h_expect(h_sh(*state, 2, &x,
                  "id -un; grep -c CapEff:.0000000000000000 /proc/self/status; kill -0 1 2>/dev/null || echo no"),
             0, "nobody\n1\nno\n");
    x.user = "0";
    h_expect(h_sh(*state, 3, &x, "id -u; echo $HOME"), 0, "0\n/root\n");
}

static void limits_and_privileges(void **state)
{
    const struct agent_rlimit rl[] = {{RLIMIT_NOFILE, 77, 99}, {RLIMIT_CORE, 0, 0}};
    struct agent_exec x = {.rlimits = rl, .n_rlimits = 2, .no_new_privs = true};
    const struct agent_rlimit wrong = {99, 1, 1};

    h_expect(h_sh(*state, 1, &x, "ulimit -Sn; ulimit -Hn; ulimit -c; sed -n 's/NoNewPrivs:.//p' /proc/self/status"), 0,
             "77\n99\n0\n1\n");
    x = (struct agent_exec){.rlimits = &wrong, .n_rlimits = 1};
    expect_start_error(*state, 2, &x, "true", 125, "resource limit 99");
}

static void signals_reach_the_process(void **state)
{
    struct h_conn *c = h_sh(*state, 1, NULL, "trap 'echo usr1; exit 5' USR1; echo ready; sleep 100 & wait");

    h_wait_bytes(*state, &c->out[0], 6);
    agent_signal(c->agent, SIGUSR1, AGENT_TARGET_PROCESS);
    h_expect(c, 5, "ready\nusr1\n");

    c = h_sh(*state, 2, NULL,
             "trap '' USR1; (trap 'echo child; exit' USR1; echo ready; sleep 100 & wait) & wait $!; exit 6");
    h_wait_bytes(*state, &c->out[0], 6);
    agent_signal(c->agent, SIGUSR1, AGENT_TARGET_PROCESS); /* ignored by the process itself */
    agent_signal(c->agent, SIGUSR1, AGENT_TARGET_GROUP);
    h_wait_bytes(*state, &c->out[0], 12);
    h_expect(c, 6, "ready\nchild\n");

    c = h_sh(*state, 3, NULL, "echo ready; sleep 100 & wait");
    h_wait_bytes(*state, &c->out[0], 6);
    agent_signal(c->agent, SIGKILL, AGENT_TARGET_TREE);
    h_expect(c, 137, "ready\n");
}

/* Starts a grandchild in a session of its own, says its pid; returns a pidfd of it. */
static int with_runaway(struct harness *h, struct h_conn *c)
{
    h_wait_bytes(h, &c->out[0], 2);
    while (!strchr(h_text(c, 0), '\n'))
        h_wait_bytes(h, &c->out[0], c->out[0].len + 1);
    return pidfd((pid_t)atoi(h_text(c, 0)));
}

#define RUNAWAY "setsid sleep 1000 & echo $!; "

static void need_cgroup(struct harness *h)
{
    if (!h->has_cgroup) {
        print_message("no version 2 control groups that this user may make: a runaway cannot be found\n");
        skip();
    }
}

static void timeout_kills_everything(void **state)
{
    struct agent_exec x = {.timeout_ms = 300};
    struct h_conn *c = h_sh(*state, 1, &x, "exec sleep 1000");

    h_expect(c, 137, "");
    assert_true(c->end.timed_out);
    assert_in_range(c->end.duration_ns, 300 * 1000000ull, H_DEADLINE_NS);
    x.timeout_ms = 60000;
    c = h_sh(*state, 2, &x, "exit 4");
    h_expect(c, 4, "");
    assert_false(c->end.timed_out);

    need_cgroup(*state);
    x.timeout_ms = 2000; /* long enough to be looked at, on any machine */
    c = h_sh(*state, 3, &x, RUNAWAY "wait");
    int fd = with_runaway(*state, c);
    h_expect(c, 137, NULL);
    assert_true(c->end.timed_out);
    wait_gone(fd);
}

static void lost_connection_kills_everything(void **state)
{
    struct h_conn *c = h_sh(*state, 1, NULL, "echo $$; exec sleep 1000");
    int fd = with_runaway(*state, c);

    agent_free(c->agent);
    c->agent = NULL;
    wait_gone(fd);

    need_cgroup(*state);
    c = h_sh(*state, 2, NULL, RUNAWAY "wait");
    fd = with_runaway(*state, c);
    agent_free(c->agent);
    c->agent = NULL;
    wait_gone(fd);
}

static void end_of_the_workload_ends_the_rest(void **state)
{
    struct agent_exec x = {.workload = true, .open_stdin = true};

    need_cgroup(*state);
    struct h_conn *c = h_sh(*state, 1, &x, RUNAWAY "read x");
    int fd = with_runaway(*state, c); /* before its parent may end, and it with it */
    agent_stdin_eof(c->agent);
    h_expect(c, 1, NULL); /* read at end of file */
    x.open_stdin = false;
    wait_gone(fd);
    h_expect(h_sh(*state, 2, &x, "exit 2"), 2, "");
}

static void one_workload_at_a_time(void **state)
{
    struct agent_exec x = {.workload = true, .open_stdin = true};
    struct h_conn *a = h_sh(*state, 1, &x, "echo ready; cat"), *b;

    h_wait(*state, &a->started);
    b = h_sh(*state, 2, &x, "true");
    h_wait(*state, &b->failed);
    assert_int_equal(b->err.code, EBUSY);
    agent_stdin_eof(a->agent);
    h_expect(a, 0, "ready\n");
}

/* A daemon that keeps stdout open does not hold the exec up, and lives on. */
static void daemons_do_not_hold_the_exec(void **state)
{
    struct h_conn *c = h_sh(*state, 1, NULL, "sleep 1000 & echo $!");

    h_expect(c, 0, NULL);
    pid_t pid = (pid_t)atoi(h_text(c, 0));
    int fd = pidfd(pid);
    assert_int_equal(kill(pid, SIGKILL), 0);
    wait_gone(fd);

    if (!((struct harness *)*state)->adopts_orphans) {
        print_message("no PR_SET_CHILD_SUBREAPER here: only PID 1 adopts orphans\n");
        skip();
    }
    /* It was adopted and is reaped: it does not stay as a zombie. */
    struct h_conn *ctl = h_agent(*state, 2);
    for (int i = 0; i < 1000 && kill(pid, 0) == 0; i++) {
        assert_int_equal(agent_ping(ctl->agent, NULL), 0);
        h_wait_count(*state, &ctl->done, (unsigned)i + 1);
    }
    assert_int_equal(kill(pid, 0), -1);
    assert_int_equal(errno, ESRCH);
}

static void control_requests(void **state)
{
    struct harness *h = *state;
    struct agent_setup s = {.root_device = "/dev/vda", .root_fstype = "erofs"};
    struct h_conn *c = h_agent(h, 1);

    assert_int_equal(agent_ping(c->agent, NULL), 0);
    assert_int_equal(agent_sync(c->agent, NULL), 0);
    assert_int_equal(agent_ping(c->agent, NULL), 0);
    h_wait_count(h, &c->done, 3);
    h_expect(h_sh(h, 1, NULL, "echo same connection"), 0, "same connection\n");

    c = h_agent(h, 2);
    assert_int_equal(agent_setup(c->agent, &s, NULL), 0);
    h_wait(h, &c->failed);
    assert_non_null(strstr(c->err.text, "set up before"));

    c = h_agent(h, 3);
    assert_int_equal(agent_power(c->agent, AGENT_POWER_OFF, NULL), 0);
    h_wait(h, &c->failed);
    assert_int_equal(c->done, 1);
    assert_int_equal(agent_ping(c->agent, NULL), -EPIPE);
}

static void before_and_failed_setup(void **state)
{
    struct harness *h = *state;
    struct agent_setup s = {.root_device = "/dev/vda", .root_fstype = "bad"};
    struct h_conn *c = h_sh(h, 1, NULL, "true");

    h_wait(h, &c->failed);
    assert_non_null(strstr(c->err.text, "not set up"));

    /* SETUP and EXEC sent together: the exec falls with the set-up. Control characters do not reach a terminal. */
    c = h_agent(h, 2);
    assert_int_equal(agent_setup(c->agent, &s, NULL), 0);
    h_sh(h, 2, NULL, "true");
    h_wait(h, &c->failed);
    assert_string_equal(c->err.text, "mounting ?[31m/dev/vda");
    assert_int_equal(c->err.code, ENODEV);
}

static int setup_fresh(void **state)
{
    struct harness *h = calloc(1, sizeof(*h));

    h_start(h, false);
    *state = h;
    return 0;
}

static void limits_of_requests(void **state)
{
    struct h_conn *c = h_agent(*state, 1);
    struct sm_error err = SM_ERROR_INIT;
    size_t big = AGENT_MAX_ARG + 1;
    char *arg = malloc(big + 1);
    const char *argv[64] = {"echo"};
    struct agent_exec x = {.argv = argv};

    memset(arg, 'x', big);
    arg[big] = '\0';
    argv[1] = arg;
    assert_int_equal(agent_exec(c->agent, &x, &err), -E2BIG);
    assert_non_null(strstr(err.text, "argument has 131072 bytes"));
    arg[big - 1] = '\0';
    for (int i = 1; i < 20; i++)
        argv[i] = arg;
    assert_int_equal(agent_exec(c->agent, &x, &err), -E2BIG);
    assert_int_equal(agent_exec(c->agent, &(struct agent_exec){.argv = argv + 60}, &err), -EINVAL);
    argv[2] = NULL;
    /* After the refusals the connection is as good as before. */
    assert_int_equal(agent_exec(c->agent, &x, &err), 0);
    h_expect(c, 0, NULL);
    assert_int_equal(c->out[0].len, AGENT_MAX_ARG + 1);
    free(arg);
}

/* Whatever the first has left: stdin that nobody read, output that nobody is done with, or it did not start at all. */
static void execs_follow_one_another(void **state)
{
    static const uint8_t zeros[AGENT_WINDOW];
    struct h_conn *c = h_exec(*state, 1, &(struct agent_exec){.open_stdin = true}, (const char *const[]){"true", NULL});
    struct agent_exec x = {.open_stdin = true};

    assert_int_equal(agent_exec(c->agent, &(struct agent_exec){.argv = (const char *const[]){"true", NULL}}, NULL),
                     -EPIPE); /* not before it has ended */
    agent_stdin(c->agent, zeros, sizeof(zeros));
    h_expect(c, 0, NULL);

    h_again(c);
    h_exec(*state, 1, NULL, (const char *const[]){"/no/such/program", NULL});
    h_wait(*state, &c->start_failed);

    for (unsigned i = 0; i < 20; i++) {
        unsigned done = c->done;

        h_again(c);
        c->hold = i % 2 == 0;
        h_sh(*state, 1, &x, "head -c 200000; head -c 200000 /dev/zero >&2; exit 3");
        assert_int_equal(agent_stdin(c->agent, zeros, 200000), 200000); /* a whole window again */
        h_expect(c, 3, NULL);
        assert_int_equal(c->out[0].len, 200000);
        assert_int_equal(c->out[1].len, 200000);
        assert_int_equal(agent_ping(c->agent, NULL), 0);
        h_wait_count(*state, &c->done, done + 1);
        assert_true(agent_idle(c->agent));
    }
    h_again(c);
    x.timeout_ms = 50;
    h_exec(*state, 1, &x, (const char *const[]){"sleep", "1000", NULL});
    h_expect(c, 128 + SIGKILL, NULL);
    assert_true(c->end.timed_out);
}

/* Nobody waits to hear that it has started: that is told with what there is to tell. */
static void started_may_come_late(void **state)
{
    struct agent_exec x = {.open_stdin = true, .late_start = true};
    struct harness *h = *state;
    struct h_conn *c = h_sh(h, 1, &x, "trap 'echo got; exit 4' USR1; read a; echo $a; sleep 1000 & wait");
    struct h_conn *other = h_agent(h, 2);

    /* It runs now, or soon: the other connection is served, and nothing is said. */
    assert_int_equal(agent_ping(other->agent, NULL), 0);
    h_wait_count(h, &other->done, 1);
    assert_false(c->started);
    agent_stdin(c->agent, "in\n", 3);
    h_wait_bytes(h, &c->out[0], 3);
    assert_true(c->started && c->pid > 0);
    agent_signal(c->agent, SIGUSR1, AGENT_TARGET_PROCESS);
    h_expect(c, 4, "in\ngot\n");

    h_again(c);
    h_exec(h, 1, &x, (const char *const[]){"sleep", "1000", NULL});
    agent_signal(c->agent, SIGTERM, AGENT_TARGET_PROCESS);
    h_expect(c, 128 + SIGTERM, "");
    assert_true(c->started);

    h_again(c);
    h_exec(h, 1, &x, (const char *const[]){"/no/such/program", NULL});
    h_wait(h, &c->start_failed);
    assert_int_equal(c->exit_code, 127);
    assert_false(c->started);

    h_again(c);
    x.workload = true; /* of this one everybody wants to know */
    h_exec(h, 1, &x, (const char *const[]){"sleep", "1000", NULL});
    h_wait(h, &c->started);
    agent_signal(c->agent, SIGKILL, AGENT_TARGET_TREE);
    h_expect(c, 128 + SIGKILL, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(exit_codes, setup, teardown),
        cmocka_unit_test_setup_teardown(fatal_signals, setup, teardown),
        cmocka_unit_test_setup_teardown(start_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(found_in_the_path_of_the_exec, setup, teardown),
        cmocka_unit_test_setup_teardown(environment_and_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(users, setup, teardown),
        cmocka_unit_test_setup_teardown(limits_and_privileges, setup, teardown),
        cmocka_unit_test_setup_teardown(signals_reach_the_process, setup, teardown),
        cmocka_unit_test_setup_teardown(timeout_kills_everything, setup, teardown),
        cmocka_unit_test_setup_teardown(lost_connection_kills_everything, setup, teardown),
        cmocka_unit_test_setup_teardown(end_of_the_workload_ends_the_rest, setup, teardown),
        cmocka_unit_test_setup_teardown(one_workload_at_a_time, setup, teardown),
        cmocka_unit_test_setup_teardown(daemons_do_not_hold_the_exec, setup, teardown),
        cmocka_unit_test_setup_teardown(control_requests, setup, teardown),
        cmocka_unit_test_setup_teardown(before_and_failed_setup, setup_fresh, teardown),
        cmocka_unit_test_setup_teardown(limits_of_requests, setup, teardown),
        cmocka_unit_test_setup_teardown(execs_follow_one_another, setup, teardown),
        cmocka_unit_test_setup_teardown(started_may_come_late, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
