/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ctrl-C during long work: see interrupt.h. Work asks interrupted() some times a second; where it does not (it waits
 * for a lock that another process holds), an alarm ends us. The store is made for that.
 */
#include "cli/interrupt.h"

#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#define PATIENCE 3 /* seconds */

static struct sigaction before_int, before_alarm;
static volatile sig_atomic_t remembered;

static void remember(int signo)
{
    (void)signo;
    remembered = 1;
    alarm(PATIENCE);
}

/* SA_RESETHAND has put SIGINT's default action back. */
static void give_up(int signo)
{
    (void)signo;
    raise(SIGINT);
}

void interrupt_begin(void)
{
    struct sigaction act = {.sa_handler = remember, .sa_flags = (int)SA_RESETHAND};
    struct sigaction alarm_act = {.sa_handler = give_up};

    sigaction(SIGINT, NULL, &before_int);
    sigaction(SIGALRM, &alarm_act, &before_alarm);
    if (before_int.sa_handler == SIG_DFL)
        sigaction(SIGINT, &act, NULL);
}

void interrupt_end(void)
{
    alarm(0);
    sigaction(SIGALRM, &before_alarm, NULL);
    sigaction(SIGINT, &before_int, NULL);
}

bool interrupted(void)
{
    return remembered;
}

void interrupt_die(void)
{
    raise(SIGINT);
    exit(128 + SIGINT); /* it is blocked */
}
