/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Our terminal: see tty.h. Its state is the process', so there is one copy of it here: the handlers of deadly signals
 * need it. Signals that ask us to end come by a signalfd (attach.c) and end in tty_restore() like everything else;
 * the handlers are for our own crashes.
 */
#include "cli/tty.h"

#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static struct termios saved;
static volatile sig_atomic_t changed_fd = -1;

void tty_restore(void)
{
    if (changed_fd >= 0)
        tcsetattr(changed_fd, TCSANOW, &saved);
    changed_fd = -1;
}

/* SA_RESETHAND has put the default action back: the return runs into the same fault again, and dies of it. */
static void on_crash(int signo)
{
    tty_restore();
    raise(signo);
}

int tty_set(int fd, enum tty_mode mode)
{
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP};
    struct sigaction act = {.sa_handler = on_crash, .sa_flags = SA_RESETHAND};
    struct termios changed;

    /* Setting it from the background stops us (SIGTTOU): worth it for keys, which could not be read either. */
    if (mode == TTY_OUTPUT && tcgetpgrp(fd) != getpgrp())
        return 0;
    if (tcgetattr(fd, &saved) < 0)
        return -1;
    changed = saved;
    if (mode == TTY_RAW)
        cfmakeraw(&changed);
    else
        changed.c_oflag &= ~(tcflag_t)OPOST;
    changed_fd = fd;
    for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++)
        sigaction(crashes[i], &act, NULL);
    atexit(tty_restore);
    return tcsetattr(fd, TCSANOW, &changed);
}

bool tty_size(int fd, uint16_t *ret_rows, uint16_t *ret_cols)
{
    struct winsize ws;

    if (ioctl(fd, TIOCGWINSZ, &ws) < 0 || ws.ws_row == 0 || ws.ws_col == 0)
        return false;
    *ret_rows = ws.ws_row;
    *ret_cols = ws.ws_col;
    return true;
}
