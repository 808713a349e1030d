/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front of a command: see attach.h.
 *
 * Without a terminal a signal to us is passed on: the workload decides, as if it ran here. With one, keys are bytes and
 * Ctrl-C is the guest's terminal's business; signals still come from elsewhere (kill, the terminal's hang-up).
 * A workload that ignores every request must not hold its user: the third one ends the machine.
 */
#include "cli/attach.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/tty.h"

#define REQUESTS_TO_FORCE 3

static int signal_fd = -1;

/* What is passed on. Job control (SIGTSTP, SIGCONT) stays ours: the shell stops and continues us. */
static const int passed[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM};

int attach_begin(bool tty)
{
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < sizeof(passed) / sizeof(passed[0]); i++)
        sigaddset(&set, passed[i]);
    if (tty)
        sigaddset(&set, SIGWINCH);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -1;
    signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return signal_fd < 0 ? -1 : 0;
}

static bool asks_to_end(uint32_t signo)
{
    return signo == SIGHUP || signo == SIGINT || signo == SIGQUIT || signo == SIGTERM;
}

/* False: enough, end without the command. */
static bool handle_signals(struct sm_exec *exec, unsigned *requests, int *ret_last)
{
    struct signalfd_siginfo info;
    uint16_t rows, cols;

    while (read(signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGWINCH) {
            if (tty_size(STDOUT_FILENO, &rows, &cols) || tty_size(STDIN_FILENO, &rows, &cols))
                sm_exec_resize(exec, rows, cols, NULL);
            continue;
        }
        *ret_last = (int)info.ssi_signo;
        if (asks_to_end(info.ssi_signo) && ++*requests == REQUESTS_TO_FORCE)
            return false;
        sm_exec_signal(exec, (int)info.ssi_signo, NULL);
    }
    return true;
}

int attach_wait(struct sm_vm *vm, struct sm_exec *exec, struct sm_exec_result *result, struct sm_error *err)
{
    struct pollfd fds[2] = {{.fd = sm_vm_fd(vm), .events = POLLIN}, {.fd = signal_fd, .events = POLLIN}};
    unsigned requests = 0;
    int signo = 0;

    for (;;) {
        sm_exec_result(exec, result);
        if (result->status != SM_EXEC_RUNNING)
            return 0;
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return sm_exec_wait(exec, result, err);
        if ((fds[1].revents & POLLIN) && !handle_signals(exec, &requests, &signo)) {
            result->status = SM_EXEC_SIGNALED;
            result->signal = signo;
            result->exit_code = 128 + signo;
            return 0;
        }
        /* The machine's end is an error of the command, which its last output goes before. */
        if (fds[0].revents && sm_vm_dispatch(vm, 0, NULL) < 0)
            return sm_exec_wait(exec, result, err);
    }
}
