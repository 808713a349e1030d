/* SPDX-License-Identifier: Apache-2.0 */
/* Ctrl-C during long work: see interrupt.h. */
#include "cli/interrupt.h"

#include <signal.h>
#include <stddef.h>
#include <stdlib.h>

static struct sigaction before;
static volatile sig_atomic_t remembered;

static void remember(int signo)
{
    (void)signo;
    remembered = 1;
}

void interrupt_begin(void)
{
    struct sigaction act = {.sa_handler = remember, .sa_flags = (int)SA_RESETHAND};

    sigaction(SIGINT, NULL, &before);
    if (before.sa_handler == SIG_DFL)
        sigaction(SIGINT, &act, NULL);
}

void interrupt_end(void)
{
    sigaction(SIGINT, &before, NULL);
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
