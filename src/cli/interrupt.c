/* SPDX-License-Identifier: Apache-2.0 */
/* Ctrl-C during long work: see interrupt.h. */
#include "cli/interrupt.h"

#include <signal.h>
#include <stddef.h>
#include <stdlib.h>

#define COUNT 3

static const int signals[COUNT] = {SIGINT, SIGTERM, SIGHUP};
static struct sigaction before[COUNT];
static volatile sig_atomic_t remembered;

static void remember(int signo)
{
    remembered = signo;
}

void interrupt_begin(void)
{
    struct sigaction act = {.sa_handler = remember, .sa_flags = (int)SA_RESETHAND};

    for (int i = 0; i < COUNT; i++) {
        sigaction(signals[i], NULL, &before[i]);
        if (before[i].sa_handler == SIG_DFL)
            sigaction(signals[i], &act, NULL);
    }
}

void interrupt_end(void)
{
    for (int i = 0; i < COUNT; i++)
        sigaction(signals[i], &before[i], NULL);
}

bool interrupted(void)
{
    return remembered != 0;
}

void interrupt_die(void)
{
    interrupt_end();
    raise(remembered);
    exit(128 + remembered); /* it is blocked */
}
