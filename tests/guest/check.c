/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check: runs in the guest and finds out whether the machine is still whole. For tests of snapshots.
 *
 *     check start [MIB]         start all checks in the background, with MIB (24) MiB of memory to look after
 *     check serve [MIB]         the same in the foreground; a line of standard input is a request (verify, peers, stop)
 *     check verify [SECONDS]    wait until every check has come round once more; exit 1 and a line when one has failed
 *     check peers               what became of connections to the echo service over vsock
 *     check stop                end them
 *     check identity            what must differ between clones, and the clocks: NAME=VALUE, one a line
 *     check echo                a round trip to the echo service over TCP
 *
 * Theory of operation
 *
 * The background process listens on an abstract unix socket and serves one request at a time: a line comes, one goes
 * back, which begins with "failed" when something is wrong. So requests work in every clone of the machine it was
 * started in, over a connection that is made there. What the checks are is in checks.c.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 60u /* seconds for a round, by default */
#define LINE     1024

static const struct sockaddr_un control = {.sun_family = AF_UNIX, .sun_path = "\0check"};
#define CONTROL_LEN ((socklen_t)(offsetof(struct sockaddr_un, sun_path) + sizeof("\0check") - 1))

static int fail(const char *what)
{
    fprintf(stderr, "check: %s: %s\n", what, strerror(errno));
    return 2;
}

/* The answer to one line, with its newline. False for "stop". */
static bool answer(const char *request, char *text, size_t len)
{
    unsigned seconds = PATIENCE;

    if (sscanf(request, "verify %u", &seconds) == 1 || strncmp(request, "verify", 6) == 0)
        checks_verify(seconds, text, len - 1);
    else if (strncmp(request, "peers", 5) == 0)
        checks_peers(text, len - 1);
    else
        snprintf(text, len - 1, "%s", strncmp(request, "stop", 4) == 0 ? "stopped" : "failed: no such request");
    strcat(text, "\n");
    return strncmp(request, "stop", 4) != 0;
}

static bool serve_line(int in, int out)
{
    char request[LINE], text[LINE];
    ssize_t n = read(in, request, sizeof(request) - 1);
    bool go_on;

    if (n <= 0)
        return true;
    request[n] = 0;
    go_on = answer(request, text, sizeof(text));
    if (write(out, text, strlen(text)) < 0)
        fail("answering");
    return go_on;
}

static int serve(int listener, bool on_stdin)
{
    struct pollfd p[2] = {{.fd = listener, .events = POLLIN}, {.fd = on_stdin ? STDIN_FILENO : -1, .events = POLLIN}};
    bool go_on = true;

    while (go_on) {
        if (poll(p, 2, -1) < 0)
            return fail("poll");
        if (p[0].revents) {
            int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

            if (fd < 0)
                return fail("accept");
            go_on = serve_line(fd, fd);
            close(fd);
        } else if (p[1].revents & POLLIN) {
            go_on = serve_line(STDIN_FILENO, STDOUT_FILENO);
        } else {
            p[1].fd = -1; /* its end: the socket is left */
        }
    }
    return 0;
}

/* Ready when every check has come round. */
static int begin(size_t mib, int *ret_listener)
{
    char text[LINE];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (const void *)&control, CONTROL_LEN) < 0 || listen(fd, 16) < 0)
        return fail("the control socket");
    checks_start(mib);
    if (!checks_verify(PATIENCE, text, sizeof(text))) {
        printf("%s\n", text);
        fflush(stdout);
        return 1;
    }
    *ret_listener = fd;
    return 0;
}

static int start(size_t mib)
{
    int ready[2], listener, r;
    char status = 2;

    if (pipe2(ready, O_CLOEXEC) < 0)
        return fail("pipe");
    pid_t pid = fork();
    if (pid < 0)
        return fail("fork");
    if (pid > 0) {
        close(ready[1]);
        if (read(ready[0], &status, 1) == 1 && status == 0)
            printf("started\n");
        return status;
    }
    setsid();
    r = begin(mib, &listener);
    status = (char)r;
    if (write(ready[1], &status, 1) != 1 || r != 0)
        _exit(r);
    close(ready[1]);
    for (int fd = 0; fd <= STDERR_FILENO; fd++)
        close(fd);
    open("/dev/null", O_RDWR);
    _exit(serve(listener, false));
}

static int ask(const char *request)
{
    char text[LINE] = "";
    size_t got = 0;
    ssize_t n;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || connect(fd, (const void *)&control, CONTROL_LEN) < 0)
        return fail("nothing was started");
    if (write(fd, request, strlen(request)) < 0)
        return fail("asking");
    while (got < sizeof(text) - 1 && (n = read(fd, text + got, sizeof(text) - 1 - got)) > 0)
        got += (size_t)n;
    close(fd);
    if (got == 0) {
        fprintf(stderr, "check: no answer\n");
        return 2;
    }
    fputs(text, stdout);
    return strncmp(text, "failed", 6) == 0;
}

static void show_file(const char *name, const char *path)
{
    char text[128] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);

    text[n > 0 ? n : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    printf("%s=%s\n", name, text);
    if (fd >= 0)
        close(fd);
}

static void show_clock(const char *name, clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    printf("%s=%lld.%09ld\n", name, (long long)t.tv_sec, t.tv_nsec);
}

static int identity(void)
{
    unsigned char bytes[16];
    char host[65] = "";

    show_clock("realtime", CLOCK_REALTIME); /* first: whoever asks compares it with its own */
    show_clock("monotonic", CLOCK_MONOTONIC);
    if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
        return fail("getrandom");
    printf("random=");
    for (unsigned i = 0; i < sizeof(bytes); i++)
        printf("%02x", bytes[i]);
    printf("\n");
    show_file("boot", "/proc/sys/kernel/random/boot_id");
    show_file("generation", "/run/supermachine/generation");
    show_file("machine", "/etc/machine-id");
    gethostname(host, sizeof(host) - 1);
    printf("hostname=%s\n", host);
    return 0;
}

static int echo(void)
{
    const struct sockaddr_in addr = {
        .sin_family = AF_INET, .sin_port = htons(CHECK_PORT), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    uint64_t sent = 0, back = 0;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || connect(fd, (const void *)&addr, sizeof(addr)) < 0)
        return fail("the listener does not answer");
    if (getrandom(&sent, sizeof(sent), 0) != sizeof(sent) || write(fd, &sent, sizeof(sent)) != sizeof(sent) ||
        recv(fd, &back, sizeof(back), MSG_WAITALL) != sizeof(back) || back != sent)
        return fail("the listener's answer");
    printf("answered\n");
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    size_t mib = argc > 2 ? strtoul(argv[2], NULL, 10) : 24;
    char request[LINE];
    int listener, r;

    if (strcmp(what, "start") == 0)
        return start(mib);
    if (strcmp(what, "serve") == 0) {
        r = begin(mib, &listener);
        if (r == 0 && printf("started\n") > 0 && fflush(stdout) == 0)
            r = serve(listener, true);
        return r;
    }
    if (strcmp(what, "identity") == 0)
        return identity();
    if (strcmp(what, "echo") == 0)
        return echo();
    if (strcmp(what, "verify") != 0 && strcmp(what, "peers") != 0 && strcmp(what, "stop") != 0) {
        fprintf(stderr, "check: start, serve, verify, peers, stop, identity or echo?\n");
        return 2;
    }
    snprintf(request, sizeof(request), "%s%s%s\n", what, argc > 2 ? " " : "", argc > 2 ? argv[2] : "");
    return ask(request);
}
