/* SPDX-License-Identifier: Apache-2.0 */
/* Agent and client: what happens around a snapshot. Events, renewals, files that are put, workloads that are detached.
 */
#include "agent_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lifecycle_regs.h"

#define GENERATION "/run/supermachine/generation"

static const uint8_t first[AGENT_GENERATION_SIZE] = {0x01, 0x23, [15] = 0xff};
static const uint8_t second[AGENT_GENERATION_SIZE] = {0x02, 0x23, [15] = 0xfe};
#define FIRST_TEXT  "012300000000000000000000000000ff\n"
#define SECOND_TEXT "022300000000000000000000000000fe\n"

static int setup_fresh(void **state)
{
    struct harness *h = calloc(1, sizeof(*h));

    h_start(h, false);
    *state = h;
    return 0;
}

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

/* ---- Files of the harness's root ---- */

/* Not under user-mode emulation. */
static void need_openat2(void)
{
    if (syscall(SYS_openat2, -1, "", NULL, 0) < 0 && errno == ENOSYS) {
        print_message("no openat2(2) here, by which the agent finds files\n");
        skip();
    }
}

static const char *in_root(struct harness *h, const char *path)
{
    static char name[256];

    snprintf(name, sizeof(name), "%s%s", h->root, path);
    return name;
}

