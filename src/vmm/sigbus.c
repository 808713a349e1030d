/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SIGBUS in guest memory.
 *
 * Theory of operation
 *
 * Guest memory that is mapped from a file raises SIGBUS when it is touched where the file has ended since. (A vCPU that
 * touches it gets an error from KVM_RUN instead, which needs nothing of this.) What the guest would go on with is not
 * its memory, so nothing goes on: the handler sends the frame that was made in advance, and ends the process, all
 * threads at once. It does only what a signal handler may, and what the system call filter of any of our threads lets
 * through. Any other SIGBUS keeps its meaning.
 */
#include "vmm/sigbus.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

#define SEND_TRIES 10000 /* of an owner that reads slowly; each gives the processor away */

static const struct sigbus_words *guarded; /* a handler has no other way to know */

static bool send_last(const struct sigbus_words *w)
{
    for (int i = 0; i < SEND_TRIES; i++) {
        if (write(w->sock, w->frame, w->len) == (ssize_t)w->len)
            return true;
        if (errno != EAGAIN && errno != EINTR)
            return false;
        sched_yield();
    }
    return false;
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
    const struct sigbus_words *w = guarded;
    const struct sigaction usual = {.sa_handler = SIG_DFL};

    if (!w || info->si_code != BUS_ADRERR || !w->is_guest(w->ctx, info->si_addr)) {
        sigaction(sig, &usual, NULL); /* the access is tried again, and ends the process as it should */
        return;
    }
    if (send_last(w))
        _exit(0);
    if (write(STDERR_FILENO, w->complaint, strlen(w->complaint)) < 0)
        _exit(2);
    _exit(1);
}

int sigbus_guard(const struct sigbus_words *words, struct sm_error *err)
{
    const struct sigaction ours = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};

    guarded = words;
    if (words && sigaction(SIGBUS, &ours, NULL) < 0)
        return sm_error_sys(err, errno, "cannot set signals up");
    return 0;
}
