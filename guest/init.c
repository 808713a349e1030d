/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent: PID 1 of the guest. Makes what it needs itself, listens, tells the host, serves until the machine ends.
 *
 * PID 1 must not end: the kernel would panic. What cannot be helped is told to the console and to the host, and powers
 * the machine off.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h> /* needs the one above */
#include <unistd.h>

#include "lifecycle.h"
#include "server.h"
#include "setup.h"

#define BACKLOG 128

/* Eight descriptors per connection are more than an exec ever has. */
#define OPEN_FILES (8 * AGENT_MAX_CONNECTIONS + 64)

struct agent {
    int lifecycle; /* /dev/supermachine, or -errno */
};

static _Noreturn void die(const struct agent *a, const char *what, const char *why)
{
    char text[SM_LC_TEXT_SIZE];

    snprintf(text, sizeof(text), "supermachine agent: %s: %s", what, why);
    fprintf(stderr, "%s\n", text);
    ga_lifecycle_panic(a->lifecycle, text);
    sync();
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}

static int do_setup(void *ctx, const struct ga_setup *setup, int *ret_cgroup, int *ret_root, struct ga_error *err)
{
    return ga_setup_root(setup, ret_cgroup, ret_root, err);
}

static int do_power(void *ctx, uint32_t how, struct ga_error *err)
{
    sync();
    reboot(how == AGENT_POWER_OFF ? RB_POWER_OFF : RB_AUTOBOOT);
    return ga_error_sys(err, errno, "asking the kernel for it");
}

static void do_event(void *ctx, uint32_t kind, uint64_t arg)
{
    const struct agent *a = ctx;
    int r = ga_lifecycle_event(a->lifecycle, kind, arg);

    if (r < 0)
        fprintf(stderr, "supermachine agent: event %u does not reach the host: %s\n", kind, strerror(-r));
}

static int do_set_hostname(void *ctx, const char *name)
{
    return sethostname(name, strlen(name)) < 0 ? -errno : 0;
}

static int listen_vsock(void)
{
    struct sockaddr_vm addr = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = AGENT_PORT};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -errno;
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, BACKLOG) < 0) {
        int r = -errno;

        close(fd);
        return r;
    }
    return fd;
}

/* Without these the agent still works. */
static void protect_self(void)
{
    struct rlimit files = {.rlim_cur = OPEN_FILES, .rlim_max = 1u << 20};
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        if (write(fd, "-1000", 5) < 0)
            fprintf(stderr, "supermachine agent: cannot be kept from the OOM killer: %s\n", strerror(errno));
        close(fd);
    }
    if (setrlimit(RLIMIT_NOFILE, &files) < 0)
        fprintf(stderr, "supermachine agent: open files stay limited: %s\n", strerror(errno));
}

/* A kernel that could not open /dev/console leaves 0 to 2 closed; nothing else must get these numbers. */
static void fill_stdio(void)
{
    int fd;

    do
        fd = open("/", O_RDONLY | O_DIRECTORY);
    while (fd >= 0 && fd <= 2);
    if (fd > 2)
        close(fd);
}

/* A line in the kernel's log has the guest's own time since boot: what benches compare. Quiet kernels don't print it.
 */
static void log_ready(void)
{
    static const char line[] = "<6>supermachine agent: ready\n";
    int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    if (write(fd, line, sizeof(line) - 1) < 0)
        fprintf(stderr, "supermachine agent: ready, but the kernel's log takes no line: %s\n", strerror(errno));
    close(fd);
}

int main(void)
{
    static const struct ga_server_ops ops = {
        .setup = do_setup, .power = do_power, .event = do_event, .set_hostname = do_set_hostname};
    struct agent a = {.lifecycle = -ENOENT};
    struct ga_error err = {0};
    struct ga_server *s = NULL;

    if (getpid() != 1) {
        fprintf(stderr, "supermachine agent: runs as the first process of a guest only\n");
        return 1;
    }
    fill_stdio();
    int r = ga_setup_early(&err);
    a.lifecycle = ga_lifecycle_open();
    if (r < 0)
        die(&a, "preparing the guest", err.text);
    if (a.lifecycle < 0)
        fprintf(stderr, "supermachine agent: no lifecycle device, so the host gets no events\n");
    protect_self();

    r = ga_server_new(&ops, &a, false, &s);
    if (r < 0)
        die(&a, "starting the server", strerror(-r));
    if (a.lifecycle >= 0) {
        int notices = fcntl(a.lifecycle, F_DUPFD_CLOEXEC, 3);

        r = notices < 0 ? -errno : ga_server_watch(s, notices);
        if (r < 0)
            die(&a, "listening to the lifecycle device", strerror(-r));
    }
    int fd = listen_vsock();
    r = fd < 0 ? fd : ga_server_listen(s, fd);
    if (r < 0)
        die(&a, "listening on vsock", strerror(-r));
    log_ready();
    r = ga_lifecycle_event(a.lifecycle, SM_LC_EV_AGENT_READY, 0);
    if (r < 0)
        die(&a, "telling the host that the agent is ready", strerror(-r));
    r = ga_server_run(s, false);
    die(&a, "serving", strerror(-r));
}