static void make(struct harness *h, const char *path, const char *text)
{
    char name[256];

    snprintf(name, sizeof(name), "%s", in_root(h, path));
    for (char *p = name + strlen(h->root) + 1; (p = strchr(p, '/')); *p++ = '/') {
        *p = '\0';
        assert_true(mkdir(name, 0755) == 0 || errno == EEXIST);
    }
    FILE *f = fopen(name, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static const char *text_of(struct harness *h, const char *path)
{
    static char text[4096];
    int fd = open(in_root(h, path), O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return "(none)";
    ssize_t n = read(fd, text, sizeof(text) - 1);
    assert_true(n >= 0);
    text[n] = '\0';
    close(fd);
    return text;
}

static void expect_text(struct harness *h, const char *path, const char *text)
{
    assert_string_equal(text_of(h, path), text);
}

static bool is_hex_line(const char *text)
{
    return strlen(text) == 33 && strspn(text, "0123456789abcdef") == 32 && text[32] == '\n';
}

/* ---- Waiting ---- */

/* Connection 0 is the control connection: do one request on it and wait for its answer. */
static void renew(struct harness *h, const uint8_t *generation, const char *hostname, int signo)
{
    struct h_conn *c = h_agent(h, 0);
    unsigned before = c->done;

    assert_int_equal(agent_renew(c->agent, generation, hostname, signo, NULL), 0);
    h_wait_count(h, &c->done, before + 1);
}

static void ping(struct harness *h)
{
    struct h_conn *c = h_agent(h, 0);
    unsigned before = c->done;

    assert_int_equal(agent_ping(c->agent, NULL), 0);
    h_wait_count(h, &c->done, before + 1);
}

static void expect_error(struct harness *h, struct h_conn *c, int code, const char *text)
{
    h_wait(h, &c->failed);
    assert_int_equal(c->err.code, code);
    if (!strstr(c->err.text, text))
        fail_msg("'%s' is not in '%s'", text, c->err.text);
}

static void expect_event(struct harness *h, uint32_t kind, uint64_t arg)
{
    struct h_event e = h_event(h);

    assert_int_equal(e.kind, kind);
    assert_int_equal(e.arg, arg);
}

/* ---- Events ---- */

static void pre_exec_rings(void **state)
{
    struct harness *h = *state;
    struct h_conn *c = h_agent(h, 1);

    assert_int_equal(agent_pre_exec(c->agent, NULL), 0);
    expect_error(h, c, EAGAIN, "not set up");
    h_setup(h, &(struct agent_setup){0});
    assert_false(h_has_event(h));
    c = h_agent(h, 2);
    assert_int_equal(agent_pre_exec(c->agent, NULL), 0);
    h_wait_count(h, &c->done, 1);
    expect_event(h, SM_LC_EV_PRE_EXEC, 0);
    /* The connection can be used for what comes next. */
    h_expect(h_sh(h, 2, NULL, "echo on"), 0, "on\n");
}

static void start_heartbeats(struct harness *h)
{
    h_setup(h, &(struct agent_setup){.heartbeat = true});
    for (uint64_t i = 1; i <= 3; i++)
        expect_event(h, SM_LC_EV_HEARTBEAT, i);
}

static void expect_silence(struct harness *h)
{
    while (h_has_event(h))
        assert_int_equal(h_event(h).kind, SM_LC_EV_HEARTBEAT);
    struct pollfd p = {.fd = h->events, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 3 * AGENT_HEARTBEAT_MS), 0);
}

static void heartbeats_until_renewed(void **state)
{
    struct harness *h = *state;

    renew(h, first, NULL, 0);
    start_heartbeats(h);
    renew(h, first, NULL, 0); /* a generation that is known is good enough */
    expect_silence(h);
}

static void heartbeats_outlast_a_late_notice(void **state)
{
    struct harness *h = *state;

    start_heartbeats(h);
    h_notice(h, SM_LC_INT_RESTORED, first); /* of the restore before SETUP */
    ping(h);
    ping(h);
    while (h_event(h).arg < 10)
        ;
    renew(h, second, NULL, 0);
    expect_silence(h);
}

static void the_end_of_the_workload_rings(void **state)
{
    struct harness *h = *state;
    struct agent_exec x = {.workload = true};

    h_expect(h_sh(h, 1, NULL, "exit 1"), 1, NULL); /* not the workload */
    h_expect(h_sh(h, 2, &x, "exit 3"), 3, NULL);
    expect_event(h, SM_LC_EV_WORKLOAD_PARKED, 3 << 8);
    h_expect(h_sh(h, 3, &x, "kill -9 $$"), 137, NULL);
    expect_event(h, SM_LC_EV_WORKLOAD_PARKED, 9);
    h_exec(h, 4, &x, (const char *const[]){"no-such-program", NULL});
    h_wait(h, &h->conn[4].start_failed);
    ping(h);
    assert_false(h_has_event(h));
}

static const char *self;

/* What the tests start to be heard: one listener of each kind, on ports that the kernel chooses. */
static int listen_and_say(void)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    struct sockaddr_in four = {.sin_family = AF_INET};
    struct sockaddr *addr[2] = {(struct sockaddr *)&four, (struct sockaddr *)&six};
    socklen_t len[2] = {sizeof(four), sizeof(six)};

    for (int i = 0; i < 2; i++) {
        int fd = socket(addr[i]->sa_family, SOCK_STREAM, 0);

        if (fd < 0 && i == 1)
            return 0; /* a host without IPv6 */
        if (fd < 0 || bind(fd, addr[i], len[i]) < 0 || listen(fd, 1) < 0 || getsockname(fd, addr[i], &len[i]) < 0)
            return 1;
        printf("%u\n", ntohs(i ? six.sin6_port : four.sin_port));
    }
    return 0;
}

static void listening_ports_ring(void **state)
{
    struct harness *h = *state;

    if (geteuid() != 0 || !h->adopts_orphans) {
        print_message("only root may attach a program to a control group, and not under user-mode emulation\n");
        skip();
    }
    h_setup(h, &(struct agent_setup){.listeners = true});
    if (!h->has_cgroup) {
        print_message("no version 2 control groups here\n");
        skip();
    }
    struct h_conn *c = h_exec(h, 1, NULL, (const char *const[]){self, "listen", NULL});
    h_expect(c, 0, NULL);
    const char *at = h_text(c, 0);
    assert_non_null(strchr(at, '\n'));
    for (; *at; at = strchr(at, '\n') + 1)
        expect_event(h, SM_LC_EV_LISTENER, (uint64_t)atoi(at));
}

/* ---- Renewals ---- */

static void the_generation_is_in_a_file(void **state)
{
    struct harness *h = *state;
    char text[64];

    need_openat2();
    h_setup(h, &(struct agent_setup){0});
    snprintf(text, sizeof(text), "%s", text_of(h, GENERATION));
    assert_true(is_hex_line(text)); /* not restored: a random one */
    assert_string_not_equal(text, "00000000000000000000000000000000\n");
    struct stat st;
    assert_int_equal(stat(in_root(h, GENERATION), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0644);
    assert_int_equal(stat(in_root(h, "/run/supermachine"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0755);

    renew(h, first, NULL, 0);
    expect_text(h, GENERATION, FIRST_TEXT);
    h_notice(h, SM_LC_INT_PARK, second); /* no restore */
    ping(h);
    expect_text(h, GENERATION, FIRST_TEXT);
    h_notice(h, SM_LC_INT_RESTORED, second);
    ping(h);
    ping(h); /* the notice and the first of them may have been ready together */
    expect_text(h, GENERATION, SECOND_TEXT);
}

static void before_set_up_a_generation_is_remembered(void **state)
{
    struct harness *h = *state;

    need_openat2();
    renew(h, second, "ignored", SIGTERM);
    h_notice(h, SM_LC_INT_RESTORED, first);
    h_setup(h, &(struct agent_setup){.hostname = "mine"});
    expect_text(h, GENERATION, FIRST_TEXT);
    expect_text(h, "/" H_HOSTNAME, "(none)");
}

#define HOSTS_OF(name)                                                                                                 \
    "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t" name "\n1.2.3.4\tx\n"

static void the_host_name_changes_where_the_agent_wrote_it(void **state)
{
    struct harness *h = *state;

    need_openat2();
    make(h, "/etc/hostname", "old\n");
    make(h, "/etc/hosts", HOSTS_OF("old"));
    h_setup(h, &(struct agent_setup){.hostname = "old", .hosts = "1.2.3.4\tx\n"});
    renew(h, first, "new", 0);
    expect_text(h, "/etc/hostname", "new\n");
    expect_text(h, "/etc/hosts", HOSTS_OF("new"));
    expect_text(h, "/" H_HOSTNAME, "new");

    make(h, "/etc/hosts", "127.0.0.1 mine\n"); /* a program's from now on */
    renew(h, second, "newer", 0);
    expect_text(h, "/etc/hostname", "newer\n");
    expect_text(h, "/etc/hosts", "127.0.0.1 mine\n");

    assert_int_equal(agent_renew(h_agent(h, 1)->agent, second, "refused", 0, NULL), 0);
    expect_error(h, &h->conn[1], EPERM, "setting the host name 'refused'");
}

static void a_machine_id_is_made_where_there_is_none(void **state)
{
    struct harness *h = *state;
    char text[64];

    need_openat2();
    make(h, "/etc/machine-id", "uninitialized\n");
    make(h, "/var/lib/dbus/machine-id", "");
    h_setup(h, &(struct agent_setup){0});
    snprintf(text, sizeof(text), "%s", text_of(h, "/etc/machine-id"));
    assert_true(is_hex_line(text));
    assert_int_equal(text[12], '4'); /* a version 4 UUID */
    expect_text(h, "/var/lib/dbus/machine-id", text);

    renew(h, first, NULL, 0);
    assert_string_not_equal(text_of(h, "/etc/machine-id"), text);
    snprintf(text, sizeof(text), "%s", text_of(h, "/etc/machine-id"));
    assert_true(is_hex_line(text));
    expect_text(h, "/var/lib/dbus/machine-id", text);
    renew(h, first, NULL, 0); /* that is what it is */
    expect_text(h, "/etc/machine-id", text);

    make(h, "/var/lib/dbus/machine-id", "somebody's\n");
    renew(h, second, NULL, 0);
    assert_string_not_equal(text_of(h, "/etc/machine-id"), text);
    expect_text(h, "/var/lib/dbus/machine-id", "somebody's\n");
}

static void a_machine_id_of_the_image_stays(void **state)
{
    struct harness *h = *state;

    need_openat2();
    make(h, "/etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    make(h, "/var/lib/dbus/machine-id", "");
    h_setup(h, &(struct agent_setup){0});
    renew(h, first, NULL, 0);
    expect_text(h, "/etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    expect_text(h, "/var/lib/dbus/machine-id", "");
}

static void without_a_machine_id_none_is_made(void **state)
{
    struct harness *h = *state;

    need_openat2();
    make(h, "/etc/hostname", "");
    h_setup(h, &(struct agent_setup){0});
    renew(h, first, NULL, 0);
    expect_text(h, "/etc/machine-id", "(none)");
    expect_text(h, "/var/lib/dbus/machine-id", "(none)");
}

static void execs_are_signalled_once(void **state)
{
    static const char script[] = "trap 'echo got' USR1; echo ready; until read x; do :; done; echo $x";
    struct harness *h = *state;
    struct agent_exec x = {.open_stdin = true};
    struct h_conn *a = h_sh(h, 1, &x, script), *b;

    x.workload = true;
    b = h_sh(h, 2, &x, script);
    h_wait_bytes(h, &a->out[0], 6);
    h_wait_bytes(h, &b->out[0], 6);
    h_notice(h, SM_LC_INT_RESTORED, first); /* came first, and had no signal to give */
    renew(h, first, NULL, SIGUSR1);
    renew(h, first, NULL, SIGUSR1);
    for (int i = 0; i < 2; i++) {
        struct h_conn *c = i ? b : a;

        agent_stdin(c->agent, "line\n", 5);
        h_expect(c, 0, "ready\ngot\nline\n");
    }
    assert_int_equal(agent_renew(h_agent(h, 0)->agent, second, NULL, 65, NULL), -EINVAL);
}

/* ---- Files ---- */

static void put(struct harness *h, const char *path, uint32_t mode, const void *data, size_t len)
{
    struct h_conn *c = h_agent(h, 0);
    struct sm_error err = SM_ERROR_INIT;
    unsigned before = c->done;

    if (agent_put(c->agent, path, mode, geteuid(), getegid(), data, len, &err) < 0)
        fail_msg("%s", err.text);
    h_wait_count(h, &c->done, before + 1);
}

static void files_are_put(void **state)
{
    struct harness *h = *state;
    size_t big = 5 * 1000 * 1000 + 7;
    uint8_t *data = malloc(big);
    struct stat st;

    need_openat2();
    put(h, "/a/b/../c/file", 0640, "hello\n", 6);
    expect_text(h, "/a/c/file", "hello\n");
    assert_int_equal(stat(in_root(h, "/a/c/file"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    assert_int_equal(stat(in_root(h, "/a"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0755);
    put(h, "/a/c/file", 04755, "", 0);
    expect_text(h, "/a/c/file", "");
    assert_int_equal(stat(in_root(h, "/a/c/file"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 04755);

    /* Links mean what they mean inside. */
    assert_int_equal(symlink("/a/c", in_root(h, "/link")), 0);
    assert_int_equal(symlink("../../../../a/c/other", in_root(h, "/a/last")), 0);
    put(h, "/link/through", 0600, "x", 1);
    expect_text(h, "/a/c/through", "x");
    put(h, "/a/last", 0600, "y", 1);
    expect_text(h, "/a/c/other", "y");

    for (size_t i = 0; i < big; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    put(h, "/big", 0600, data, big);
    int fd = open(in_root(h, "/big"), O_RDONLY | O_CLOEXEC);
    uint8_t *again = malloc(big + 1);
    assert_int_equal(read(fd, again, big + 1), big);
    assert_memory_equal(data, again, big);
    close(fd);
    free(again);
    free(data);
    /* And the connection goes on. */
    h_expect(h_sh(h, 0, NULL, "echo on"), 0, "on\n");
}

static void files_that_cannot_be_put(void **state)
{
    struct harness *h = *state;
    struct sm_error err = SM_ERROR_INIT;
    struct h_conn *c = h_agent(h, 1);
    char large[100000];

    need_openat2();
    memset(large, 'x', sizeof(large));
    assert_int_equal(agent_put(c->agent, "relative", 0, 0, 0, "", 0, &err), -EINVAL);
    assert_int_equal(agent_put(c->agent, "/", 0, 0, 0, "", 0, &err), -EINVAL);
    assert_int_equal(agent_put(c->agent, "/x", 0, 0, 0, "", AGENT_MAX_PUT + 1, &err), -EFBIG);
    make(h, "/dir/file", "");
    assert_int_equal(agent_put(c->agent, "/dir", 0600, geteuid(), getegid(), large, sizeof(large), NULL), 0);
    assert_int_equal(agent_ping(c->agent, &err), -EBUSY);
    expect_error(h, c, EISDIR, "opening '/dir' in the guest");
    c = h_agent(h, 2);
    assert_int_equal(agent_put(c->agent, "/dir/file/below", 0600, 0, 0, "x", 1, NULL), 0);
    expect_error(h, c, ENOTDIR, "'/dir/file/below'");
    assert_int_equal(mkfifo(in_root(h, "/fifo"), 0600), 0);
    c = h_agent(h, 3);
    assert_int_equal(agent_put(c->agent, "/fifo", 0600, geteuid(), getegid(), "x", 1, NULL), 0);
    h_wait(h, &c->failed); /* nobody reads it: neither written nor waited for */
    c = h_agent(h, 4);
    assert_int_equal(symlink("/dev/full", in_root(h, "/outside")), 0);
    assert_int_equal(agent_put(c->agent, "/outside", 0600, geteuid(), getegid(), "x", 1, NULL), 0);
    expect_error(h, c, ENOENT, "'/outside'"); /* there is no /dev inside */
}

/* ---- Detached workloads ---- */

static struct h_conn *attach(struct harness *h, unsigned i)
{
    struct h_conn *c = h_agent(h, i);

    assert_int_equal(agent_attach(c->agent, NULL), 0);
    return c;
}

static struct h_conn *start_detached(struct harness *h, unsigned i, const char *script)
{
    return h_sh(h, i, &(struct agent_exec){.workload = true, .detached = true, .open_stdin = true}, script);
}

static void a_detached_workload_outlives_its_connection(void **state)
{
    struct harness *h = *state;
    struct h_conn *a = start_detached(h, 1, "echo one; read x; echo $x; read x; echo $x >&2; exit 5"), *b;

    h_wait_bytes(h, &a->out[0], 4);
    b = attach(h, 2);
    expect_error(h, b, EBUSY, "another connection");
    h_drop(a);
    b = attach(h, 3); /* at once: the agent has not looked at the lost one yet */
    agent_stdin(b->agent, "two\n", 4);
    h_wait_bytes(h, &b->out[0], 4);
    assert_true(b->started);
    assert_int_equal(b->pid, a->pid);
    assert_string_equal(h_text(b, 0), "two\n");
    h_drop(b);
    b = attach(h, 4);
    agent_stdin(b->agent, "three\n", 6);
    h_expect(b, 5, "");
    assert_string_equal(h_text(b, 1), "three\n");
    expect_event(h, SM_LC_EV_WORKLOAD_PARKED, 5 << 8);
}

static void what_nobody_takes_stays_in_its_pipes(void **state)
{
    struct harness *h = *state;
    char fifo[sizeof(h->root) + 8], script[160];
    struct h_conn *a, *b;
    int fd;

    snprintf(fifo, sizeof(fifo), "%s/go", h->root);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    snprintf(script, sizeof(script), "read x <%s; echo while nobody looks; echo neither >&2; exit 7", fifo);
    a = start_detached(h, 1, script);
    h_wait(h, &a->started);
    h_drop(a);
    h_expect(h_sh(h, 8, NULL, "exit 0"), 0, ""); /* with this, the agent has come past the lost one */
    fd = open(fifo, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "go\n", 3), 3);
    expect_event(h, SM_LC_EV_WORKLOAD_PARKED, 7 << 8); /* it has ended by now */
    close(fd);
    unlink(fifo);
    b = attach(h, 2);
    h_expect(b, 7, "while nobody looks\n");
    assert_true(b->started);
    assert_string_equal(h_text(b, 1), "neither\n");
    b = attach(h, 3); /* its end is known for good */
    h_expect(b, 7, "");

    /* Until there is another workload. */
    h_expect(h_sh(h, 4, &(struct agent_exec){.workload = true}, "exit 1"), 1, "");
    h_drop(&h->conn[4]);
    b = attach(h, 5);
    h_expect(b, 7, "");
    h_expect(start_detached(h, 6, "exit 2"), 2, "");
    h_expect(attach(h, 7), 2, "");
}

static void only_a_detached_workload_can_be_attached_to(void **state)
{
    struct harness *h = *state;
    struct h_conn *c;

    c = attach(h, 1);
    expect_error(h, c, ENOENT, "no detached workload");
    c = h_sh(h, 2, &(struct agent_exec){.workload = true}, "echo up; exec sleep 1000");
    h_wait_bytes(h, &c->out[0], 3);
    int fd = (int)syscall(SYS_pidfd_open, c->pid, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_true(fd >= 0);
    h_drop(c);
    assert_int_equal(poll(&p, 1, (int)(H_DEADLINE_NS / 1000000)), 1); /* killed, as ever */
    close(fd);
    c = attach(h, 3);
    expect_error(h, c, ENOENT, "no detached workload");
    c = h_agent(h, 4);
    assert_int_equal(
        agent_exec(c->agent, &(struct agent_exec){.argv = (const char *const[]){"true", NULL}, .detached = true}, NULL),
        -EINVAL);
}

static void a_detached_workload_that_could_not_start(void **state)
{
    struct harness *h = *state;
    struct agent_exec x = {.workload = true, .detached = true};
    struct h_conn *c = h_exec(h, 1, &x, (const char *const[]){"no-such-program", NULL});

    h_wait(h, &c->start_failed);
    c = attach(h, 2);
    h_wait(h, &c->start_failed);
    assert_int_equal(c->exit_code, 127);
    assert_false(c->started);
}

static void windows_start_anew_with_a_connection(void **state)
{
    struct harness *h = *state;
    static uint8_t data[2 * AGENT_WINDOW];
    struct h_conn *a = start_detached(h, 1, "sleep 1000"), *b;

    h_wait(h, &a->started);
    assert_int_equal(agent_stdin(a->agent, data, sizeof(data)), AGENT_WINDOW); /* a pipe's worth of it is taken */
    ping(h);
    h_drop(a);
    b = attach(h, 2);
    h_wait(h, &b->started);
    assert_int_equal(agent_stdin(b->agent, data, sizeof(data)), AGENT_WINDOW);
    ping(h);
    assert_false(b->failed);
    agent_signal(b->agent, SIGKILL, AGENT_TARGET_TREE);
    h_expect(b, 137, "");
}

int main(int argc, char **argv)
{
    static char path[4096];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pre_exec_rings, setup_fresh, teardown),
        cmocka_unit_test_setup_teardown(heartbeats_until_renewed, setup_fresh, teardown),
        cmocka_unit_test_setup_teardown(heartbeats_outlast_a_late_notice, setup_fresh, teardown),
        cmocka_unit_test_setup_teardown(the_end_of_the_workload_rings, setup, teardown),
        cmocka_unit_test_setup_teardown(listening_ports_ring, setup_fresh, teardown),
        cmocka_unit_test_setup_teardown(the_generation_is_in_a_file, setup_fresh, teardown),
        cmocka_unit_test_setup_teardown(before_set_up_a_generation_is_remembered, setup_fresh, teardown),
        cmocka_unit_test_setup_teardown(the_host_name_changes_where_the_agent_wrote_it, setup_fresh, teardown),
        cmocka_unit_test_setup_teardown(a_machine_id_is_made_where_there_is_none, setup_fresh, teardown),
        cmocka_unit_test_setup_teardown(a_machine_id_of_the_image_stays, setup_fresh, teardown),
        cmocka_unit_test_setup_teardown(without_a_machine_id_none_is_made, setup_fresh, teardown),
        cmocka_unit_test_setup_teardown(execs_are_signalled_once, setup, teardown),
        cmocka_unit_test_setup_teardown(files_are_put, setup, teardown),
        cmocka_unit_test_setup_teardown(files_that_cannot_be_put, setup, teardown),
        cmocka_unit_test_setup_teardown(a_detached_workload_outlives_its_connection, setup, teardown),
        cmocka_unit_test_setup_teardown(what_nobody_takes_stays_in_its_pipes, setup, teardown),
        cmocka_unit_test_setup_teardown(only_a_detached_workload_can_be_attached_to, setup, teardown),
        cmocka_unit_test_setup_teardown(a_detached_workload_that_could_not_start, setup, teardown),
        cmocka_unit_test_setup_teardown(windows_start_anew_with_a_connection, setup, teardown),
    };

    if (argc == 2 && strcmp(argv[1], "listen") == 0)
        return listen_and_say();
    assert_non_null(realpath("/proc/self/exe", path));
    self = path;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
