/* SPDX-License-Identifier: Apache-2.0 */
/* supermachine-vmm: the process that is one machine. Started by libsupermachine with a control socket as descriptor 3.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "hv/selftest.h"
#include "proto/control.h"
#include "vmm/sandbox.h"
#include "vmm/server.h"

#define EXIT_USAGE 2

static void put_json_string(const char *s)
{
    putchar('"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            putchar('\\');
        if ((unsigned char)*s < 0x20)
            printf("\\u%04x", (unsigned char)*s);
        else
            putchar(*s);
    }
    putchar('"');
}

static void open_sentence(char *out, size_t size, int code)
{
    if (code == ENOENT)
        snprintf(out, size,
                 "there is no /dev/kvm: turn virtualisation on in the firmware and load kvm_intel or kvm_amd");
    else if (code == EACCES)
        snprintf(out, size, "no permission to use /dev/kvm: add the user to its group (usually kvm) and log in again");
    else
        snprintf(out, size, "cannot open /dev/kvm: %s", strerror(code));
}

/* One JSON object on one line; 0 when this host's KVM can run Linux guests, 1 when not. */
static int self_test(void)
{
    struct selftest_result res = {.failed = "open"};
    struct sm_error err = SM_ERROR_INIT;
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        open_sentence(res.sentence, sizeof(res.sentence), errno);
    } else if (selftest_run(&res, &hv_kvm, fd, &err) < 0) {
        snprintf(res.failed, sizeof(res.failed), "setup");
        snprintf(res.sentence, sizeof(res.sentence), "%.*s", (int)sizeof(res.sentence) - 1, err.text);
    }
    printf("{\"usable\":%s,\"failed\":", res.usable ? "true" : "false");
    put_json_string(res.failed);
    printf(",\"sentence\":");
    put_json_string(res.sentence);
    printf(",\"instructions_per_second\":%llu,\"elapsed_us\":%llu}\n", (unsigned long long)res.instructions_per_second,
           (unsigned long long)res.elapsed_us);
    return res.usable ? 0 : 1;
}

static void kicked(int signal)
{
    (void)signal; /* its coming is all that counts: KVM_RUN returns */
}

static int prepare_signals(void)
{
    struct sigaction kick = {.sa_handler = kicked};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigset_t none;

    /* An owner may have blocked signals in the thread that started us; and Ctrl-C is the owner's to handle. */
    sigemptyset(&none);
    if (sigprocmask(SIG_SETMASK, &none, NULL) < 0 || sigaction(HV_KICK_SIGNAL, &kick, NULL) < 0 ||
        sigaction(SIGPIPE, &ignore, NULL) < 0 || sigaction(SIGINT, &ignore, NULL) < 0 ||
        sigaction(SIGHUP, &ignore, NULL) < 0)
        return -errno;
    return 0;
}

static bool is_control_socket(int fd)
{
    int type = 0;
    socklen_t len = sizeof(type);

    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_SEQPACKET;
}

int main(int argc, char **argv)
{
    struct sm_error err = SM_ERROR_INIT;

    if (argc == 2 && strcmp(argv[1], "--self-test") == 0)
        return self_test();
    if (argc != 1 || !is_control_socket(CONTROL_FD)) {
        fprintf(stderr,
                "supermachine-vmm: started by the supermachine library, not by hand; use `supermachine run`, or "
                "`supermachine-vmm --self-test` to test this host's KVM\n");
        return EXIT_USAGE;
    }
    /* Malloc arenas of their own for each vCPU thread would be memory for nothing. */
    mallopt(M_ARENA_MAX, 1);
    int r = prepare_signals();
    if (r < 0)
        sm_error_sys(&err, -r, "cannot set signals up");
    if (r == 0)
        r = sandbox_descriptors(CONTROL_FD, &err);
    if (r == 0)
        r = server_run(CONTROL_FD, &err);
    if (r < 0)
        fprintf(stderr, "supermachine-vmm: %s\n", err.text);
    return r < 0;
}
